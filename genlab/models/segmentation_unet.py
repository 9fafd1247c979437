"""U-Net for segmentation (Ronneberger et al. 2015): a class for every pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genlab.models.context_net import ContextModule
from genlab.nn import BatchNormAct2d, Conv2d, ConvTranspose2d


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions with batch normalisation and ReLU; the size stays."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            Conv2d(c_in, c_out, 3, padding=1, bias=False),
            BatchNormAct2d(c_out, activation="relu"),
            Conv2d(c_out, c_out, 3, padding=1, bias=False),
            BatchNormAct2d(c_out, activation="relu"),
        )


class SegmentationUnet(nn.Module):
    """Halve by max pooling while the channels double, then double by 2x2 transposed convolutions beside the maps kept.

    Deviations: convolutions pad, so that the output has the size of the input and nothing is cropped; batch
    normalisation, which came after the paper.

    Args:
        image_channels: of the pictures.
        num_classes: outputs of each pixel.
        base_channels: of the first map (64 in the paper).
        depth: halvings (4 in the paper); sides must be multiples of 2^depth.
        dropout: at the lowest map, as at the end of the paper's contracting path.
        context: a dilated context module (Yu and Koltun 2016) on the logits.

    Example:
        >>> SegmentationUnet(3, 12, base_channels=8)(torch.randn(1, 3, 64, 64)).shape
        torch.Size([1, 12, 64, 64])
    """

    def __init__(
        self,
        image_channels: int,
        num_classes: int,
        base_channels: int = 64,
        depth: int = 4,
        dropout: float = 0.5,
        context: bool = False,
    ) -> None:
        super().__init__()
        widths = [base_channels * 2**level for level in range(depth + 1)]
        self.depth = depth
        self.down = nn.ModuleList(DoubleConv(i, o) for i, o in zip([image_channels, *widths], widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout2d(dropout)
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.enlarge = nn.ModuleList(ConvTranspose2d(i, o, 2, stride=2) for i, o in pairs)
        self.up = nn.ModuleList(DoubleConv(2 * o, o) for _, o in pairs)
        self.head = Conv2d(base_channels, num_classes, 1)
        self.context = ContextModule(num_classes) if context else nn.Identity()
        for module in self.modules():
            if isinstance(module, DoubleConv):
                for layer in (module[0], module[2]):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # sqrt(2 / N), section 3 of the paper

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes, H, W).

        Raises:
            ValueError: a side that cannot be halved so often.
        """
        check_size(*images.shape[2:], self.depth)
        kept = []
        maps = images
        for level, block in enumerate(self.down):
            maps = block(self.pool(maps) if level else maps)
            kept.append(maps)
        maps = self.dropout(maps)
        for enlarge, block, beside in zip(self.enlarge, self.up, reversed(kept[:-1]), strict=True):
            maps = block(torch.cat([beside, enlarge(maps)], dim=1))
        return self.context(self.head(maps))


def check_size(height: int, width: int, depth: int) -> None:
    """Raises ValueError for sides that cannot be halved `depth` times."""
    step = 2**depth
    if height % step or width % step or min(height, width) < step:
        raise ValueError(f"U-Net: expected sides that are multiples of {step} px, got {height}x{width}")
