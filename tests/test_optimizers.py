"""Optimisers: each takes the steps of torch's own with the same settings, and its state goes out and in exactly."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from genlab.config import OptimizerConfig
from genlab.errors import CheckpointError
from genlab.optimizers import build_optimizer
from genlab.trainers.state import flatten_optimizer_state, restore_optimizer_state

TORCH = {
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, eps=1e-6, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.9), eps=1e-6, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.5, 0.9), eps=1e-6, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-6, weight_decay=0.1, momentum=0.3),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1, momentum=0.3),
}


def settings(name: str) -> OptimizerConfig:
    return OptimizerConfig(name=name, lr=0.01, betas=(0.5, 0.9), eps=1e-6, weight_decay=0.1, momentum=0.3, alpha=0.9)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)).to(memory_format=torch.channels_last)


def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    module(torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", TORCH)
def test_steps_are_those_of_torch_with_the_same_settings(name):
    mine, plain = network(), network()
    pairs = [(mine, build_optimizer(settings(name), mine.parameters())), (plain, TORCH[name](plain.parameters()))]
    for number in range(4):
        for module, optimizer in pairs:
            step(module, optimizer, number)
    for a, b in zip(mine.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert not torch.equal(mine[0].weight, network()[0].weight)


def test_nesterovs_momentum_is_torchs_and_needs_momentum():
    mine, plain = network(), network()
    config = OptimizerConfig(name="sgd", lr=0.01, momentum=0.9, nesterov=True)
    pairs = [
        (mine, build_optimizer(config, mine.parameters())),
        (plain, torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9, nesterov=True)),
    ]
    for number in range(4):
        for module, optimizer in pairs:
            step(module, optimizer, number)
    for a, b in zip(mine.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    for settings in ({"name": "sgd"}, {"name": "adam", "momentum": 0.9}):
        with pytest.raises(ValueError, match="nesterov: expected sgd with momentum above 0"):
            OptimizerConfig(nesterov=True, **settings)


@pytest.mark.parametrize("name", TORCH)
def test_state_goes_through_tensors_and_json_and_continues_bit_for_bit(name):
    first, second = network(), network()
    optimizer = build_optimizer(settings(name), first.parameters())
    for number in range(3):
        step(first, optimizer, number)
    tensors, plain = flatten_optimizer_state(optimizer)
    tensors = {key: value.contiguous().clone() for key, value in tensors.items()}
    plain = json.loads(json.dumps(plain))
    second.load_state_dict(first.state_dict())
    other = build_optimizer(settings(name), second.parameters())
    restore_optimizer_state(other, tensors, plain)
    for parameter, values in other.state.items():
        for value in values.values():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                assert value.stride() == parameter.stride(), "the memory order of the parameter"
    for number in range(3, 6):
        step(first, optimizer, number)
        step(second, other, number)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert type(other.param_groups[0].get("betas")) is type(optimizer.param_groups[0].get("betas"))


def test_state_of_another_network_is_refused():
    optimizer = build_optimizer(settings("adam"), network().parameters())
    tensors, plain = flatten_optimizer_state(optimizer)
    with pytest.raises(CheckpointError, match="does not fit"):
        restore_optimizer_state(build_optimizer(settings("adam"), nn.Linear(2, 2).parameters()), tensors, plain)


def test_parameters_without_gradients_stay_as_they_are():
    module = network()
    module[2].requires_grad_(False)
    before = module[2].weight.clone()
    optimizer = build_optimizer(settings("adam"), module.parameters())
    step(module, optimizer, 0)
    assert torch.equal(module[2].weight, before)
