"""GoogLeNet (Szegedy et al. 2015): Inception modules of four branches side by side, with two auxiliary heads.

Parameters have torchvision's names. As there, batch normalisation follows every convolution and the "5x5" branch is
3x3; neither is in the paper, both are in the weights that people have.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.models.vgg import pool_to
from genlab.nn import BatchNormAct2d, Conv2d

# Channels before, of 1x1, of 3x3 (reduced, whole), of "5x5" (reduced, whole), behind the pooling: table 1 of the paper.
INCEPTIONS = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


class ConvNorm(nn.Module):
    """Convolution, batch normalisation and ReLU."""

    def __init__(self, c_in: int, c_out: int, **settings: int) -> None:
        super().__init__()
        self.conv = Conv2d(c_in, c_out, bias=False, **settings)
        self.bn = BatchNormAct2d(c_out, eps=0.001, activation="relu")

    def forward(self, input: Tensor) -> Tensor:
        """(N, c_in, H, W) to (N, c_out, H', W')."""
        return self.bn(self.conv(input))


class Inception(nn.Module):
    """Four branches of different fields on the same map, side by side (figure 2b): 1x1 convolutions keep them cheap."""

    def __init__(self, c_in: int, c1: int, r3: int, c3: int, r5: int, c5: int, pooled: int) -> None:
        super().__init__()
        self.branch1 = ConvNorm(c_in, c1, kernel_size=1)
        self.branch2 = nn.Sequential(ConvNorm(c_in, r3, kernel_size=1), ConvNorm(r3, c3, kernel_size=3, padding=1))
        self.branch3 = nn.Sequential(ConvNorm(c_in, r5, kernel_size=1), ConvNorm(r5, c5, kernel_size=3, padding=1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), ConvNorm(c_in, pooled, kernel_size=1))

    def forward(self, input: Tensor) -> Tensor:
        """(N, c_in, H, W) to (N, c1 + c3 + c5 + pooled, H, W)."""
        return torch.cat([branch(input) for branch in (self.branch1, self.branch2, self.branch3, self.branch4)], 1)


class AuxiliaryHead(nn.Module):
    """Classes from the middle of the network, which bring gradient there in training (section 5)."""

    def __init__(self, c_in: int, num_classes: int, dropout: float = 0.7) -> None:
        super().__init__()
        self.conv = ConvNorm(c_in, 128, kernel_size=1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, c_in, H, W) to logits (N, num_classes)."""
        hidden = self.conv(pool_to(maps, 4)).flatten(1)
        return self.fc2(self.dropout(F.relu(self.fc1(hidden))))


class GoogLeNet(nn.Module):
    """Twenty-two layers with weights.

    Args:
        image_channels: of the pictures, of at least 15 px.
        num_classes: outputs.
        small: the form for 32 px: one 3x3 convolution in place of the stem, which would leave 4x4.
        auxiliary: heads on 4a and 4d; in training `forward` then gives their logits too.
        dropout: before the last layer (0.4 in the paper; torchvision has 0.2).

    Example:
        >>> GoogLeNet(3, 10, small=True).eval()(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    LEAST_SIDE = 15

    def __init__(
        self,
        image_channels: int = 3,
        num_classes: int = 1000,
        *,
        small: bool = False,
        auxiliary: bool = False,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        self.small = small
        halving = {"kernel_size": 3, "stride": 2, "ceil_mode": True}
        if small:
            self.conv1 = ConvNorm(image_channels, 192, kernel_size=3, padding=1)
        else:
            self.conv1 = ConvNorm(image_channels, 64, kernel_size=7, stride=2, padding=3)
            self.maxpool1 = nn.MaxPool2d(**halving)
            self.conv2 = ConvNorm(64, 64, kernel_size=1)
            self.conv3 = ConvNorm(64, 192, kernel_size=3, padding=1)
            self.maxpool2 = nn.MaxPool2d(**halving)
        for name, channels in INCEPTIONS.items():
            self.add_module(f"inception{name}", Inception(*channels))
        self.maxpool3 = nn.MaxPool2d(**halving)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.aux1 = AuxiliaryHead(512, num_classes) if auxiliary else None
        self.aux2 = AuxiliaryHead(528, num_classes) if auxiliary else None
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """(N, C, H, W) to logits (N, num_classes); in training with auxiliary heads a tuple, theirs last."""
        maps = self.conv1(images)
        if not self.small:
            maps = self.maxpool2(self.conv3(self.conv2(self.maxpool1(maps))))
        maps = self.maxpool3(self.inception3b(self.inception3a(maps)))
        maps = early = self.inception4a(maps)
        maps = late = self.inception4d(self.inception4c(self.inception4b(maps)))
        maps = self.maxpool4(self.inception4e(maps))
        maps = self.inception5b(self.inception5a(maps))
        logits = self.fc(self.dropout(pool_to(maps, 1).flatten(1)))
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return logits, self.aux2(late), self.aux1(early)
        return logits
