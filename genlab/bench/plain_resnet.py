"""The peer of `genlab bench step --config cyclegan_resnet9`: CycleGAN's generator, usually written in plain torch.

ReflectionPad2d, Conv2d, InstanceNorm2d and ReLU as modules of their own. Convolutions before a normalisation have no
bias, as the lab's have none: the usual code's bias there is work that the normalisation undoes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


def norm_of_one_sample(channels: int) -> nn.Module:
    """Instance normalisation of a batch of one as batch normalisation, which it is.

    torch's InstanceNorm2d gives one sample a wrong gradient in channels_last memory (2.14 on the CPU).
    """
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


def _conv(norm: Norm, c_in: int, c_out: int, kernel: int, **options: int) -> list[nn.Module]:
    return [nn.Conv2d(c_in, c_out, kernel, bias=False, **options), norm(c_out)]


def _up(norm: Norm, c_in: int, c_out: int) -> list[nn.Module]:
    conv = nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1, bias=False)
    return [conv, norm(c_out), nn.ReLU(inplace=True)]


class PlainResidualBlock(nn.Module):
    """input + IN(conv(pad(relu(IN(conv(pad(input)))))))."""

    def __init__(self, norm: Norm, channels: int) -> None:
        super().__init__()
        first, second = (_conv(norm, channels, channels, 3) for _ in range(2))
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1), *first, nn.ReLU(inplace=True), nn.ReflectionPad2d(1), *second
        )

    def forward(self, input: Tensor) -> Tensor:
        return input + self.layers(input)


def build_resnet_generator(
    channels: int, base_channels: int, blocks: int, norm: Norm = nn.InstanceNorm2d
) -> nn.Sequential:
    """(N, channels, H, W) to the same shape: c7s1-64, d128, d256, R256 `blocks` times, u128, u64, c7s1-3."""
    c = base_channels
    down = {"stride": 2, "padding": 1}
    return nn.Sequential(
        nn.ReflectionPad2d(3), *_conv(norm, channels, c, 7), nn.ReLU(inplace=True),
        *_conv(norm, c, 2 * c, 3, **down), nn.ReLU(inplace=True),
        *_conv(norm, 2 * c, 4 * c, 3, **down), nn.ReLU(inplace=True),
        *(PlainResidualBlock(norm, 4 * c) for _ in range(blocks)),
        *_up(norm, 4 * c, 2 * c), *_up(norm, 2 * c, c),
        nn.ReflectionPad2d(3), nn.Conv2d(c, channels, 7), nn.Tanh(),
    )  # fmt: skip
