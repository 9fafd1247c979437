"""Normalisations by name before an activation, for networks in which one may be exchanged for another."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import nn

from genlab.models.mlp import Activation
from genlab.nn import BatchNormAct1d, BatchNormAct2d, InstanceNormAct2d, LayerNormAct

Normalization = Literal["batch", "layer", "instance", "group", "none"]
GROUPS = 32  # of group normalisation (Wu and He 2018, section 4), where the channels allow so many


def map_normalization(kind: Normalization, channels: int, activation: str | None) -> list[nn.Module]:
    """Layers that normalise maps (N, channels, H, W) and then activate them.

    Args:
        kind: "batch" over a channel of all samples, "layer" over a sample, "instance" over a channel of a sample,
            "group" over up to 32 groups of a sample's channels, or "none"; each with a scale and a shift per channel.
        channels: of the maps.
        activation: of the lab, or None.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "batch":
        return [BatchNormAct2d(channels, activation=activation)]
    if kind == "instance":
        return [InstanceNormAct2d(channels, affine=True, activation=activation)]
    after: list[nn.Module] = [] if activation is None else [Activation(activation)]
    if kind == "none":
        return after
    if kind in ("layer", "group"):
        return [nn.GroupNorm(1 if kind == "layer" else math.gcd(GROUPS, channels), channels), *after]
    raise ValueError(f"normalization: expected batch, layer, instance, group or none, got {kind!r}")


def unit_normalization(kind: Normalization, width: int, activation: str | None) -> list[nn.Module]:
    """Layers that normalise (N, width) and then activate; "instance" has nothing there to take statistics of.

    Raises:
        ValueError: "instance", or an unknown kind.
    """
    if kind == "batch":
        return [BatchNormAct1d(width, activation=activation)]
    if kind == "layer":
        return [LayerNormAct(width, activation=activation)]
    after: list[nn.Module] = [] if activation is None else [Activation(activation)]
    if kind == "none":
        return after
    if kind == "group":
        return [nn.GroupNorm(math.gcd(GROUPS, width), width), *after]
    raise ValueError(f"normalization: expected batch, layer, group or none for units without maps, got {kind!r}")


def picture_normalization(
    kind: Literal["batch", "instance"], channels: int, *, running_statistics: bool, affine: bool, **activation: Any
) -> nn.Module:
    """A normalisation of generators that make pictures of pictures, with its activation.

    Args:
        kind: "batch" or "instance".
        channels: of the maps.
        running_statistics: whether batch normalisation follows its statistics and uses them in evaluation mode.
        affine: whether instance normalisation has a scale and a shift; batch normalisation always does.
        **activation: `activation` and `negative_slope` of the lab's layers.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "instance":
        return InstanceNormAct2d(channels, affine=affine, **activation)
    if kind != "batch":
        raise ValueError(f"expected normalization batch or instance, got {kind!r}")
    return BatchNormAct2d(channels, track_running_stats=running_statistics, **activation)
