"""Residual generator and critic of WGAN-GP (Gulrajani et al. 2017, appendix F and the authors' code) for 32 and 64 px.

32 px are the CIFAR-10 networks: every map has as many channels, the critic has no normalisation and ends in a mean over
the map. 64 px are the code's networks for larger pictures: channels halve towards the image, and the critic has layer
normalisation, which keeps every sample's gradient its own. Blocks are pre-activated: normalise, ReLU, 3x3 convolution,
twice, beside a shortcut whose 1x1 convolution appears where the shape changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from genlab.nn import BatchNormAct2d, Conv2d

FIRST_SIDE = 4
# image size -> channels of the generator's maps from 4x4 to the image, in units of base_channels
WIDTHS = {32: (1, 1, 1, 1), 64: (8, 8, 4, 2, 1)}


def _widths(image_size: int, base_channels: int) -> list[int]:
    if image_size not in WIDTHS:
        sizes = " or ".join(map(str, WIDTHS))
        raise ValueError(f"WGAN-GP ResNet: expected image_size to be {sizes}, got {image_size}")
    return [factor * base_channels for factor in WIDTHS[image_size]]


def _double(input: Tensor) -> Tensor:
    return F.interpolate(input, scale_factor=2, mode="nearest")


class UpBlock(nn.Module):
    """Residual block of the generator that doubles the side by nearest-neighbour copies.

    The first convolution and the shortcut see the doubled map, as in the authors' code; the paper's text has the
    doubling before the second convolution.

    Args:
        c_in, c_out: channels before and after.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm1 = BatchNormAct2d(c_in, activation="relu")
        self.conv1 = Conv2d(c_in, c_out, 3, padding=1, bias=False)  # the normalisation takes any constant out again
        self.norm2 = BatchNormAct2d(c_out, activation="relu")
        self.conv2 = Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = Conv2d(c_in, c_out, 1)

    def forward(self, input: Tensor, *condition: Tensor) -> Tensor:
        """(N, c_in, H, W), and what the normalisations take beside it, to (N, c_out, 2H, 2W)."""
        hidden = self.conv2(self.norm2(self.conv1(_double(self.norm1(input, *condition))), *condition))
        return _double(self.shortcut(input)) + hidden  # a 1x1 convolution of copies is a copy of the convolution


class CriticBlock(nn.Module):
    """Residual block of the critic, which halves the side by 2x2 means where `down` is set.

    Args:
        c_in, c_out: channels before and after.
        down: halve the side.
        layer_norm: normalise each sample over channels and pixels before each ReLU.
        first: the block sees the image, which is not passed through a ReLU.
    """

    def __init__(
        self, c_in: int, c_out: int, *, down: bool = True, layer_norm: bool = False, first: bool = False
    ) -> None:
        super().__init__()
        self.down, self.first = down, first
        middle = c_out if first else c_in
        # One group is layer normalisation over (C, H, W) with a scale for each channel, as in the authors' code.
        self.norm1 = nn.GroupNorm(1, c_in) if layer_norm and not first else nn.Identity()
        self.norm2 = nn.Sequential(nn.GroupNorm(1, middle), nn.ReLU()) if layer_norm else nn.Identity()
        # Without normalisation the ReLU behind the first convolution is part of its op.
        self.conv1 = Conv2d(c_in, middle, 3, padding=1, bias=not layer_norm, activation=None if layer_norm else "relu")
        self.conv2 = Conv2d(middle, c_out, 3, padding=1)
        self.shortcut = Conv2d(c_in, c_out, 1) if down or c_in != c_out else nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        """(N, c_in, H, W) to (N, c_out, H, W), or (N, c_out, H / 2, W / 2)."""
        hidden = input if self.first else F.relu(self.norm1(input))
        hidden = self.conv2(self.norm2(self.conv1(hidden)))
        if not self.down:
            return self.shortcut(input) + hidden
        # The mean of a 1x1 convolution is the convolution of the mean, at a quarter of the cost.
        return self.shortcut(F.avg_pool2d(input, 2)) + F.avg_pool2d(hidden, 2)


class WganGpGenerator(nn.Module):
    """Noise to images through residual blocks that double the side.

    Args:
        image_size: 32 or 64 px.
        image_channels: channels of the image.
        latent_dim: length of z (128 in the paper).
        base_channels: channels of the map next to the image (128 at 32 px, 64 at 64 px in the authors' code).
        projected_width: channels of the first map that z makes; None: all of it.
        block: (c_in, c_out) -> residual block that doubles the side.

    Example:
        >>> WganGpGenerator(32, 3)(torch.randn(8, 128)).shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        latent_dim: int = 128,
        base_channels: int = 128,
        *,
        projected_width: int | None = None,
        block: Callable[[int, int], nn.Module] = UpBlock,
    ) -> None:
        super().__init__()
        widths = _widths(image_size, base_channels)
        self.latent_dim = latent_dim
        self.project = nn.Linear(latent_dim, (projected_width or widths[0]) * FIRST_SIDE**2)
        self.blocks = nn.Sequential(*(block(*pair) for pair in zip(widths, widths[1:], strict=False)))
        self.norm = BatchNormAct2d(widths[-1], activation="relu")
        self.to_image = Conv2d(widths[-1], image_channels, 3, padding=1, activation="tanh")
        _initialise(self, rectified_output=image_size == 64)  # as the two scripts of the authors

    @staticmethod
    def first_width(image_size: int, base_channels: int) -> int:
        """Channels of the first map, of 4x4; ValueError for a size that is none of `WIDTHS`."""
        return _widths(image_size, base_channels)[0]

    def first_map(self, z: Tensor) -> Tensor:
        """(N, latent_dim) to (N, projected_width, 4, 4)."""
        return self.project(z.flatten(1)).unflatten(1, (-1, FIRST_SIDE, FIRST_SIDE))

    def image(self, maps: Tensor, *condition: Tensor) -> Tensor:
        """(N, first width, 4, 4), and what the blocks take beside a map, to images in [-1, 1]."""
        for block in self.blocks:
            maps = block(maps, *condition)
        return self.to_image(self.norm(maps))

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent_dim) to (N, image_channels, image_size, image_size) in [-1, 1]."""
        return self.image(self.first_map(z))


class WganGpCritic(nn.Module):
    """Images to one score each through residual blocks; no batch normalisation.

    Args:
        image_size: 32 or 64 px.
        image_channels: channels of the image.
        base_channels: width, as of the generator.

    Example:
        >>> WganGpCritic(32, 3)(torch.randn(8, 3, 32, 32)).shape
        torch.Size([8])
    """

    def __init__(self, image_size: int, image_channels: int, base_channels: int = 128) -> None:
        super().__init__()
        widths = _widths(image_size, base_channels)[::-1]
        self.pools = image_size == 32
        if self.pools:
            self.blocks = nn.Sequential(
                CriticBlock(image_channels, widths[0], first=True),
                CriticBlock(widths[0], widths[0]),
                CriticBlock(widths[0], widths[0], down=False),
                CriticBlock(widths[0], widths[0], down=False),
            )
        else:
            pairs = zip(widths, widths[1:], strict=False)
            self.blocks = nn.Sequential(
                Conv2d(image_channels, widths[0], 3, padding=1),
                *(CriticBlock(*pair, layer_norm=True) for pair in pairs),
            )
        self.head = nn.Linear(widths[-1] * (1 if self.pools else FIRST_SIDE**2), 1)
        _initialise(self)

    def features(self, images: Tensor) -> Tensor:
        """(N, image_channels, image_size, image_size) to (N, length of the head's input)."""
        maps = self.blocks(images)
        return F.relu(maps).mean(dim=(2, 3)) if self.pools else maps.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, image_channels, image_size, image_size) to scores (N,)."""
        return self.head(self.features(images)).flatten()


def _initialise(network: nn.Module, *, rectified_output: bool = False) -> None:
    """Uniform weights of variance 4 / (fan in + fan out) where a ReLU stands before, half of it elsewhere; biases 0.

    He's gain in Glorot's two-sided form, as in the authors' code; shortcuts, dense layers and the critic's first
    convolution have gain 1, and so has the layer that makes the image unless `rectified_output`.
    """
    for name, module in network.named_modules():
        if isinstance(module, (Conv2d, nn.Linear)):
            within = name.endswith(("conv1", "conv2")) or (name == "to_image" and rectified_output)
            nn.init.xavier_uniform_(module.weight, gain=math.sqrt(2) if within else 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
