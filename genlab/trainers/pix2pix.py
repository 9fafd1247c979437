"""Pix2Pix (Isola, Zhu, Zhou and Efros 2017, "Image-to-Image Translation with Conditional Adversarial Networks").

Symbols of section 3: x = input, y = target, z = noise (the generator's dropout, drawn here), G(x, z) = fake,
lambda = objective.weight. As in the paper the discriminator sees pairs (x, y) and (x, G(x, z)), its objective is
halved, the generator maximises log D(x, G(x, z)), and test pictures keep the noise and the statistics of training
(section 3.3): each is normalised by itself, which at the paper's batches of one is what training does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from genlab.config import Section
from genlab.ema import EmaConfig
from genlab.models.patchgan import PatchDiscriminator
from genlab.models.translation_networks import TranslationNetwork, check_size, translation_generator
from genlab.regularizers import apply_spectral_norm
from genlab.trainers.base import Batch, Metrics, Picture
from genlab.trainers.diagnosis import discriminator_signs
from genlab.trainers.translation import (
    Direction,
    TranslationConfig,
    TranslationTrainer,
    grid_columns,
)

if TYPE_CHECKING:
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData


class Pix2PixModelConfig(Section):
    """The generator; each family uses the sizes that it has."""

    network: TranslationNetwork = Field("unet", description="the paper's generator, or resnet: CycleGAN's")
    base_channels: int = Field(64, ge=1, le=1024, description="channels of the map next to the image; doubles inwards")
    normalization: Literal["batch", "instance"] = Field("batch", description="the same at batches of one picture")
    test_statistics: Literal["own", "running"] = Field(
        "own", description="of batch normalisation at test: of each picture by itself (paper), or those of training"
    )
    blocks: int | None = Field(
        None, ge=0, le=64, description="residual blocks of network resnet; default: 6, from 256 px on 9 (CycleGAN)"
    )
    dropout: float = Field(
        0.5, ge=0, lt=1, description="z: share put out in unet's first three decoder layers, in each of resnet's blocks"
    )
    test_dropout: bool = Field(True, description="keep the dropout, the model's noise, at test (paper)")


class Pix2PixObjectiveConfig(Section):
    """Equation 4: the adversarial term plus lambda times the distance to the target."""

    reconstruction: Literal["l1", "l2", "none"] = "l1"
    weight: float = Field(100.0, ge=0, description="lambda")
    adversarial_weight: float = Field(1.0, ge=0, description="of the generator's adversarial term; 0: distance alone")
    conditional: bool = Field(True, description="whether the discriminator sees the input beside the output")
    discriminator_weight: float = Field(0.5, gt=0, description="slows the discriminator down against the generator")


class Pix2PixConfig(TranslationConfig):
    """`algorithm: pix2pix`."""

    model: Pix2PixModelConfig = Field(default_factory=Pix2PixModelConfig)
    objective: Pix2PixObjectiveConfig = Field(default_factory=Pix2PixObjectiveConfig)

    @model_validator(mode="after")
    def _size_of_the_networks(self) -> Pix2PixConfig:
        try:
            check_size(self.model.network, *self.data.height_width)
            self.discriminator.field(*self.data.height_width)
        except ValueError as error:
            raise ValueError(f"data.image_size: {error}") from None
        if self.objective.conditional and self.gan.regularizers.consistency is not None:
            raise ValueError(
                "gan.regularizers.consistency: expected none with objective.conditional, as it would move the output "
                "against the input; leave one of them out"
            )
        return self


class Pix2PixTrainer(TranslationTrainer):
    """A U-Net, or a ResNet, against a PatchGAN that sees pairs."""

    config_class = Pix2PixConfig
    data_kinds: ClassVar[tuple[str, ...]] = ("paired",)
    own_score_names: ClassVar[tuple[str, ...]] = ("l1", "l1_identity", "l1_nearest")
    scored_split = "test"
    example_keys: ClassVar[tuple[tuple[str, str], ...]] = (("input", "target"),)
    config: Pix2PixConfig

    def build_networks(self) -> dict[str, nn.Module]:
        model, patches, (channels, height, width) = self.config.model, self.config.discriminator, self.data.shape
        generator = translation_generator(
            model.network, channels, (height, width), base_channels=model.base_channels, blocks=model.blocks,
            normalization=model.normalization, affine=True, running_statistics=model.test_statistics == "running",
            dropout=model.dropout,
        )  # fmt: skip
        seen = 2 * channels if self.config.objective.conditional else channels
        discriminator = PatchDiscriminator(seen, self.field(), patches.base_channels, patches.normalization)
        if self.config.gan.regularizers.spectral_norm:
            apply_spectral_norm(discriminator)
        return {"generator": generator, "discriminator": discriminator}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "generator": self.joint_optimizer(self.config.generator_optimizer, "generator"),
            "discriminator": self.joint_optimizer(self.config.discriminator_optimizer, "discriminator"),
        }

    def averaged_networks(self) -> dict[str, EmaConfig]:
        return {"generator": self.config.gan.ema} if self.config.gan.ema is not None else {}

    def train_step(self, batch: Batch) -> Metrics:
        x, y = batch["input"], batch["target"]
        z = [self.noise.uniform(x.shape[0], *shape) for shape in self.networks["generator"].noise_shapes]
        with torch.set_grad_enabled(self.micro_batch_count == 1), self.autocast():
            parts = zip(*(value.chunk(self.micro_batch_count) for value in (x, *z)), strict=True)
            fakes = [self.networks["generator"](part, noise) for part, *noise in parts]
        return {**self._update_discriminator(x, y, fakes), **self._update_generator(x, y, z, fakes)}

    def _judge(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """D(x, .)"""
        network = self.networks["discriminator"]
        return partial(network, condition=x) if self.config.objective.conditional else network

    def _update_discriminator(self, x: Tensor, y: Tensor, fakes: list[Tensor]) -> Metrics:
        """Descends the halved loss on (x, y) and (x, G(x, z)); no gradient reaches the generator."""
        mixing = self.draw_mixing(x)
        weight = self.config.objective.discriminator_weight * self.loss_scale
        with self.update("discriminator") as update:
            for given, real, fake, share in update.micro_batches(x, y, torch.cat(fakes).detach(), mixing):
                judge = self._judge(given)
                with self.autocast():
                    real_logits, fake_logits = judge(real), judge(fake)
                loss_d = weight * self.loss.discriminator_loss(real_logits, fake_logits)
                penalties = self.regularizer.penalties(judge, real, fake, share, self.step)
                update.backward(sum(penalties.values(), loss_d))
                update.record(loss_d=loss_d, real_logit=real_logits.mean(), fake_logit=fake_logits.mean(), **penalties)
                update.record(**discriminator_signs(real_logits, fake_logits, self.loss.boundary))
        return update.metrics

    def _update_generator(self, x: Tensor, y: Tensor, z: list[Tensor], fakes: list[Tensor]) -> Metrics:
        """Descends the adversarial loss through the frozen discriminator and lambda times the distance to y."""
        objective = self.config.objective
        distance = {"l1": F.l1_loss, "l2": F.mse_loss, "none": F.l1_loss}[objective.reconstruction]
        weight = 0.0 if objective.reconstruction == "none" else objective.weight
        with self.update("generator") as update:
            parts = update.micro_batches(x, y, *z)
            for fake, (given, real, *noise) in zip(fakes, parts, strict=True):
                with self.autocast():
                    fake = fake if fake.requires_grad else self.networks["generator"](given, noise)
                    fake_logits = self._judge(given)(fake)
                loss_g = self.loss_scale * self.loss.generator_loss(fake_logits)
                loss_l1 = distance(fake.float(), real)
                update.backward(objective.adversarial_weight * loss_g + weight * loss_l1)
                update.record(**{"loss_g": loss_g, "loss_l2" if distance is F.mse_loss else "loss_l1": loss_l1})
        return update.metrics

    @property
    def directions(self) -> tuple[Direction, ...]:
        return (self.config.data.direction,)

    def translate(self, images: Tensor, generator: torch.Generator, direction: Direction | None = None) -> Tensor:
        self.check_direction(direction)
        model = self.config.model
        network = self.inference_network("generator")
        shapes = network.noise_shapes if model.test_dropout else []
        # One after the other: a picture's noise and statistics must not hang on its neighbours.
        noise = [[torch.rand(1, *shape, generator=generator) for shape in shapes] for _ in images]
        alone = model.normalization == "batch" and model.test_statistics == "own"
        size = 1 if alone else max(1, images.shape[0])
        results = []
        with self.inference():
            for start, part in zip(range(0, images.shape[0], size), images.split(size), strict=True):
                drawn = [torch.cat(parts).to(self.device) for parts in zip(*noise[start : start + size], strict=True)]
                results.append(network(part.to(self.device), drawn).float())
        return torch.cat(results)

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Picture]:
        """Rows of input, output, target."""
        batch = examples(max(1, count // 3))
        rows = [batch["input"], self.translate(batch["input"], generator), batch["target"]]
        return [Picture(torch.stack(rows, dim=1).flatten(0, 1), grid_columns(len(rows[0]), 3))]

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.trainers.translation_scores import paired_scores

        return paired_scores(self, data)
