"""DCGAN (Radford, Metz and Chintala 2016, "Unsupervised Representation Learning with Deep Convolutional GANs").

Symbols of the GAN paper (Goodfellow et al. 2014, algorithm 1): x = real, G(z) = fake, k = gan.discriminator_steps,
m = data.batch_size. As in the authors' code, real and fake images pass the discriminator as separate batches (its batch
statistics differ), and the fake images of the last discriminator update serve the generator's update too.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genlab.config import Section
from genlab.models.dcgan import STAGES, DcganDiscriminator, DcganGenerator
from genlab.optimizers import build_optimizer
from genlab.regularizers import apply_spectral_norm
from genlab.trainers.base import Batch, Metrics
from genlab.trainers.gan import GanRunConfig, GanTrainer


class DcganModelConfig(Section):
    """Sizes of the networks."""

    latent_dim: int = Field(100, ge=1, le=4096, description="length of z")
    latent_distribution: Literal["normal", "uniform"] = Field(
        "normal", description="of z: N(0, 1) as in the authors' code, or U(-1, 1) as in the paper's text"
    )
    base_channels: int = Field(64, ge=1, le=1024, description="channels of the map next to the image; doubles inwards")
    discriminator_batch_norm: bool = Field(True, description="false where a gradient penalty is taken per sample")


class DcganConfig(GanRunConfig):
    """`algorithm: dcgan`."""

    model: DcganModelConfig = Field(default_factory=DcganModelConfig)

    @model_validator(mode="after")
    def _size_of_the_architecture(self) -> DcganConfig:
        height, width = self.data.height_width
        if height != width or height not in STAGES:
            sizes = ", ".join(map(str, STAGES))
            raise ValueError(f"data.image_size: expected one of {sizes} for dcgan, got {self.data.image_size}")
        return self


class DcganTrainer(GanTrainer):
    """Generator and discriminator of DCGAN, with any adversarial loss and regulariser of the lab."""

    config_class = DcganConfig
    config: DcganConfig

    def build_networks(self) -> dict[str, nn.Module]:
        model, (channels, size, _) = self.config.model, self.data.shape
        generator = DcganGenerator(size, channels, model.latent_dim, model.base_channels)
        discriminator = DcganDiscriminator(
            size, channels, model.base_channels, batch_norm=model.discriminator_batch_norm
        )
        if self.config.gan.regularizers.spectral_norm:
            apply_spectral_norm(discriminator)
        return {"generator": generator, "discriminator": discriminator}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "generator": build_optimizer(self.config.generator_optimizer, self.networks["generator"].parameters()),
            "discriminator": build_optimizer(
                self.config.discriminator_optimizer, self.networks["discriminator"].parameters()
            ),
        }

    def train_step(self, *batches: Batch) -> Metrics:
        for k, batch in enumerate(batches):
            real = batch["image"]
            z = self._draw_noise(real.shape[0])
            fakes = self._generate(z, keep_graph=k == len(batches) - 1 and self.micro_batch_count == 1)
            metrics = self._update_discriminator(real, fakes, update_number=self.step * len(batches) + k)
        metrics.update(self._update_generator(z, fakes))
        return metrics

    def _draw_noise(self, count: int) -> Tensor:
        if self.config.model.latent_distribution == "uniform":
            return self.noise.uniform(count, self.config.model.latent_dim).mul_(2).sub_(1)
        return self.noise.normal(count, self.config.model.latent_dim)

    def _generate(self, z: Tensor, keep_graph: bool) -> list[Tensor]:
        """G(z) of each micro-batch. With several of them no graph is kept: its memory is what they are to save."""
        with torch.set_grad_enabled(keep_graph), self.autocast():
            return [self.networks["generator"](part) for part in z.chunk(self.micro_batch_count)]

    def _update_discriminator(self, real: Tensor, fakes: list[Tensor], update_number: int) -> Metrics:
        """Descends the discriminator's loss on x and G(z); no gradient reaches the generator."""
        discriminator = self.networks["discriminator"]
        mixing = self.noise.uniform(real.shape[0], 1, 1, 1) if self.regularizer.draws_mixing else None
        with self.update("discriminator") as update:
            for x, fake, share in update.micro_batches(real, torch.cat(fakes).detach(), mixing):
                with self.autocast():
                    real_logits, fake_logits = discriminator(x), discriminator(fake)
                loss_d = self.loss.discriminator_loss(real_logits, fake_logits)
                penalties = self.regularizer.penalties(discriminator, x, fake, share, update_number)
                update.backward(sum(penalties.values(), loss_d))
                update.record(loss_d=loss_d, real_logit=real_logits.mean(), fake_logit=fake_logits.mean(), **penalties)
        return update.metrics

    def _update_generator(self, z: Tensor, fakes: list[Tensor]) -> Metrics:
        """Descends the generator's loss through the frozen discriminator."""
        with self.update("generator") as update:
            for part, fake in zip(z.chunk(self.micro_batch_count), fakes, strict=True):
                with self.autocast():
                    fake = fake if fake.requires_grad else self.networks["generator"](part)
                    fake_logits = self.networks["discriminator"](fake)
                loss_g = self.loss.generator_loss(fake_logits)
                update.backward(loss_g)
                update.record(loss_g=loss_g)
        return update.metrics

    def latents(self, count: int, generator: torch.Generator) -> Tensor:
        size = (count, self.config.model.latent_dim)
        if self.config.model.latent_distribution == "uniform":
            return (torch.rand(*size, generator=generator) * 2 - 1).to(self.device)
        return torch.randn(*size, generator=generator).to(self.device)

    def decode(self, latents: Tensor) -> Tensor:
        with self.inference():
            return self.inference_network("generator")(latents.to(self.device)).float()
