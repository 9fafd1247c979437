"""Progressive growing (Karras et al. 2018, "Progressive Growing of GANs for Improved Quality, Stability, Variation").

Training begins at 4x4 pixels. Each resolution is trained for `progressive.stable_images` images, then the layers of the
next one are faded in over `progressive.fade_images` (section 2); real images are brought to the resolution in use and
faded alike. The game is WGAN-GP's with the drift term (appendix A), one critic update a step.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from genlab.errors import ConfigError
from genlab.models.progressive import (
    SMALLEST_SIDE,
    ProgressiveDiscriminator,
    ProgressiveGenerator,
    double,
    group_of,
    halve,
    levels_of,
)
from genlab.regularizers import apply_spectral_norm
from genlab.trainers.base import Batch, Metrics
from genlab.trainers.gan import GanTrainer
from genlab.trainers.graphs import Uncaptured
from genlab.trainers.progressive_config import ProgressiveConfig


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
        self._check_groups()
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
        return self._batches_at(SMALLEST_SIDE * 2**level)

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

    def _batches_at(self, side: int) -> int:
        return self.config.progressive.batches.get(side, 1)

    def _check_groups(self) -> None:
        """Refuses batches that the minibatch standard deviation would group otherwise than one process does."""
        size, processes = self.config.model.group_size, self.distributed.world_size
        for level in range(levels_of(self.data.shape[1])):
            side = SMALLEST_SIDE * 2**level
            images = self._batches_at(side) * self.config.data.batch_size
            whole, local = group_of(images, size), group_of(images // processes, size)
            if whole != local:
                shared = group_of(self.config.data.batch_size // processes, size)
                raise ConfigError(
                    f"model.group_size={size}: expected groups of the minibatch standard deviation that are those of "
                    f"one process, {whole} images at {side} px, got {local} in each of {processes} processes; set "
                    f"data.batch_size to a multiple of {processes * size}, or model.group_size to {shared}"
                )

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

    @property
    def samples_at_full_size(self) -> bool:
        generator = self.networks["generator"]
        return generator.side == self.data.shape[-1] and generator.alpha == 1

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
