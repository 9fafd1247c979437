"""Multilayer perceptrons for adversarial games: Goodfellow et al. 2014's MNIST networks, and nets for points.

The authors' own settings for MNIST (Goodfellow et al. 2014, section 5, and their published code): 100 uniform numbers
through two layers of 1200 rectified units to sigmoid pixels; a discriminator of two maxout layers of 240 units with 5
pieces each (Goodfellow et al. 2013), with dropout of 0.2 on the pixels and 0.5 on the hidden layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genlab.config import Section
from genlab.nn import BatchNormAct1d
from genlab.ops import activation as act

Width = Annotated[int, Field(ge=1, le=65_536)]
HiddenActivation = Literal["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "maxout"]


class MlpConfig(Section):
    """`model.mlp`: sizes of generator and discriminator of network mlp."""

    generator_hidden: list[Width] = Field(default_factory=lambda: [1200, 1200], max_length=16)
    generator_activation: HiddenActivation = "relu"
    generator_batch_norm: bool = False
    batch_norm_from: int = Field(0, ge=0, description="so many first hidden layers stay without normalisation")
    batch_norm_eps: float = Field(1e-5, gt=0, description="added to the variance")
    generator_dropout: float = Field(0.0, ge=0, lt=1, description="share of each hidden layer's output set to zero")
    generator_weight_range: float | None = Field(None, gt=0, description="first weights from U(-r, r); null: torch's")
    output: Literal["auto", "tanh", "sigmoid", "none"] = Field("auto", description="auto: tanh, and none for points")
    discriminator_hidden: list[Width] = Field(default_factory=lambda: [240, 240], max_length=16)
    discriminator_activation: HiddenActivation = "leaky_relu"
    discriminator_batch_norm: bool = False
    discriminator_dropout: float = Field(0.0, ge=0, lt=1, description="share of each hidden layer's output set to zero")
    discriminator_weight_range: float | None = Field(None, gt=0, description="first weights from U(-r, r)")
    input_dropout: float = Field(0.0, ge=0, lt=1, description="share of the discriminator's inputs set to zero")
    unit_range: bool = Field(False, description="the discriminator sees pixels in [0, 1], so that zero is black")
    negative_slope: float = Field(0.2, ge=0, description="of leaky_relu")
    pieces: int = Field(5, ge=1, le=64, description="affine maps of a maxout unit")

    @model_validator(mode="after")
    def _no_normalised_maxout(self) -> MlpConfig:
        for player in ("generator", "discriminator"):
            if getattr(self, f"{player}_activation") == "maxout" and getattr(self, f"{player}_batch_norm"):
                raise ValueError(f"expected {player}_batch_norm=false with {player}_activation=maxout, got true")
        return self


class Activation(nn.Module):
    """One of the lab's activations as a layer.

    Args:
        name: "relu", "leaky_relu", "tanh", "sigmoid", "gelu" or "silu"; None passes the input through.
        negative_slope: slope of leaky_relu below zero.
    """

    def __init__(self, name: str | None, negative_slope: float = 0.2) -> None:
        super().__init__()
        act.check("Activation", name, negative_slope)
        self.name, self.negative_slope = name, negative_slope

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return act.apply(input, self.name, self.negative_slope)

    def extra_repr(self) -> str:
        return f"{self.name}, {self.negative_slope}" if self.name == "leaky_relu" else str(self.name)


class Maxout(nn.Module):
    """max over pieces of k affine maps: a convex activation that is learned (Goodfellow et al. 2013, equation 1).

    Args:
        in_features, out_features: lengths of input and output.
        pieces: k, affine maps for each unit, at least 1.
    """

    def __init__(self, in_features: int, out_features: int, pieces: int = 5) -> None:
        super().__init__()
        if pieces < 1:
            raise ValueError(f"Maxout: expected pieces of at least 1, got {pieces}")
        self.out_features, self.pieces = out_features, pieces
        self.linear = nn.Linear(in_features, out_features * pieces)

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_features) to (N, out_features)."""
        return self.linear(input).unflatten(1, (self.out_features, self.pieces)).amax(dim=2)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


def hidden_layers(
    widths: Sequence[int],
    *,
    activation: str = "relu",
    negative_slope: float = 0.2,
    pieces: int = 5,
    batch_norm: bool = False,
    batch_norm_from: int = 0,
    batch_norm_eps: float = 1e-5,
    input_dropout: float = 0.0,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Dense layers through `widths` = (inputs, hidden, ..., hidden), each with its activation.

    Args:
        widths: lengths from the input on.
        activation: "maxout", or one of the lab's.
        negative_slope: slope of leaky_relu below zero.
        pieces: of maxout.
        batch_norm: normalise before the activation; not with maxout, which has none to stand before.
        batch_norm_from: number of the first hidden layer, from 0, that is normalised.
        batch_norm_eps: added to the variance.
        input_dropout, dropout: share of the inputs, and of each hidden layer's output, that training sets to zero.
    """
    if activation == "maxout" and batch_norm:
        raise ValueError("MLP: expected batch_norm=False with maxout, got True; choose another activation")
    layers: list[nn.Module] = [nn.Dropout(input_dropout)] if input_dropout else []
    for index, (length, width) in enumerate(itertools.pairwise(widths)):
        if activation == "maxout":
            layers.append(Maxout(length, width, pieces))
        elif batch_norm and index >= batch_norm_from:
            layers += [
                nn.Linear(length, width, bias=False),  # the normalisation takes any constant out again
                BatchNormAct1d(width, batch_norm_eps, activation=activation, negative_slope=negative_slope),
            ]
        else:
            layers += [nn.Linear(length, width), Activation(activation, negative_slope)]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def uniform_weights(module: nn.Module, bound: float | None) -> None:
    """Linear weights from U(-bound, bound) and biases of 0, as the authors of GAN begin; None keeps torch's."""
    if bound is None:
        return
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.uniform_(child.weight, -bound, bound)
            if child.bias is not None:
                nn.init.zeros_(child.bias)


class MlpGenerator(nn.Module):
    """Noise to images or points through dense layers.

    Args:
        shape: of one sample: (C, H, W), or (2,) for points of the plane.
        latent_dim: length of z.
        hidden: widths of the hidden layers.
        activation: of the hidden layers: "relu", "leaky_relu", "tanh", "gelu", "silu" or "maxout".
        negative_slope: slope of leaky_relu below zero.
        pieces: of maxout.
        batch_norm, batch_norm_from, batch_norm_eps: normalise the hidden layers from that number on; see hidden_layers.
        dropout: share of each hidden layer's output that training sets to zero.
        output: "tanh"; "sigmoid" for 2 sigmoid(a) - 1, the paper's sigmoid pixels in the lab's range; "none" for no
            bound, as points need; "auto": tanh for images, none for points.
        condition_dim: length of a condition that is joined to z (0: none).
        weight_range: begin with weights from U(-weight_range, weight_range); None: torch's initial values.

    Example:
        >>> MlpGenerator((1, 28, 28))(torch.randn(8, 100)).shape
        torch.Size([8, 1, 28, 28])
        >>> MlpGenerator((2,), latent_dim=2, hidden=(128, 128))(torch.randn(8, 2)).shape
        torch.Size([8, 2])
    """

    def __init__(
        self,
        shape: Sequence[int],
        latent_dim: int = 100,
        hidden: Sequence[int] = (1200, 1200),
        *,
        activation: str = "relu",
        negative_slope: float = 0.2,
        pieces: int = 5,
        batch_norm: bool = False,
        batch_norm_from: int = 0,
        batch_norm_eps: float = 1e-5,
        dropout: float = 0.0,
        output: str = "auto",
        condition_dim: int = 0,
        weight_range: float | None = None,
    ) -> None:
        super().__init__()
        if output not in ("auto", "tanh", "sigmoid", "none"):
            raise ValueError(f"MlpGenerator: expected output to be auto, tanh, sigmoid or none, got {output!r}")
        self.shape, self.latent_dim, self.condition_dim = tuple(shape), latent_dim, condition_dim
        self.output = ("tanh" if len(self.shape) == 3 else "none") if output == "auto" else output
        widths = [latent_dim + condition_dim, *hidden]
        self.hidden = hidden_layers(
            widths, activation=activation, negative_slope=negative_slope, pieces=pieces, batch_norm=batch_norm,
            batch_norm_from=batch_norm_from, batch_norm_eps=batch_norm_eps, dropout=dropout,
        )  # fmt: skip
        self.head = nn.Linear(widths[-1], math.prod(self.shape))
        uniform_weights(self, weight_range)

    def forward(self, z: Tensor, *condition: Tensor) -> Tensor:
        """(N, latent_dim), and (N, condition_dim) where there is a condition, to (N, *shape)."""
        features = self.hidden(torch.cat([z.flatten(1), *condition], dim=1))
        samples = self.head(features).unflatten(1, self.shape)
        if self.output == "sigmoid":
            return torch.sigmoid(samples) * 2 - 1
        return torch.tanh(samples) if self.output == "tanh" else samples


class MlpDiscriminator(nn.Module):
    """Images or points to one logit each through dense layers.

    Args:
        shape: of one sample: (C, H, W), or (2,) for points of the plane.
        hidden: widths of the hidden layers.
        activation: of the hidden layers: "maxout", "relu", "leaky_relu", "tanh", "gelu" or "silu".
        negative_slope: slope of leaky_relu below zero.
        pieces: of maxout.
        batch_norm, batch_norm_from, batch_norm_eps: normalise the hidden layers from that number on; not with a
            gradient penalty, which is taken for each sample alone.
        input_dropout, dropout: share of the inputs, and of each hidden layer's output, that training sets to zero.
        unit_range: work on pixels in [0, 1], as the paper's network does, where dropout makes a pixel black; else they
            are taken in [-1, 1] as they come.
        condition_dim: length of a condition that is joined to the sample (0: none).
        weight_range: begin with weights from U(-weight_range, weight_range); None: torch's initial values.

    Attributes:
        feature_dim: length of what `features` gives.

    Example:
        >>> MlpDiscriminator((1, 28, 28), (240, 240), activation="maxout")(torch.randn(8, 1, 28, 28)).shape
        torch.Size([8])
    """

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int] = (240, 240),
        *,
        activation: str = "leaky_relu",
        negative_slope: float = 0.2,
        pieces: int = 5,
        batch_norm: bool = False,
        batch_norm_from: int = 0,
        batch_norm_eps: float = 1e-5,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        unit_range: bool = False,
        condition_dim: int = 0,
        weight_range: float | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.unit_range, self.condition_dim = tuple(shape), unit_range, condition_dim
        widths = [math.prod(self.shape) + condition_dim, *hidden]
        self.feature_dim = widths[-1]
        self.hidden = hidden_layers(
            widths, activation=activation, negative_slope=negative_slope, pieces=pieces, batch_norm=batch_norm,
            batch_norm_from=batch_norm_from, batch_norm_eps=batch_norm_eps, input_dropout=input_dropout,
            dropout=dropout,
        )  # fmt: skip
        self.head = nn.Linear(self.feature_dim, 1)
        uniform_weights(self, weight_range)

    def features(self, samples: Tensor, *condition: Tensor) -> Tensor:
        """(N, *shape), and (N, condition_dim) where there is a condition, to (N, feature_dim)."""
        x = samples.flatten(1)
        if self.unit_range:
            x = (x + 1) / 2
        return self.hidden(torch.cat([x, *condition], dim=1))

    def forward(self, samples: Tensor, *condition: Tensor) -> Tensor:
        """(N, *shape), and (N, condition_dim) where there is a condition, to logits (N,)."""
        return self.head(self.features(samples, *condition)).flatten()
