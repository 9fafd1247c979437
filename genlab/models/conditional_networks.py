"""Generators and discriminators of labelled samples by the name that `model.network` says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from genlab.models.conditional import (
    ConditionalDcganDiscriminator,
    ConditionalDcganGenerator,
    ConditionalMlpDiscriminator,
    ConditionalMlpGenerator,
    ProjectionMlpDiscriminator,
)
from genlab.models.conditional_resnet import ConditionalResnetDiscriminator, ConditionalResnetGenerator
from genlab.models.dcgan import STAGES
from genlab.models.gan_networks import Shape, square_side
from genlab.models.wgan_gp_resnet import WIDTHS
from genlab.registry import Registry


@dataclass(frozen=True)
class ConditionalNetworks:
    """How a conditional generator and discriminator of one family are built.

    Attributes:
        generator: (shape of a sample, number of classes, `model` section) -> network from (N, latent_dim) and labels
            (N,) to samples in [-1, 1].
        discriminator: (shape, number of classes, `model` section) -> network from samples and labels to logits (N,).
        sides: of the square images that they can make, in pixels; None: any images.

    Both raise ValueError where they cannot make or judge samples of that shape, or in the way that is asked for.
    """

    generator: Callable[[Shape, int, Any], nn.Module]
    discriminator: Callable[[Shape, int, Any], nn.Module]
    sides: tuple[int, ...] | None = None


def _square_generator(network: Callable[..., nn.Module], shape: Shape, num_classes: int, model: Any) -> nn.Module:
    return network(
        square_side(shape), shape[0], num_classes, model.latent_dim, model.base_channels,
        conditioning=model.generator_conditioning,
    )  # fmt: skip


def _dcgan_discriminator(shape: Shape, num_classes: int, model: Any) -> nn.Module:
    return ConditionalDcganDiscriminator(
        square_side(shape), shape[0], num_classes, model.base_channels, batch_norm=model.discriminator_batch_norm,
        conditioning=model.discriminator_conditioning,
    )  # fmt: skip


def _mlp_generator(shape: Shape, num_classes: int, model: Any) -> nn.Module:
    if model.generator_conditioning != "concat":
        raise ValueError(
            f"expected model.generator_conditioning=concat, got {model.generator_conditioning}: the MLP has no batch "
            "normalisation; choose model.network=dcgan or resnet"
        )
    sizes = model.conditional_mlp
    return ConditionalMlpGenerator(
        shape, num_classes, model.latent_dim, noise_width=sizes.noise_width, label_width=sizes.generator_label_width,
        joint_width=sizes.generator_joint_width, dropout=sizes.dropout, weight_range=sizes.generator_weight_range,
    )  # fmt: skip


def _mlp_discriminator(shape: Shape, num_classes: int, model: Any) -> nn.Module:
    sizes = model.conditional_mlp
    common = {"dropout": sizes.dropout, "weight_range": sizes.discriminator_weight_range, "unit_range": True}
    if model.discriminator_conditioning == "projection":
        widths = (sizes.image_width, sizes.discriminator_joint_width)
        return ProjectionMlpDiscriminator(shape, num_classes, hidden=widths, activation="maxout", **common)
    return ConditionalMlpDiscriminator(
        shape, num_classes, image_width=sizes.image_width, label_width=sizes.discriminator_label_width,
        joint_width=sizes.discriminator_joint_width, **common,
    )  # fmt: skip


def _resnet_discriminator(shape: Shape, num_classes: int, model: Any) -> nn.Module:
    return ConditionalResnetDiscriminator(
        square_side(shape), shape[0], num_classes, model.base_channels, conditioning=model.discriminator_conditioning
    )


CONDITIONAL_NETWORKS: Registry[ConditionalNetworks] = Registry("conditional network")
CONDITIONAL_NETWORKS.register("dcgan")(
    ConditionalNetworks(partial(_square_generator, ConditionalDcganGenerator), _dcgan_discriminator, tuple(STAGES))
)
CONDITIONAL_NETWORKS.register("mlp")(ConditionalNetworks(_mlp_generator, _mlp_discriminator))
CONDITIONAL_NETWORKS.register("resnet")(
    ConditionalNetworks(partial(_square_generator, ConditionalResnetGenerator), _resnet_discriminator, tuple(WIDTHS))
)
