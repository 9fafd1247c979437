"""InfoGAN (Chen et al. 2016, "Interpretable Representation Learning by Information Maximizing GANs"), equation 6.

    min over G, Q  max over D   V(D, G) - lambda L_I(G, Q),   L_I = E[log Q(c|x)] + H(c),  c ~ P(c), x = G(z, c)

Symbols: x = real, z = noise and codes c together, G(z) = fake. D and Q share a trunk. As in the authors' code the term
of L_I stands in both losses: the discriminator's update trains Q and the trunk by it, the generator's update G.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from genlab.codes import Codes
from genlab.errors import ConfigError
from genlab.models.infogan import InfoGanDiscriminator, InfoGanGenerator
from genlab.regularizers import apply_spectral_norm
from genlab.trainers.base import Batch, Metrics, Picture
from genlab.trainers.diagnosis import discriminator_signs
from genlab.trainers.gan import GanTrainer
from genlab.trainers.gan_config import UNIFORM_RANGES
from genlab.trainers.infogan_config import InfoGanConfig
from genlab.trainers.update import mean_of_updates
from genlab.traversal import Code, rows_to_grid, walk_codes

if TYPE_CHECKING:
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData


class InfoGanTrainer(GanTrainer):
    """Generator of noise and codes; discriminator that finds the codes again."""

    config_class = InfoGanConfig
    config: InfoGanConfig
    own_score_names = ("code_error", "information_bound")

    def build_networks(self) -> dict[str, nn.Module]:
        model, (channels, size, width) = self.config.model, self.data.shape
        if size != width:
            raise ConfigError(f"algorithm infogan: expected square images, got {size}x{width} px; set data.image_size")
        generator = InfoGanGenerator(
            size, channels, model.latent_dim, model.base_channels, model.dense_width, pixels=model.pixels
        )
        discriminator = InfoGanDiscriminator(
            size, channels, self.spec.statistics_width, model.base_channels,
            batch_norm=model.discriminator_batch_norm, dense_width=model.dense_width,
            recognition_width=model.recognition_width, pixels=model.pixels, negative_slope=model.negative_slope,
        )  # fmt: skip
        if self.config.gan.regularizers.spectral_norm:
            apply_spectral_norm(discriminator)
        return {"generator": generator, "discriminator": discriminator}

    @property
    def spec(self) -> Codes:
        """The codes c."""
        return self.config.model.codes

    def train_step(self, *batches: Batch) -> Metrics:
        updates = []
        for k, batch in enumerate(batches):
            x = batch["image"]
            z = self.draw_noise(x.shape[0])
            fakes = self.generate(z, keep_graph=False)
            updates.append(self.update_discriminator_and_q(x, fakes, z, self.step * len(batches) + k))
        # Codes that Q was not fitted on a moment ago, as in the authors' code.
        z = self.draw_noise(x.shape[0])
        return {**mean_of_updates(updates), **self.update_generator(z)}

    def update_discriminator_and_q(self, real: Tensor, fakes: list[Tensor], z: Tensor, update_number: int) -> Metrics:
        """Descends D's loss and -lambda L_I on x and G(z), trunk and both heads; no gradient reaches the generator."""
        network, regularizer, seen = self.networks["discriminator"], self.regularizer, []
        mixing = self.draw_mixing(real)
        with self.update("discriminator") as update:
            for x, fake, share, part in update.micro_batches(real, torch.cat(fakes).detach(), mixing, z):
                with self.autocast(), regularizer.watch(network) as codes:
                    real_logits, (fake_logits, statistics) = network(x), network.recognise(fake)
                loss_d = self.loss.discriminator_loss(real_logits, fake_logits)
                bounds, weighted = self.information(statistics, part)
                penalties = regularizer.penalties(
                    network, x, fake, share, update_number, real_logits=real_logits, codes=codes
                )
                update.backward(sum(penalties.values(), loss_d - weighted))
                update.record(loss_d=loss_d, real_logit=real_logits.mean(), fake_logit=fake_logits.mean(), **penalties)
                update.record(**bounds, **discriminator_signs(real_logits, fake_logits, self.loss.boundary))
                seen += codes[:1]
        regularizer.remember("real", seen, self.distributed)
        return update.metrics

    def update_generator(self, z: Tensor) -> Metrics:
        """Descends G's loss and -lambda L_I through the frozen discriminator and Q."""
        network, regularizer, seen = self.networks["discriminator"], self.regularizer, []
        with self.update("generator") as update:
            for part in z.chunk(self.micro_batch_count):
                with self.autocast(), regularizer.watch(network) as codes:
                    fake_logits, statistics = network.recognise(self.networks["generator"](part))
                loss_g = self.loss.generator_loss(fake_logits)
                penalties = regularizer.generator_penalties(codes)
                update.backward(sum(penalties.values(), loss_g - self.information(statistics, part)[1]))
                update.record(loss_g=loss_g, **penalties)
                seen += codes
        regularizer.remember("generated", seen, self.distributed)
        return update.metrics

    def information(self, statistics: Tensor, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """({"mi_<kind>": L_I of the kind, ..., "mi_bound": of all, "code_entropy": H(c)}, sum of lambda L_I)."""
        bounds = self.spec.information_bound(statistics, self.codes_of(z))
        weighted = sum(getattr(self.config.information, kind) * bound for kind, bound in bounds.items())
        named = {f"mi_{kind}": bound for kind, bound in bounds.items()}
        entropy = torch.full((), sum(self.spec.entropy().values()), device=z.device)
        return {**named, "mi_bound": sum(bounds.values()), "code_entropy": entropy}, weighted

    # Noise and codes: z first, then c.

    def draw_noise(self, count: int) -> Tensor:
        return self._join(self.noise.uniform, self.noise.normal, count)

    def latents(self, count: int, generator: torch.Generator) -> Tensor:
        return self._join(
            lambda n, width: torch.rand(n, width, generator=generator),
            lambda n, width: torch.randn(n, width, generator=generator),
            count,
        ).to(self.device)

    def _join(self, uniform: Callable[..., Tensor], normal: Callable[..., Tensor], count: int) -> Tensor:
        model, spec = self.config.model, self.spec
        if model.latent_distribution == "normal":
            noise = normal(count, model.noise_dim)
        else:
            low, high = UNIFORM_RANGES[model.latent_distribution]
            noise = uniform(count, model.noise_dim) * (high - low) + low
        codes = spec.draw(uniform(count, len(spec.categorical) + spec.uniform), normal(count, spec.gaussian))
        return torch.cat([noise, codes], dim=1)

    def codes_of(self, z: Tensor) -> Tensor:
        """c of noise and codes together, (N, spec.width)."""
        return z[:, self.config.model.noise_dim :]

    def codes(self) -> list[Code]:
        """c1, c2, ... in the paper's order: categories, then numbers, each walked through its prior's range."""
        spec, start, codes = self.spec, self.config.model.noise_dim, []
        for size in spec.categorical:
            codes.append(Code(f"c{len(codes) + 1}", start, None, size))
            start += size
        for index in range(spec.continuous):
            ends = (-1.0, 1.0) if index < spec.uniform else (-3.0, 3.0)
            codes.append(Code(f"c{len(codes) + 1}", start, ends))
            start += 1
        return codes

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Picture]:
        """Samples, and one grid for each code: its values from left to right, a new z in each row (figure 2)."""
        pictures = [Picture(self.sample(count, generator))]
        rows = min(count, max([8, *self.spec.categorical]))
        bases = self.latents(rows, generator)
        start = self.config.model.noise_dim
        if self.spec.categorical:  # a category of its own in each row, so that every one of them is seen varied
            size = self.spec.categorical[0]
            bases[:, start : start + size] = torch.eye(size, device=bases.device)[torch.arange(rows) % size]
        for code in self.codes():
            images, columns = rows_to_grid(walk_codes(self, [code], bases, 10))
            pictures.append(Picture(images, columns, code.name))
        return pictures

    # Scores.

    def recognise(self, images: Tensor) -> Tensor:
        """Statistics of Q(c|x), (N, spec.statistics_width) float32, of images (N, C, H, W) in [-1, 1]."""
        with self.inference():
            return self.networks["discriminator"].recognise(images.to(self.device))[1].float()

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.metrics.codes import code_errors, information_score

        return [*code_errors(self, data), information_score(self, data)]
