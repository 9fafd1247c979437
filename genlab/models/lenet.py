"""LeNet-5 (LeCun et al. 1998, section II.B) and the small convolutional network that judges the lab's samples."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from genlab.models.normalization import Normalization, map_normalization
from genlab.nn import Conv2d

Convolution = Literal["plain", "factorized", "separable"]


class LeNet5(nn.Module):
    """C1-S2-C3-S4-C5-F6-output, as in figure 2 of the paper.

    Deviations: S2 and S4 are means without a trained coefficient and bias; C3 is connected to every map of S2, not as
    in table I; the squashing function is tanh, not 1.7159 tanh(2/3 a); the output is linear, for softmax and
    cross-entropy, in place of Euclidean distances to drawn codes. Pictures of 28 px are padded to the paper's 32.

    Args:
        image_shape: (C, H, W), H and W 28 or at least 32.
        num_classes: outputs.

    Example:
        >>> LeNet5((1, 28, 28), 10)(torch.randn(8, 1, 28, 28)).shape
        torch.Size([8, 10])
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int = 10) -> None:
        super().__init__()
        channels, *sides = image_shape
        padding = 2 if min(sides) < 32 else 0
        if min(sides) < 28:
            raise ValueError(f"LeNet-5: expected pictures of at least 28 px, got {sides[0]}x{sides[1]}")
        height, width = (((side + 2 * padding - 4) // 2 - 4) // 2 - 4 for side in sides)
        self.features = nn.Sequential(
            Conv2d(channels, 6, 5, padding=padding, activation="tanh"),  # C1
            nn.AvgPool2d(2),  # S2
            Conv2d(6, 16, 5, activation="tanh"),  # C3
            nn.AvgPool2d(2),  # S4
            Conv2d(16, 120, 5, activation="tanh"),  # C5
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(120 * height * width, 84), nn.Tanh(), nn.Linear(84, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.classifier(self.features(images))


class MaxoutChannels(nn.Module):
    """The largest of each `pieces` neighbouring channels (Goodfellow et al. 2013, section 3: across channels).

    Args:
        pieces: k, at least 1.
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C * pieces, H, W) to (N, C, H, W)."""
        return maps.unflatten(1, (-1, self.pieces)).amax(dim=2)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


def convolution_layers(
    c_in: int,
    c_out: int,
    kind: Convolution,
    stride: int = 1,
    *,
    normalization: Normalization = "batch",
    activation: str = "relu",
    pieces: int = 2,
) -> list[nn.Module]:
    """A 3x3 convolution with normalisation and activation, whole or in factors.

    Args:
        c_in, c_out: channels.
        kind: "plain": 3x3; "factorized": 1x3, then 3x1, two thirds of the products (Szegedy et al. 2016, section 3.2);
            "separable": 3x3 in each channel, then 1x1 across them, about a ninth (Howard et al. 2017, section 3.1).
        stride: of the whole.
        normalization: before each activation, see `map_normalization`.
        activation: of the lab, or "maxout": the last convolution makes `pieces` maps for each channel, whose largest
            value goes on; between factors there is then none.
        pieces: of maxout.
    """
    maxout = activation == "maxout"
    bias = normalization == "none"
    wide = c_out * pieces if maxout else c_out

    def between(channels: int) -> list[nn.Module]:
        return map_normalization(normalization, channels, None if maxout else activation)

    if kind == "plain":
        layers: list[nn.Module] = [Conv2d(c_in, wide, 3, stride, padding=1, bias=bias)]
    elif kind == "factorized":
        layers = [
            Conv2d(c_in, c_out, (1, 3), (1, stride), padding=(0, 1), bias=bias),
            *between(c_out),
            Conv2d(c_out, wide, (3, 1), (stride, 1), padding=(1, 0), bias=bias),
        ]
    elif kind == "separable":
        layers = [
            Conv2d(c_in, c_in, 3, stride, padding=1, groups=c_in, bias=bias),
            *between(c_in),
            Conv2d(c_in, wide, 1, bias=bias),
        ]
    else:
        raise ValueError(f"convolution: expected plain, factorized or separable, got {kind!r}")
    layers += map_normalization(normalization, wide, None if maxout else activation)
    return [*layers, MaxoutChannels(pieces)] if maxout else layers


class SmallCnn(nn.Module):
    """Stages of two normalised 3x3 convolutions, the second of stride 2, then a mean and a linear layer.

    Args:
        image_shape: (C, H, W) of at least 4 px.
        num_classes: outputs.
        base_channels: of the first stage; doubles with each.
        stages: halvings of the sides.
        convolution: "plain", "factorized" or "separable", of every convolution but the first.
        dropout: probability that a whole map is left out behind each stage.
        normalization, activation, pieces: of every convolution, see `convolution_layers`.

    Raises:
        ValueError: pictures below 4 px, or of which instance normalisation would see a single pixel.

    Example:
        >>> SmallCnn((1, 28, 28), 10)(torch.randn(8, 1, 28, 28)).shape
        torch.Size([8, 10])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 10,
        base_channels: int = 24,
        stages: int = 3,
        convolution: Convolution = "plain",
        dropout: float = 0.1,
        *,
        normalization: Normalization = "batch",
        activation: str = "relu",
        pieces: int = 2,
    ) -> None:
        super().__init__()
        least = max(4, 2**stages + 1) if normalization == "instance" else 4  # one pixel has no deviation
        if min(image_shape[1:]) < least:
            raise ValueError(
                f"small CNN: expected pictures of at least {least} px, got {image_shape[1]}x{image_shape[2]}; raise "
                "data.image_size, or take fewer stages or another normalization"
            )
        kind = {"normalization": normalization, "activation": activation, "pieces": pieces}
        layers: list[nn.Module] = []
        c_in = image_shape[0]
        for stage in range(stages):
            c_out = base_channels * 2**stage
            layers += convolution_layers(c_in, c_out, convolution if stage else "plain", **kind)
            layers += convolution_layers(c_out, c_out, convolution, stride=2, **kind)
            layers.append(nn.Dropout2d(dropout))
            c_in = c_out
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(c_in, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.fc(self.features(images).mean(dim=(2, 3)))
