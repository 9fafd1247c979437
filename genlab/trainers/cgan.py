"""Conditional GAN (Mirza and Osindero 2014, "Conditional Generative Adversarial Nets"), equation 2.

Symbols: x = real, y = its label, z = noise, G(z|y) = fake, k = gan.discriminator_steps. Real and generated samples of
an update share the labels of the data, so that the discriminator never learns which class is asked for how often.
Labels reach the networks by concatenation as in the paper, or by projection (Miyato and Koyama 2018) and conditional
batch normalisation (Dumoulin et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genlab.config import Section
from genlab.errors import ConfigError, UserError
from genlab.models.conditional_networks import CONDITIONAL_NETWORKS
from genlab.models.gan_networks import check_sides
from genlab.regularizers import apply_spectral_norm
from genlab.trainers.base import Batch, Metrics, Picture
from genlab.trainers.gan import GanTrainer
from genlab.trainers.gan_config import GanRunConfig, NetworksConfig
from genlab.trainers.update import mean_of_updates

if TYPE_CHECKING:
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData


class ConditionalMlpConfig(Section):
    """`model.conditional_mlp`: units of Mirza and Osindero's layers (section 4.1)."""

    noise_width: int = Field(200, ge=1, description="generator's layer of z")
    generator_label_width: int = Field(1000, ge=1, description="generator's layer of y")
    generator_joint_width: int = Field(1200, ge=1, description="generator's layer of both")
    image_width: int = Field(240, ge=1, description="discriminator's maxout layer of x")
    discriminator_label_width: int = Field(50, ge=1, description="discriminator's maxout layer of y")
    discriminator_joint_width: int = Field(240, ge=1, description="discriminator's maxout layer of both")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of every hidden layer's output set to zero")
    generator_weight_range: float | None = Field(None, gt=0, description="first weights from U(-r, r); null: torch's")
    discriminator_weight_range: float | None = Field(None, gt=0, description="first weights from U(-r, r)")


class CganModelConfig(NetworksConfig):
    """`model` of `algorithm: cgan`."""

    families = CONDITIONAL_NETWORKS

    generator_conditioning: Literal["concat", "batch_norm"] = Field(
        "concat",
        description="label joined to z behind a layer of its own, or a scale and shift for each class in every norm "
        "(of network resnet: in every block)",
    )
    discriminator_conditioning: Literal["concat", "projection"] = Field(
        "concat",
        description="label joined to the image, or its vector multiplied with the image's features",
    )
    conditional_mlp: ConditionalMlpConfig = Field(default_factory=ConditionalMlpConfig, description="of network mlp")


class CganConfig(GanRunConfig):
    """`algorithm: cgan`."""

    model: CganModelConfig = Field(default_factory=CganModelConfig)

    @model_validator(mode="after")
    def _size_of_the_architecture(self) -> CganConfig:
        families = {"network": self.model.network, "discriminator": self.model.discriminator or self.model.network}
        for key, family in families.items():
            check_sides(key, family, CONDITIONAL_NETWORKS, *self.data.height_width)
        return self


class CganTrainer(GanTrainer):
    """Generator and discriminator of labelled images."""

    config_class = CganConfig
    config: CganConfig
    own_score_names = ("judge_agreement",)

    def build_networks(self) -> dict[str, nn.Module]:
        model, shape, classes = self.config.model, self.data.shape, self.data.require_classes("algorithm cgan")
        try:
            generator = CONDITIONAL_NETWORKS.get(model.network).generator(shape, classes, model)
            family = CONDITIONAL_NETWORKS.get(model.discriminator or model.network)
            discriminator = family.discriminator(shape, classes, model)
        except ValueError as error:
            raise ConfigError(f"model.network={model.network}: {error}") from None
        if self.config.gan.regularizers.spectral_norm:
            apply_spectral_norm(discriminator)
        return {"generator": generator, "discriminator": discriminator}

    def train_step(self, *batches: Batch) -> Metrics:
        updates = []
        for k, batch in enumerate(batches):
            x, y = batch["image"], batch["label"]
            z = self.draw_noise(x.shape[0])
            fakes = self.generate(z, (y,), keep_graph=k == len(batches) - 1)
            updates.append(self.update_discriminator(x, fakes, self.step * len(batches) + k, (y,)))
        return {**mean_of_updates(updates), **self.update_generator(z, fakes, (y,))}

    @property
    def label_count(self) -> int:
        return self.data.num_classes

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise UserError(
                f"algorithm {self.config.algorithm}: expected the class of each image, got none; give --class"
            )
        return super().decode(latents, labels)

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Picture]:
        """One class a row, the same noise in a column: what the label changes and what it leaves."""
        columns = max(1, count // self.label_count)
        latents = self.latents(columns, generator).repeat(self.label_count, 1)
        labels = torch.arange(self.label_count).repeat_interleave(columns)
        return [Picture(self.decode(latents, labels), columns)]

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.metrics.agreement import judge_agreement

        return [judge_agreement(self.sample, data.judge(), data)]
