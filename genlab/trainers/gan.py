"""What the GANs that make samples of noise share: their networks and optimisers, and the two updates of the game."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from genlab.ema import EmaConfig
from genlab.errors import ConfigError
from genlab.models.gan_networks import GAN_NETWORKS, check_sides
from genlab.optimizers import build_optimizer
from genlab.regularizers import apply_spectral_norm
from genlab.trainers.base import Batch, Metrics, Picture
from genlab.trainers.diagnosis import discriminator_signs, sample_values
from genlab.trainers.game import GameTrainer
from genlab.trainers.gan_config import UNIFORM_RANGES, GanRunConfig
from genlab.trainers.graphs import Uncaptured

Condition = tuple[Tensor, ...]
SCATTERED = 2000  # points of each kind in a picture


class GanTrainer(GameTrainer):
    """Networks "generator" and "discriminator" with one optimiser each, and the two updates of the game.

    Symbols of the GAN paper (Goodfellow et al. 2014, algorithm 1): x = real, z = noise, G(z) = fake. `condition` is
    what both networks get beside their input, such as labels; () for none.
    """

    config: GanRunConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.config.gan.regularizers.consistency is not None and self.data.kind == "points":
            raise ConfigError("gan.regularizers.consistency: expected images, which it shifts and mirrors, got points")

    def build_networks(self) -> dict[str, nn.Module]:
        model, shape = self.config.model, self.data.shape
        families = {"network": model.network, "discriminator": model.discriminator or model.network}
        for key, family in families.items():
            kinds = GAN_NETWORKS.get(family).data_kinds
            if self.data.kind not in kinds:
                able = [name for name in GAN_NETWORKS if self.data.kind in GAN_NETWORKS.get(name).data_kinds]
                raise ConfigError(
                    f"model.{key}={family}: expected {' or '.join(kinds)}, got {self.data.kind}; "
                    f"choose {' or '.join(able) or 'another data set'}"
                )
            if self.data.kind == "images":
                try:
                    check_sides(key, family, GAN_NETWORKS, *shape[1:])
                except ValueError as error:
                    raise ConfigError(str(error)) from None
        try:
            generator = GAN_NETWORKS.get(families["network"]).generator(shape, model)
            discriminator = GAN_NETWORKS.get(families["discriminator"]).discriminator(shape, model)
        except ValueError as error:
            raise ConfigError(f"model.network={model.network}: {error}") from None
        if self.config.gan.regularizers.spectral_norm:
            apply_spectral_norm(discriminator)
        return {"generator": generator, "discriminator": discriminator}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        generator, discriminator = self.networks["generator"], self.networks["discriminator"]
        return {
            "generator": build_optimizer(self.config.generator_optimizer, generator.parameters()),
            "discriminator": build_optimizer(self.config.discriminator_optimizer, discriminator.parameters()),
        }

    def averaged_networks(self) -> dict[str, EmaConfig]:
        return {"generator": self.config.gan.ema} if self.config.gan.ema is not None else {}

    @property
    def batches_per_step(self) -> int:
        return self.config.gan.discriminator_steps

    @property
    def discriminator_updates(self) -> int:
        """Updates of the discriminator before the present step."""
        return self.step * self.config.gan.discriminator_steps

    @property
    def graph_key(self) -> Hashable | Uncaptured:
        return self.regularizer.graph_key(self.discriminator_updates, self.batches_per_step)

    # The parts of a step.

    def draw_noise(self, count: int) -> Tensor:
        """z of the local batch, (count, latent_dim)."""
        model = self.config.model
        if model.latent_distribution == "normal":
            return self.noise.normal(count, model.latent_dim)
        low, high = UNIFORM_RANGES[model.latent_distribution]
        return self.noise.uniform(count, model.latent_dim).mul_(high - low).add_(low)

    def generate(self, z: Tensor, condition: Condition = (), *, keep_graph: bool) -> list[Tensor]:
        """G(z) of each micro-batch. With several of them no graph is kept: its memory is what they are to save."""
        keep_graph = keep_graph and self.micro_batch_count == 1
        parts = zip(*(value.chunk(self.micro_batch_count) for value in (z, *condition)), strict=True)
        with torch.set_grad_enabled(keep_graph), self.autocast():
            return [self.networks["generator"](*part) for part in parts]

    def update_discriminator(
        self, real: Tensor, fakes: list[Tensor], update_number: int, condition: Condition = ()
    ) -> Metrics:
        """Descends the discriminator's loss and penalties on x and G(z); no gradient reaches the generator.

        Args:
            real: x of the local batch.
            fakes: G(z) of each micro-batch.
            update_number: discriminator updates before this one; lazy penalties go by it.
            condition: of the real and the generated samples alike.
        """
        network, regularizer, seen = self.networks["discriminator"], self.regularizer, []
        mixing = self.draw_mixing(real)
        with self.update("discriminator") as update:
            for x, fake, share, *given in update.micro_batches(real, torch.cat(fakes).detach(), mixing, *condition):
                with self.autocast(), regularizer.watch(network) as codes:
                    real_logits, fake_logits = network(x, *given), network(fake, *given)
                loss_d = self.loss.discriminator_loss(real_logits, fake_logits)
                judge = partial(_with_condition, network, tuple(given))
                penalties = regularizer.penalties(
                    judge, x, fake, share, update_number, real_logits=real_logits, codes=codes
                )
                update.backward(sum(penalties.values(), loss_d))
                update.record(loss_d=loss_d, real_logit=real_logits.mean(), fake_logit=fake_logits.mean(), **penalties)
                update.record(**discriminator_signs(real_logits, fake_logits, self.loss.boundary))
                seen += codes[:1]
        regularizer.remember("real", seen, self.distributed)
        return update.metrics

    def update_generator(self, z: Tensor, fakes: list[Tensor] | None = None, condition: Condition = ()) -> Metrics:
        """Descends the generator's loss through the frozen discriminator.

        Args:
            z: noise of the local batch.
            fakes: G(z) of each micro-batch, where it is known; made again where it carries no graph.
            condition: of the generated samples.
        """
        network, regularizer, seen = self.networks["discriminator"], self.regularizer, []
        parts = (value.chunk(self.micro_batch_count) for value in (z, *condition))
        with self.update("generator") as update:
            for fake, part, *given in zip(fakes or [None] * self.micro_batch_count, *parts, strict=True):
                with self.autocast(), regularizer.watch(network) as codes:
                    if fake is None or not fake.requires_grad:
                        fake = self.networks["generator"](part, *given)
                    fake_logits = network(fake, *given)
                loss_g = self.loss.generator_loss(fake_logits)
                penalties = regularizer.generator_penalties(codes)
                update.backward(sum(penalties.values(), loss_g))
                update.record(loss_g=loss_g, **penalties)
                seen += codes
        regularizer.remember("generated", seen, self.distributed)
        return update.metrics

    # Sampling.

    def latents(self, count: int, generator: torch.Generator) -> Tensor:
        model = self.config.model
        if model.latent_distribution == "normal":
            return torch.randn(count, model.latent_dim, generator=generator).to(self.device)
        low, high = UNIFORM_RANGES[model.latent_distribution]
        return torch.rand(count, model.latent_dim, generator=generator).mul_(high - low).add_(low).to(self.device)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_labels(labels)
        given = () if labels is None else (labels.to(self.device),)
        with self.inference():
            return self.inference_network("generator")(latents.to(self.device), *given).float()

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Picture]:
        """A grid of images; of points, real and generated ones in one picture."""
        if self.data.kind != "points":
            return super().preview(count, generator, examples)
        from genlab.scatter import scatter_picture

        return [Picture(scatter_picture(sample_values(examples(SCATTERED)), self.sample(SCATTERED, generator)))]


def _with_condition(network: nn.Module, condition: Condition, inputs: Tensor) -> Tensor:
    return network(inputs, *condition)
