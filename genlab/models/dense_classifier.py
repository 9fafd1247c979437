"""A classifier of dense layers with any activation, maxout among them (Goodfellow et al. 2013)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from genlab.models.mlp import Maxout
from genlab.models.normalization import Normalization, unit_normalization


class PixelDropout(nn.Dropout):
    """Dropout of pixels in [-1, 1]: what is left out is black, as it is where black is 0 (Goodfellow et al. 2013)."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return super().forward(input + 1) - 1


class DenseClassifier(nn.Module):
    """A multilayer perceptron over the pixels, which it sees without their places.

    Args:
        image_shape: (C, H, W).
        num_classes: outputs.
        hidden: widths of the hidden layers; () is softmax regression.
        activation: "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", or "maxout" with `pieces` maps a unit.
        pieces: of maxout.
        normalization: before each activation; "none" with maxout, whose pieces are the activation.
        dropout: share of each hidden layer's output that training sets to zero.
        input_dropout: share of the pixels.

    Raises:
        ValueError: normalisation with maxout, or one that dense layers do not have.

    Example:
        >>> DenseClassifier((1, 28, 28), 10, (240, 240), activation="maxout")(torch.randn(8, 1, 28, 28)).shape
        torch.Size([8, 10])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 10,
        hidden: Sequence[int] = (800, 800),
        *,
        activation: str = "relu",
        pieces: int = 5,
        normalization: Normalization = "none",
        dropout: float = 0.5,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if activation == "maxout" and normalization != "none":
            raise ValueError(f"maxout: expected normalization none, got {normalization}; choose another activation")
        layers: list[nn.Module] = [nn.Flatten()]
        if input_dropout:
            layers.append(PixelDropout(input_dropout))
        widths = [math.prod(image_shape), *hidden]
        for length, width in itertools.pairwise(widths):
            if activation == "maxout":
                layers.append(Maxout(length, width, pieces))
            else:
                layers.append(nn.Linear(length, width, bias=normalization == "none"))
                layers += unit_normalization(normalization, width, activation)
            layers.append(nn.Dropout(dropout))
        self.classifier = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.classifier(images)
