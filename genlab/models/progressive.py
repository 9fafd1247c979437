"""Networks that grow (Karras et al. 2018, "Progressive Growing of GANs for Improved Quality, Stability, Variation").

Both hold the layers of every resolution from the start. `grow(level, alpha)` says which are in use: level l works at
4 * 2^l pixels, and with alpha < 1 its newest layers are faded in (figure 2 of the paper).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.nn import Conv2d

SMALLEST_SIDE = 4
SLOPE = 0.2


def levels_of(side: int) -> int:
    """Number of resolutions from 4 px to `side`.

    Raises:
        ValueError: `side` is not 4 times a power of two.
    """
    level = int(math.log2(side // SMALLEST_SIDE)) if side >= SMALLEST_SIDE else -1
    if level < 0 or SMALLEST_SIDE * 2**level != side:
        raise ValueError(f"progressive: expected a side of 4, 8, 16, ..., 1024 px, got {side}")
    return level + 1


def widths_of(levels: int, channel_budget: int, max_channels: int) -> list[int]:
    """Feature maps at each level: channel_budget / 2^(level + 1), at most max_channels (8192 and 512 in the code)."""
    return [max(1, min(channel_budget // 2 ** (level + 1), max_channels)) for level in range(levels)]


class EqualizedConv2d(Conv2d):
    """A convolution whose weights are drawn from N(0, 1) and scaled at run time (section 4.1).

    The scale gain / sqrt(fan_in) is He's; applied at run time it gives every weight the same speed of learning under
    Adam, whose steps do not depend on a parameter's scale.

    Args:
        c_in, c_out, kernel, padding, activation: of `genlab.nn.Conv2d`.
        gain: sqrt(2) before a (leaky) rectifier, 1 before nothing.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        padding: int = 0,
        *,
        activation: str | None = None,
        gain: float = math.sqrt(2),
    ) -> None:
        super().__init__(c_in, c_out, kernel, padding=padding, activation=activation, negative_slope=SLOPE)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)
        self.scale = gain / math.sqrt(c_in * kernel**2)

    def forward(self, input: Tensor) -> Tensor:
        """(N, c_in, H, W) to (N, c_out, H', W')."""
        # Scaling the input instead of the weight is the same map, and the cheaper one at 1x1 and 4x4.
        return super().forward(input * self.scale)


class PixelNorm(nn.Module):
    """Every pixel's feature vector divided by its root mean square (section 4.2)."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) to the same shape."""
        return input * torch.rsqrt(input.float().square().mean(1, keepdim=True) + 1e-8).to(input.dtype)


def group_of(count: int, group_size: int) -> int:
    """Neighbours in a batch of `count` that the minibatch standard deviation compares: `group_size` or a part of it."""
    return math.gcd(count, group_size)


class MinibatchStandardDeviation(nn.Module):
    """One more feature map: how much the samples of a group differ, averaged over features and pixels (section 3).

    Args:
        group_size: neighbours in the batch that are compared, 4 in the code; fewer where the batch does not divide.
    """

    def __init__(self, group_size: int = 4) -> None:
        super().__init__()
        self.group_size = group_size

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + 1, H, W)."""
        count, _, height, width = input.shape
        group = group_of(count, self.group_size)
        groups = input.float().unflatten(0, (count // group, group))
        deviation = (groups.var(1, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        shown = deviation.repeat_interleave(group).to(input.dtype)[:, None, None, None]
        return torch.cat([input, shown.expand(count, 1, height, width)], dim=1)

    def extra_repr(self) -> str:
        return f"group_size={self.group_size}"


def double(images: Tensor) -> Tensor:
    """Twice the side, each pixel four times."""
    return F.interpolate(images, scale_factor=2, mode="nearest")


def halve(images: Tensor) -> Tensor:
    """Half the side, the mean of four pixels."""
    return F.avg_pool2d(images, 2)


class _Growing(nn.Module):
    """What generator and discriminator share: the level in use. It is no part of the weights; the trainer sets it."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.level, self.alpha = levels - 1, 1.0
        self.levels = levels

    def grow(self, level: int, alpha: float) -> None:
        """Works at 4 * 2^level pixels from now on, with the newest layers at weight `alpha` in [0, 1]."""
        if not 0 <= level < self.levels or not 0 <= alpha <= 1:
            raise ValueError(
                f"grow: expected level 0 to {self.levels - 1} and alpha in [0, 1], got {level} and {alpha}"
            )
        self.level, self.alpha = level, alpha

    @property
    def side(self) -> int:
        """Pixels of a side at the present level."""
        return SMALLEST_SIDE * 2**self.level


class ProgressiveGenerator(_Growing):
    """Noise on the unit sphere to images that grow.

    Args:
        image_size: final side, 4 times a power of two.
        image_channels: channels of the image.
        latent_dim: length of z, 512 in the paper.
        channel_budget, max_channels: see `widths_of`.

    Example:
        >>> ProgressiveGenerator(32, 3, 64, 512, 64)(torch.randn(4, 64)).shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        latent_dim: int = 512,
        channel_budget: int = 8192,
        max_channels: int = 512,
    ) -> None:
        super().__init__(levels_of(image_size))
        widths = widths_of(self.levels, channel_budget, max_channels)
        self.normalise = PixelNorm()
        # A dense layer from z to 4x4 maps; the code divides its gain by 4.
        self.project = EqualizedConv2d(latent_dim, widths[0] * SMALLEST_SIDE**2, 1, gain=math.sqrt(2) / 4)
        first = nn.Sequential(_convolution(widths[0], widths[0]), PixelNorm())
        rest = [
            nn.Sequential(_convolution(c_in, c_out), PixelNorm(), _convolution(c_out, c_out), PixelNorm())
            for c_in, c_out in zip(widths, widths[1:], strict=False)
        ]
        self.blocks = nn.ModuleList([first, *rest])
        self.to_image = nn.ModuleList(EqualizedConv2d(width, image_channels, 1, gain=1.0) for width in widths)

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent_dim) to (N, image_channels, side, side); not squashed, as in the paper."""
        value = self.project(self.normalise(z)[:, :, None, None])
        value = F.leaky_relu(value.reshape(len(z), -1, SMALLEST_SIDE, SMALLEST_SIDE), SLOPE)
        value = before = self.blocks[0](self.normalise(value))
        for block in self.blocks[1 : self.level + 1]:
            before = value
            value = block(double(value))
        images = self.to_image[self.level](value)
        if self.alpha < 1 and self.level > 0:
            images = torch.lerp(double(self.to_image[self.level - 1](before)), images, self.alpha)
        return images


class ProgressiveDiscriminator(_Growing):
    """Images that grow to one logit each; the mirror image of the generator.

    Args:
        image_size, image_channels, channel_budget, max_channels: as of the generator.
        group_size: of the minibatch standard deviation.

    Example:
        >>> ProgressiveDiscriminator(32, 3, 512, 64)(torch.randn(4, 3, 32, 32)).shape
        torch.Size([4])
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        channel_budget: int = 8192,
        max_channels: int = 512,
        group_size: int = 4,
    ) -> None:
        super().__init__(levels_of(image_size))
        widths = widths_of(self.levels, channel_budget, max_channels)
        self.from_image = nn.ModuleList(
            EqualizedConv2d(image_channels, width, 1, activation="leaky_relu") for width in widths
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(_convolution(c_in, c_in), _convolution(c_in, c_out))
            for c_out, c_in in zip(widths, widths[1:], strict=False)
        )
        self.last = nn.Sequential(
            MinibatchStandardDeviation(group_size),
            _convolution(widths[0] + 1, widths[0]),
            EqualizedConv2d(widths[0], widths[0], SMALLEST_SIDE, activation="leaky_relu"),
            EqualizedConv2d(widths[0], 1, 1, gain=1.0),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, image_channels, side, side) to logits (N,).

        Raises:
            ValueError: images of another side than the present level's.
        """
        if images.shape[-1] != self.side:
            raise ValueError(f"ProgressiveDiscriminator: expected images of {self.side} px, got {images.shape[-1]}")
        value = self.from_image[self.level](images)
        for level in range(self.level, 0, -1):
            value = halve(self.blocks[level - 1](value))
            if level == self.level and self.alpha < 1:
                value = torch.lerp(self.from_image[level - 1](halve(images)), value, self.alpha)
        return self.last(value).flatten()


def _convolution(c_in: int, c_out: int) -> EqualizedConv2d:
    return EqualizedConv2d(c_in, c_out, 3, padding=1, activation="leaky_relu")
