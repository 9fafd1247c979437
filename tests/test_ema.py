"""The moving average against its closed form, without a trace of the initial weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genlab.ema import EMA, EmaConfig


def follow(values: list[float], config: EmaConfig, images_per_step: int = 10) -> list[float]:
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1e6)  # initial weights that would show
    ema, averages = EMA(module, config, images_per_step), []
    for value in values:
        module.weight.data.fill_(value)
        ema.update(module)
        averages.append(ema.module.weight.item())
    return averages


def test_average_equals_the_bias_corrected_sum():
    values, decay = [1.0, 5.0, -2.0, 3.0], 0.9
    weights = [decay ** (3 - i) for i in range(4)]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    averages = follow(values, EmaConfig(decay=decay))
    assert averages[0] == pytest.approx(1.0)
    assert averages[-1] == pytest.approx(expected, rel=1e-5)


def test_decay_zero_copies():
    assert follow([1.0, 4.0, 9.0], EmaConfig(decay=0)) == [1.0, 4.0, 9.0]


def test_half_life_counts_images():
    ema = EMA(nn.Linear(1, 1), EmaConfig(half_life=1000), images_per_step=100)
    assert ema.decay() ** 10 == pytest.approx(0.5)


def test_ramp_shortens_the_half_life_early_and_ends_at_the_decay():
    ema = EMA(nn.Linear(1, 1), EmaConfig(decay=0.999, ramp=0.05), images_per_step=10)
    assert ema.decay() == 0.0
    ema.images = 1000  # a half-life of 50 images is 5 steps
    assert ema.decay() ** 5 == pytest.approx(0.5)
    ema.images = 10**8
    assert ema.decay() == pytest.approx(0.999, abs=1e-9)


def test_updates_of_different_sizes_count_by_their_images():
    ema = EMA(nn.Linear(1, 1), EmaConfig(half_life=1000, ramp=0.5), images_per_step=100)
    module = nn.Linear(1, 1)
    ema.update(module)
    ema.images_per_step = 300
    assert ema.decay() == pytest.approx(0.5 ** (300 / 50)), "half of the 100 images so far"
    for _ in range(10):
        ema.update(module)
    assert (ema.updates, ema.images) == (11, 3100)
    assert ema.decay() == pytest.approx(0.5 ** (300 / 1000))


def test_a_state_from_before_images_were_counted_is_taken():
    ema = EMA(nn.Linear(1, 1), EmaConfig(), images_per_step=8)
    ema.load_state_dict({"updates": 5, "weight": 0.25})
    assert (ema.updates, ema.images, ema.weight) == (5, 40, 0.25)


def test_buffers_are_copied_and_integers_stay_integers():
    module = nn.BatchNorm2d(2)
    ema = EMA(module, EmaConfig(), images_per_step=4)
    module(torch.randn(4, 2, 3, 3) + 5)
    ema.update(module)
    assert torch.equal(ema.module.running_mean, module.running_mean)
    assert ema.module.num_batches_tracked.item() == 1
    assert ema.module.num_batches_tracked.dtype == torch.int64


def test_the_average_is_frozen_and_in_evaluation_mode():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    ema = EMA(module, EmaConfig(), images_per_step=4)
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert all(p.requires_grad for p in module.parameters())


def test_state_goes_out_and_in():
    first = EMA(nn.Linear(1, 1), EmaConfig(decay=0.9), images_per_step=4)
    for _ in range(3):
        first.update(nn.Linear(1, 1))
    second = EMA(nn.Linear(1, 1), EmaConfig(decay=0.9), images_per_step=4)
    second.load_state_dict(first.state_dict())
    second.module.load_state_dict(first.module.state_dict())
    source = nn.Linear(1, 1)
    first.update(source)
    second.update(source)
    assert torch.equal(first.module.weight, second.module.weight)
