"""Drift, consistency and manifold entropy against their formulas and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genlab.consistency import ConsistencyConfig, consistency_penalty, vary
from genlab.errors import ConfigError
from genlab.manifold_entropy import ManifoldEntropy, ManifoldEntropyConfig, last_layer, manifold_entropy
from genlab.nn import Conv2d
from genlab.regularizers import (
    DiscriminatorRegularizer,
    DriftConfig,
    RegularizersConfig,
    apply_spectral_norm,
    drift_penalty,
)


def critic() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (Conv2d(2, 4, 3, stride=2, activation="leaky_relu"), nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))
    return nn.Sequential(*layers)


def numbers(*rows: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(rows)[:, :, None, None]


def test_drift_and_its_gradient_equal_the_formula():
    logits = torch.tensor([3.0, -1.0, 0.5], requires_grad=True)
    penalty = drift_penalty(logits)
    torch.testing.assert_close(penalty, torch.tensor(1e-3 * (9 + 1 + 0.25) / 3))
    penalty.backward()
    torch.testing.assert_close(logits.grad, 1e-3 * 2 * logits.detach() / 3)
    assert drift_penalty(logits, DriftConfig(weight=2)).item() == pytest.approx(2 * 10.25 / 3)


def test_drift_is_float32_for_half_precision_logits():
    assert drift_penalty(torch.full((4,), 300.0, dtype=torch.float16)).item() == pytest.approx(90)


def test_an_image_is_shifted_by_whole_pixels_and_mirrored_at_the_edge():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    config = ConsistencyConfig(shift=1, flip=False)
    assert torch.equal(vary(image, numbers((0.9, 0.5, 0.5)), config), image)
    down = vary(image, numbers((0.9, 0.99, 0.5)), config)
    assert torch.equal(down[0, 0, 1:], image[0, 0, :-1])
    assert torch.equal(down[0, 0, 0], image[0, 0, 0]), "the uncovered row repeats the edge"
    left = vary(image, numbers((0.9, 0.5, 0.0)), config)
    assert torch.equal(left[0, 0, :, :-1], image[0, 0, :, 1:])
    assert torch.equal(left[0, 0, :, -1], image[0, 0, :, -1])


def test_every_shift_and_both_mirrorings_come_up_alike():
    torch.manual_seed(0)
    image = torch.arange(64.0).reshape(1, 1, 8, 8).expand(6000, 1, 8, 8)
    varied = vary(image, torch.rand(6000, 3, 1, 1), ConsistencyConfig(shift=1))
    centres = varied[:, 0, 4, 4].long()
    # Unmirrored the centre shows pixel (4 - dy, 4 - dx); mirrored (4 - dy, 3 + dx).
    counts = torch.bincount(centres, minlength=64).reshape(8, 8)
    assert counts[3:6].sum() == 6000
    assert counts.sum(1)[3:6].tolist() == pytest.approx([2000] * 3, rel=0.1)
    assert (varied[:, 0, 4, 5] > varied[:, 0, 4, 4]).float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_without_mirroring_no_image_is_mirrored():
    image = torch.arange(64.0).reshape(1, 1, 8, 8).expand(50, 1, 8, 8)
    varied = vary(image, torch.rand(50, 3, 1, 1), ConsistencyConfig(shift=2, flip=False))
    assert (varied[:, 0, 4, 5] > varied[:, 0, 4, 4]).all()


def test_a_shift_larger_than_the_image_stays_inside_it():
    image = torch.randn(20, 1, 3, 3)
    varied = vary(image, torch.rand(20, 3, 1, 1), ConsistencyConfig(shift=9))
    for before, after in zip(image, varied, strict=True):
        assert torch.isin(after, before).all()


def test_consistency_equals_the_formula_and_its_gradient_the_finite_differences():
    network = critic().double()
    real, draws = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.rand(5, 3, 1, 1)
    config = ConsistencyConfig(weight=3, shift=2)

    def penalty() -> torch.Tensor:
        return consistency_penalty(network, real, network(real), draws, config)

    expected = 3 * (network(real) - network(vary(real, draws, config))).square().mean()
    torch.testing.assert_close(penalty(), expected.float())
    penalty().backward()
    weight = network[2].weight
    for index in (0, 7):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[0, index] += sign * 1e-3
                values.append(penalty().item())
                weight[0, index] -= sign * 1e-3
        assert weight.grad[0, index].item() == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-3)


def test_a_discriminator_blind_to_shifts_and_mirroring_pays_nothing():
    blind = lambda images: images.mean(dim=(1, 2, 3)) * 0 + 1  # noqa: E731
    real = torch.randn(4, 2, 6, 6)
    assert consistency_penalty(blind, real, blind(real), torch.rand(4, 3, 1, 1)) == 0


def test_consistency_of_a_map_of_logits_is_of_its_mean_which_mirroring_leaves():
    """A discriminator of patches: its map is mirrored with the picture, which is no change of mind."""
    patches = nn.Conv2d(1, 1, 2, stride=2)
    patches.weight.data.fill_(0.25)
    real, mirrored = torch.randn(4, 1, 6, 6), torch.zeros(4, 3, 1, 1)
    config = ConsistencyConfig(weight=2, shift=0)
    assert not torch.equal(patches(real), patches(vary(real, mirrored, config)))
    assert consistency_penalty(patches, real, patches(real), mirrored, config).item() == pytest.approx(0, abs=1e-12)
    shifted, config = torch.full((4, 3, 1, 1), 0.99), ConsistencyConfig(weight=2, shift=1)
    means = [patches(images).mean((1, 2, 3)) for images in (real, vary(real, shifted, config))]
    expected = 2 * (means[0] - means[1]).square().mean()
    assert expected > 0
    torch.testing.assert_close(consistency_penalty(patches, real, patches(real), shifted, config), expected)


def test_manifold_entropy_is_the_papers_equation_8():
    codes = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    memory = torch.tensor([[4.0, 3.0], [-1.0, 0.0], [1.0, 0.0]])
    nearest = (24 / 25 + 3 / 5) / 2
    torch.testing.assert_close(manifold_entropy(codes, memory), torch.tensor(nearest))
    torch.testing.assert_close(manifold_entropy(codes, memory, 0.1), torch.tensor(nearest + 0.1 * (5 + 2) / 2))


@pytest.mark.parametrize("norm_weight", [0.0, 0.3])
def test_the_gradient_of_manifold_entropy_equals_finite_differences(norm_weight):
    torch.manual_seed(0)
    codes, memory = torch.randn(4, 3, requires_grad=True), torch.randn(9, 3, requires_grad=True)
    manifold_entropy(codes, memory, norm_weight).backward()
    assert memory.grad is None, "the codes of earlier updates stay where they are"
    for row, column in ((0, 0), (2, 1), (3, 2)):
        step = torch.zeros(4, 3)
        step[row, column] = 1e-3
        difference = manifold_entropy(codes + step, memory, norm_weight) - manifold_entropy(
            codes - step, memory, norm_weight
        )
        assert codes.grad[row, column].item() == pytest.approx(difference.item() / 2e-3, abs=1e-3)


def test_descending_the_term_spreads_codes_that_lay_together():
    torch.manual_seed(0)
    codes = (torch.ones(16, 3) + 0.01 * torch.randn(16, 3)).requires_grad_(True)
    optimizer, term = torch.optim.Adam([codes], lr=0.05), ManifoldEntropy(ManifoldEntropyConfig(buffer=16))

    def closeness() -> float:
        directions = torch.nn.functional.normalize(codes.detach(), dim=1)
        return (directions @ directions.t()).mean().item()

    before = closeness()
    term.remember("generated", codes)
    for _ in range(100):
        optimizer.zero_grad()
        term.term("generated", codes).backward()
        optimizer.step()
        term.remember("generated", codes)
    assert 1 - closeness() > 20 * (1 - before)


def test_the_buffer_keeps_the_newest_codes():
    term = ManifoldEntropy(ManifoldEntropyConfig(buffer=5, weight=2))
    assert term.term("real", torch.ones(2, 1)) is None, "the first update has nothing to compare with"
    for first in (0.0, 3.0, 6.0):
        term.remember("real", torch.arange(first, first + 3)[:, None])
    assert term.memories["real"].flatten().tolist() == [4, 5, 6, 7, 8]
    assert term.term("generated", torch.ones(2, 1)) is None, "real and generated codes are kept apart"
    again = ManifoldEntropy(term.config)
    again.load_state(term.state(), torch.device("cpu"))
    assert torch.equal(again.memories["real"], term.memories["real"])
    assert again.term("real", torch.ones(2, 1)).item() == pytest.approx(2)


@pytest.mark.parametrize("spectral", [False, True])
def test_codes_are_what_the_last_layer_sees(spectral):
    network = critic()
    if spectral:
        apply_spectral_norm(network)
    term, images = ManifoldEntropy(ManifoldEntropyConfig()), torch.randn(3, 2, 6, 6)
    with term.watch(network) as codes:
        network(images)
        network(2 * images)
    assert len(codes) == 2
    torch.testing.assert_close(codes[0], network[1](network[0](images)))
    network(images)
    assert len(codes) == 2, "nobody watches any more"
    assert isinstance(last_layer(network), nn.Linear)


def test_penalties_of_a_whole_configuration_are_those_of_the_functions():
    network, real, fake, draws = critic(), torch.randn(4, 2, 6, 6), torch.randn(4, 2, 6, 6), torch.rand(4, 4, 1, 1)
    config = RegularizersConfig(drift=DriftConfig(), consistency=ConsistencyConfig(), gradient_penalty={})
    regularizer = DiscriminatorRegularizer(config)
    assert regularizer.numbers_per_sample == 4
    logits = network(real)
    given = regularizer.penalties(network, real, fake, draws, 0, real_logits=logits)
    computed = regularizer.penalties(network, real, fake, draws, 0)
    assert sorted(given) == ["consistency", "drift", "gradient_penalty"]
    for name, value in given.items():
        torch.testing.assert_close(computed[name], value)
    torch.testing.assert_close(given["drift"], drift_penalty(logits))
    torch.testing.assert_close(given["consistency"], consistency_penalty(network, real, logits, draws[:, 1:]))


def test_an_algorithm_that_does_not_offer_a_regulariser_says_so():
    real, fake = torch.randn(2, 3, 2, 6, 6)
    entropy = DiscriminatorRegularizer(RegularizersConfig(manifold_entropy=ManifoldEntropyConfig()))
    with pytest.raises(ConfigError, match=r"gan\.regularizers\.manifold_entropy: this algorithm does not offer it"):
        entropy.penalties(critic(), real, fake, None, 0)
    varied = DiscriminatorRegularizer(RegularizersConfig(consistency=ConsistencyConfig()))
    with pytest.raises(ConfigError, match=r"gan\.regularizers\.consistency: this algorithm does not offer it"):
        varied.penalties(critic(), real, fake, torch.rand(3, 1, 1, 1), 0)
