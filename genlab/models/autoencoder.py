"""Autoencoders: a stack of encoding layers and its mirror image (Hinton and Salakhutdinov 2006; Vincent et al. 2010).

Layer l of the decoder undoes layer l of the encoder, so that each pair is a shallow autoencoder of its own: what greedy
layer-wise pre-training trains. With tied weights the decoder's layer has no weight matrix but uses the transpose of the
encoder's. Networks see intensities in [0, 1], as the papers do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.nn import BatchNormAct2d, Conv2d
from genlab.ops import activation as act
from genlab.ops import conv_transpose2d

NETWORKS = ("dense", "conv")
KERNEL, STRIDE, PADDING = 4, 2, 1  # halves an even side exactly
NEGATIVE_SLOPE = 0.2
# Glorot and Bengio 2010 for tanh and, four times as wide, for sigmoid; torch.nn's own initial values for the others.
_GAINS = {"tanh": 1.0, "sigmoid": 4.0}

Shape = tuple[int, ...]


class DenseLayer(nn.Linear):
    """s(W x + b) of a flattened input.

    Attributes:
        input_shape, output_shape: of one sample.
    """

    def __init__(self, input_shape: Shape, width: int, activation: str | None) -> None:
        super().__init__(math.prod(input_shape), width)
        self.input_shape, self.output_shape = tuple(input_shape), (width,)
        self.activation = activation
        _initialize(self.weight, self.bias, activation)

    def forward(self, x: Tensor) -> Tensor:
        """(N, *input_shape) to (N, width)."""
        return act.apply(super().forward(x.flatten(1)), self.activation, NEGATIVE_SLOPE)

    def mirror(self, activation: str | None, tied: bool, normalize: bool) -> DenseMirror:
        """The layer that leads back to `input_shape`."""
        del normalize  # only feature maps are normalised
        return DenseMirror(self, activation, tied)


class DenseMirror(nn.Module):
    """s(W' h + b') in the shape of the mirrored layer's input; W' is W^T where tied."""

    def __init__(self, layer: DenseLayer, activation: str | None, tied: bool) -> None:
        super().__init__()
        self.output_shape, self.activation = layer.input_shape, activation
        self.weight = None if tied else nn.Parameter(torch.empty(layer.in_features, layer.out_features))
        self.bias = nn.Parameter(torch.empty(layer.in_features))
        _initialize(self.weight, self.bias, activation)

    def forward(self, code: Tensor, layer: DenseLayer) -> Tensor:
        """(N, width) to (N, *output_shape); `layer` is the mirrored one."""
        weight = layer.weight.t() if self.weight is None else self.weight
        values = F.linear(code, weight, self.bias).reshape(-1, *self.output_shape)
        return act.apply(values, self.activation, NEGATIVE_SLOPE)


class ConvLayer(nn.Module):
    """A convolution that halves the sides, then batch normalisation (or not), then s."""

    def __init__(self, input_shape: Shape, channels: int, activation: str | None, normalize: bool) -> None:
        super().__init__()
        in_channels, *sides = input_shape
        self.input_shape = tuple(input_shape)
        self.output_shape = (channels, *(_halved(side) for side in sides))
        inner = {"activation": activation, "negative_slope": NEGATIVE_SLOPE}
        self.conv = Conv2d(
            in_channels, channels, KERNEL, STRIDE, PADDING, bias=not normalize, **({} if normalize else inner)
        )
        self.norm = BatchNormAct2d(channels, **inner) if normalize else None
        _initialize(self.conv.weight, self.conv.bias, activation)

    @property
    def weight(self) -> Tensor:
        return self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        """(N, *input_shape) to (N, *output_shape)."""
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)

    def mirror(self, activation: str | None, tied: bool, normalize: bool) -> ConvMirror:
        """The layer that leads back to `input_shape`."""
        return ConvMirror(self, activation, tied, normalize)


class ConvMirror(nn.Module):
    """The transposed convolution to the mirrored layer's input; its weight is that layer's own where tied.

    A convolution's weight (out, in, 4, 4) read as a transposed convolution's (in, out, 4, 4) is its matrix transposed.
    """

    def __init__(self, layer: ConvLayer, activation: str | None, tied: bool, normalize: bool) -> None:
        super().__init__()
        channels, *sides = layer.input_shape
        # The stride leaves open whether the side was even or odd.
        self.output_padding = tuple(
            side - STRIDE * (small - 1) - (KERNEL - 2 * PADDING)
            for side, small in zip(sides, layer.output_shape[1:], strict=True)
        )
        self.activation = None if normalize else activation
        self.weight = None if tied else nn.Parameter(torch.empty_like(layer.weight))
        self.bias = None if normalize else nn.Parameter(torch.empty(channels))
        self.norm = (
            BatchNormAct2d(channels, activation=activation, negative_slope=NEGATIVE_SLOPE) if normalize else None
        )
        _initialize(self.weight, self.bias, activation)

    def forward(self, code: Tensor, layer: ConvLayer) -> Tensor:
        """(N, *layer.output_shape) to (N, *layer.input_shape)."""
        weight = layer.weight if self.weight is None else self.weight
        values = conv_transpose2d(
            code, weight, self.bias, STRIDE, PADDING, self.output_padding,
            activation=self.activation, negative_slope=NEGATIVE_SLOPE,
        )  # fmt: skip
        return values if self.norm is None else self.norm(values)


class Encoder(nn.Module):
    """Intensities to codes.

    Args:
        image_shape: (C, H, W).
        hidden: units of each hidden dense layer, or channels of each convolution, from the image inwards.
        code_dim: length of the code, which a dense layer makes.
        network: "dense" or "conv" (kernel 4, stride 2: each layer halves the sides, rounding down).
        activation: of the hidden layers: "relu", "leaky_relu", "tanh", "sigmoid", "gelu" or "silu".
        code_activation: of the code; None: linear, as in Hinton and Salakhutdinov 2006.
        batch_norm: normalise feature maps; dense layers have none.

    Raises:
        ValueError: more convolutions than the image can be halved.

    Example:
        >>> Encoder((1, 28, 28), [1000, 500, 250], 30)(torch.rand(8, 1, 28, 28)).shape
        torch.Size([8, 30])
    """

    def __init__(
        self,
        image_shape: Shape,
        hidden: Sequence[int],
        code_dim: int,
        *,
        network: str = "dense",
        activation: str = "relu",
        code_activation: str | None = None,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if network not in NETWORKS:
            raise ValueError(f"Encoder: expected network to be one of {', '.join(NETWORKS)}, got {network!r}")
        if network == "conv" and len(hidden) > most_halvings(image_shape):
            height, width = image_shape[1:]
            raise ValueError(
                f"Encoder: expected at most {most_halvings(image_shape)} convolutions of stride 2 for images of "
                f"{height}x{width} px, got {len(hidden)}"
            )
        self.activation, self.code_dim = activation, code_dim
        self.normalizes = network == "conv" and batch_norm
        layers: list[nn.Module] = []
        shape = tuple(image_shape)
        for width in hidden:
            if network == "conv":
                layers.append(ConvLayer(shape, width, activation, batch_norm))
            else:
                layers.append(DenseLayer(shape, width, activation))
            shape = layers[-1].output_shape
        layers.append(DenseLayer(shape, code_dim, code_activation))
        self.layers = nn.ModuleList(layers)

    def forward(self, images: Tensor, depth: int | None = None) -> Tensor:
        """(N, C, H, W) in [0, 1] to (N, code_dim); with `depth` only through so many layers."""
        for layer in self.layers[:depth]:
            images = layer(images)
        return images


class Autoencoder(nn.Module):
    """An encoder and its mirror image.

    Args:
        encoder: what is mirrored; part of this network.
        tied: whether each decoding layer uses the transpose of its encoding layer's weight.

    Example:
        >>> network = Autoencoder(Encoder((1, 28, 28), [1000, 500, 250], 30), tied=True)
        >>> network(torch.rand(8, 1, 28, 28)).shape
        torch.Size([8, 1, 28, 28])
    """

    def __init__(self, encoder: Encoder, *, tied: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        # In the encoder's order; the first one ends in the image and has no activation.
        self.decoder = nn.ModuleList(
            layer.mirror(encoder.activation if index else None, tied, encoder.normalizes and index > 0)
            for index, layer in enumerate(encoder.layers)
        )

    @property
    def depth(self) -> int:
        """Number of layers from the image to the code."""
        return len(self.decoder)

    def encode(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] to codes (N, code_dim)."""
        return self.encoder(images)

    def decode(self, code: Tensor) -> Tensor:
        """Codes (N, code_dim) to (N, C, H, W) before the output's activation (logits, where that is a sigmoid)."""
        for index in reversed(range(self.depth)):
            code = self.decode_layer(code, index)
        return code

    def decode_layer(self, code: Tensor, index: int) -> Tensor:
        """The output of encoding layer `index` back to an estimate of its input."""
        return self.decoder[index](code, self.encoder.layers[index])

    def forward(self, images: Tensor) -> Tensor:
        """`decode(encode(images))`."""
        return self.decode(self.encode(images))


class CodeClassifier(nn.Module):
    """A perceptron on top of a code: what is put on a pre-trained encoder to classify.

    Args:
        code_dim: length of the code.
        num_classes: number of logits.
        hidden: units of its hidden layers; none: softmax regression.
        activation: of the hidden layers.
    """

    def __init__(
        self, code_dim: int, num_classes: int, hidden: Sequence[int] = (), *, activation: str = "relu"
    ) -> None:
        super().__init__()
        widths = [code_dim, *hidden]
        layers = [DenseLayer((width,), after, activation) for width, after in zip(widths, hidden, strict=False)]
        self.layers = nn.Sequential(*layers, DenseLayer((widths[-1],), num_classes, None))

    def forward(self, code: Tensor) -> Tensor:
        """(N, code_dim) to logits (N, num_classes)."""
        return self.layers(code)


def most_halvings(image_shape: Shape) -> int:
    """How many convolutions of kernel 4 and stride 2 an image (C, H, W) can pass."""
    side, count = min(image_shape[1:]), 0
    while side >= STRIDE:
        side, count = _halved(side), count + 1
    return count


def _halved(side: int) -> int:
    return (side + 2 * PADDING - KERNEL) // STRIDE + 1


def _initialize(weight: Tensor | None, bias: Tensor | None, activation: str | None) -> None:
    if weight is not None and activation in _GAINS:
        nn.init.xavier_uniform_(weight, _GAINS[activation])
    elif weight is not None:
        nn.init.kaiming_uniform_(weight, math.sqrt(5.0))
    if bias is not None:
        nn.init.zeros_(bias)
