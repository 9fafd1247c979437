"""Adversarial losses against hand-computed values, signs and extremes."""

from __future__ import annotations

import math

import pytest
import torch

from genlab.errors import UserError
from genlab.losses import ADVERSARIAL_LOSSES


def log1p_exp(x: float) -> float:
    return math.log1p(math.exp(x))


REAL, FAKE = [2.0, -1.0], [0.5, -3.0]
BCE_D = (log1p_exp(-2) + log1p_exp(1)) / 2 + (log1p_exp(0.5) + log1p_exp(-3)) / 2
EXPECTED = {  # name: (discriminator, generator)
    "non_saturating": (BCE_D, (log1p_exp(-0.5) + log1p_exp(3)) / 2),
    "minimax": (BCE_D, -(log1p_exp(0.5) + log1p_exp(-3)) / 2),
    "lsgan": (0.5 * (1 + 4) / 2 + 0.5 * (0.25 + 9) / 2, 0.5 * (0.25 + 16) / 2),
    "hinge": ((0 + 2) / 2 + (1.5 + 0) / 2, 1.25),
    "wasserstein": (-1.25 - 0.5, 1.25),
}


def test_every_loss_has_hand_values():
    assert set(EXPECTED) == set(ADVERSARIAL_LOSSES.names())


@pytest.mark.parametrize("name", EXPECTED)
def test_loss_equals_the_value_computed_by_hand(name):
    loss = ADVERSARIAL_LOSSES.get(name)
    real, fake = torch.tensor(REAL, dtype=torch.float64), torch.tensor(FAKE, dtype=torch.float64)
    assert loss.discriminator_loss(real, fake).item() == pytest.approx(EXPECTED[name][0], rel=1e-12)
    assert loss.generator_loss(fake).item() == pytest.approx(EXPECTED[name][1], rel=1e-12)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_correct_discriminator_and_a_deceiving_generator_have_the_lower_loss(name):
    loss = ADVERSARIAL_LOSSES.get(name)
    high, low = torch.full((4,), 0.9), torch.full((4,), -0.9)
    assert loss.discriminator_loss(high, low) < loss.discriminator_loss(low, high)
    assert loss.generator_loss(high) < loss.generator_loss(low)


@pytest.mark.parametrize("name", EXPECTED)
def test_patch_logits_of_any_shape_are_averaged(name):
    loss = ADVERSARIAL_LOSSES.get(name)
    real, fake = torch.randn(2, 1, 3, 5), torch.randn(2, 1, 3, 5)
    torch.testing.assert_close(
        loss.discriminator_loss(real, fake), loss.discriminator_loss(real.flatten(), fake.flatten())
    )
    torch.testing.assert_close(loss.generator_loss(fake), loss.generator_loss(fake.flatten()))
    assert loss.generator_loss(fake).dim() == 0


@pytest.mark.parametrize("name", EXPECTED)
def test_extreme_logits_give_finite_losses_and_gradients(name):
    loss = ADVERSARIAL_LOSSES.get(name)
    logits = torch.tensor([1000.0, -1000.0, 0.0], requires_grad=True)
    total = loss.discriminator_loss(logits, logits.flip(0)) + loss.generator_loss(logits)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", EXPECTED)
def test_half_precision_logits_are_reduced_in_float32(name, dtype):
    loss = ADVERSARIAL_LOSSES.get(name)
    logits = torch.full((70000,), 3.0, dtype=dtype)  # a float16 sum would overflow at 65504
    value = loss.discriminator_loss(logits, logits) + loss.generator_loss(logits)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)


def test_the_non_saturating_generator_learns_where_the_minimax_one_does_not():
    """Section 3 of the GAN paper: the gradient where the discriminator is sure."""
    gradients = {}
    for name in ("non_saturating", "minimax"):
        logit = torch.tensor([-10.0], requires_grad=True)
        ADVERSARIAL_LOSSES.get(name).generator_loss(logit).backward()
        gradients[name] = logit.grad.abs().item()
    assert gradients["non_saturating"] > 0.99
    assert gradients["minimax"] < 1e-4


def test_an_unknown_loss_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'hinge'"):
        ADVERSARIAL_LOSSES.get("hinges")
