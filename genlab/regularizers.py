"""Regularisers of discriminators by name: gradient penalty, R1 and spectral normalisation, usable by any GAN trainer.

The penalties differentiate the discriminator's output with respect to its input, and are themselves differentiated with
respect to its weights. They run in float32 outside autocast whatever the precision of the step: the square of a float16
gradient over- and underflows. Each is a mean over the local samples, so averaging gradients over processes or
micro-batches gives the penalty of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from genlab.config import Section
from genlab.registry import Registry


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


class RegularizersConfig(Section):
    """What restrains the discriminator."""

    gradient_penalty: GradientPenaltyConfig | None = None
    r1: R1Config | None = None
    spectral_norm: bool = False


def _input_gradient(discriminator: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """d sum(D(x)) / dx, flattened to (N, -1), itself differentiable.

    The samples do not mix in the sum (without batch statistics), so row i is the gradient of D(x_i).
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


def apply_spectral_norm(discriminator: nn.Module) -> nn.Module:
    """Divides every convolution and linear weight by its largest singular value (Miyato et al. 2018, algorithm 1).

    The value is tracked by one power iteration for each training forward. Works in place; weights keep their values
    under `parametrizations.weight.original` in the state dict.
    """
    for module in discriminator.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and not parametrize.is_parametrized(module):
            spectral_norm(module, n_power_iterations=1)
    return discriminator


class DiscriminatorRegularizer:
    """The penalties that a configuration asks for, as terms of the discriminator's loss.

    Args:
        config: which penalties, with their settings.
    """

    def __init__(self, config: RegularizersConfig) -> None:
        self.config = config

    @property
    def draws_mixing(self) -> bool:
        """Whether `penalties` needs a `mixing` tensor."""
        return self.config.gradient_penalty is not None

    def penalties(
        self,
        discriminator: Callable[[Tensor], Tensor],
        real: Tensor,
        fake: Tensor,
        mixing: Tensor | None,
        update: int,
    ) -> dict[str, Tensor]:
        """name -> 0-d tensor of each penalty due in discriminator update number `update` (from 0)."""
        terms = {}
        for name in REGULARIZERS:
            settings = getattr(self.config, name)
            if settings is not None and update % getattr(settings, "interval", 1) == 0:
                terms[name] = REGULARIZERS.get(name)(discriminator, real, fake, mixing, settings)
        return terms


REGULARIZERS: Registry[Callable[..., Tensor]] = Registry("regulariser")
REGULARIZERS.register("gradient_penalty")(gradient_penalty)


@REGULARIZERS.register("r1")
def _r1_term(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mixing: Tensor | None, config: R1Config
) -> Tensor:
    return r1_penalty(discriminator, real, config)
