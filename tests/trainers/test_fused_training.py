"""Trainers on genlab.optim: weights and averages of separate calls of torch, whose checkpoints they continue."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from genlab import ops, optim
from genlab.config import load_config
from genlab.trainers import ALGORITHMS, DataSpec
from genlab.trainers.base import Trainer
from genlab.trainers.state import capture_state, restore_state

SMALL = ["data.batch_size=4", "train.tensorboard=false", "evaluate.metrics=[]"]
GAN = [*SMALL, "model.latent_dim=4", "model.base_channels=2", "gan.ema={decay: 0.9, ramp: 0.3}"]
RUNS = {
    "dcgan": [*GAN, "generator_optimizer.max_grad_norm=0.1"],
    "wgan": [*GAN, "wgan.clip=0.02", "wgan.long_first_steps=0", "wgan.long_every=null", "gan.discriminator_steps=2"],
    "vae": [*SMALL, "vae.ema={decay: 0.8}"],
}


def build(name: str, impl: str) -> Trainer:
    config = load_config(f"{name}_tiny", RUNS[name])
    height, width = config.data.height_width
    with ops.default_impl(impl):
        return ALGORITHMS.get(name)(config, DataSpec("digits", "images", (1, height, width), 10))


def batches(trainer: Trainer, seed: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.rand(4, *trainer.data.shape, generator=generator) * 2 - 1  # noqa: E731
    return [{"image": draw(), "label": torch.arange(4)} for _ in range(trainer.batches_per_step)]


@pytest.mark.parametrize("name", RUNS)
def test_weights_and_averages_are_those_of_separate_calls(name):
    fused, separate = build(name, "auto"), build(name, "torch")
    assert all(isinstance(optimizer, optim.FusedStep) for optimizer in fused.optimizers.values())
    assert not any(isinstance(optimizer, optim.FusedStep) for optimizer in separate.optimizers.values())
    for trainer in (fused, separate):
        for step in range(3):
            trainer.advance(*batches(trainer, step))
    assert fused.ema.keys() == separate.ema.keys() and fused.ema
    for network, ema in fused.ema.items():
        theirs = separate.ema[network]
        assert ema.state_dict() == theirs.state_dict() and ema.updates == 3
        for a, b in ((ema.module, theirs.module), (fused.networks[network], separate.networks[network])):
            for key, value in b.state_dict().items():
                torch.testing.assert_close(a.state_dict()[key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_the_average_is_taken_in_the_optimisers_pass(monkeypatch):
    """Without it the average stays: EMA itself copies buffers only."""
    trainer, given = build("dcgan", "auto"), []
    step = trainer.optimizers["generator"].step
    trainer.optimizers["generator"].step = lambda **settings: given.append(settings) or step(**settings)
    monkeypatch.setattr(
        trainer.ema["generator"], "update", lambda module: pytest.fail("a second pass over the weights")
    )
    trainer.advance(*batches(trainer, 0))
    (settings,) = given
    assert settings["max_norm"] == 0.1 and settings["bound"] is None
    assert settings["average"].of.keys() == set(trainer.networks["generator"].parameters())
    assert settings["average"].share == 1.0


def test_a_step_outside_of_advance_does_not_average():
    trainer = build("dcgan", "auto")
    trainer.train_step(*batches(trainer, 0))
    assert trainer.ema["generator"].updates == 0


def test_a_second_update_of_an_averaged_network_is_refused():
    class Twice(ALGORITHMS.get("dcgan")):
        def train_step(self, *batches):
            super().train_step(*batches)
            return super().train_step(*batches)

    trainer = build("dcgan", "auto")
    trainer.__class__ = Twice
    with pytest.raises(RuntimeError, match="network 'generator': expected one update in a train_step"):
        trainer.advance(*batches(trainer, 0))


def test_a_network_that_several_optimisers_share_is_averaged_after_the_step():
    trainer = build("dcgan", "auto")
    parameters = list(trainer.networks["generator"].parameters())
    halves = [torch.optim.SGD(part, lr=0.1) for part in (parameters[:2], parameters[2:])]
    assert [trainer._networks_of(optimizer) for optimizer in halves] == [[], []]
    assert trainer._networks_of(torch.optim.SGD([*parameters, nn.Parameter(torch.ones(1))], lr=0.1)) == ["generator"]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(("first", "then"), [("torch", "auto"), ("auto", "torch")])
def test_the_state_of_one_continues_with_the_other(name, first, then):
    """As checkpoints of runs do that were begun on torch's optimisers, whose groups know of no clipping."""
    begun, other = build(name, first), build(name, then)
    begun.advance(*batches(begun, 0))
    tensors, plain = capture_state(begun)
    plain = json.loads(json.dumps(plain))
    tensors = {key: value.clone() for key, value in tensors.items()}
    for state in plain["optimizers"].values():
        for group in state["param_groups"]:
            del group["max_grad_norm"]
    restore_state(other, tensors, plain, "a file")
    for optimizer in begun.optimizers.values():
        optimizer.param_groups[0]["max_grad_norm"] = None
    for step in (1, 2):
        for trainer in (begun, other):
            trainer.advance(*batches(trainer, step))
    for network, ema in begun.ema.items():
        for key, value in ema.module.state_dict().items():
            torch.testing.assert_close(
                other.ema[network].module.state_dict()[key], value, rtol=1e-5, atol=1e-6, msg=key
            )
