"""The small convolutional network whose features serve where Inception's weights are not at hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallConvNet(nn.Module):
    """Five 3x3 convolutions with batch norm, three of them with stride 2, global mean, linear head.

    The global mean of the last convolution is the feature, as pool3 is Inception's. About 0.2 million weights and 4
    million multiply-adds on a 32x32 image, so that it trains in seconds on a CPU.

    Args:
        channels: input channels.
        dim: length of the feature.
        num_classes: length of the logits.
    """

    def __init__(self, channels: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *_block(channels, 24, stride=2, kernel_size=4),
            *_block(24, 48, stride=2),
            *_block(48, 96, stride=1),
            *_block(96, 96, stride=2),
            *_block(96, dim, stride=1),
        )
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(n, channels, h, w) to features (n, dim) and logits (n, num_classes)."""
        features = self.trunk(images).mean(dim=(2, 3))
        return features, self.head(features)


def _block(c_in: int, c_out: int, *, stride: int, kernel_size: int = 3) -> list[nn.Module]:
    return [
        nn.Conv2d(c_in, c_out, kernel_size, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    ]


def working_size(height: int, width: int, largest: int = 32) -> tuple[int, int]:
    """The size at which the network sees images: the longer side is `largest` at most, multiples of 4, at least 8."""
    scale = min(1.0, largest / max(height, width))
    return tuple(max(8, round(side * scale / 4) * 4) for side in (height, width))


def shift(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Moves each image by up to `pixels` in both directions, the border repeated."""
    n, _, h, w = images.shape
    offsets = torch.randint(0, 2 * pixels + 1, (2, n, 1), generator=generator).to(images.device)
    padded = nn.functional.pad(images, (pixels,) * 4, mode="replicate")
    rows = (offsets[0] + torch.arange(h, device=images.device))[:, :, None]
    columns = (offsets[1] + torch.arange(w, device=images.device))[:, None, :]
    image = torch.arange(n, device=images.device)[:, None, None]
    return padded[image, :, rows, columns].permute(0, 3, 1, 2).contiguous()
