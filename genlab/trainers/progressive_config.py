"""Settings of progressive growing; the defaults are those of the paper (appendix A) and of the authors' code."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from genlab.config import OptimizerConfig, Section
from genlab.models.progressive import levels_of
from genlab.regularizers import DriftConfig, GradientPenaltyConfig, RegularizersConfig
from genlab.trainers.gan_config import GanConfig, GanRunConfig, LatentConfig


class ProgressiveModelConfig(LatentConfig):
    """Sizes of the growing networks; the defaults are the authors' code's."""

    network: Literal["progressive"] = "progressive"
    latent_dim: int = Field(512, ge=1, le=4096, description="length of z")
    channel_budget: int = Field(8192, ge=8, description="feature maps at level l: channel_budget / 2^(l + 1), at most")
    max_channels: int = Field(512, ge=1, le=2048, description="feature maps of any layer at most")
    group_size: int = Field(4, ge=1, description="neighbours that the minibatch standard deviation compares")


class ProgressiveScheduleConfig(Section):
    """The schedule, in images."""

    stable_images: int = Field(600_000, ge=1, description="trained on at each resolution before the next comes in")
    fade_images: int = Field(600_000, ge=1, description="over which the next one is faded in")
    batches: dict[int, int] = Field(
        default_factory=lambda: {4: 8, 8: 8, 16: 8, 32: 4, 64: 2},
        description="side in pixels -> how many batches of data.batch_size a step takes; 1 where nothing is said",
    )
    reset_optimizers: bool = Field(True, description="forget Adam's moments when a fade begins and ends, as the code")

    @field_validator("batches")
    @classmethod
    def _counts(cls, value: dict[int, int]) -> dict[int, int]:
        if any(count < 1 for count in value.values()):
            raise ValueError("expected at least 1 batch for each side")
        return value


def _adam() -> OptimizerConfig:
    return OptimizerConfig(lr=1e-3, betas=(0.0, 0.99))


class ProgressiveConfig(GanRunConfig):
    """`algorithm: progressive`. The defaults are the paper's (appendix A) and the authors' code's."""

    model: ProgressiveModelConfig = Field(default_factory=ProgressiveModelConfig)
    progressive: ProgressiveScheduleConfig = Field(default_factory=ProgressiveScheduleConfig)
    gan: GanConfig = Field(
        default_factory=lambda: GanConfig(
            loss="wasserstein",
            regularizers=RegularizersConfig(gradient_penalty=GradientPenaltyConfig(), drift=DriftConfig()),
        )
    )
    generator_optimizer: OptimizerConfig = Field(default_factory=_adam)
    discriminator_optimizer: OptimizerConfig = Field(default_factory=_adam)

    @model_validator(mode="after")
    def _fits_together(self) -> ProgressiveConfig:
        height, width = self.data.height_width
        if height != width:
            raise ValueError(f"data.image_size: expected a square for progressive, got {self.data.image_size}")
        try:
            levels_of(height)
        except ValueError as error:
            raise ValueError(f"data.image_size: {error}") from None
        if self.gan.discriminator_steps != 1:
            raise ValueError(f"gan.discriminator_steps: expected 1 for progressive, got {self.gan.discriminator_steps}")
        if self.train.grad_accumulation != 1:
            raise ValueError(
                "train.grad_accumulation: expected 1 for progressive, whose minibatch statistics are of a whole "
                f"batch, got {self.train.grad_accumulation}; lower progressive.batches to save memory"
            )
        return self
