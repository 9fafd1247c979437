"""Algorithm 1 of Goodfellow et al. 2014: k updates on new data and noise, one of the generator on new noise."""

from __future__ import annotations

import pytest
import torch

from genlab import data
from genlab.config import load_config
from genlab.errors import ConfigError
from genlab.trainers import DataSpec
from genlab.trainers.goodfellow_gan import GoodfellowGanTrainer


def build(*overrides: str) -> GoodfellowGanTrainer:
    config = load_config("gan_tiny", list(overrides))
    return GoodfellowGanTrainer(config, DataSpec("digits", "images", (1, 8, 8), 10))


def batches(count: int, trainer: GoodfellowGanTrainer) -> list[dict[str, torch.Tensor]]:
    return [{"image": torch.rand(16, *trainer.data.shape) * 2 - 1} for _ in range(count)]


def test_a_step_is_k_updates_of_the_discriminator_and_one_of_the_generator_each_on_new_noise(monkeypatch):
    trainer = build("gan.discriminator_steps=3")
    assert trainer.batches_per_step == 3
    calls, noise = [], []
    draw, optimizers = trainer.draw_noise, trainer.optimizers
    monkeypatch.setattr(trainer, "draw_noise", lambda n: noise.append(draw(n)) or noise[-1])
    for name, optimizer in optimizers.items():
        step = optimizer.step
        monkeypatch.setattr(
            optimizer, "step", lambda *a, name=name, step=step, **k: calls.append(name) or step(*a, **k)
        )
    given = batches(3, trainer)
    seen = []
    trainer.networks["discriminator"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    trainer.advance(*given)
    assert calls == ["discriminator"] * 3 + ["generator"]
    assert len(noise) == 4
    assert all(not torch.equal(a, b) for i, a in enumerate(noise) for b in noise[:i])
    assert [torch.equal(x, batch["image"]) for x, batch in zip(seen[:6:2], given, strict=True)] == [True] * 3


def test_the_zero_sum_game_and_the_non_saturating_one_differ_in_the_generator_alone():
    losses = {}
    for loss in ("minimax", "non_saturating"):
        trainer = build(f"gan.loss={loss}", "model.mlp.discriminator_dropout=0", "gan.discriminator_steps=1")
        torch.manual_seed(0)
        losses[loss] = trainer.advance(*batches(1, trainer))
    assert losses["minimax"]["loss_d"] == losses["non_saturating"]["loss_d"]
    assert losses["minimax"]["loss_g"] < 0 < losses["non_saturating"]["loss_g"]


def test_learns_a_ring_of_points():
    overrides = ["data={name: ring, batch_size: 64}", "gan.discriminator_steps=1", "model.latent_dim=2", "gan.ema=null"]
    overrides += ["model.mlp={generator_hidden: [32], discriminator_hidden: [64], discriminator_activation: maxout}"]
    overrides += ["generator_optimizer.lr=1e-3", "discriminator_optimizer.lr=1e-3"]
    config = load_config("gan_tiny", overrides)
    dataset = data.build(config.data, "train")
    trainer = GoodfellowGanTrainer(config, DataSpec.of(dataset))
    stream = trainer.open_stream(dataset, seed=0)

    def distance() -> float:
        """How far samples lie from the circle of radius 2 on which all modes lie."""
        radius = trainer.sample(500, torch.Generator().manual_seed(0)).norm(dim=1)
        return float((radius - 2).abs().mean())

    before = distance()
    for _ in range(400):
        trainer.advance(next(stream))
    assert trainer.sample(3, torch.Generator()).shape == (3, 2)
    assert distance() < 0.5 * before


def test_the_authors_settings_load_with_their_networks_and_noise():
    config = load_config("gan_mnist", ["data.limit=200"])
    trainer = GoodfellowGanTrainer(config, DataSpec("mnist", "images", (1, 28, 28), 10))
    assert isinstance(trainer.optimizers["generator"], torch.optim.SGD)
    assert [type(m).__name__ for m in trainer.networks["discriminator"].hidden] == [
        "Dropout", "Maxout", "Dropout", "Maxout", "Dropout",
    ]  # fmt: skip
    noise = trainer.draw_noise(100)
    assert noise.abs().max() <= 3**0.5
    assert noise.std().item() == pytest.approx(1, rel=0.02)
    assert trainer.ema == {}


def test_settings_that_do_not_fit_are_refused_in_one_line():
    with pytest.raises(ConfigError, match="expected discriminator_batch_norm=false with discriminator_activation"):
        build("model.mlp.discriminator_batch_norm=true")
    with pytest.raises(ConfigError, match="did you mean 'mlp'"):
        build("model.network=mpl")
    with pytest.raises(
        ConfigError, match=r"data\.image_size: expected one of 28, 32, 64, 128 for network dcgan, got 8"
    ):
        build("model.network=dcgan")
    config = load_config("gan_tiny", ["model.network=dcgan"])
    with pytest.raises(ConfigError, match="model.network=dcgan: expected images, got points; choose mlp"):
        GoodfellowGanTrainer(config, DataSpec("ring", "points", (2,)))
