"""Dilated convolutions: the context module (Yu and Koltun 2016), which sees far without losing resolution."""

from __future__ import annotations

from torch import Tensor, nn

from genlab.nn import BatchNormAct2d, Conv2d

# Dilation of each 3x3 convolution: table 1 of the paper ("basic"); the field grows 3, 5, 9, 17, 33, 65, 67.
DILATIONS = (1, 1, 2, 4, 8, 16, 1)


class ContextModule(nn.Module):
    """Seven 3x3 convolutions of growing dilation and a 1x1, all at the resolution of the input, begun as the identity.

    Deviation: the convolutions pad with zeros, so that the size stays.

    Args:
        channels: of input and output.

    Example:
        >>> ContextModule(12)(torch.randn(2, 12, 64, 64)).shape
        torch.Size([2, 12, 64, 64])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolutions = [
            Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, activation="relu")
            for dilation in DILATIONS
        ]
        self.layers = nn.Sequential(*convolutions, Conv2d(channels, channels, 1))
        for layer in self.layers:
            nn.init.dirac_(layer.weight)  # equation 4: each layer passes its input on
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, channels, H, W) to the same shape; the identity on maps that are not negative, at first."""
        return self.layers(maps)


class ContextNet(nn.Module):
    """A classifier whose maps stay at half the size while dilation widens what each pixel sees, then a mean.

    Args:
        image_channels: of the pictures, of at least 4 px.
        num_classes: outputs.
        base_channels: of every map.
        dilations: of the 3x3 convolutions.
        dropout: of whole maps, before the mean.

    Example:
        >>> ContextNet(3, 10)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        image_channels: int = 3,
        num_classes: int = 10,
        *,
        base_channels: int = 32,
        dilations: tuple[int, ...] = (1, 1, 2, 4, 8, 1),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            Conv2d(image_channels, base_channels, 3, 2, padding=1, bias=False),
            BatchNormAct2d(base_channels, activation="relu"),
        ]
        for dilation in dilations:
            layers += [
                Conv2d(base_channels, base_channels, 3, padding=dilation, dilation=dilation, bias=False),
                BatchNormAct2d(base_channels, activation="relu"),
            ]
        self.features = nn.Sequential(*layers, nn.Dropout2d(dropout))
        self.fc = nn.Linear(base_channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.fc(self.features(images).mean(dim=(2, 3)))
