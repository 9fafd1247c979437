"""WGAN and WGAN-GP: the box in plain torch, clipping, the critic's schedule, the penalty, and the estimate's sign."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from training_jobs import assert_same_checkpoint

from genlab import data, ops
from genlab.checkpoint import find_checkpoint
from genlab.config import RunConfig, load_config
from genlab.errors import ConfigError
from genlab.regularizers import gradient_penalty
from genlab.trainers import DataSpec, base, train
from genlab.trainers.wgan import WganGpTrainer, WganTrainer

SMALL = ["data.batch_size=8", "model.latent_dim=4", "model.base_channels=2", "train.tensorboard=false"]
POINTS = [
    "data.name=grid", "data.batch_size=64", "model.network=mlp", "model.latent_dim=2",
    "model.mlp.generator_hidden=[16,16]", "model.mlp.discriminator_hidden=[16,16]",
]  # fmt: skip


def config_of(name: str, *overrides: str) -> RunConfig:
    return load_config(f"{name}_tiny", [*SMALL, *overrides])


def build(name: str, *overrides: str) -> WganTrainer:
    config = config_of(name, *overrides)
    if config.data.name == "grid":
        spec = DataSpec("grid", "points", (2,))
    else:
        spec = DataSpec("digits", "images", (1, *config.data.height_width), 10)
    return (WganGpTrainer if name == "wgan_gp" else WganTrainer)(config, spec)


def images(count: int = 8) -> dict[str, torch.Tensor]:
    return {"image": torch.rand(count, 1, 28, 28) * 2 - 1}


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_every_weight_of_the_critic_lies_in_the_box_after_every_update(monkeypatch, impl):
    def largest(trainer: WganTrainer, name: str) -> float:
        return max(p.abs().max().item() for p in trainer.networks[name].parameters())

    with ops.default_impl(impl):
        trainer, free = build("wgan", "wgan.clip=0.003"), build("wgan", "wgan.clip=null")
    taken, critic = [], trainer.optimizers["discriminator"]
    step = base.take_step

    def spy(optimizer: torch.optim.Optimizer, *arguments: Any, **settings: Any) -> None:
        step(optimizer, *arguments, **settings)
        if optimizer is critic:
            taken.append(largest(trainer, "discriminator"))

    monkeypatch.setattr(base, "take_step", spy)
    updates = 0
    for _ in range(3):
        updates += trainer.batches_per_step
        batches = [images() for _ in range(trainer.batches_per_step)]
        trainer.advance(*batches)
        free.advance(*batches)
    bound = torch.tensor(0.003).item()
    assert len(taken) == updates
    assert all(value <= bound for value in taken) and bound in taken
    assert largest(free, "discriminator") > bound, "the updates do leave the box"
    assert largest(trainer, "generator") > 0.01


def test_a_step_of_wgan_equals_the_papers_box_in_plain_torch():
    trainer = build("wgan")
    f, g = (copy.deepcopy(trainer.networks[name]) for name in ("discriminator", "generator"))
    rms_f, rms_g = (torch.optim.RMSprop(network.parameters(), lr=5e-5) for network in (f, g))
    noise = torch.Generator()
    noise.set_state(trainer.noise.generator.get_state())
    for n_critic in (4, 2, 2):
        batches = [images() for _ in range(n_critic)]
        metrics = trainer.advance(*batches)
        for batch in batches:
            z = torch.randn(8, 4, generator=noise)
            with torch.no_grad():
                fake = g(z)
            estimate = f(batch["image"]).mean() - f(fake).mean()
            rms_f.zero_grad()
            (-estimate).backward()
            rms_f.step()
            with torch.no_grad():
                for weight in f.parameters():
                    weight.clamp_(-0.01, 0.01)
        loss_g = -f(g(torch.randn(8, 4, generator=noise))).mean()
        rms_g.zero_grad()
        loss_g.backward()
        rms_g.step()
        torch.testing.assert_close(metrics["wasserstein"], estimate.detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(metrics["loss_g"], loss_g.detach(), rtol=1e-4, atol=1e-6)
    for name, plain in (("discriminator", f), ("generator", g)):
        for mine, theirs in zip(trainer.networks[name].parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_a_step_of_wgan_gp_equals_the_papers_box_in_plain_torch():
    trainer = build("wgan_gp")
    f, g = (copy.deepcopy(trainer.networks[name]) for name in ("discriminator", "generator"))
    adam_f, adam_g = (torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.0, 0.9)) for network in (f, g))
    noise = torch.Generator()
    noise.set_state(trainer.noise.generator.get_state())
    for _ in range(2):
        batches = [images() for _ in range(2)]
        metrics = trainer.advance(*batches)
        for batch in batches:
            x = batch["image"]
            fake = g(torch.randn(8, 4, generator=noise)).detach()
            mixing = torch.rand(8, 1, 1, 1, generator=noise)
            points = (mixing * x + (1 - mixing) * fake).requires_grad_(True)
            (gradient,) = torch.autograd.grad(f(points).sum(), points, create_graph=True)
            penalty = 10 * (gradient.flatten(1).norm(dim=1) - 1).square().mean()
            loss = f(fake).mean() - f(x).mean() + penalty
            adam_f.zero_grad()
            loss.backward()
            adam_f.step()
        loss_g = -f(g(torch.randn(8, 4, generator=noise))).mean()
        adam_g.zero_grad()
        loss_g.backward()
        adam_g.step()
        torch.testing.assert_close(metrics["gradient_penalty"], penalty.detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(metrics["loss_g"], loss_g.detach(), rtol=1e-4, atol=1e-6)
    for name, plain in (("discriminator", f), ("generator", g)):
        for mine, theirs in zip(trainer.networks[name].parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_the_defaults_are_those_of_the_papers():
    from genlab.trainers.wgan import WganConfig, WganGpConfig

    wgan, penalised = WganConfig(algorithm="wgan"), WganGpConfig(algorithm="wgan_gp")
    for optimizer in (wgan.generator_optimizer, wgan.discriminator_optimizer):
        assert (optimizer.name, optimizer.lr) == ("rmsprop", 5e-5)
    for optimizer in (penalised.generator_optimizer, penalised.discriminator_optimizer):
        assert (optimizer.name, optimizer.lr, optimizer.betas) == ("adam", 1e-4, (0.0, 0.9))
    assert (wgan.wgan.clip, penalised.wgan.clip) == (0.01, None)
    assert wgan.gan.discriminator_steps == penalised.gan.discriminator_steps == 5
    assert penalised.gan.regularizers.gradient_penalty.weight == 10
    assert not penalised.model.discriminator_batch_norm


def test_the_critic_gets_100_updates_in_the_first_25_steps_and_every_500th():
    trainer = WganTrainer(
        load_config("wgan_mnist", ["model.base_channels=2"]), DataSpec("mnist", "images", (1, 28, 28), 10)
    )
    updates = []
    for step in range(1502):
        trainer.step = step
        assert trainer.critic_updates == sum(updates)
        updates.append(trainer.batches_per_step)
    assert [step for step, count in enumerate(updates) if count == 100] == [*range(25), 500, 1000, 1500]
    assert set(updates) == {5, 100}


def test_wgan_gp_has_no_long_steps():
    trainer = build("wgan_gp")
    for step in (0, 1, 24, 500):
        trainer.step = step
        assert (trainer.batches_per_step, trainer.critic_updates) == (2, 2 * step)


def test_lazy_penalties_count_the_updates_of_long_steps():
    trainer = build("wgan", "gan.regularizers.r1={weight: 1, interval: 3}")
    numbers = []
    original = trainer.regularizer.penalties

    def spy(*arguments, **keywords):
        numbers.append(arguments[4])
        return original(*arguments, **keywords)

    trainer.regularizer.penalties = spy
    for _ in range(5):
        trainer.advance(*(images() for _ in range(trainer.batches_per_step)))
    assert numbers == list(range(4 + 2 + 2 + 4 + 2))


@pytest.mark.parametrize(("name", "stop"), [("wgan", 1), ("wgan", 3), ("wgan_gp", 2)])
def test_a_run_stopped_within_the_schedule_resumes_bit_for_bit(name, stop, tmp_path):
    """The long steps are numbers 0 and 3; every checkpoint of the whole run is one that a run may stop at."""
    overrides = ["train.sample_count=4", "train.log_every=2", "gan.regularizers.manifold_entropy={buffer: 12}"]
    whole = config_of(name, *overrides, "train.steps=5", "train.checkpoint_every=5")
    train(whole, tmp_path / "whole", evaluator=None)
    part = config_of(name, *overrides, f"train.steps={stop}")
    train(part, tmp_path / "part", evaluator=None)
    train(whole, tmp_path / "part", resume="auto", evaluator=None)
    assert_same_checkpoint(find_checkpoint(tmp_path / "whole"), find_checkpoint(tmp_path / "part"))


def test_the_estimate_is_positive_where_the_critic_prefers_real_samples():
    """A critic that is trained alone comes to score real samples higher, and the curve says so."""
    trainer = build("wgan_gp", *POINTS, "gan.discriminator_steps=60", "discriminator_optimizer.lr=0.003")
    dataset = data.build(trainer.config.data, "train")
    stream = trainer.open_stream(dataset, seed=0)
    metrics = trainer.advance(*(next(stream) for _ in range(60)))
    assert metrics["wasserstein"] > 0.5
    torch.testing.assert_close(metrics["wasserstein"], -metrics["loss_d"])
    torch.testing.assert_close(metrics["wasserstein"], metrics["real_logit"] - metrics["fake_logit"])


def test_the_estimate_comes_near_the_distance_of_two_points():
    """Between a point mass at 0 and one at (3, 4) the distance is 5, and a critic of slope 1 finds it."""
    from genlab.models.mlp import MlpDiscriminator

    torch.manual_seed(0)
    critic = MlpDiscriminator((2,), (32, 32))
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.01)
    real, fake = torch.zeros(32, 2), torch.tensor([3.0, 4.0]).expand(32, 2)
    for _ in range(300):
        estimate = critic(real).mean() - critic(fake).mean()
        loss = gradient_penalty(critic, real, fake, torch.rand(32, 1)) - estimate
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # The optimum of distance - lambda (slope - 1)^2 has slope 1 + distance / (2 lambda) = 1.25.
    assert estimate.item() == pytest.approx(5 * 1.25, rel=0.03)


@pytest.mark.parametrize("network", ["dcgan", "mlp", "resnet"])
def test_a_samples_penalty_does_not_depend_on_its_batch(network):
    size = 32 if network == "resnet" else 28
    trainer = build(
        "wgan_gp", f"model.network={network}", f"data.image_size={size}", "model.mlp.discriminator_hidden=[8]"
    )
    critic = trainer.networks["discriminator"]
    real, fake = torch.randn(2, 5, 1, size, size)
    mixing = torch.rand(5, 1, 1, 1)
    whole = gradient_penalty(critic, real, fake, mixing)
    alone = [gradient_penalty(critic, real[i : i + 1], fake[i : i + 1], mixing[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(whole, torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [["model.discriminator_batch_norm=true"], ["model.network=mlp", "model.mlp.discriminator_batch_norm=true"]],
)
def test_batch_statistics_in_a_penalised_critic_are_refused(overrides):
    with pytest.raises(
        ConfigError, match=r"discriminator_batch_norm: expected false, because a gradient penalty .*got true"
    ):
        config_of("wgan_gp", *overrides)


def test_batch_statistics_are_allowed_without_a_penalty():
    config_of("wgan_gp", "model.discriminator_batch_norm=true", "gan.regularizers.gradient_penalty=null")


@pytest.mark.parametrize("name", ["wgan", "wgan_gp"])
def test_points_are_trained_on_sampled_and_drawn(name, tmp_path):
    trainer = build(name, *POINTS)
    dataset = data.build(trainer.config.data, "train")
    stream = trainer.open_stream(dataset, seed=0)
    metrics = trainer.advance(*(next(stream) for _ in range(trainer.batches_per_step)))
    assert all(torch.isfinite(value) for value in metrics.values())
    assert trainer.sample(7, torch.Generator()).shape == (7, 2)
    (picture,) = trainer.preview(16, torch.Generator(), lambda count: dataset.fetch(torch.arange(count).numpy()))
    assert picture.images.shape == (1, 3, 512, 512)
    result = train(config_of(name, *POINTS, "train.steps=2", "evaluate.samples=500"), tmp_path / "run")
    assert {row["name"].split("[")[0] for row in result.last_scores} == {"modes", "high_quality", "balance", "frechet"}


def test_images_need_networks_of_images_and_points_those_of_points():
    with pytest.raises(ConfigError, match=r"model\.network=resnet: expected images, got points"):
        build("wgan_gp", *POINTS, "model.network=resnet")


@pytest.mark.parametrize("name", ["wgan", "wgan_gp"])
def test_a_size_that_the_networks_cannot_make_names_the_key_and_the_sizes_that_would_do(name):
    with pytest.raises(ConfigError, match=r"^data\.image_size: expected one of 28, 32, 64, 128 for network dcgan"):
        build(name, "data.image_size=40")
    with pytest.raises(ConfigError, match=r"^data\.image_size: expected one of 32, 64 for network resnet, got 28; or "):
        build(name, "model.network=resnet")
    with pytest.raises(ConfigError, match=r"got 32x28; or choose model\.discriminator=mlp"):
        build(name, "model.network=mlp", "model.discriminator=dcgan", "data.image_size=[32, 28]")


def test_the_generator_gets_fresh_noise_for_its_own_update(monkeypatch):
    trainer = build("wgan")
    drawn = []
    monkeypatch.setattr(trainer, "draw_noise", lambda count: drawn.append(count) or torch.randn(count, 4))
    trainer.advance(*(images() for _ in range(trainer.batches_per_step)))
    assert len(drawn) == 4 + 1


def test_the_margin_of_another_loss_is_not_called_a_distance():
    trainer = build("wgan_gp", *POINTS, "gan.loss=hinge", "gan.discriminator_steps=1")
    stream = trainer.open_stream(data.build(trainer.config.data, "train"), seed=0)
    metrics = trainer.advance(next(stream))
    assert "wasserstein" not in metrics
    torch.testing.assert_close(metrics["margin"], metrics["real_logit"] - metrics["fake_logit"])
