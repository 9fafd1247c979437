"""CycleGAN (Zhu, Park, Isola and Efros 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent ...").

Symbols of section 3: domains X = a and Y = b, G = generator_ab, F = generator_ba, D_X = discriminator_a,
D_Y = discriminator_b, lambda = cycle.weight. As in the authors' code, both generators are one update of one Adam and
both discriminators another; the discriminators are shown a pool of past pictures (section 4) and their objective is
halved.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.ema import EmaConfig
from genlab.models.patchgan import PatchDiscriminator
from genlab.models.translation_networks import translation_generator
from genlab.regularizers import apply_spectral_norm
from genlab.trainers.base import Batch, Metrics, Picture
from genlab.trainers.cyclegan_config import CycleGanConfig
from genlab.trainers.diagnosis import Finding, discriminator_signs, saturation_finding
from genlab.trainers.graphs import Uncaptured
from genlab.trainers.translation import (
    Direction,
    ImagePool,
    TranslationTrainer,
    grid_columns,
)

if TYPE_CHECKING:
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData

DISCRIMINATOR_WEIGHT = 0.5  # appendix 7.1: "we divide the objective by 2 while optimizing D"


class CycleGanTrainer(TranslationTrainer):
    """Two generators of one family, two PatchGANs."""

    config_class = CycleGanConfig
    data_kinds: ClassVar[tuple[str, ...]] = ("unpaired",)
    own_score_names: ClassVar[tuple[str, ...]] = (
        "cycle_l1_a", "cycle_l1_b", "frechet_ab", "frechet_ba", "kid_ab", "kid_ba",
    )  # fmt: skip
    scored_split = "test"
    example_keys: ClassVar[tuple[tuple[str, str], ...]] = (("a", "b"), ("b", "a"))
    config: CycleGanConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pools = {domain: ImagePool(self.config.cycle.pool_size) for domain in "ab"}

    def build_networks(self) -> dict[str, nn.Module]:
        model, patches, (channels, height, width) = self.config.model, self.config.discriminator, self.data.shape
        sizes = {"base_channels": model.base_channels, "blocks": model.blocks}
        networks: dict[str, nn.Module] = {}
        for way in ("ab", "ba"):
            networks[f"generator_{way}"] = translation_generator(
                model.network, channels, (height, width), **sizes, normalization="instance", affine=False
            )
        for domain in "ab":
            network = PatchDiscriminator(channels, self.field(), patches.base_channels, patches.normalization)
            spectral = self.config.gan.regularizers.spectral_norm
            networks[f"discriminator_{domain}"] = apply_spectral_norm(network) if spectral else network
        return networks

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        generators, discriminators = self.config.generator_optimizer, self.config.discriminator_optimizer
        return {
            "generators": self.joint_optimizer(generators, "generator_ab", "generator_ba"),
            "discriminators": self.joint_optimizer(discriminators, "discriminator_a", "discriminator_b"),
        }

    def averaged_networks(self) -> dict[str, EmaConfig]:
        ema = self.config.gan.ema
        return {} if ema is None else {"generator_ab": ema, "generator_ba": ema}

    @property
    def graph_key(self) -> Hashable | Uncaptured:
        if self.config.cycle.pool_size:
            return Uncaptured("the pool of past pictures (cycle.pool_size) is drawn from on the host")
        return super().graph_key

    def train_step(self, batch: Batch) -> Metrics:
        a, b = batch["a"], batch["b"]
        metrics, fake_a, fake_b = self._update_generators(a, b)
        shown_a, shown_b = (self._show_again(*fakes) for fakes in (("a", fake_a), ("b", fake_b)))
        return {**metrics, **self._update_discriminators(a, b, shown_a, shown_b)}

    def _update_generators(self, a: Tensor, b: Tensor) -> tuple[Metrics, Tensor, Tensor]:
        """Descends both adversarial losses through the frozen discriminators, the cycle and the identity losses.

        Returns:
            what to log, F(b) and G(a), detached.
        """
        g, f = self.networks["generator_ab"], self.networks["generator_ba"]
        cycle, identity = self.config.cycle.weight, self.config.cycle.weight * self.config.cycle.identity
        fakes_a, fakes_b = [], []
        with self.update("generators") as update:
            for x, y in update.micro_batches(a, b):
                with self.autocast():
                    fake_b = g(x)
                    fake_a, cycled_a, *same_a = together(f, y, fake_b, *([x] if identity else []))
                    cycled_b, *same_b = together(g, fake_a, *([y] if identity else []))
                    logits_a = self.networks["discriminator_a"](fake_a)
                    logits_b = self.networks["discriminator_b"](fake_b)
                loss_g_ab = self.loss_scale * self.loss.generator_loss(logits_b)
                loss_g_ba = self.loss_scale * self.loss.generator_loss(logits_a)
                loss_cycle = F.l1_loss(cycled_a.float(), x) + F.l1_loss(cycled_b.float(), y)
                update.record(loss_g_ab=loss_g_ab, loss_g_ba=loss_g_ba, loss_cycle=loss_cycle)
                loss = loss_g_ab + loss_g_ba + cycle * loss_cycle
                if identity:
                    loss_identity = F.l1_loss(same_a[0].float(), x) + F.l1_loss(same_b[0].float(), y)
                    update.record(loss_identity=loss_identity)
                    loss = loss + identity * loss_identity
                update.backward(loss)
                fakes_a.append(fake_a.detach().float())
                fakes_b.append(fake_b.detach().float())
        return update.metrics, torch.cat(fakes_a), torch.cat(fakes_b)

    def _show_again(self, domain: str, fakes: Tensor) -> Tensor:
        """The domain's pictures for the discriminator, from its pool of past ones.

        Every process puts the pictures of all of them through the same pool and takes its own share of what comes out,
        so that the pool is the same for any number of processes.
        """
        whole = self.distributed.all_gather(fakes)
        shown = self.pools[domain].exchange(whole, self.noise.generator)
        own = shown.chunk(self.distributed.world_size)[self.distributed.rank]
        return own.contiguous(memory_format=self._memory_format)

    def _update_discriminators(self, a: Tensor, b: Tensor, shown_a: Tensor, shown_b: Tensor) -> Metrics:
        """Descends the halved losses on real pictures and on those from the pools."""
        weight = DISCRIMINATOR_WEIGHT * self.loss_scale
        mixing = [self.draw_mixing(real) for real in (a, b)]
        with self.update("discriminators") as update:
            for x, y, old_x, old_y, *shares in update.micro_batches(a, b, shown_a, shown_b, *mixing):
                total = 0.0
                for domain, real, fake, share in zip("ab", (x, y), (old_x, old_y), shares, strict=True):
                    network = self.networks[f"discriminator_{domain}"]
                    with self.autocast():
                        real_logits, fake_logits = self._logits(network, real, fake)
                    loss = weight * self.loss.discriminator_loss(real_logits, fake_logits)
                    penalties = self.regularizer.penalties(network, real, fake, share, self.step)
                    total = total + sum(penalties.values(), loss)
                    logged = {"loss_d": loss, "real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}
                    logged |= discriminator_signs(real_logits, fake_logits, self.loss.boundary)
                    update.record(**{f"{name}_{domain}": value for name, value in {**logged, **penalties}.items()})
                update.backward(total)
        return update.metrics

    def findings(self, values: dict[str, float]) -> list[Finding]:
        """As for every GAN, with each of the discriminators watched by itself."""
        found = super().findings(values)
        for domain in "ab":
            own = {name: values[f"{name}_{domain}"] for name in ("accuracy", "loss_d") if f"{name}_{domain}" in values}
            saturated = saturation_finding(own, self.thresholds)
            if saturated is not None:
                return [*found, saturated]
        return found

    def _logits(self, network: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, ...]:
        """Of real and generated pictures: in one batch, unless its statistics would tie them together."""
        if self.config.discriminator.normalization == "batch":
            return network(real), network(fake)
        return together(network, real, fake)

    def extra_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        pools = {f"pool_{domain}/{k}": v for domain, pool in self.pools.items() for k, v in pool.state().items()}
        tensors, values = super().extra_state()
        return tensors | pools, values

    def load_extra_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_extra_state(tensors, values)
        for domain, pool in self.pools.items():
            prefix = f"pool_{domain}/"
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            pool.load_state(state, self.device)

    @property
    def directions(self) -> tuple[Direction, ...]:
        forward = self.config.data.direction
        return (forward, "b_to_a" if forward == "a_to_b" else "a_to_b")

    def translate(self, images: Tensor, generator: torch.Generator, direction: Direction | None = None) -> Tensor:
        # data.direction=b_to_a makes the folder B the trainer's domain a.
        forward = self.check_direction(direction) == self.directions[0]
        with self.inference():
            return self.inference_network("generator_ab" if forward else "generator_ba")(images.to(self.device)).float()

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Picture]:
        """Rows of a, G(a), F(G(a)), b, F(b), G(F(b))."""
        batch, (forth, back) = examples(max(1, count // 6)), self.directions
        rows = []
        for images, there, home in ((batch["a"], forth, back), (batch["b"], back, forth)):
            other = self.translate(images, generator, there)
            rows += [images, other, self.translate(other, generator, home)]
        return [Picture(torch.stack(rows, dim=1).flatten(0, 1), grid_columns(len(rows[0]), 6))]

    def check_scores(self, data: EvaluationData) -> None:
        from genlab.trainers.translation_scores import check_unpaired

        super().check_scores(data)
        check_unpaired(data)

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.trainers.translation_scores import unpaired_scores

        return unpaired_scores(self, data)


def together(network: nn.Module, *parts: Tensor) -> tuple[Tensor, ...]:
    """network(part) of each part from one pass: exact where no layer mixes samples, as with instance normalisation."""
    return network(torch.cat(parts)).split([part.shape[0] for part in parts])
