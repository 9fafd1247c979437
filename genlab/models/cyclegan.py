"""CycleGAN's generator (Zhu et al. 2017, appendix 7.2, after Johnson et al. 2016): pictures to pictures of one size.

In the paper's notation c7s1-64, d128, d256, R256 six or nine times, u128, u64, c7s1-3. Reflection padding stands where
the authors' code has it (c7s1 and R), zeros in the strided layers. A convolution before an instance normalisation has
no bias: the normalisation would subtract it again. Batch normalisation, and dropout within the blocks, are what the
authors' code gives this generator in Pix2Pix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from genlab.models.normalization import picture_normalization
from genlab.nn import Conv2d, ConvTranspose2d
from genlab.nn.init import normal_init

SIZE_MULTIPLE = 4  # two halvings that the decoder doubles back
SMALLEST_SIZE = 16
NINE_BLOCKS_FROM = 256
INSTANCE = {"kind": "instance", "running_statistics": False, "affine": False}


def check_size(height: int, width: int) -> None:
    """Raises ValueError for a size that the generator cannot give back."""
    if min(height, width) < SMALLEST_SIZE or height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
        raise ValueError(
            f"ResNet: expected sides of at least {SMALLEST_SIZE} px in multiples of {SIZE_MULTIPLE}, "
            f"got {height}x{width}"
        )


def blocks_for(size: int) -> int:
    """Residual blocks that the paper uses at this size: 6 for 128 px, 9 from 256 px on."""
    return 9 if size >= NINE_BLOCKS_FROM else 6


class ResidualBlock(nn.Module):
    """input + norm(conv(dropout(relu(norm(conv(input)))))): the addition rides on the second normalisation.

    Args:
        channels: of input and output.
        dropout: share of features put out between the convolutions, where `forward` gets noise.
        **norm: of `picture_normalization`; default: instance normalisation without scale and shift.
    """

    def __init__(self, channels: int, dropout: float = 0.0, **norm: Any) -> None:
        super().__init__()
        padding = {"padding": 1, "padding_mode": "reflect", "bias": False}
        norm = norm or INSTANCE
        self.dropout = dropout
        self.conv1 = Conv2d(channels, channels, 3, **padding)
        self.norm1 = picture_normalization(channels=channels, **norm, activation="relu")
        self.conv2 = Conv2d(channels, channels, 3, **padding)
        self.norm2 = picture_normalization(channels=channels, **norm)

    def forward(self, input: Tensor, noise: Tensor | None = None) -> Tensor:
        """(N, channels, H, W), and uniform numbers of that shape for dropout, to the same shape."""
        hidden = self.norm1(self.conv1(input))
        if noise is not None:
            hidden = hidden * (noise >= self.dropout) / (1 - self.dropout)
        return self.norm2(self.conv2(hidden), residual=input)


class ResnetGenerator(nn.Module):
    """Encoder, residual blocks at a quarter of the size, decoder. Every sample is normalised by itself by default.

    Args:
        image_channels: channels of both domains.
        base_channels: width of the first map (64 in the paper); four times as many in the residual blocks.
        blocks: residual blocks, 6 for 128 px and 9 from 256 px on in the paper; see `blocks_for`.
        image_size: (height, width) in pixels of the pictures; needed with dropout, whose noise has their size.
        normalization: "instance", or "batch".
        running_statistics: whether batch normalisation follows its statistics and uses them in evaluation mode.
        affine: whether instance normalisation has a scale and a shift; batch normalisation always does.
        dropout: share of features put out in each residual block, where `forward` gets noise.

    Attributes:
        noise_shapes: (C, H, W) of each tensor of noise, one for each block; empty without dropout.

    Raises:
        ValueError: a dropout outside of [0, 1), or one without `image_size`.

    Example:
        >>> ResnetGenerator(3, blocks=6)(torch.randn(1, 3, 128, 128)).shape
        torch.Size([1, 3, 128, 128])
    """

    def __init__(
        self,
        image_channels: int,
        base_channels: int = 64,
        blocks: int = 9,
        *,
        image_size: tuple[int, int] | None = None,
        normalization: Literal["batch", "instance"] = "instance",
        running_statistics: bool = False,
        affine: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"ResNet: expected dropout in [0, 1), got {dropout}")
        if dropout and image_size is None:
            raise ValueError("ResNet: expected image_size with dropout, whose noise has the size of the maps, got none")
        c = base_channels
        norm = {"kind": normalization, "running_statistics": running_statistics, "affine": affine}
        height, width = image_size or (0, 0)
        shape = (4 * c, height // SIZE_MULTIPLE, width // SIZE_MULTIPLE)
        self.noise_shapes = [shape] * blocks if dropout else []
        self.layers = nn.Sequential(
            Conv2d(image_channels, c, 7, padding=3, padding_mode="reflect", bias=False),
            picture_normalization(channels=c, **norm, activation="relu"),
            Conv2d(c, 2 * c, 3, stride=2, padding=1, bias=False),
            picture_normalization(channels=2 * c, **norm, activation="relu"),
            Conv2d(2 * c, 4 * c, 3, stride=2, padding=1, bias=False),
            picture_normalization(channels=4 * c, **norm, activation="relu"),
            *(ResidualBlock(4 * c, dropout, **norm) for _ in range(blocks)),
            ConvTranspose2d(4 * c, 2 * c, 3, stride=2, padding=1, output_padding=1, bias=False),
            picture_normalization(channels=2 * c, **norm, activation="relu"),
            ConvTranspose2d(2 * c, c, 3, stride=2, padding=1, output_padding=1, bias=False),
            picture_normalization(channels=c, **norm, activation="relu"),
            Conv2d(c, image_channels, 7, padding=3, padding_mode="reflect", activation="tanh"),
        )
        normal_init(self, std=0.02)

    def forward(self, images: Tensor, noise: Sequence[Tensor] = ()) -> Tensor:
        """(N, image_channels, H, W) to the same shape, in [-1, 1].

        Args:
            images: of any size that is a multiple of 4 from 16 px on.
            noise: uniform numbers in [0, 1), one (N, *shape) for each of `noise_shapes`; empty: no dropout.

        Raises:
            ValueError: sides below 16 px or not in multiples of 4, or another number of tensors of noise.
        """
        check_size(*images.shape[-2:])
        if not len(noise):
            return self.layers(images)
        if len(noise) != len(self.noise_shapes):
            raise ValueError(f"ResNet: expected {len(self.noise_shapes)} tensors of noise or none, got {len(noise)}")
        masks = iter(noise)
        hidden = images
        for layer in self.layers:
            hidden = layer(hidden, next(masks)) if isinstance(layer, ResidualBlock) else layer(hidden)
        return hidden
