"""Regularisers of GANs by name, usable by any GAN trainer.

Of the discriminator: gradient penalty, R1, drift, consistency and spectral normalisation; of both players: manifold
entropy (`genlab.manifold_entropy`).

Gradient penalty and R1 differentiate the discriminator's output with respect to its input, and are themselves
differentiated with respect to its weights. They run in float32 outside autocast whatever the precision of the step: the
square of a float16 gradient over- and underflows. Each penalty is a mean over the local samples, so averaging gradients
over processes or micro-batches gives the penalty of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from genlab.config import Section
from genlab.consistency import ConsistencyConfig, consistency_penalty
from genlab.distributed import Distributed
from genlab.errors import ConfigError
from genlab.manifold_entropy import ManifoldEntropy, ManifoldEntropyConfig
from genlab.registry import Registry

if TYPE_CHECKING:
    from genlab.trainers.graphs import Uncaptured


class GradientPenaltyConfig(Section):
    """Gulrajani et al. 2017, algorithm 1."""

    weight: float = Field(10.0, ge=0, description="lambda")
    target: float = Field(1.0, ge=0, description="norm that the gradient is drawn to; 0: zero-centred")
    centre: Literal["interpolates", "real", "fake"] = Field("interpolates", description="points where it is taken")
    one_sided: bool = Field(False, description="punish only norms above the target (Petzka et al. 2018)")


class R1Config(Section):
    """Mescheder et al. 2018, equation 9."""

    weight: float = Field(10.0, ge=0, description="gamma; the penalty is gamma / 2 E|grad|^2")
    interval: int = Field(1, ge=1, description="discriminator updates between penalties, each weighted by the interval")


class DriftConfig(Section):
    """Karras et al. 2018, appendix A.1."""

    weight: float = Field(1e-3, ge=0, description="epsilon")


class RegularizersConfig(Section):
    """What restrains the players."""

    gradient_penalty: GradientPenaltyConfig | None = Field(
        None,
        description="draws the norm of dD/dx to 1 between real and generated samples (Gulrajani et al. 2017); of each "
        "sample alone where the discriminator has no batch statistics",
    )
    r1: R1Config | None = Field(
        None,
        description="keeps dD/dx small at real samples (Mescheder et al. 2018); of each sample alone where the "
        "discriminator has no batch statistics",
    )
    drift: DriftConfig | None = Field(None, description="keeps D(x) near zero (Karras et al. 2018, appendix A.1)")
    consistency: ConsistencyConfig | None = Field(
        None, description="D says the same of a shifted, mirrored image (Zhang et al. 2020, CR-GAN)"
    )
    manifold_entropy: ManifoldEntropyConfig | None = Field(
        None, description="spreads D's codes of samples, against mode collapse (Liu et al. 2023)"
    )
    spectral_norm: bool = Field(
        False, description="divides D's weights by their largest singular value (Miyato et al. 2018)"
    )


def _input_gradient(discriminator: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """d sum(D(x)) / dx, flattened to (N, -1), itself differentiable.

    The samples do not mix in the sum (without batch statistics), so row i is the gradient of D(x_i). Through batch
    statistics it also holds what x_i does to the logits of the others.
    """
    inputs = inputs.detach().float().requires_grad_(True)
    with torch.autocast(inputs.device.type, enabled=False):
        logits = discriminator(inputs)
        (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return gradient.reshape(gradient.shape[0], -1)


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    mixing: Tensor,
    config: GradientPenaltyConfig | None = None,
) -> Tensor:
    """weight * E[(|grad D(x^)| - target)^2] with x^ = mixing * real + (1 - mixing) * fake.

    Args:
        discriminator: images to logits, called once on x^.
        real, fake: (N, ...) of one shape; no gradient flows to them.
        mixing: uniform numbers in [0, 1), (N, 1, ..., 1): one for each sample.
        config: weight, target, where it is taken and on which side.

    Returns:
        0-d float32 tensor whose gradient reaches the discriminator's weights.
    """
    config = config or GradientPenaltyConfig()
    points = {
        "interpolates": lambda: torch.lerp(fake.detach().float(), real.detach().float(), mixing.float()),
        "real": lambda: real,
        "fake": lambda: fake,
    }[config.centre]()
    norms = _input_gradient(discriminator, points).norm(2, dim=1)
    excess = norms - config.target
    if config.one_sided:
        excess = excess.clamp(min=0)
    return config.weight * excess.square().mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor, config: R1Config | None = None) -> Tensor:
    """weight / 2 * E[|grad D(x)|^2] over real images, times the interval at which it is applied.

    With an interval k > 1 the penalty is taken in every k-th update at k times its weight: the same pull on average, at
    1/k of the cost (StyleGAN2's lazy regularisation; Karras et al. 2020, appendix B).
    """
    config = config or R1Config()
    squared = _input_gradient(discriminator, real).square().sum(dim=1)
    return (config.weight / 2 * config.interval) * squared.mean()


def drift_penalty(real_logits: Tensor, config: DriftConfig | None = None) -> Tensor:
    """weight * E[D(x)^2] over real samples: keeps a critic's scores, which only differences fix, near zero."""
    config = config or DriftConfig()
    return config.weight * real_logits.float().square().mean()


def apply_spectral_norm(discriminator: nn.Module) -> nn.Module:
    """Divides every convolution and linear weight by its largest singular value (Miyato et al. 2018, algorithm 1).

    The value is tracked by one power iteration for each training forward. Works in place; weights keep their values
    under `parametrizations.weight.original` in the state dict.
    """
    for module in discriminator.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and not parametrize.is_parametrized(module):
            spectral_norm(module, n_power_iterations=1)
    return discriminator


@dataclass(frozen=True)
class DiscriminatorPass:
    """What a penalty may look at.

    Attributes:
        discriminator: samples to logits.
        real, fake: (N, ...) of one shape.
        numbers: uniform numbers in [0, 1), (N, k, 1, ...) with k = `DiscriminatorRegularizer.numbers_per_sample`.
        real_logits: D(real).
        codes: codes of the real samples, where manifold entropy watches.
    """

    discriminator: Callable[[Tensor], Tensor]
    real: Tensor
    fake: Tensor
    numbers: Tensor | None
    real_logits: Tensor
    codes: Tensor | None


class DiscriminatorRegularizer:
    """The penalties that a configuration asks for, as terms of the players' losses.

    Args:
        config: which penalties, with their settings.

    Attributes:
        manifold_entropy: the term with its buffers; None where the configuration has none.
    """

    def __init__(self, config: RegularizersConfig) -> None:
        self.config = config
        self.manifold_entropy = ManifoldEntropy(config.manifold_entropy) if config.manifold_entropy else None

    @property
    def numbers_per_sample(self) -> int:
        """Uniform numbers that `penalties` needs for each sample: the mixing first, then those of the variation."""
        if self.config.consistency is not None:
            return 4
        return 1 if self.config.gradient_penalty is not None else 0

    @property
    def draws_mixing(self) -> bool:
        """Whether `penalties` needs random numbers at all."""
        return self.numbers_per_sample > 0

    def graph_key(self, first: int, count: int) -> Hashable | Uncaptured:
        """Which penalties are due in each of `count` updates from number `first` on; see `Trainer.graph_key`."""
        from genlab.trainers.graphs import Uncaptured

        if self.manifold_entropy is not None:
            return Uncaptured("gan.regularizers.manifold_entropy keeps a memory that grows")
        lazy = [s.interval for s in (getattr(self.config, name) for name in REGULARIZERS) if hasattr(s, "interval")]
        lazy = [interval for interval in lazy if interval > 1]
        return (count, *(update % interval == 0 for interval in lazy for update in range(first, first + count)))

    def watch(self, discriminator: nn.Module) -> AbstractContextManager[list[Tensor]]:
        """Inside, the discriminator's passes append their codes to the list; it stays empty where nobody needs them."""
        return nullcontext([]) if self.manifold_entropy is None else self.manifold_entropy.watch(discriminator)

    def penalties(
        self,
        discriminator: Callable[[Tensor], Tensor],
        real: Tensor,
        fake: Tensor,
        mixing: Tensor | None,
        update: int,
        *,
        real_logits: Tensor | None = None,
        codes: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The penalties due in one update of the discriminator.

        Args:
            discriminator: samples to logits.
            real, fake: (N, ...) of one shape; no gradient flows to them.
            mixing: uniform numbers in [0, 1), (N, numbers_per_sample, 1, ..., 1), or None where that is 0.
            update: number of the discriminator's update, from 0.
            real_logits: D(real) where it is at hand; else it is computed where needed.
            codes: what `watch` collected, the real samples' pass first.

        Returns:
            name -> 0-d tensor.
        """
        if self.manifold_entropy is not None and not codes:
            raise ConfigError("gan.regularizers.manifold_entropy: this algorithm does not offer it; leave it out")
        if self.config.consistency is not None and mixing.shape[1] < self.numbers_per_sample:
            raise ConfigError("gan.regularizers.consistency: this algorithm does not offer it; leave it out")
        if real_logits is None and (self.config.drift is not None or self.config.consistency is not None):
            real_logits = discriminator(real)
        passed = DiscriminatorPass(discriminator, real, fake, mixing, real_logits, codes[0] if codes else None)
        terms = {}
        for name in REGULARIZERS:
            settings = getattr(self.config, name)
            if settings is not None and update % getattr(settings, "interval", 1) == 0:
                terms[name] = REGULARIZERS.get(name)(passed, settings)
        if self.manifold_entropy is not None and self.manifold_entropy.config.real:
            term = self.manifold_entropy.term("real", passed.codes)
            terms |= {} if term is None else {"manifold_entropy": term}
        return terms

    def generator_penalties(self, codes: list[Tensor]) -> dict[str, Tensor]:
        """name -> 0-d tensor of each term of the generator's loss; `codes` is what `watch` collected of D(G(z))."""
        if self.manifold_entropy is None:
            return {}
        term = self.manifold_entropy.term("generated", codes[0])
        return {} if term is None else {"manifold_entropy_g": term}

    def remember(self, kind: str, codes: list[Tensor], distributed: Distributed) -> None:
        """Keeps the codes of an update, all micro-batches and processes of it, for the ones to come.

        Args:
            kind: "real" or "generated".
            codes: of each micro-batch; empty where nobody watched.
            distributed: this process among those of the run.
        """
        if self.manifold_entropy is not None and (kind == "generated" or self.manifold_entropy.config.real):
            self.manifold_entropy.remember(kind, distributed.all_gather(torch.cat(codes).detach().float()))

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs of the regularisers."""
        return {} if self.manifold_entropy is None else self.manifold_entropy.state()

    def load_state(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Takes back what `state` gave."""
        if self.manifold_entropy is not None:
            self.manifold_entropy.load_state(tensors, device)


REGULARIZERS: Registry[Callable[[DiscriminatorPass, Any], Tensor]] = Registry("regulariser")


@REGULARIZERS.register("gradient_penalty")
def _gradient_penalty_term(passed: DiscriminatorPass, config: GradientPenaltyConfig) -> Tensor:
    return gradient_penalty(passed.discriminator, passed.real, passed.fake, passed.numbers[:, :1], config)


@REGULARIZERS.register("r1")
def _r1_term(passed: DiscriminatorPass, config: R1Config) -> Tensor:
    return r1_penalty(passed.discriminator, passed.real, config)


@REGULARIZERS.register("drift")
def _drift_term(passed: DiscriminatorPass, config: DriftConfig) -> Tensor:
    return drift_penalty(passed.real_logits, config)


@REGULARIZERS.register("consistency")
def _consistency_term(passed: DiscriminatorPass, config: ConsistencyConfig) -> Tensor:
    return consistency_penalty(passed.discriminator, passed.real, passed.real_logits, passed.numbers[:, 1:], config)
