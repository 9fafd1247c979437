"""WGAN-GP's residual networks with labels: class-conditional batch normalisation and the projection discriminator.

* Generator: a scale and a shift for each class in the normalisations of every residual block (Dumoulin et al. 2017; de
  Vries et al. 2017), the last one before the image shared by all classes, as in the code of Miyato and Koyama 2018. Or
  half of the first map made of the label.
* Discriminator: psi(phi(x)) + y^T V phi(x) (Miyato and Koyama 2018, equation 3), phi what the critic's last layer sees.
  Or one constant map for each class beside the image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genlab.models.conditional import DISCRIMINATOR_CONDITIONING, GENERATOR_CONDITIONING, Projection, one_hot
from genlab.models.wgan_gp_resnet import FIRST_SIDE, UpBlock, WganGpCritic, WganGpGenerator
from genlab.nn import ConditionalBatchNormAct2d


class ConditionalUpBlock(UpBlock):
    """An `UpBlock` whose two normalisations have a scale and a shift for each class.

    Args:
        c_in, c_out: channels before and after.
        num_classes: labels that can be asked for.
    """

    def __init__(self, c_in: int, c_out: int, num_classes: int) -> None:
        super().__init__(c_in, c_out)
        self.norm1 = ConditionalBatchNormAct2d(c_in, num_classes, activation="relu")
        self.norm2 = ConditionalBatchNormAct2d(c_out, num_classes, activation="relu")


class ConditionalResnetGenerator(nn.Module):
    """WGAN-GP's residual generator of labelled images.

    Args:
        image_size: 32 or 64 px.
        image_channels: channels of the image.
        num_classes: labels that can be asked for.
        latent_dim: length of z.
        base_channels: channels of the map next to the image.
        conditioning: "concat" makes half of the first map of the label; "batch_norm" gives each class a scale and a
            shift of its own in the normalisations of every block, and z the whole first map.

    Raises:
        ValueError: another size or conditioning, or "concat" with a first map of one channel.

    Example:
        >>> generator = ConditionalResnetGenerator(32, 3, 10, conditioning="batch_norm")
        >>> generator(torch.randn(8, 128), torch.arange(8)).shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        num_classes: int,
        latent_dim: int = 128,
        base_channels: int = 128,
        *,
        conditioning: str = "concat",
    ) -> None:
        super().__init__()
        _check("ConditionalResnetGenerator", conditioning, GENERATOR_CONDITIONING)
        self.num_classes, self.latent_dim, self.conditioning = num_classes, latent_dim, conditioning
        width = WganGpGenerator.first_width(image_size, base_channels)
        if conditioning == "concat":
            if width < 2:
                raise ValueError("expected model.base_channels of at least 2 for half a map of the label, got 1")
            self.label = nn.Linear(num_classes, (width - width // 2) * FIRST_SIDE**2, bias=False)
            nn.init.xavier_uniform_(self.label.weight)
            projected, block = width // 2, UpBlock
        else:
            projected, block = width, lambda *widths: ConditionalUpBlock(*widths, num_classes)
        self.body = WganGpGenerator(
            image_size, image_channels, latent_dim, base_channels, projected_width=projected, block=block
        )

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """(N, latent_dim) and int64 labels (N,) to (N, image_channels, image_size, image_size) in [-1, 1]."""
        maps = self.body.first_map(z)
        if self.conditioning == "concat":
            label_map = self.label(one_hot(labels, self.num_classes, z.dtype))
            maps = torch.cat([maps, label_map.unflatten(1, (-1, FIRST_SIDE, FIRST_SIDE))], dim=1)
            return self.body.image(maps)
        return self.body.image(maps, labels)


class ConditionalResnetDiscriminator(nn.Module):
    """WGAN-GP's residual critic of labelled images; no normalisation mixes its samples.

    Args:
        image_size: 32 or 64 px.
        image_channels: channels of the image.
        num_classes: labels that occur.
        base_channels: width, as of the generator.
        conditioning: "concat" joins the label to the image as one constant map for each class; "projection" adds
            y^T V phi(x) to the logit. At 32 px phi is the mean over the last map, at 64 px the map itself.

    Raises:
        ValueError: another size or conditioning.

    Example:
        >>> network = ConditionalResnetDiscriminator(32, 3, 10, conditioning="projection")
        >>> network(torch.randn(8, 3, 32, 32), torch.arange(8)).shape
        torch.Size([8])
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        num_classes: int,
        base_channels: int = 128,
        *,
        conditioning: str = "concat",
    ) -> None:
        super().__init__()
        _check("ConditionalResnetDiscriminator", conditioning, DISCRIMINATOR_CONDITIONING)
        self.num_classes = num_classes
        joined = num_classes if conditioning == "concat" else 0
        body = WganGpCritic(image_size, image_channels + joined, base_channels)
        self.projection = Projection(num_classes, body.head.in_features) if conditioning == "projection" else None
        self.body = body  # behind the projection: phi is the input of the last layer, as penalties on codes expect

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """(N, image_channels, image_size, image_size) and int64 labels (N,) to logits (N,)."""
        if self.projection is None:
            maps = one_hot(labels, self.num_classes, images.dtype)[:, :, None, None]
            return self.body(torch.cat([images, maps.expand(-1, -1, *images.shape[2:])], dim=1))
        features = self.body.features(images)
        return self.body.head(features).flatten() + self.projection(features, labels)


def _check(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{what}: expected conditioning to be one of {', '.join(known)}, got {value!r}")
