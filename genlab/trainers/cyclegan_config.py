"""The configuration of CycleGAN."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from genlab.config import Section
from genlab.models.translation_networks import TranslationNetwork, check_size
from genlab.trainers.translation import PatchGanConfig, TranslationConfig, TranslationGanConfig


class CycleGanModelConfig(Section):
    """Both generators, without noise as in the authors' code; each family uses the sizes that it has."""

    network: TranslationNetwork = Field("resnet", description="the paper's generator, or unet: Pix2Pix's")
    base_channels: int = Field(64, ge=1, le=1024, description="channels of the map next to the image; doubles inwards")
    blocks: int | None = Field(
        None, ge=0, le=64, description="residual blocks of network resnet; default: 6, from 256 px on 9 (paper)"
    )


class CycleConfig(Section):
    """What ties the two generators together."""

    weight: float = Field(10.0, ge=0, description="lambda of the cycle loss")
    identity: float = Field(
        0.0, ge=0, description="share of lambda that weighs |G(y) - y|; 0.5 where colours must stay"
    )
    pool_size: int = Field(50, ge=0, le=10_000, description="past pictures of each domain that D is shown; 0: none")


class CycleGanPatchConfig(PatchGanConfig):
    """The discriminators; instance normalisation as in the paper."""

    normalization: Literal["batch", "instance", "none"] = "instance"


class CycleGanGameConfig(TranslationGanConfig):
    """Least squares as in the paper."""

    loss: str = Field("lsgan", description="non_saturating, minimax, lsgan, hinge or wasserstein")


class CycleGanConfig(TranslationConfig):
    """`algorithm: cyclegan`."""

    model: CycleGanModelConfig = Field(default_factory=CycleGanModelConfig)
    cycle: CycleConfig = Field(default_factory=CycleConfig)
    discriminator: CycleGanPatchConfig = Field(default_factory=CycleGanPatchConfig)
    gan: CycleGanGameConfig = Field(default_factory=CycleGanGameConfig)

    @model_validator(mode="after")
    def _size_of_the_networks(self) -> CycleGanConfig:
        try:
            check_size(self.model.network, *self.data.height_width)
            self.discriminator.field(*self.data.height_width)
        except ValueError as error:
            raise ValueError(f"data.image_size: {error}") from None
        return self
