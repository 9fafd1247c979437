"""Progressive growing (Karras et al. 2018, "Progressive Growing of GANs for Improved Quality, Stability, Variation").

Training begins at 4x4 pixels. Each resolution is trained for `progressive.stable_images` images, then the layers of the
next one are faded in over `progressive.fade_images` (section 2); real images are brought to the resolution in use and
faded alike. The game is WGAN-GP's with the drift term (appendix A), one critic update a step.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from genlab.config import OptimizerConfig, Section
from genlab.models.progressive import (
    SMALLEST_SIDE,
    ProgressiveDiscriminator,
    ProgressiveGenerator,
    double,
    halve,
    levels_of,
)
from genlab.regularizers import DriftConfig, GradientPenaltyConfig, RegularizersConfig, apply_spectral_norm
from genlab.trainers.base import Batch, Metrics
from genlab.trainers.gan import GanTrainer
from genlab.trainers.gan_config import GanConfig, GanRunConfig, LatentConfig
from genlab.trainers.graphs import Uncaptured


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


class ProgressiveTrainer(GanTrainer):
    """A generator and a discriminator that grow while they train.

    Attributes:
        images: training images seen so far; the schedule goes by it.
    """

    config_class = ProgressiveConfig
    config: ProgressiveConfig
    trains_in_stages = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.images = 0
        self._grow()

    def build_networks(self) -> dict[str, nn.Module]:
        model, (channels, side, _) = self.config.model, self.data.shape
        sizes = (model.channel_budget, model.max_channels)
        generator = ProgressiveGenerator(side, channels, model.latent_dim, *sizes)
        discriminator = ProgressiveDiscriminator(side, channels, *sizes, model.group_size)
        if self.config.gan.regularizers.spectral_norm:
            apply_spectral_norm(discriminator)
        return {"generator": generator, "discriminator": discriminator}

    def growth(self, images: int) -> tuple[int, float]:
        """(level, weight of its newest layers) after so many images."""
        schedule, top = self.config.progressive, levels_of(self.data.shape[1]) - 1
        level, rest = divmod(images, schedule.stable_images + schedule.fade_images)
        if level >= top:
            return top, 1.0
        if rest < schedule.stable_images:
            return level, 1.0
        return level + 1, (rest - schedule.stable_images) / schedule.fade_images

    @property
    def batches_per_step(self) -> int:
        level, _ = self.growth(self.images)
        return self.config.progressive.batches.get(SMALLEST_SIDE * 2**level, 1)

    @property
    def graph_key(self) -> Hashable | Uncaptured:
        level, alpha = self.growth(self.images)
        if alpha < 1:
            return Uncaptured("a resolution is faded in", passing=True)
        key = super().graph_key
        return key if isinstance(key, Uncaptured) else (level, *key)

    def advance(self, *batches: Batch) -> Metrics:
        images = sum(len(batch["image"]) for batch in batches) * self.distributed.world_size
        for ema in self.ema.values():
            ema.images_per_step = images
        metrics = super().advance(*batches)
        self.images += images
        return metrics

    def train_step(self, *batches: Batch) -> Metrics:
        self._grow()
        # Interleaved, so that a process among several holds neighbours of the whole batch, as one process would.
        images = torch.stack([batch["image"] for batch in batches], dim=1).flatten(0, 1)
        x = self._at_resolution(images)
        z = self.draw_noise(len(x))
        metrics = self.update_discriminator(x, self.generate(z, keep_graph=False), update_number=self.step)
        z = self.draw_noise(len(x))
        metrics.update(self.update_generator(z))
        generator = self.networks["generator"]
        for name, value in {"resolution": generator.side, "fade_in": generator.alpha}.items():
            metrics[name] = torch.full((), float(value), device=self.device)
        return metrics

    def _grow(self) -> None:
        """Brings all networks, averaged ones too, to the resolution that the schedule asks for."""
        level, alpha = self.growth(self.images)
        generator = self.networks["generator"]
        begins, ends = level != generator.level, alpha == 1 > generator.alpha
        if (begins or ends) and self.config.progressive.reset_optimizers:
            for optimizer in self.optimizers.values():
                optimizer.state.clear()
        self._set_growth(level, alpha)

    def _set_growth(self, level: int, alpha: float) -> None:
        for network in [*self.networks.values(), *(ema.module for ema in self.ema.values())]:
            network.grow(level, alpha)

    def _at_resolution(self, images: Tensor) -> Tensor:
        """Real images at the side in use, their newest detail as far faded in as the networks' newest layers."""
        generator = self.networks["generator"]
        while images.shape[-1] > generator.side:
            images = halve(images)
        if generator.alpha < 1:
            images = torch.lerp(double(halve(images)), images, generator.alpha)
        return images

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        images = super().decode(latents, labels)
        while images.shape[-1] < self.data.shape[-1]:
            images = double(images)
        return images.clamp(-1, 1)  # the generator ends in a linear layer

    def extra_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        generator = self.networks["generator"]
        tensors, _ = super().extra_state()
        return tensors, {"images": self.images, "level": generator.level, "alpha": generator.alpha}

    def load_extra_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_extra_state(tensors, values)
        self.images = int(values["images"])
        self._set_growth(int(values["level"]), float(values["alpha"]))  # those in use: the next step may change them
