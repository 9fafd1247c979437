"""Encoders, decoders and likelihoods of variational autoencoders (Kingma and Welling 2014, "Auto-Encoding Variational
Bayes"), dense and convolutional, with class labels for the conditional kind (Sohn, Lee and Yan 2015).

An encoder gives the mean and log variance of q(z|x); a decoder gives what its likelihood needs for each pixel, and the
likelihood turns that into log p(x|z) and into a picture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.likelihood import gaussian_log_density
from genlab.models.mlp import Activation
from genlab.nn import Conv2d, ConvTranspose2d

ImageShape = tuple[int, int, int]
MIN_LOG_DEVIATION = math.log(1 / 255)  # half a grey level of pixels in [-1, 1]: sharper would count rounding as detail


class BernoulliLikelihood(nn.Module):
    """Pixels in {0, 1} with p = sigmoid(logit); grey values between count as that share of either."""

    outputs = 1

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        """log p(x|z) in nats, summed over pixels: raw logits (n, s, C, H, W) and x (n, C, H, W) to (n, s)."""
        logits, pixels = raw.flatten(2), x.flatten(1)
        return (logits @ pixels.unsqueeze(2)).squeeze(2) - log_one_plus_exp(logits).sum(2)

    def picture(self, raw: Tensor) -> Tensor:
        """The pixels' probabilities (n, C, H, W) as a picture in [-1, 1]."""
        return torch.sigmoid(raw) * 2 - 1


def log_one_plus_exp(x: Tensor) -> Tensor:
    """log(1 + exp(x)) to an absolute error of 1e-7, with the exact gradient.

    Importance sampling spends most of its time here: torch's softplus takes four times as long
    on the CPU, whose log1p is scalar.
    """
    return x.clamp(max=30).exp().add(1).log() + F.relu(x - 30)


class GaussianLikelihood(nn.Module):
    """Pixels in [-1, 1] around a mean.

    Args:
        variance: "fixed"; "shared", one learned deviation for all pixels (Rybkin, Daniilidis and Levine 2021,
            "sigma-VAE"); or "per_pixel", an output of the decoder (Kingma and Welling 2014, appendix C.2).
        deviation: the fixed standard deviation, and where a shared one begins; at least 1/255 while it is learned.
    """

    def __init__(self, variance: Literal["fixed", "shared", "per_pixel"] = "fixed", deviation: float = 1.0) -> None:
        super().__init__()
        if variance not in ("fixed", "shared", "per_pixel") or not deviation > 0:
            raise ValueError(
                "GaussianLikelihood: expected variance fixed, shared or per_pixel and deviation > 0, "
                f"got {variance!r} and {deviation}"
            )
        self.variance = variance
        self.outputs = 2 if variance == "per_pixel" else 1
        log_deviation = torch.tensor(math.log(deviation))
        if variance == "shared":
            self.log_deviation = nn.Parameter(log_deviation)
        else:
            self.register_buffer("log_deviation", log_deviation)

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        """log p(x|z) in nats, summed over pixels: raw (n, s, outputs * C, H, W) and x (n, C, H, W) to (n, s)."""
        x = x.unsqueeze(1)
        if self.variance == "per_pixel":
            mean, log_deviation = raw.chunk(2, dim=2)
        else:
            mean, log_deviation = raw, self.log_deviation
        if self.variance != "fixed":
            log_deviation = soft_floor(log_deviation, MIN_LOG_DEVIATION)
        return gaussian_log_density(x, mean, 2 * log_deviation).flatten(2).sum(2)

    def picture(self, raw: Tensor) -> Tensor:
        """The mean (n, C, H, W) as a picture in [-1, 1]."""
        return (raw.chunk(2, dim=1)[0] if self.variance == "per_pixel" else raw).clamp(-1, 1)


def soft_floor(x: Tensor, floor: float) -> Tensor:
    """`x` bent smoothly so that it stays above `floor` and keeps a gradient there."""
    return floor + F.softplus(x - floor)


def dense_layers(widths: Sequence[int], activation: str) -> list[nn.Module]:
    """Linear layers from width to width, each followed by the activation."""
    layers: list[nn.Module] = []
    for width, following in itertools.pairwise(widths):
        layers += [nn.Linear(width, following), Activation(activation)]
    return layers


class DenseEncoder(nn.Module):
    """Images to q(z|x) by dense layers.

    Args:
        shape: (C, H, W) of the images.
        latent_dim: length of z.
        hidden: widths from the image inwards; () makes mean and log variance linear in the image.
        activation: after each hidden layer.
        label_count: number of classes of a conditional encoder, 0 for none.

    Example:
        >>> mean, log_variance = DenseEncoder((1, 28, 28), 40)(torch.rand(8, 1, 28, 28))
        >>> mean.shape
        torch.Size([8, 40])
    """

    def __init__(
        self,
        shape: ImageShape,
        latent_dim: int,
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
        label_count: int = 0,
    ) -> None:
        super().__init__()
        self.label_count = label_count
        widths = [math.prod(shape) + label_count, *hidden]
        self.layers = nn.Sequential(*dense_layers(widths, activation))
        self.moments = nn.Linear(widths[-1], 2 * latent_dim)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) and int64 (N,) for a conditional one to mean and log variance, (N, latent_dim) each."""
        mean, log_variance = self.moments(self.layers(with_labels(x.flatten(1), labels, self.label_count))).chunk(2, 1)
        return mean, log_variance


class DenseDecoder(nn.Module):
    """Latents to the likelihood's parameters by dense layers; `hidden` from z outwards.

    Example:
        >>> DenseDecoder((1, 28, 28), 40, likelihood=BernoulliLikelihood())(torch.randn(8, 40)).shape
        torch.Size([8, 1, 28, 28])
    """

    def __init__(
        self,
        shape: ImageShape,
        latent_dim: int,
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
        label_count: int = 0,
        *,
        likelihood: BernoulliLikelihood | GaussianLikelihood,
    ) -> None:
        super().__init__()
        self.label_count, self.likelihood = label_count, likelihood
        self.out_shape = (likelihood.outputs * shape[0], *shape[1:])
        widths = [latent_dim + label_count, *hidden]
        self.layers = nn.Sequential(*dense_layers(widths, activation))
        self.out = nn.Linear(widths[-1], math.prod(self.out_shape))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """(N, latent_dim) and int64 (N,) for a conditional one to (N, outputs * C, H, W)."""
        return self.out(self.layers(with_labels(z, labels, self.label_count))).unflatten(1, self.out_shape)


def halvings(shape: ImageShape) -> int:
    """How often both sides of an image can be halved while the smaller stays at least 4 px.

    Raises:
        ValueError: not once.
    """
    height, width = shape[1:]
    count = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 8:
        height, width, count = height // 2, width // 2, count + 1
    if count == 0:
        raise ValueError(f"convolutional VAE: expected an image with even sides of at least 8 px, got {shape[1:]}")
    return count


class ConvEncoder(nn.Module):
    """Images to q(z|x) by 4x4 convolutions with stride 2, then one dense layer.

    Without normalisation: batch statistics would make the bound of a sample depend on its neighbours. Labels enter as
    constant maps beside the image's channels.

    Args:
        shape: (C, H, W) of the images; both sides even.
        latent_dim: length of z.
        base_channels: of the first map; doubles at each halving.
        hidden: width of the dense layer.
        activation: after each layer but the last.
        label_count: number of classes of a conditional encoder, 0 for none.
    """

    def __init__(
        self,
        shape: ImageShape,
        latent_dim: int,
        base_channels: int = 32,
        hidden: int = 256,
        activation: str = "relu",
        label_count: int = 0,
    ) -> None:
        super().__init__()
        self.label_count = label_count
        stages = halvings(shape)
        widths = [shape[0] + label_count, *(base_channels * 2**depth for depth in range(stages))]
        self.layers = nn.Sequential(
            *(
                Conv2d(c_in, c_out, 4, stride=2, padding=1, activation=activation)
                for c_in, c_out in itertools.pairwise(widths)
            )
        )
        pixels = (shape[1] >> stages) * (shape[2] >> stages)
        self.dense = nn.Sequential(*dense_layers([widths[-1] * pixels, hidden], activation))
        self.moments = nn.Linear(hidden, 2 * latent_dim)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) and int64 (N,) for a conditional one to mean and log variance, (N, latent_dim) each."""
        if self.label_count:
            maps = one_hot(labels, self.label_count, x)[:, :, None, None].expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, maps], dim=1)
        mean, log_variance = self.moments(self.dense(self.layers(x).flatten(1))).chunk(2, 1)
        return mean, log_variance


class ConvDecoder(nn.Module):
    """The encoder's mirror image with 4x4 transposed convolutions; labels join z."""

    def __init__(
        self,
        shape: ImageShape,
        latent_dim: int,
        base_channels: int = 32,
        hidden: int = 256,
        activation: str = "relu",
        label_count: int = 0,
        *,
        likelihood: BernoulliLikelihood | GaussianLikelihood,
    ) -> None:
        super().__init__()
        self.label_count, self.likelihood = label_count, likelihood
        stages = halvings(shape)
        widths = [base_channels * 2**depth for depth in reversed(range(stages))]
        self.first_shape = (widths[0], shape[1] >> stages, shape[2] >> stages)
        sizes = [latent_dim + label_count, hidden, math.prod(self.first_shape)]
        self.dense = nn.Sequential(*dense_layers(sizes, activation))
        hidden_maps = [
            ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, activation=activation)
            for c_in, c_out in itertools.pairwise(widths)
        ]
        out = ConvTranspose2d(widths[-1], likelihood.outputs * shape[0], 4, stride=2, padding=1)
        self.layers = nn.Sequential(*hidden_maps, out)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """(N, latent_dim) and int64 (N,) for a conditional one to (N, outputs * C, H, W)."""
        return self.layers(self.dense(with_labels(z, labels, self.label_count)).unflatten(1, self.first_shape))


def one_hot(labels: Tensor | None, label_count: int, like: Tensor) -> Tensor:
    """(N,) int64 to (N, label_count) in the dtype of `like`.

    Raises:
        ValueError: no labels, or another number of them than samples.
    """
    if labels is None or labels.shape != like.shape[:1]:
        got = "none" if labels is None else f"labels of shape {tuple(labels.shape)}"
        raise ValueError(f"conditional VAE: expected a label for each of {like.shape[0]} samples, got {got}")
    return F.one_hot(labels, label_count).to(like.dtype)


def with_labels(x: Tensor, labels: Tensor | None, label_count: int) -> Tensor:
    """(N, d) with the one-hot labels beside it; unchanged without classes."""
    return torch.cat([x, one_hot(labels, label_count, x)], dim=1) if label_count else x
