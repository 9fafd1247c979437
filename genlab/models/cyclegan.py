"""CycleGAN's generator (Zhu et al. 2017, appendix 7.2, after Johnson et al. 2016): pictures to pictures of one size.

In the paper's notation c7s1-64, d128, d256, R256 six or nine times, u128, u64, c7s1-3. Reflection padding stands where
the authors' code has it (c7s1 and R), zeros in the strided layers. A convolution before an instance normalisation has
no bias: the normalisation would subtract it again.
"""

from __future__ import annotations

from torch import Tensor, nn

from genlab.nn import Conv2d, ConvTranspose2d, InstanceNormAct2d
from genlab.nn.init import normal_init

SIZE_MULTIPLE = 4  # two halvings that the decoder doubles back
SMALLEST_SIZE = 16
NINE_BLOCKS_FROM = 256


def check_size(height: int, width: int) -> None:
    """Raises ValueError for a size that the generator cannot give back."""
    if min(height, width) < SMALLEST_SIZE or height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
        raise ValueError(
            f"CycleGAN: expected sides of at least {SMALLEST_SIZE} px in multiples of {SIZE_MULTIPLE}, "
            f"got {height}x{width}"
        )


def blocks_for(size: int) -> int:
    """Residual blocks that the paper uses at this size: 6 for 128 px, 9 from 256 px on."""
    return 9 if size >= NINE_BLOCKS_FROM else 6


class ResidualBlock(nn.Module):
    """input + norm(conv(relu(norm(conv(input))))): the addition rides on the second normalisation.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        padding = {"padding": 1, "padding_mode": "reflect", "bias": False}
        self.conv1 = Conv2d(channels, channels, 3, **padding)
        self.norm1 = InstanceNormAct2d(channels, activation="relu")
        self.conv2 = Conv2d(channels, channels, 3, **padding)
        self.norm2 = InstanceNormAct2d(channels)

    def forward(self, input: Tensor) -> Tensor:
        """(N, channels, H, W) to the same shape."""
        return self.norm2(self.conv2(self.norm1(self.conv1(input))), residual=input)


class ResnetGenerator(nn.Module):
    """Encoder, residual blocks at a quarter of the size, decoder. Every sample is normalised by itself.

    Args:
        image_channels: channels of both domains.
        base_channels: width of the first map (64 in the paper); four times as many in the residual blocks.
        blocks: residual blocks, 6 for 128 px and 9 from 256 px on in the paper; see `blocks_for`.

    Example:
        >>> ResnetGenerator(3, blocks=6)(torch.randn(1, 3, 128, 128)).shape
        torch.Size([1, 3, 128, 128])
    """

    def __init__(self, image_channels: int, base_channels: int = 64, blocks: int = 9) -> None:
        super().__init__()
        c = base_channels
        self.layers = nn.Sequential(
            Conv2d(image_channels, c, 7, padding=3, padding_mode="reflect", bias=False),
            InstanceNormAct2d(c, activation="relu"),
            Conv2d(c, 2 * c, 3, stride=2, padding=1, bias=False),
            InstanceNormAct2d(2 * c, activation="relu"),
            Conv2d(2 * c, 4 * c, 3, stride=2, padding=1, bias=False),
            InstanceNormAct2d(4 * c, activation="relu"),
            *(ResidualBlock(4 * c) for _ in range(blocks)),
            ConvTranspose2d(4 * c, 2 * c, 3, stride=2, padding=1, output_padding=1, bias=False),
            InstanceNormAct2d(2 * c, activation="relu"),
            ConvTranspose2d(2 * c, c, 3, stride=2, padding=1, output_padding=1, bias=False),
            InstanceNormAct2d(c, activation="relu"),
            Conv2d(c, image_channels, 7, padding=3, padding_mode="reflect", activation="tanh"),
        )
        normal_init(self, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(N, image_channels, H, W) to the same shape, in [-1, 1].

        Raises:
            ValueError: sides below 16 px or not in multiples of 4.
        """
        check_size(*images.shape[-2:])
        return self.layers(images)
