"""Residual networks (He et al. 2016), ResNeXt (Xie et al. 2017) and squeeze-and-excitation (Hu et al. 2018).

Parameters have torchvision's names. Addition and ReLU behind a block are part of its last normalisation's op.
"""

from __future__ import annotations

from torch import Tensor, nn

from genlab.models.vgg import pool_to
from genlab.nn import BatchNormAct2d, Conv2d


class SqueezeExcitation(nn.Module):
    """Scales each channel by what the means of all channels say of it (section 3 of the paper).

    Args:
        channels: of the map.
        reduction: channels to one hidden unit (16 in the paper).
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.reduce = Conv2d(channels, hidden, 1, activation="relu")
        self.expand = Conv2d(hidden, channels, 1, activation="sigmoid")

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return input * self.expand(self.reduce(input.mean(dim=(2, 3), keepdim=True)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (figure 5, left)."""

    expansion = 1

    def __init__(self, c_in: int, planes: int, stride: int, groups: int, group_width: int, squeeze: bool) -> None:
        super().__init__()
        if groups != 1 or group_width != 64:
            raise ValueError("ResNet: expected groups only in networks of bottleneck blocks (depth of at least 50)")
        self.conv1 = Conv2d(c_in, planes, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNormAct2d(planes, activation="relu")
        self.conv2 = Conv2d(planes, planes, 3, padding=1, bias=False)
        # Between the branch's normalisation and the sum stands the excitation, so the op cannot add there.
        self.bn2 = BatchNormAct2d(planes, activation=None if squeeze else "relu")
        self.se = SqueezeExcitation(planes) if squeeze else None
        self.downsample = _shortcut(c_in, planes, stride)

    def forward(self, input: Tensor) -> Tensor:
        """(N, c_in, H, W) to (N, planes, H / stride, W / stride)."""
        identity = input if self.downsample is None else self.downsample(input)
        hidden = self.conv2(self.bn1(self.conv1(input)))
        if self.se is None:
            return self.bn2(hidden, identity)
        return (self.se(self.bn2(hidden)) + identity).relu_()


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (figure 5, right).

    The stride is the 3x3 convolution's, as in torchvision; the paper has it in the first 1x1.
    """

    expansion = 4

    def __init__(self, c_in: int, planes: int, stride: int, groups: int, group_width: int, squeeze: bool) -> None:
        super().__init__()
        width = planes * group_width // 64 * groups
        c_out = planes * self.expansion
        self.conv1 = Conv2d(c_in, width, 1, bias=False)
        self.bn1 = BatchNormAct2d(width, activation="relu")
        self.conv2 = Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = BatchNormAct2d(width, activation="relu")
        self.conv3 = Conv2d(width, c_out, 1, bias=False)
        self.bn3 = BatchNormAct2d(c_out, activation=None if squeeze else "relu")
        self.se = SqueezeExcitation(c_out) if squeeze else None
        self.downsample = _shortcut(c_in, c_out, stride)

    def forward(self, input: Tensor) -> Tensor:
        """(N, c_in, H, W) to (N, 4 planes, H / stride, W / stride)."""
        identity = input if self.downsample is None else self.downsample(input)
        hidden = self.conv3(self.bn2(self.conv2(self.bn1(self.conv1(input)))))
        if self.se is None:
            return self.bn3(hidden, identity)
        return (self.se(self.bn3(hidden)) + identity).relu_()


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Module | None:
    """Option B of the paper: a projection where the shape changes."""
    if stride == 1 and c_in == c_out:
        return None
    return nn.Sequential(Conv2d(c_in, c_out, 1, stride, bias=False), BatchNormAct2d(c_out))


# depth -> block and how many of it in each stage: table 1 of the paper
DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """Four stages of residual blocks; widths 64 to 512 times the block's expansion.

    Args:
        depth: 18, 34, 50, 101 or 152.
        image_channels: of the pictures.
        num_classes: outputs.
        small: the form for 32 px: a first convolution of 3x3 and stride 1 and no max pooling.
        groups: of the 3x3 convolutions (ResNeXt: 32).
        group_width: channels of a group in the first stage (ResNeXt-50 32x4d: 4); 64 for a plain network.
        squeeze: squeeze-and-excitation in every block.
        base_channels: of the first stage, 64 in the paper.

    Example:
        >>> ResNet(18, 3, 10, small=True)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int,
        image_channels: int = 3,
        num_classes: int = 1000,
        *,
        small: bool = False,
        groups: int = 1,
        group_width: int = 64,
        squeeze: bool = False,
        base_channels: int = 64,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"ResNet: expected depth {', '.join(map(str, DEPTHS))}, got {depth}")
        block, counts = DEPTHS[depth]
        stem = {"kernel_size": 3, "padding": 1} if small else {"kernel_size": 7, "stride": 2, "padding": 3}
        self.conv1 = Conv2d(image_channels, base_channels, **stem, bias=False)
        self.bn1 = BatchNormAct2d(base_channels, activation="relu")
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        c_in = base_channels
        for number, count in enumerate(counts):
            planes, stride = base_channels * 2**number, 1 if number == 0 else 2
            blocks = []
            for index in range(count):
                blocks.append(block(c_in, planes, stride if index == 0 else 1, groups, group_width, squeeze))
                c_in = planes * block.expansion
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(c_in, num_classes)
        for module in self.modules():
            if isinstance(module, Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # He et al. 2015

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        maps = self.maxpool(self.bn1(self.conv1(images)))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        return self.fc(pool_to(maps, 1).flatten(1))
