"""Adversarial losses by name: pure functions of logits, usable by any GAN trainer.

A logit is the discriminator's (or critic's) output before any sigmoid. Logits may have any shape - one number per
image, or a map of patches - and are averaged over all elements. Half-precision logits are reduced in float32, and large
ones give finite losses. All of them are `genlab.ops.gan_loss`: value and gradient in one pass over the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from genlab.ops import gan_loss
from genlab.registry import Registry


class AdversarialLoss(NamedTuple):
    """The two sides of one game; both are minimised.

    Attributes:
        discriminator_loss: (real_logits, fake_logits) -> 0-d tensor.
        generator_loss: (fake_logits) -> 0-d tensor.
        boundary: logits above it call a sample real; None for a critic, whose scores only compare.
    """

    discriminator_loss: Callable[[Tensor, Tensor], Tensor]
    generator_loss: Callable[[Tensor], Tensor]
    boundary: float | None = 0.0


ADVERSARIAL_LOSSES: Registry[AdversarialLoss] = Registry("adversarial loss")


def bce_discriminator_loss(real_logits: Tensor, fake_logits: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))], D = sigmoid(logit) (Goodfellow et al. 2014, equation 1).

    With label_smoothing a, real samples count as real with probability 1 - a (Salimans et al. 2016, section 3.4).
    """
    return gan_loss("non_saturating", fake_logits, real_logits, label_smoothing=label_smoothing)


def non_saturating_generator_loss(fake_logits: Tensor) -> Tensor:
    """-E[log D(G(z))]: strong gradients where the discriminator wins (Goodfellow et al. 2014, section 3)."""
    return gan_loss("non_saturating", fake_logits)


def minimax_generator_loss(fake_logits: Tensor) -> Tensor:
    """E[log(1 - D(G(z)))], the generator's side of the zero-sum game (Goodfellow et al. 2014, equation 1)."""
    return gan_loss("minimax", fake_logits)


def lsgan_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """1/2 E[(D(x) - 1)^2] + 1/2 E[D(G(z))^2] (Mao et al. 2017, equation 9: a = 0, b = 1)."""
    return gan_loss("lsgan", fake_logits, real_logits)


def lsgan_generator_loss(fake_logits: Tensor) -> Tensor:
    """1/2 E[(D(G(z)) - 1)^2] (Mao et al. 2017, equation 9: c = 1)."""
    return gan_loss("lsgan", fake_logits)


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))] (Lim and Ye 2017; Miyato et al. 2018, equation 16)."""
    return gan_loss("hinge", fake_logits, real_logits)


def wasserstein_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[f(G(z))] - E[f(x)]: minus the critic's estimate of the distance (Arjovsky et al. 2017, equation 2)."""
    return gan_loss("wasserstein", fake_logits, real_logits)


def negative_mean_generator_loss(fake_logits: Tensor) -> Tensor:
    """-E[f(G(z))] (Arjovsky et al. 2017, algorithm 1; Miyato et al. 2018, equation 17)."""
    return gan_loss("wasserstein", fake_logits)


ADVERSARIAL_LOSSES.register("non_saturating")(AdversarialLoss(bce_discriminator_loss, non_saturating_generator_loss))
ADVERSARIAL_LOSSES.register("minimax")(AdversarialLoss(bce_discriminator_loss, minimax_generator_loss))
ADVERSARIAL_LOSSES.register("lsgan")(AdversarialLoss(lsgan_discriminator_loss, lsgan_generator_loss, boundary=0.5))
ADVERSARIAL_LOSSES.register("hinge")(AdversarialLoss(hinge_discriminator_loss, negative_mean_generator_loss))
ADVERSARIAL_LOSSES.register("wasserstein")(
    AdversarialLoss(wasserstein_discriminator_loss, negative_mean_generator_loss, boundary=None)
)
