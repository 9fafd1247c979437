"""Networks of conditional GANs: labels joined by concatenation, by projection, or through batch normalisation.

* MLPs as Mirza and Osindero 2014 (section 4.1): noise or image and label pass a layer of their own and are joined.
* DCGAN's networks with the label as feature maps: noise and label each give half of the generator's first maps, as they
  pass a layer of their own in the MLP (joined to z itself, one number beside 100 would hardly be heard); the image gets
  one constant map for each class.
* The projection discriminator (Miyato and Koyama 2018, equation 3) and conditional batch normalisation (Dumoulin et al.
  2017; de Vries et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.models.dcgan import STAGES, DcganDiscriminator, DcganGenerator
from genlab.models.mlp import MlpDiscriminator, hidden_layers, uniform_weights
from genlab.nn import BatchNormAct2d, ConditionalBatchNormAct2d, ConvTranspose2d
from genlab.nn.init import normal_init

GENERATOR_CONDITIONING = ("concat", "batch_norm")
DISCRIMINATOR_CONDITIONING = ("concat", "projection")


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """int64 labels (N,) to (N, num_classes)."""
    return F.one_hot(labels, num_classes).to(dtype)


def _check(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{what}: expected conditioning to be one of {', '.join(known)}, got {value!r}")


class ConditionalMlpGenerator(nn.Module):
    """Mirza and Osindero's generator: noise to 200 units and label to 1000, both to 1200, to the pixels.

    Args:
        shape: of an image, (C, H, W).
        num_classes: labels that can be asked for.
        latent_dim: length of z.
        noise_width, label_width, joint_width: units of the three hidden layers.
        dropout: share of each hidden layer's output that training sets to zero.
        weight_range: begin with weights from U(-weight_range, weight_range); None: torch's initial values.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        latent_dim: int = 100,
        *,
        noise_width: int = 200,
        label_width: int = 1000,
        joint_width: int = 1200,
        dropout: float = 0.0,
        weight_range: float | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.num_classes, self.latent_dim = tuple(shape), num_classes, latent_dim
        self.noise = hidden_layers([latent_dim, noise_width], dropout=dropout)
        self.label = hidden_layers([num_classes, label_width], dropout=dropout)
        self.joint = hidden_layers([noise_width + label_width, joint_width], dropout=dropout)
        self.head = nn.Linear(joint_width, torch.Size(self.shape).numel())
        uniform_weights(self, weight_range)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """(N, latent_dim) and int64 labels (N,) to images (N, C, H, W) in [-1, 1]: the paper's sigmoid, stretched."""
        y = one_hot(labels, self.num_classes, z.dtype)
        joined = torch.cat([self.noise(z.flatten(1)), self.label(y)], dim=1)
        return torch.sigmoid(self.head(self.joint(joined))).mul(2).sub(1).unflatten(1, self.shape)


class ConditionalMlpDiscriminator(nn.Module):
    """Mirza and Osindero's discriminator: maxout layers of image (240 units), label (50) and both (240).

    Args:
        shape: of an image, (C, H, W).
        num_classes: labels that occur.
        image_width, label_width, joint_width: units of the three maxout layers.
        pieces, joint_pieces: affine maps for each unit of the first two layers and of the third.
        dropout: share of each hidden layer's output that training sets to zero.
        unit_range: work on pixels in [0, 1] as the paper's network does.
        weight_range: begin with weights from U(-weight_range, weight_range); None: torch's initial values.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        image_width: int = 240,
        label_width: int = 50,
        joint_width: int = 240,
        pieces: int = 5,
        joint_pieces: int = 4,
        dropout: float = 0.0,
        unit_range: bool = True,
        weight_range: float | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.unit_range = num_classes, unit_range
        maxout = {"activation": "maxout", "dropout": dropout}
        self.image = hidden_layers([torch.Size(shape).numel(), image_width], pieces=pieces, **maxout)
        self.label = hidden_layers([num_classes, label_width], pieces=pieces, **maxout)
        self.joint = hidden_layers([image_width + label_width, joint_width], pieces=joint_pieces, **maxout)
        self.head = nn.Linear(joint_width, 1)
        uniform_weights(self, weight_range)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """(N, C, H, W) and int64 labels (N,) to logits (N,)."""
        x = images.flatten(1)
        if self.unit_range:
            x = (x + 1) / 2
        y = one_hot(labels, self.num_classes, x.dtype)
        return self.head(self.joint(torch.cat([self.image(x), self.label(y)], dim=1))).flatten()


class Projection(nn.Module):
    """y^T V phi(x): how well the features of x fit the class y (Miyato and Koyama 2018, equation 3).

    V is a linear map of the one-hot label, so that spectral normalisation reaches it as it does every other weight.

    Args:
        num_classes: rows of V.
        features: length of phi(x).
    """

    def __init__(self, num_classes: int, features: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embedding = nn.Linear(num_classes, features, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(N, features) and int64 labels (N,) to (N,)."""
        return (self.embedding(one_hot(labels, self.num_classes, features.dtype)) * features).sum(dim=1)


class ProjectionMlpDiscriminator(nn.Module):
    """An `MlpDiscriminator` whose logit is psi(phi(x)) + y^T V phi(x), phi its last hidden layer.

    Args:
        shape: of an image, (C, H, W).
        num_classes: labels that occur.
        **settings: of `MlpDiscriminator`.
    """

    def __init__(self, shape: Sequence[int], num_classes: int, **settings) -> None:
        super().__init__()
        body = MlpDiscriminator(shape, **settings)
        self.projection = Projection(num_classes, body.feature_dim)
        self.body = body  # behind the projection: phi is the input of the last layer, as penalties on codes expect

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """(N, C, H, W) and int64 labels (N,) to logits (N,)."""
        features = self.body.features(images)
        return self.body.head(features).flatten() + self.projection(features, labels)


class ConditionalDcganGenerator(nn.Module):
    """DCGAN's generator of labelled images.

    Args:
        image_size: 28, 32, 64 or 128 px.
        image_channels: channels of the image.
        num_classes: labels that can be asked for.
        latent_dim: length of z.
        base_channels: width of the last hidden feature map.
        conditioning: "concat" makes half of the first map of the label; "batch_norm" gives each class a scale and a
            shift of its own in every normalisation, and z the whole first map.
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        num_classes: int,
        latent_dim: int = 100,
        base_channels: int = 64,
        *,
        conditioning: str = "concat",
    ) -> None:
        super().__init__()
        _check("ConditionalDcganGenerator", conditioning, GENERATOR_CONDITIONING)
        self.num_classes, self.latent_dim, self.conditioning = num_classes, latent_dim, conditioning
        self.body = DcganGenerator(image_size, image_channels, latent_dim, base_channels)
        if conditioning == "concat":
            width, side = self.body.layers[0].out_channels, STAGES[image_size][0]
            self.noise = _projected(latent_dim, width // 2, side)
            self.label = _projected(num_classes, width - width // 2, side)
            self.body.layers = self.body.layers[2:]  # the first map and its normalisation come from the two above
        else:
            for index, layer in enumerate(self.body.layers):
                if isinstance(layer, BatchNormAct2d):
                    conditional = ConditionalBatchNormAct2d(
                        layer.num_features, num_classes, activation=layer.activation
                    )
                    self.body.layers[index] = conditional

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """(N, latent_dim) and int64 labels (N,) to (N, image_channels, image_size, image_size) in [-1, 1]."""
        x = z.reshape(z.shape[0], self.latent_dim, 1, 1)
        if self.conditioning == "concat":
            y = one_hot(labels, self.num_classes, z.dtype)[:, :, None, None]
            return self.body.layers(torch.cat([self.noise(x), self.label(y)], dim=1))
        for layer in self.body.layers:
            x = layer(x, labels) if isinstance(layer, ConditionalBatchNormAct2d) else layer(x)
        return x


def _projected(length: int, width: int, side: int) -> nn.Sequential:
    """A vector, as a 1x1 map, to a normalised map of `width` channels, as DCGAN's first layer makes it of z."""
    layers = nn.Sequential(
        ConvTranspose2d(length, width, side, bias=False),
        BatchNormAct2d(width, activation="relu"),
    )
    normal_init(layers, std=0.02)
    return layers


class ConditionalDcganDiscriminator(nn.Module):
    """DCGAN's discriminator of labelled images.

    Args:
        image_size: 28, 32, 64 or 128 px.
        image_channels: channels of the image.
        num_classes: labels that occur.
        base_channels: width of the first feature map.
        batch_norm: False where a gradient penalty is taken per sample.
        conditioning: "concat" joins the label to the image as one constant feature map for each class; "projection"
            adds y^T V phi(x) to the logit, phi the last feature map, flattened.
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        num_classes: int,
        base_channels: int = 64,
        *,
        batch_norm: bool = True,
        conditioning: str = "concat",
    ) -> None:
        super().__init__()
        _check("ConditionalDcganDiscriminator", conditioning, DISCRIMINATOR_CONDITIONING)
        self.num_classes = num_classes
        joined = num_classes if conditioning == "concat" else 0
        body = DcganDiscriminator(image_size, image_channels + joined, base_channels, batch_norm=batch_norm)
        features = body.layers[-1].in_channels * STAGES[image_size][0] ** 2
        self.projection = Projection(num_classes, features) if conditioning == "projection" else None
        self.body = body  # behind the projection: phi is the input of the last layer, as penalties on codes expect

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """(N, image_channels, image_size, image_size) and int64 labels (N,) to logits (N,)."""
        if self.projection is None:
            maps = one_hot(labels, self.num_classes, images.dtype)[:, :, None, None]
            return self.body(torch.cat([images, maps.expand(-1, -1, *images.shape[2:])], dim=1))
        features = self.body.layers[:-1](images)
        return self.body.layers[-1](features).flatten() + self.projection(features.flatten(1), labels)
