"""Progressive growing: the schedule in images, what is faded, and growth across a resume."""

from __future__ import annotations

import pytest
import torch

from genlab import data
from genlab.checkpoint import checkpoint_name, load_bundle
from genlab.config import load_config
from genlab.distributed import Distributed
from genlab.errors import ConfigError
from genlab.models.progressive import double, halve
from genlab.trainers import DataSpec, train
from genlab.trainers.progressive import ProgressiveTrainer


def build(*overrides: str) -> tuple[ProgressiveTrainer, data.BatchStream]:
    config = load_config("progressive_tiny", list(overrides))
    dataset = data.build(config.data)
    trainer = ProgressiveTrainer(config, DataSpec.of(dataset))
    return trainer, trainer.open_stream(dataset, seed=0)


def test_the_schedule_goes_by_images():
    trainer, _ = build("data.image_size=16", "progressive.stable_images=100", "progressive.fade_images=50")
    expected = {0: (0, 1.0), 99: (0, 1.0), 100: (1, 0.0), 125: (1, 0.5), 149: (1, 0.98), 150: (1, 1.0)}
    expected |= {249: (1, 1.0), 250: (2, 0.0), 299: (2, 0.98), 300: (2, 1.0), 10**9: (2, 1.0)}
    assert {images: trainer.growth(images) for images in expected} == expected


def test_a_step_takes_as_many_batches_as_its_resolution_asks_for():
    trainer, stream = build("progressive.batches={4: 3, 8: 2}")
    seen = []
    for _ in range(8):
        count = trainer.batches_per_step
        metrics = trainer.advance(*(next(stream) for _ in range(count)))
        seen.append((count, metrics["resolution"].item(), trainer.images))
    assert seen[:3] == [(3, 4, 24), (3, 4, 48), (2, 8, 64)]
    assert seen[-1][:2] == (2, 8)


def test_the_half_life_of_the_average_counts_images_at_every_resolution(monkeypatch):
    trainer, stream = build("progressive.batches={4: 3, 8: 2}", "gan.ema={half_life: 40, ramp: 0.5}")
    ema, shares = trainer.ema["generator"], []
    share = ema.next_share
    monkeypatch.setattr(ema, "next_share", lambda: shares.append(share()) or shares[-1])
    for _ in range(7):
        seen, count = trainer.images, trainer.batches_per_step
        trainer.advance(*(next(stream) for _ in range(count)))
        kept = 0.5 ** (8 * count / min(40, 0.5 * seen)) if seen else 0.0
        assert shares[-1] == pytest.approx(1 - kept), f"after {seen} images"
    assert trainer.images == ema.images == 2 * 24 + 5 * 16


def test_real_images_are_faded_in_like_generated_ones():
    trainer, _ = build()
    images = torch.rand(2, 1, 8, 8)
    trainer.images = 48
    trainer._grow()
    generator = trainer.networks["generator"]
    assert (generator.level, generator.alpha) == (1, 0.5)
    assert torch.allclose(trainer._at_resolution(images), (images + double(halve(images))) / 2)
    trainer.images = 0
    trainer._grow()
    assert torch.equal(trainer._at_resolution(images), halve(images))


def test_moments_are_forgotten_when_a_fade_begins_and_ends():
    trainer, stream = build()
    steps = []
    for _ in range(8):
        trainer.advance(*(next(stream) for _ in range(trainer.batches_per_step)))
        states = trainer.optimizers["generator"].state.values()
        generator = trainer.networks["generator"]
        steps.append((generator.level, generator.alpha, max(int(state["step"]) for state in states)))
    fading = [(1, 0.0, 1), (1, 0.25, 2), (1, 0.5, 3), (1, 0.75, 4)]
    assert steps == [(0, 1.0, 1), (0, 1.0, 2), *fading, (1, 1.0, 1), (1, 1.0, 2)]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_resuming_around_a_growth_is_bit_for_bit(tmp_path, at):
    common = ["train.checkpoint_every=1", "train.sample_every=8", "train.steps=5", "train.keep_last=9"]
    config = load_config("progressive_tiny", [*common, "train.tensorboard=false"])
    train(config, tmp_path / "whole", evaluator=None)
    middle = tmp_path / "whole" / "checkpoints" / checkpoint_name(at)
    train(config, tmp_path / "rest", resume=middle, evaluator=None)
    whole, rest = (load_bundle(tmp_path / name).trainer for name in ("whole", "rest"))
    for name, network in whole.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, rest.networks[name].state_dict()[key]), key
    assert whole.images == rest.images
    assert whole.networks["generator"].alpha == rest.networks["generator"].alpha < 1


def test_samples_have_the_final_size_at_every_resolution():
    trainer, _ = build("data.image_size=16")
    images = trainer.sample(2, torch.Generator().manual_seed(0))
    assert images.shape == (2, 1, 16, 16)
    assert torch.equal(images, double(double(halve(halve(images)))))


def of_processes(count: int, *overrides: str) -> ProgressiveTrainer:
    """What the first of so many processes builds; it exchanges nothing."""
    config = load_config("progressive_tiny", list(overrides))
    spec = DataSpec("digits", "images", (1, *config.data.height_width), 10)
    return ProgressiveTrainer(config, spec, distributed=Distributed(world_size=count))


def test_batches_that_several_processes_would_group_otherwise_are_refused():
    of_processes(2)  # 8 images at 8 px: groups of 4, of the halves too
    with pytest.raises(ConfigError) as caught:
        of_processes(4)
    assert str(caught.value) == (
        "model.group_size=4: expected groups of the minibatch standard deviation that are those of one process, 4 "
        "images at 8 px, got 2 in each of 4 processes; set data.batch_size to a multiple of 16, or model.group_size "
        "to 2"
    )
    of_processes(4, "data.batch_size=16")
    of_processes(4, "model.group_size=2")
    with pytest.raises(ConfigError, match=r"4 images at 4 px, got 2 in each of 4 .* or model\.group_size to 1"):
        of_processes(4, "data.batch_size=4", "progressive.batches={4: 2}")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.image_size=28", ["image_size", "4, 8, 16", "28"]),
        ("data.image_size=[8, 16]", ["square", "(8, 16)"]),
        ("gan.discriminator_steps=5", ["discriminator_steps", "5"]),
        ("model.network=dcgan", ["model.network", "dcgan"]),
        ("progressive.batches={4: 0}", ["progressive.batches", "at least 1"]),
    ],
)
def test_a_configuration_that_cannot_grow_is_refused(override, parts):
    with pytest.raises(ConfigError) as caught:
        load_config("progressive_tiny", [override])
    assert all(part in str(caught.value) for part in parts), caught.value


def test_learns_to_draw_blobs_where_the_data_has_them(tmp_path):
    """After a short training the mean picture of the samples is near that of the data, far nearer than at the start."""
    overrides = ["train.steps=250", "progressive.stable_images=1000", "progressive.fade_images=1000"]
    overrides += ["data.batch_size=16", "gan.ema.decay=0.97", "train.tensorboard=false"]
    config = load_config("progressive_tiny", overrides)
    start, _ = build("data.batch_size=16")
    train(config, tmp_path / "run", evaluator=None)
    real = data.build(config.data).fetch(torch.arange(1000).numpy())["image"].mean(0)
    ends = [start, load_bundle(tmp_path / "run").trainer]
    before, after = ((t.sample(500, torch.Generator().manual_seed(0)).mean(0) - real).abs().mean() for t in ends)
    assert after < 0.65 * before


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.discriminator=mlp", "model.discriminator"),
        ("model.base_channels=7", "model.base_channels"),
        ("model.mlp.pieces=2", "model.mlp"),
        ("model.discriminator_batch_norm=false", "model.discriminator_batch_norm"),
    ],
)
def test_keys_of_other_networks_are_unknown(override, key):
    with pytest.raises(ConfigError, match=f"unknown key '{key}'"):
        load_config("progressive_tiny", [override])
