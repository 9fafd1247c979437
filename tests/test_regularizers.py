"""Penalties against closed forms, their weights and points, and spectral normalisation of the lab's convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genlab.nn import Conv2d, ConvTranspose2d
from genlab.regularizers import (
    DiscriminatorRegularizer,
    GradientPenaltyConfig,
    R1Config,
    RegularizersConfig,
    apply_spectral_norm,
    gradient_penalty,
    r1_penalty,
)


class Quadratic(nn.Module):
    """D(x) = scale / 2 |x|^2, so grad D(x) = scale x."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return self.scale / 2 * x.flatten(1).square().sum(dim=1)


def batch(count: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(count, 2, 3, 3), torch.randn(count, 2, 3, 3), torch.rand(count, 1, 1, 1)


def test_gradient_penalty_and_its_gradient_equal_the_closed_form():
    real, fake, mixing = batch()
    critic = Quadratic(0.7)
    penalty = gradient_penalty(critic, real, fake, mixing)
    norms = (mixing * real + (1 - mixing) * fake).flatten(1).norm(dim=1)
    torch.testing.assert_close(penalty, 10 * (0.7 * norms - 1).square().mean())
    penalty.backward()
    torch.testing.assert_close(critic.scale.grad, 10 * (2 * (0.7 * norms - 1) * norms).mean())


def test_r1_and_its_gradient_equal_the_closed_form():
    real, _, _ = batch()
    discriminator = Quadratic(0.7)
    penalty = r1_penalty(discriminator, real, R1Config(weight=4))
    squares = real.flatten(1).square().sum(dim=1).mean()
    torch.testing.assert_close(penalty, 4 / 2 * 0.7**2 * squares)
    penalty.backward()
    torch.testing.assert_close(discriminator.scale.grad, 4 / 2 * 2 * 0.7 * squares)


@pytest.mark.parametrize("centre", ["interpolates", "real", "fake"])
def test_the_penalty_is_taken_at_the_points_asked_for(centre):
    real, fake, mixing = batch()
    critic = Quadratic(1.0)
    gradient_penalty(critic, real, fake, mixing, GradientPenaltyConfig(centre=centre))
    expected = {"real": real, "fake": fake, "interpolates": mixing * real + (1 - mixing) * fake}[centre]
    torch.testing.assert_close(critic.seen[0].detach(), expected)


def test_target_weight_and_side_of_the_penalty():
    real, fake, mixing = batch()
    norms = (mixing * real + (1 - mixing) * fake).flatten(1).norm(dim=1)
    zero = gradient_penalty(Quadratic(1.0), real, fake, mixing, GradientPenaltyConfig(weight=3, target=0))
    torch.testing.assert_close(zero, 3 * norms.square().mean())
    target = norms.median().item()
    one_sided = GradientPenaltyConfig(weight=1, target=target, one_sided=True)
    value = gradient_penalty(Quadratic(1.0), real, fake, mixing, one_sided)
    torch.testing.assert_close(value, (norms - target).clamp(min=0).square().mean())


def test_no_gradient_of_a_penalty_reaches_the_images():
    real, fake, mixing = batch()
    fake.requires_grad_(True)
    gradient_penalty(Quadratic(1.0), real, fake, mixing).backward()
    assert fake.grad is None
    assert real.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_penalties_are_float32_inside_autocast(dtype):
    discriminator = nn.Sequential(Conv2d(2, 4, 3, activation="leaky_relu"), nn.Flatten(), nn.Linear(4, 1))
    real, fake, mixing = batch()
    outside = gradient_penalty(discriminator, real, fake, mixing), r1_penalty(discriminator, real)
    with torch.autocast("cpu", dtype):
        assert discriminator(real).dtype == dtype
        inside = gradient_penalty(discriminator, real, fake.to(dtype).float(), mixing), r1_penalty(discriminator, real)
    assert all(value.dtype == torch.float32 for value in inside)
    assert torch.equal(inside[1], outside[1])
    torch.testing.assert_close(inside[0], outside[0], rtol=0.05, atol=0.05)  # fake was rounded to the half dtype


def test_the_penalty_of_a_batch_is_the_mean_of_those_of_its_parts():
    real, fake, mixing = batch(6)
    discriminator = nn.Sequential(Conv2d(2, 4, 3, activation="leaky_relu"), nn.Flatten(), nn.Linear(4, 1))
    whole = gradient_penalty(discriminator, real, fake, mixing)
    chunks = zip(real.chunk(3), fake.chunk(3), mixing.chunk(3), strict=True)
    parts = [gradient_penalty(discriminator, *chunk) for chunk in chunks]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_lazy_r1_is_taken_at_its_interval_with_its_weight():
    real, fake, _ = batch()
    lazy = DiscriminatorRegularizer(RegularizersConfig(r1=R1Config(weight=2, interval=4)))
    eager = DiscriminatorRegularizer(RegularizersConfig(r1=R1Config(weight=2)))
    due = [lazy.penalties(Quadratic(1.0), real, fake, None, update) for update in range(9)]
    assert [update for update, terms in enumerate(due) if terms] == [0, 4, 8]
    torch.testing.assert_close(due[4]["r1"], 4 * eager.penalties(Quadratic(1.0), real, fake, None, 1)["r1"])


def test_no_regulariser_is_taken_by_default():
    nothing = DiscriminatorRegularizer(RegularizersConfig())
    assert nothing.penalties(Quadratic(1.0), *batch(), 0) == {}
    assert not nothing.draws_mixing


def test_spectral_norm_brings_every_weight_of_the_labs_layers_to_norm_one():
    network = nn.Sequential(
        Conv2d(3, 8, 4, stride=2, padding=1, activation="leaky_relu"),
        ConvTranspose2d(8, 4, 4, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(4 * 64, 5),
    )
    apply_spectral_norm(network)
    for _ in range(60):  # power iterations converge with the forwards
        output = network(torch.randn(2, 3, 8, 8))
    output.sum().backward()
    for index, matrix in ((0, lambda w: w.flatten(1)), (1, lambda w: w.transpose(0, 1).flatten(1)), (3, lambda w: w)):
        layer = network[index]
        assert torch.linalg.matrix_norm(matrix(layer.weight.detach()), 2).item() == pytest.approx(1, abs=1e-2)
        assert layer.parametrizations.weight.original.grad is not None
    assert "0.parametrizations.weight.original" in network.state_dict()
