"""Configuration of GANs: which game is played, what z is, and which networks play."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from genlab.config import OptimizerConfig, RunConfig, Section
from genlab.ema import EmaConfig
from genlab.losses import ADVERSARIAL_LOSSES
from genlab.models.gan_networks import GAN_NETWORKS
from genlab.models.mlp import MlpConfig
from genlab.registry import Registry
from genlab.regularizers import RegularizersConfig

UNIFORM_RANGES = {
    "uniform": (-1.0, 1.0),
    "uniform_unit_variance": (-math.sqrt(3), math.sqrt(3)),
    "uniform_positive": (0.0, 1.0),
}


class GameConfig(Section):
    """Which loss is played, and what restrains the players."""

    loss: str = Field("non_saturating", description="non_saturating, minimax, lsgan, hinge or wasserstein")
    regularizers: RegularizersConfig = Field(default_factory=RegularizersConfig)

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value: str) -> str:
        return ADVERSARIAL_LOSSES.known(value)


class GanConfig(GameConfig):
    """The game: which loss, how many discriminator updates to one of the generator, and what restrains it."""

    discriminator_steps: int = Field(1, ge=1, description="discriminator updates, each on a new batch, per step")
    ema: EmaConfig | None = Field(default_factory=EmaConfig, description="average of the generator; null: none")


class LatentConfig(Section):
    """z, which every GAN's `model` has; its networks and their sizes differ."""

    latent_dim: int = Field(100, ge=1, le=4096, description="length of z")
    latent_distribution: Literal["normal", "uniform", "uniform_unit_variance", "uniform_positive"] = Field(
        "normal", description="of z: N(0, 1), U(-1, 1), U(-sqrt 3, sqrt 3) as GAN's authors, or U(0, 1)"
    )


class NetworksConfig(LatentConfig):
    """Which networks of `families` play, and their sizes; each family of networks uses the sizes that it has."""

    families: ClassVar[Registry[Any]]

    network: str = Field("dcgan", description="family of generator and discriminator")
    discriminator: str | None = Field(None, description="family of the discriminator where it is another")
    base_channels: int = Field(64, ge=1, le=1024, description="channels of the map next to the image; doubles inwards")
    discriminator_batch_norm: bool = Field(
        True, description="of network dcgan; false where a gradient penalty is taken per sample"
    )

    @field_validator("network", "discriminator")
    @classmethod
    def _known_network(cls, value: str | None) -> str | None:
        return None if value is None else cls.families.known(value)


class GanModelConfig(NetworksConfig):
    """Networks of samples without labels."""

    families = GAN_NETWORKS

    mlp: MlpConfig = Field(default_factory=MlpConfig, description="sizes of network mlp")


class GanRunConfig(RunConfig):
    """Sections of every GAN's configuration; each algorithm has a `model` of its own."""

    model: LatentConfig = Field(default_factory=LatentConfig)
    gan: GanConfig = Field(default_factory=GanConfig)
    generator_optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    discriminator_optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
