"""DCGAN's networks (Radford, Metz and Chintala 2016, section 3 and figure 1) for 28, 32, 64 and 128 px.

Kernels are 4x4: the paper's 5x5 with stride 2 needs the asymmetric padding of TensorFlow's "same"; the authors' own
torch code uses 4x4, which halves and doubles exactly with padding 1 on both sides.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from genlab.nn import BatchNormAct2d, Conv2d, ConvChain, ConvTranspose2d
from genlab.nn.init import normal_init

# image size -> (side of the first feature map, number of stride-2 stages up to the image)
STAGES = {28: (7, 2), 32: (4, 3), 64: (4, 4), 128: (4, 5)}


def _hidden_widths(image_size: int, base_channels: int) -> list[int]:
    """Channels of the feature maps from the image inwards: base_channels, then twice as many at each halving."""
    if image_size not in STAGES:
        raise ValueError(f"DCGAN: expected image_size to be one of {', '.join(map(str, STAGES))}, got {image_size}")
    return [base_channels * 2**depth for depth in range(STAGES[image_size][1])]


class DcganGenerator(nn.Module):
    """Noise to images by transposed convolutions, each doubling the side.

    Args:
        image_size: 28, 32, 64 or 128 px.
        image_channels: channels of the image.
        latent_dim: length of z (100 in the paper).
        base_channels: width of the last hidden feature map (128 in the paper's figure, 64 in the authors' code).

    Example:
        >>> DcganGenerator(32, 3)(torch.randn(8, 100)).shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(self, image_size: int, image_channels: int, latent_dim: int = 100, base_channels: int = 64) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        widths = _hidden_widths(image_size, base_channels)[::-1]
        first_side = STAGES[image_size][0]
        # "Project and reshape": a transposed convolution of a 1x1 map is the linear projection of figure 1.
        layers: list[nn.Module] = [
            ConvTranspose2d(latent_dim, widths[0], first_side, bias=False),
            BatchNormAct2d(widths[0], activation="relu"),
        ]
        for c_in, c_out in itertools.pairwise(widths):
            layers += [
                ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
                BatchNormAct2d(c_out, activation="relu"),
            ]
        layers.append(ConvTranspose2d(widths[-1], image_channels, 4, stride=2, padding=1, activation="tanh"))
        self.layers = ConvChain(*layers)
        normal_init(self, std=0.02)

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent_dim) to (N, image_channels, image_size, image_size) in [-1, 1]."""
        return self.layers(z.reshape(z.shape[0], self.latent_dim, 1, 1))


class DcganDiscriminator(nn.Module):
    """Images to one logit each by strided convolutions: no pooling, no dense layer.

    Batch normalisation stands in every layer but the first and the last, as in section 3 of the paper.

    Args:
        image_size: 28, 32, 64 or 128 px.
        image_channels: channels of the image.
        base_channels: width of the first feature map.
        batch_norm: False leaves the normalisation out, as a critic with a gradient penalty needs: the penalty is
            defined for each sample on its own (Gulrajani et al. 2017, section 4).

    Example:
        >>> DcganDiscriminator(32, 3)(torch.randn(8, 3, 32, 32)).shape
        torch.Size([8])
    """

    def __init__(
        self, image_size: int, image_channels: int, base_channels: int = 64, *, batch_norm: bool = True
    ) -> None:
        super().__init__()
        widths = _hidden_widths(image_size, base_channels)
        activation = {"activation": "leaky_relu", "negative_slope": 0.2}
        layers: list[nn.Module] = [Conv2d(image_channels, widths[0], 4, stride=2, padding=1, **activation)]
        for c_in, c_out in itertools.pairwise(widths):
            if batch_norm:
                layers += [Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False), BatchNormAct2d(c_out, **activation)]
            else:
                layers.append(Conv2d(c_in, c_out, 4, stride=2, padding=1, **activation))
        layers.append(Conv2d(widths[-1], 1, STAGES[image_size][0]))
        self.layers = ConvChain(*layers)
        normal_init(self, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(N, image_channels, image_size, image_size) to logits (N,)."""
        return self.layers(images).flatten()
