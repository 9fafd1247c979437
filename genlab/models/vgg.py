"""AlexNet (Krizhevsky 2014, the one-column form) and VGG (Simonyan and Zisserman 2015), for large and small pictures.

Parameters have torchvision's names, so that its weights load; the ReLU behind a convolution is part of its op.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from genlab.nn import BatchNormAct2d, Conv2d

# Channels of each convolution; "pool" halves the sides. Table 1 of the paper, columns A, B, D, E.
VGG_LAYERS: dict[int, tuple[int | str, ...]] = {
    11: (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"),
    13: (64, 64, "pool", 128, 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"),
    16: (64, 64, "pool", 128, 128, "pool", *(256,) * 3, "pool", *(512,) * 3, "pool", *(512,) * 3, "pool"),
    19: (64, 64, "pool", 128, 128, "pool", *(256,) * 4, "pool", *(512,) * 4, "pool", *(512,) * 4, "pool"),
}


def pool_to(maps: Tensor, side: int) -> Tensor:
    """Means over (N, C, H, W) that leave (N, C, side, side)."""
    if maps.shape[2:] == (side, side):
        return maps
    # The gradient of adaptive pooling has no deterministic kernel on a GPU; a mean has one.
    return maps.mean(dim=(2, 3), keepdim=True) if side == 1 else F.adaptive_avg_pool2d(maps, side)


class AlexNet(nn.Module):
    """Five convolutions and three dense layers.

    Args:
        image_channels: of the pictures.
        num_classes: outputs.
        small: the form for 32 px: a first convolution of 3x3 and stride 1 in place of 11x11 and stride 4, pooling over
            2x2, dense layers of 1024.
        dropout: before the first two dense layers (0.5 in the paper).

    Example:
        >>> AlexNet(3, 10, small=True)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    LEAST_SIDE, LEAST_SMALL_SIDE = 63, 8

    def __init__(
        self, image_channels: int = 3, num_classes: int = 1000, *, small: bool = False, dropout: float = 0.5
    ) -> None:
        super().__init__()
        first = {"kernel_size": 3, "padding": 1} if small else {"kernel_size": 11, "stride": 4, "padding": 2}
        pool = {"kernel_size": 2, "stride": 2} if small else {"kernel_size": 3, "stride": 2}
        self.side, width = (4, 1024) if small else (6, 4096)
        # nn.Identity stands where torchvision has a ReLU: the numbers in the names stay.
        self.features = nn.Sequential(
            Conv2d(image_channels, 64, **first, activation="relu"),
            nn.Identity(),
            nn.MaxPool2d(**pool),
            Conv2d(64, 192, 3 if small else 5, padding=1 if small else 2, activation="relu"),
            nn.Identity(),
            nn.MaxPool2d(**pool),
            Conv2d(192, 384, 3, padding=1, activation="relu"),
            nn.Identity(),
            Conv2d(384, 256, 3, padding=1, activation="relu"),
            nn.Identity(),
            Conv2d(256, 256, 3, padding=1, activation="relu"),
            nn.Identity(),
            nn.MaxPool2d(**pool),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * self.side**2, width),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.classifier(pool_to(self.features(images), self.side).flatten(1))


class Vgg(nn.Module):
    """Stages of 3x3 convolutions, each stage ended by 2x2 max pooling, and three dense layers.

    Args:
        depth: 11, 13, 16 or 19 layers with weights.
        image_channels: of the pictures, of at least 32 px.
        num_classes: outputs.
        batch_norm: normalise behind each convolution (not in the paper; torchvision's vgg*_bn).
        small: the form for 32 px: one dense layer on the mean of the last map.
        dropout: between the dense layers (0.5 in the paper).

    Example:
        >>> Vgg(11, 3, 10, small=True)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    LEAST_SIDE = 32

    def __init__(
        self,
        depth: int,
        image_channels: int = 3,
        num_classes: int = 1000,
        *,
        batch_norm: bool = False,
        small: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if depth not in VGG_LAYERS:
            raise ValueError(f"VGG: expected depth {', '.join(map(str, VGG_LAYERS))}, got {depth}")
        layers: list[nn.Module] = []
        c_in = image_channels
        for entry in VGG_LAYERS[depth]:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2, 2))
                continue
            if batch_norm:
                layers += [Conv2d(c_in, entry, 3, padding=1), BatchNormAct2d(entry, activation="relu"), nn.Identity()]
            else:
                layers += [Conv2d(c_in, entry, 3, padding=1, activation="relu"), nn.Identity()]
            c_in = entry
        self.features = nn.Sequential(*layers)
        self.side = 1 if small else 7
        if small:
            self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(512, num_classes))
        else:
            self.classifier = nn.Sequential(
                nn.Linear(512 * 49, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, num_classes),
            )
        for module in self.modules():
            if isinstance(module, Conv2d):
                # He et al. 2015; the paper begins deep nets with the weights of shallow ones.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.classifier(pool_to(self.features(images), self.side).flatten(1))
