"""Networks of semi-supervised GANs (Salimans et al. 2016, "Improved Techniques for Training GANs", and their code).

The discriminators are classifiers with K logits; weight normalisation (Salimans and Kingma 2016) with data-dependent
initial scales stands in place of batch normalisation, so that labelled, unlabelled and generated images may pass in one
batch without meeting in its statistics. Gaussian noise on every layer (perceptron) or dropout (convolutions) keeps the
few labels from being learnt by heart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.images import sigmoid_pixels
from genlab.nn import BatchNormAct1d, BatchNormAct2d, ConvTranspose2d
from genlab.nn.init import normal_init
from genlab.ops import activation as act
from genlab.ops import conv2d, conv_transpose2d

Reduce = Callable[[Tensor], Tensor]


class GaussianNoise(nn.Module):
    """Adds N(0, std^2) to every number while training."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, input: Tensor) -> Tensor:
        return input + self.std * torch.randn_like(input) if self.training and self.std > 0 else input

    def extra_repr(self) -> str:
        return f"std={self.std}"


class WeightNormalised(nn.Module):
    """activation(scale * direction(x) + bias), each output's direction a unit vector (Salimans and Kingma 2016, eq. 2).

    Args:
        weight: initial directions, output units first.
        activation: None, "relu", "leaky_relu" or "tanh".
        train_scale: learn the scales; False leaves them as `initialise` sets them.
        init_std: deviation of the outputs, before the activation, that `initialise` brings about.
    """

    def __init__(
        self, weight: Tensor, activation: str | None, *, train_scale: bool = False, init_std: float = 1.0
    ) -> None:
        super().__init__()
        self.init_std = init_std
        act.check(type(self).__name__, activation, 0.2)
        self.activation = activation
        self.direction = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(self._units))
        scale = torch.ones(self._units)
        if train_scale:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)

    @property
    def _units(self) -> int:
        return self.direction.shape[0]

    def weight(self) -> Tensor:
        """The weight in use, of the shape of `direction`."""
        return self.direction * self._over_units(self.scale / self.direction.flatten(1).norm(dim=1))

    def _over_units(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *(1 for _ in self.direction.shape[1:]))

    def product(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The linear map."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        return act.apply(self.product(input, self.weight(), self.bias), self.activation, 0.2)

    @torch.no_grad()
    def initialise(self, input: Tensor, mean: Reduce) -> Tensor:
        """Sets scale and bias so that the outputs on this batch have mean 0 and deviation `init_std`; gives the output.

        Args:
            input: of this layer.
            mean: averages a tensor over processes.
        """
        self.bias.zero_()
        outputs = self.product(input, self.weight(), None).float()
        axes = [axis for axis in range(outputs.dim()) if axis != 1]
        centre = mean(outputs.mean(axes))
        shape = (1, -1, *(1 for _ in axes[1:]))
        spread = mean((outputs - centre.reshape(shape)).square().mean(axes)).sqrt().clamp_min(1e-8)
        self.scale.mul_(self.init_std / spread)
        self.bias.copy_(-centre * self.init_std / spread)
        return self(input)


class WeightNormLinear(WeightNormalised):
    """A dense layer; see `WeightNormalised`."""

    def __init__(
        self, c_in: int, c_out: int, activation: str | None = None, *, train_scale: bool = False, init_std: float = 1.0
    ) -> None:
        super().__init__(torch.randn(c_out, c_in) * 0.1, activation, train_scale=train_scale, init_std=init_std)

    def product(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input, weight, bias)


class WeightNormConv2d(WeightNormalised):
    """A convolution; see `WeightNormalised`."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, activation: str | None = None, *, stride: int = 1, padding: int = 0
    ) -> None:
        self.stride, self.padding = stride, padding
        super().__init__(torch.randn(c_out, c_in, kernel, kernel) * 0.05, activation)

    def product(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv2d(input, weight, bias, self.stride, self.padding)


class WeightNormConvTranspose2d(WeightNormalised):
    """A transposed convolution that doubles the side (kernel 5, stride 2); see `WeightNormalised`."""

    def __init__(self, c_in: int, c_out: int, activation: str | None = None) -> None:
        # Pictures begin near grey, where tanh has a gradient.
        super().__init__(torch.randn(c_out, c_in, 5, 5) * 0.05, activation, train_scale=True, init_std=0.1)

    def product(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv_transpose2d(input, weight.transpose(0, 1), bias, stride=2, padding=2, output_padding=1)


class SganDiscriminator(nn.Module):
    """A classifier whose K logits also say how real an image is: D(x) = Z / (Z + 1), Z = sum exp(logits).

    Args:
        body: layers from the network's input to the features that are matched.
        tail: noise or dropout between features and logits.
        head: features to K logits.
        flat: whether the body takes flat vectors.
    """

    def __init__(self, body: Sequence[nn.Module], tail: nn.Module, head: WeightNormLinear, *, flat: bool) -> None:
        super().__init__()
        self.body, self.tail, self.head = nn.Sequential(*body), tail, head
        self.flat = flat

    def features(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] to the features of the last hidden layer, (N, F)."""
        return self.body(self._prepare(images))

    def classify(self, features: Tensor) -> Tensor:
        """Features (N, F) to logits (N, K)."""
        return self.head(self.tail(features))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] to logits (N, K)."""
        return self.classify(self.features(images))

    def _prepare(self, images: Tensor) -> Tensor:
        # The authors' pixels of MNIST lie in [0, 1] (their noise is measured by that), of CIFAR-10 in [-1, 1].
        return (images.flatten(1) + 1) / 2 if self.flat else images

    @torch.no_grad()
    def initialise(self, images: Tensor, mean: Reduce) -> None:
        """Data-dependent scales and biases of all layers (Salimans and Kingma 2016, section 3)."""
        value = self._prepare(images)
        for layer in [*self.body, self.tail, self.head]:
            value = layer.initialise(value, mean) if isinstance(layer, WeightNormalised) else layer(value)


def mlp_discriminator(
    shape: Sequence[int], num_classes: int, hidden: Sequence[int], input_noise: float, noise: float
) -> SganDiscriminator:
    """The MNIST classifier of the authors' code: dense rectified layers with Gaussian noise on each input.

    Args:
        shape: (C, H, W) of an image.
        num_classes: K.
        hidden: widths, (1000, 500, 250, 250, 250) in the code.
        input_noise: standard deviation on pixels in [0, 1], 0.3 in the code.
        noise: standard deviation on hidden layers, 0.5 in the code.
    """
    pixels = shape[0] * shape[1] * shape[2]
    body: list[nn.Module] = []
    for depth, (c_in, c_out) in enumerate(itertools.pairwise([pixels, *hidden])):
        body += [GaussianNoise(noise if depth else input_noise), WeightNormLinear(c_in, c_out, "relu")]
    head = WeightNormLinear(hidden[-1], num_classes, train_scale=True)
    return SganDiscriminator(body, GaussianNoise(noise), head, flat=True)


class GlobalAverage(nn.Module):
    """(N, C, H, W) to (N, C)."""

    def forward(self, input: Tensor) -> Tensor:
        return input.mean((2, 3))


def conv_discriminator(shape: Sequence[int], num_classes: int, base_channels: int = 96) -> SganDiscriminator:
    """The CIFAR-10 classifier of the authors' code: nine convolutions, dropout, global average.

    Args:
        shape: (C, H, W); sides of at least 16 px.
        num_classes: K.
        base_channels: width of the first three layers, 96 in the code; the others have twice as many.

    Raises:
        ValueError: images too small.
    """
    if min(shape[1:]) < 16:
        raise ValueError(f"expected images of at least 16x16 px, got {shape[1]}x{shape[2]}")
    c, w, act_name = base_channels, 2 * base_channels, "leaky_relu"
    body = [
        nn.Dropout(0.2),
        WeightNormConv2d(shape[0], c, 3, act_name, padding=1),
        WeightNormConv2d(c, c, 3, act_name, padding=1),
        WeightNormConv2d(c, c, 3, act_name, stride=2, padding=1),
        nn.Dropout(0.5),
        WeightNormConv2d(c, w, 3, act_name, padding=1),
        WeightNormConv2d(w, w, 3, act_name, padding=1),
        WeightNormConv2d(w, w, 3, act_name, stride=2, padding=1),
        nn.Dropout(0.5),
        WeightNormConv2d(w, w, 3, act_name),
        WeightNormConv2d(w, w, 1, act_name),
        WeightNormConv2d(w, w, 1, act_name),
        GlobalAverage(),
    ]
    head = WeightNormLinear(w, num_classes, train_scale=True, init_std=0.1)
    nn.init.normal_(head.direction, std=0.05)
    return SganDiscriminator(body, nn.Identity(), head, flat=False)


def _shift_only(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Module:
    """The normalisation without a learned scale, as in the code (`g=None`): the next layer's weights scale as well."""
    norm.weight.requires_grad_(False)
    return norm


class SganMlpGenerator(nn.Module):
    """Uniform noise to images by two softplus layers with batch normalisation, as the authors' code for MNIST.

    Args:
        shape: (C, H, W) of an image.
        latent_dim: length of z, 100 in the code.
        hidden: widths, (500, 500) in the code.
    """

    def __init__(self, shape: Sequence[int], latent_dim: int = 100, hidden: Sequence[int] = (500, 500)) -> None:
        super().__init__()
        self.shape = tuple(shape)
        pixels = shape[0] * shape[1] * shape[2]
        layers: list[nn.Module] = []
        for c_in, c_out in itertools.pairwise([latent_dim, *hidden]):
            linear = nn.Linear(c_in, c_out, bias=False)
            nn.init.xavier_uniform_(linear.weight)
            layers += [linear, _shift_only(BatchNormAct1d(c_out, eps=1e-6)), nn.Softplus()]
        self.layers = nn.Sequential(*layers)
        self.output = WeightNormLinear(hidden[-1], pixels, train_scale=True)
        nn.init.xavier_uniform_(self.output.direction)

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent_dim) to (N, C, H, W) in [-1, 1]."""
        return sigmoid_pixels(self.output(self.layers(z))).unflatten(1, self.shape)

    def initialise(self, z: Tensor, mean: Reduce) -> None:
        """Nothing: in the code the scales of this generator begin at 1, whatever the data."""


class SganConvGenerator(nn.Module):
    """Uniform noise to images by three doublings with batch normalisation, as the authors' code for CIFAR-10.

    Args:
        shape: (C, H, W) with H = W a multiple of 8.
        latent_dim: length of z, 100 in the code.
        base_channels: width of the last hidden map, 128 in the code.

    Raises:
        ValueError: sides that three doublings do not make.
    """

    def __init__(self, shape: Sequence[int], latent_dim: int = 100, base_channels: int = 128) -> None:
        super().__init__()
        if shape[1] != shape[2] or shape[1] % 8:
            raise ValueError(f"expected square images whose side is a multiple of 8, got {shape[1]}x{shape[2]}")
        self.side, self.width = shape[1] // 8, 4 * base_channels
        self.project = nn.Sequential(
            nn.Linear(latent_dim, self.width * self.side**2, bias=False),
            _shift_only(BatchNormAct1d(self.width * self.side**2, activation="relu")),
        )
        layers: list[nn.Module] = []
        for c_in, c_out in itertools.pairwise([self.width, 2 * base_channels, base_channels]):
            doubling = ConvTranspose2d(c_in, c_out, 5, stride=2, padding=2, output_padding=1, bias=False)
            layers += [doubling, _shift_only(BatchNormAct2d(c_out, activation="relu"))]
        for module in (self.project[0], *(layer for layer in layers if isinstance(layer, ConvTranspose2d))):
            normal_init(module, std=0.05)
        self.layers = nn.Sequential(*layers, WeightNormConvTranspose2d(base_channels, shape[0], "tanh"))

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent_dim) to (N, C, H, W) in [-1, 1]."""
        return self.layers(self._first_map(z))

    def _first_map(self, z: Tensor) -> Tensor:
        return self.project(z).unflatten(1, (self.width, self.side, self.side))

    @torch.no_grad()
    def initialise(self, z: Tensor, mean: Reduce) -> None:
        """Data-dependent scale and bias of the last layer."""
        *hidden, output = self.layers
        output.initialise(nn.Sequential(*hidden)(self._first_map(z)), mean)
