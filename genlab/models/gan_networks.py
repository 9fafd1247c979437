"""Generators and discriminators by the name that `model.network` says: any GAN takes any of them that fits its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from genlab.models.dcgan import STAGES, DcganDiscriminator, DcganGenerator
from genlab.models.mlp import MlpDiscriminator, MlpGenerator
from genlab.models.wgan_gp_resnet import WIDTHS, WganGpCritic, WganGpGenerator
from genlab.registry import Registry

Shape = tuple[int, ...]


@dataclass(frozen=True)
class GanNetworks:
    """How a generator and a discriminator of one family are built.

    Attributes:
        generator: (shape of a sample, `model` section) -> network from (N, latent_dim) to samples in [-1, 1].
        discriminator: (shape of a sample, `model` section) -> network from samples to logits (N,).
        data_kinds: kinds of data that they can make.
        sides: of the square images that they can make, in pixels; None: any images.

    Both raise ValueError where they cannot make or judge samples of that shape.
    """

    generator: Callable[[Shape, Any], nn.Module]
    discriminator: Callable[[Shape, Any], nn.Module]
    data_kinds: tuple[str, ...] = ("images",)
    sides: tuple[int, ...] | None = None


def _dcgan_generator(shape: Shape, model: Any) -> nn.Module:
    return DcganGenerator(square_side(shape), shape[0], model.latent_dim, model.base_channels)


def _dcgan_discriminator(shape: Shape, model: Any) -> nn.Module:
    batch_norm = model.discriminator_batch_norm
    return DcganDiscriminator(square_side(shape), shape[0], model.base_channels, batch_norm=batch_norm)


def _mlp_generator(shape: Shape, model: Any) -> nn.Module:
    sizes = model.mlp
    return MlpGenerator(
        shape, model.latent_dim, sizes.generator_hidden, activation=sizes.generator_activation,
        negative_slope=sizes.negative_slope, pieces=sizes.pieces, batch_norm=sizes.generator_batch_norm,
        batch_norm_from=sizes.batch_norm_from, batch_norm_eps=sizes.batch_norm_eps, dropout=sizes.generator_dropout,
        output=sizes.output, weight_range=sizes.generator_weight_range,
    )  # fmt: skip


def _mlp_discriminator(shape: Shape, model: Any) -> nn.Module:
    sizes = model.mlp
    return MlpDiscriminator(
        shape, sizes.discriminator_hidden, activation=sizes.discriminator_activation,
        negative_slope=sizes.negative_slope, pieces=sizes.pieces, batch_norm=sizes.discriminator_batch_norm,
        batch_norm_from=sizes.batch_norm_from, batch_norm_eps=sizes.batch_norm_eps,
        input_dropout=sizes.input_dropout, dropout=sizes.discriminator_dropout, unit_range=sizes.unit_range,
        weight_range=sizes.discriminator_weight_range,
    )  # fmt: skip


def _resnet_generator(shape: Shape, model: Any) -> nn.Module:
    return WganGpGenerator(square_side(shape), shape[0], model.latent_dim, model.base_channels)


def _resnet_discriminator(shape: Shape, model: Any) -> nn.Module:
    return WganGpCritic(square_side(shape), shape[0], model.base_channels)


def square_side(shape: Shape) -> int:
    """Pixels of a side of square images (C, H, W).

    Raises:
        ValueError: the images are not square.
    """
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ValueError(f"expected square images (C, H, W), got samples of shape {shape}")
    return shape[1]


def check_sides(key: str, family: str, networks: Registry[Any], height: int, width: int) -> None:
    """Raises ValueError, naming keys and the sizes that would do, where a family cannot make images of a size.

    Args:
        key: "network" or "discriminator", the key of `model` that names the family.
        family: a name of `networks`.
        networks: entries with `sides`.
        height, width: of an image in pixels.
    """

    def fits(name: str) -> bool:
        sides = networks.get(name).sides
        return sides is None or (height == width and height in sides)

    if not fits(family):
        size = height if height == width else f"{height}x{width}"
        others = [name for name in networks.names() if fits(name)]
        raise ValueError(
            f"data.image_size: expected one of {', '.join(map(str, networks.get(family).sides))} for network {family}, "
            f"got {size}" + (f"; or choose model.{key}={' or '.join(others)}" if others else "")
        )


GAN_NETWORKS: Registry[GanNetworks] = Registry("network")
GAN_NETWORKS.register("dcgan")(GanNetworks(_dcgan_generator, _dcgan_discriminator, sides=tuple(STAGES)))
GAN_NETWORKS.register("mlp")(GanNetworks(_mlp_generator, _mlp_discriminator, ("images", "points")))
GAN_NETWORKS.register("resnet")(GanNetworks(_resnet_generator, _resnet_discriminator, sides=tuple(WIDTHS)))
