"""Dropout's relatives: mean and variance in training, the formula of the paper at test."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genlab.nn import init
from genlab.nn.dropout import AnnealedDropout, DropConnectLinear, GaussianDropout, MaxPoolDropout2d, anneal


def test_gaussian_dropout_has_the_mean_and_variance_of_dropout_and_silences_no_unit():
    units = torch.full((200_000,), 3.0)
    output = GaussianDropout(0.2).train()(units)
    assert output.mean().item() == pytest.approx(3.0, abs=0.02)
    assert output.var().item() == pytest.approx(9 * 0.25, rel=0.03)
    plain = F.dropout(units, 0.2)
    assert output.var().item() == pytest.approx(plain.var().item(), rel=0.05)
    assert (output == 0).sum() == 0
    assert torch.equal(GaussianDropout(0.2).eval()(units), units)


def test_annealed_dropout_falls_linearly_to_nothing():
    network = nn.Sequential(nn.Identity(), AnnealedDropout(0.6)).train()
    units = torch.ones(100_000)
    for progress, share in ((0.0, 0.6), (0.5, 0.3), (1.0, 0.0), (2.0, 0.0)):
        anneal(network, progress)
        assert (network(units) == 0).float().mean().item() == pytest.approx(share, abs=0.01)
    anneal(network, 0.0)
    assert torch.equal(network.eval()(units), units)


def test_drop_connect_leaves_out_weights_and_not_units():
    layer = DropConnectLinear(4, 50_000, p=0.3).train()
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    output = layer(torch.ones(1, 4))[0]
    kept = output * 0.7
    counts = torch.bincount(kept.round().long(), minlength=5) / len(kept)
    expected = [0.3**4, 4 * 0.7 * 0.3**3, 6 * 0.49 * 0.09, 4 * 0.343 * 0.3, 0.7**4]
    torch.testing.assert_close(counts, torch.tensor(expected), atol=0.01, rtol=0)
    assert output.mean().item() == pytest.approx(4.0, abs=0.05)
    plain = nn.Linear(4, 50_000)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.eval()(torch.ones(1, 4)), plain(torch.ones(1, 4)))


@pytest.mark.parametrize(
    ("settings", "size"), [((2, 2), 6), ((3, 2), 7), ((3, 2, 1), 8), ((3, 2, 0, True), 8), ((2,), 5)]
)
def test_max_pooling_dropout_at_test_is_the_expected_maximum_in_training(settings, size):
    layer = MaxPoolDropout2d(*settings, p=0.4)
    maps = torch.rand(2, 3, size, size)
    result = layer.eval()(maps)
    reference = nn.MaxPool2d(*settings[:3], **({"ceil_mode": True} if len(settings) > 3 else {}))
    assert result.shape == reference(maps).shape
    layer.train()
    torch.manual_seed(0)
    mean = torch.stack([layer(maps) for _ in range(3000)]).mean(0)
    torch.testing.assert_close(result, mean, atol=0.03, rtol=0)
    layer.p = 0.0
    assert torch.equal(layer(maps), reference(maps))
    assert torch.equal(layer.eval()(maps), reference(maps))


def test_the_expected_maximum_is_that_of_all_ways_to_leave_out():
    values = torch.tensor([0.3, 0.9, 0.1, 0.5])
    expected = 0.0
    for kept in itertools.product([False, True], repeat=4):
        chance = 0.75 ** sum(kept) * 0.25 ** (4 - sum(kept))
        expected += chance * max([float(v) for v, k in zip(values, kept, strict=True) if k], default=0.0)
    result = MaxPoolDropout2d(2, p=0.25).eval()(values.view(1, 1, 2, 2))
    assert result.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [GaussianDropout, AnnealedDropout, lambda p: DropConnectLinear(2, 2, p=p)])
@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_a_probability_outside_its_range_is_refused(kind, p):
    with pytest.raises(ValueError, match=r"expected p in \[0, 1\)"):
        kind(p)


@pytest.mark.parametrize(("scheme", "variance"), [("lecun", 1 / 900), ("xavier", 2 / (900 + 450)), ("he", 2 / 900)])
def test_initial_weights_have_the_variance_of_the_paper(scheme, variance):
    layer = nn.Conv2d(100, 50, 3)
    norm = nn.BatchNorm2d(50)
    nn.init.constant_(norm.weight, 0.7)
    init.initialize(nn.Sequential(layer, norm), scheme, generator=torch.Generator().manual_seed(0))
    assert layer.weight.var().item() == pytest.approx(variance, rel=0.03)
    assert layer.weight.mean().item() == pytest.approx(0, abs=1e-3)
    assert not layer.bias.any()
    assert (norm.weight == 0.7).all()
    init.initialize(layer, f"{scheme}_uniform", generator=torch.Generator().manual_seed(0))
    assert layer.weight.var().item() == pytest.approx(variance, rel=0.03)
    assert 0.99 < layer.weight.abs().max().item() / (3 * variance) ** 0.5 <= 1


def test_zero_and_constant_are_what_they_say():
    layer = nn.Linear(3, 4)
    assert not init.initialize(layer, "zero").weight.any()
    assert (init.initialize(layer, "constant", value=0.5).weight == 0.5).all()
    with pytest.raises(ValueError, match="expected lecun, xavier, he, .*, zero, constant, got 'hee'"):
        init.initialize(layer, "hee")
