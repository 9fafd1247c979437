"""Networks of few products: MobileNet (Howard et al. 2017) and MobileNetV2 (Sandler et al. 2018).

MobileNetV2's parameters have torchvision's names.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from genlab.models.lenet import convolution_layers
from genlab.nn import BatchNormAct2d, Conv2d

# (channels, stride) of each depthwise-separable convolution: table 1 of Howard et al. 2017
MOBILENET_LAYERS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1),
)  # fmt: skip
# (expansion, channels, blocks, stride): table 2 of Sandler et al. 2018
MOBILENET_V2_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class MobileNet(nn.Module):
    """A 3x3 convolution, then thirteen that are 3x3 in each channel and 1x1 across channels.

    Args:
        image_channels: of the pictures.
        num_classes: outputs.
        width: factor on every number of channels ("alpha" in the paper).
        small: the form for 32 px: the first three strides of 2 are 1.
        dropout: before the last layer (0.001 in the authors' code).

    Example:
        >>> MobileNet(3, 10, width=0.25, small=True)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        image_channels: int = 3,
        num_classes: int = 1000,
        *,
        width: float = 1.0,
        small: bool = False,
        dropout: float = 0.001,
    ) -> None:
        super().__init__()
        c_in = _rounded(32 * width)
        layers: list[nn.Module] = [
            Conv2d(image_channels, c_in, 3, 1 if small else 2, padding=1, bias=False),
            BatchNormAct2d(c_in, activation="relu"),
        ]
        halvings = 1
        for channels, stride in MOBILENET_LAYERS:
            c_out = _rounded(channels * width)
            if stride == 2:
                halvings += 1
                stride = 1 if small and halvings <= 3 else 2
            layers += convolution_layers(c_in, c_out, "separable", stride)
            c_in = c_out
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c_in, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.fc(self.dropout(self.features(images).mean(dim=(2, 3))))


class Relu6(nn.Module):
    """min(max(x, 0), 6), as a module."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return F.relu6(input)


class InvertedResidual(nn.Module):
    """Widen by 1x1, convolve in each channel, narrow by 1x1 without activation (figure 3 of the paper)."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.adds = stride == 1 and c_in == c_out
        widen = [_conv_norm_relu6(c_in, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *widen,
            _conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden),
            Conv2d(hidden, c_out, 1, bias=False),
            BatchNormAct2d(c_out),
        )

    def forward(self, input: Tensor) -> Tensor:
        """(N, c_in, H, W) to (N, c_out, H / stride, W / stride)."""
        return input + self.conv(input) if self.adds else self.conv(input)


class MobileNetV2(nn.Module):
    """Inverted residual blocks with linear bottlenecks.

    Args:
        image_channels: of the pictures.
        num_classes: outputs.
        width: factor on the numbers of channels, which are rounded to multiples of 8.
        small: the form for 32 px: the first two strides of 2 are 1.
        dropout: before the last layer.

    Example:
        >>> MobileNetV2(3, 10, width=0.25, small=True)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        image_channels: int = 3,
        num_classes: int = 1000,
        *,
        width: float = 1.0,
        small: bool = False,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        c_in = _rounded(32 * width)
        layers: list[nn.Module] = [_conv_norm_relu6(image_channels, c_in, 3, 1 if small else 2)]
        for number, (expansion, channels, count, stage_stride) in enumerate(MOBILENET_V2_STAGES):
            c_out = _rounded(channels * width)
            first = 1 if small and number <= 1 else stage_stride
            for index in range(count):
                layers.append(InvertedResidual(c_in, c_out, first if index == 0 else 1, expansion))
                c_in = c_out
        last = _rounded(1280 * max(1.0, width))
        self.features = nn.Sequential(*layers, _conv_norm_relu6(c_in, last, 1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        for module in self.modules():
            if isinstance(module, Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))


def _conv_norm_relu6(c_in: int, c_out: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    padding = (kernel_size - 1) // 2
    convolution = Conv2d(c_in, c_out, kernel_size, stride, padding, groups=groups, bias=False)
    return nn.Sequential(convolution, BatchNormAct2d(c_out), Relu6())


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, not less than nine tenths of `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
