"""CycleGAN's own rules: losses there and back, the pools, frozen networks, merged batches, the decay, learning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from training_jobs import assert_same_checkpoint, finish, run_ranks

from genlab import data
from genlab.checkpoint import checkpoint_name, find_checkpoint, load_checkpoint
from genlab.config import RunConfig, ScheduleConfig, load_config
from genlab.errors import ConfigError, RunError, UserError
from genlab.models.cyclegan import ResnetGenerator
from genlab.models.patchgan import PatchDiscriminator
from genlab.models.unet import UnetGenerator
from genlab.schedules import build_schedule
from genlab.trainers import DataSpec, train
from genlab.trainers.cyclegan import CycleGanTrainer, together
from genlab.trainers.evaluation import EvaluationData
from genlab.trainers.translation import ImagePool

QUIET = ["train.tensorboard=false", "evaluate.metrics=[]"]
STILL = ["generator_optimizer.lr=1e-12", "discriminator_optimizer.lr=1e-12"]


def config(*overrides: str) -> RunConfig:
    return load_config("cyclegan_tiny", [*QUIET, *overrides])


def build(*overrides: str) -> tuple[CycleGanTrainer, dict[str, torch.Tensor]]:
    settings = config(*overrides)
    dataset = data.build(settings.data)
    trainer = CycleGanTrainer(settings, DataSpec.of(dataset))
    return trainer, next(trainer.open_stream(dataset, seed=0))


def test_the_losses_are_those_of_the_paper_written_out():
    """Equations 1 to 3 and section 5.2, least squares without 1/2, each network called once for each picture."""
    trainer, batch = build(*STILL)
    a, b = batch["a"], batch["b"]
    g, f, d_a, d_b = (
        trainer.networks[name] for name in ("generator_ab", "generator_ba", "discriminator_a", "discriminator_b")
    )
    metrics = trainer.advance(batch)
    with torch.no_grad():
        expected = {
            "loss_g_ab": (d_b(g(a)) - 1).square().mean(),
            "loss_g_ba": (d_a(f(b)) - 1).square().mean(),
            "loss_cycle": (f(g(a)) - a).abs().mean() + (g(f(b)) - b).abs().mean(),
            "loss_identity": (g(b) - b).abs().mean() + (f(a) - a).abs().mean(),
            "loss_d_a": 0.5 * ((d_a(a) - 1).square().mean() + d_a(f(b)).square().mean()),
            "loss_d_b": 0.5 * ((d_b(b) - 1).square().mean() + d_b(g(a)).square().mean()),
        }
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-4, atol=1e-5, msg=name)


def generator_gradient(*overrides: str) -> torch.Tensor:
    trainer, batch = build(*overrides)
    caught = []
    weights = [trainer.networks[name].layers[0].weight for name in ("generator_ab", "generator_ba")]
    trainer.optimizers["generators"].step = lambda **_: caught.append(
        torch.cat([weight.grad.flatten() for weight in weights])
    )
    trainer.advance(batch)
    return caught[0]


def test_lambda_and_the_identity_share_weigh_their_terms():
    none = generator_gradient("cycle.weight=0", "cycle.identity=0")
    cycle = generator_gradient("cycle.weight=1", "cycle.identity=0") - none
    both = generator_gradient("cycle.weight=1", "cycle.identity=1") - none
    found = generator_gradient("cycle.weight=10", "cycle.identity=0.5")
    torch.testing.assert_close(found, none + 10 * cycle + 5 * (both - cycle), rtol=1e-3, atol=1e-4)


def test_cycle_and_identity_losses_vanish_for_identity_networks():
    trainer, batch = build()
    for name in ("generator_ab", "generator_ba"):
        trainer.networks[name] = nn.Identity()
    trainer.optimizers["generators"].step = lambda **_: None
    with torch.enable_grad():
        # the losses carry a graph although identities have no weights
        moving = {key: value.clone().requires_grad_(True) for key, value in batch.items()}
        metrics = trainer.train_step(moving)
    assert metrics["loss_cycle"] == 0
    assert metrics["loss_identity"] == 0
    assert metrics["loss_g_ab"] > 0


def test_one_batch_gives_the_numbers_of_separate_calls():
    parts = [torch.randn(count, 3, 32, 32) for count in (2, 1, 3)]
    for network in (ResnetGenerator(3, 4, 2), PatchDiscriminator(3, 16, 4, "instance")):
        merged = together(network, *parts)
        assert [len(part) for part in merged] == [2, 1, 3]
        for result, part in zip(merged, parts, strict=True):
            torch.testing.assert_close(result, network(part))


def test_a_discriminator_with_batch_statistics_is_called_separately():
    trainer, batch = build("discriminator.normalization=batch")
    network = trainer.networks["discriminator_a"]
    real, fake = trainer._logits(network, batch["a"], batch["b"])
    assert torch.equal(real, network(batch["a"]))
    assert torch.equal(fake, network(batch["b"]))
    assert not torch.allclose(together(network, batch["a"], batch["b"])[0], real, atol=1e-4)


def parameters(trainer: CycleGanTrainer, kind: str) -> list[torch.Tensor]:
    return [
        p.detach().clone()
        for name in trainer.networks
        if name.startswith(kind)
        for p in trainer.networks[name].parameters()
    ]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_discriminators_are_frozen_in_the_generators_update_and_the_other_way_round():
    trainer, batch = build()
    judges = parameters(trainer, "discriminator")
    _, fake_a, fake_b = trainer._update_generators(batch["a"], batch["b"])
    assert same(judges, parameters(trainer, "discriminator"))
    assert all(p.grad is None for name in "ab" for p in trainer.networks[f"discriminator_{name}"].parameters())
    assert not fake_a.requires_grad
    makers = parameters(trainer, "generator")
    trainer._update_discriminators(batch["a"], batch["b"], fake_a, fake_b)
    assert same(makers, parameters(trainer, "generator"))
    assert not same(judges, parameters(trainer, "discriminator"))


def numbered(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 2, 2)


def test_a_pool_hands_pictures_back_until_it_is_full():
    pool, draws = ImagePool(4), torch.Generator().manual_seed(0)
    assert torch.equal(pool.exchange(numbered(0, 1, 2), draws), numbered(0, 1, 2))
    assert torch.equal(pool.exchange(numbered(3), draws), numbered(3))
    assert torch.equal(torch.stack(pool.images), numbered(0, 1, 2, 3))


def test_a_full_pool_exchanges_half_of_the_pictures_for_older_ones_each_once():
    pool, draws = ImagePool(50), torch.Generator().manual_seed(0)
    shown = pool.exchange(numbered(*range(50)), draws)[:, 0, 0, 0].tolist()
    for start in range(50, 4050, 10):
        batch = numbered(*range(start, start + 10))
        out = pool.exchange(batch, draws)[:, 0, 0, 0]
        assert (out <= batch[:, 0, 0, 0]).all(), "a picture from the future"
        shown += out.tolist()
    late = torch.tensor(shown[50:])
    fresh = (late == torch.arange(50, 4050)).float().mean().item()
    assert fresh == pytest.approx(0.5, abs=0.03)
    exchanged = late[late != torch.arange(50, 4050)]
    assert len(exchanged.unique()) == len(exchanged), "what was handed out has left the pool"
    waited = (torch.arange(50, 4050)[late != torch.arange(50, 4050)] - exchanged).float()
    assert waited.mean().item() == pytest.approx(100, rel=0.15)  # 50 places, each left at every 100th picture


def test_a_pool_of_none_hands_everything_back_and_draws_nothing():
    draws = torch.Generator().manual_seed(0)
    before = draws.get_state()
    assert torch.equal(ImagePool(0).exchange(numbered(1, 2), draws), numbered(1, 2))
    assert torch.equal(draws.get_state(), before)


def test_a_pool_keeps_copies_and_goes_on_from_its_state_bit_for_bit():
    first, second = ImagePool(5), ImagePool(5)
    draws, twin = (torch.Generator().manual_seed(1) for _ in range(2))
    images = torch.randn(20, 1, 2, 2)
    handed = images[:5].clone()
    first.exchange(handed, draws)
    second.exchange(handed, twin)
    handed.zero_()
    assert torch.equal(torch.stack(first.images), images[:5])
    resumed = ImagePool(5)
    resumed.load_state(first.state(), torch.device("cpu"))
    for start in range(5, 20, 5):
        batch = images[start : start + 5]
        assert torch.equal(resumed.exchange(batch, draws), second.exchange(batch, twin))
    empty = ImagePool(5)
    empty.load_state(empty.state(), torch.device("cpu"))
    assert empty.images == []


def test_the_pools_are_part_of_a_checkpoint_and_a_resumed_training_is_the_same(tmp_path):
    options = config("train.steps=6", "train.checkpoint_every=3", "gan.ema.decay=0.9")
    train(options, tmp_path / "whole", evaluator=None)
    middle = tmp_path / "whole" / "checkpoints" / checkpoint_name(3)
    pools = {name: tensor.shape for name, tensor in load_checkpoint(middle).tensors.items() if "pool" in name}
    assert sorted(pools.values()) == [(6, 3, 32, 32)] * 2
    train(options, tmp_path / "rest", resume=middle, evaluator=None)
    assert_same_checkpoint(find_checkpoint(tmp_path / "whole"), find_checkpoint(tmp_path / "rest"))


def test_the_discriminators_see_past_pictures_and_the_generators_loss_does_not():
    trainer, batch = build("cycle.pool_size=4", *STILL)
    old = torch.full_like(batch["a"], 0.25)
    for pool in trainer.pools.values():
        pool.exchange(old, torch.Generator())
    seen = []
    update = trainer._update_discriminators
    trainer._update_discriminators = lambda a, b, *shown: seen.extend(shown) or update(a, b, *shown)
    trainer.advance(batch)
    marks = [(shown == 0.25).all(dim=(1, 2, 3)).sum().item() for shown in seen]
    assert 0 < sum(marks) < 8


def test_the_learning_rate_is_constant_and_then_falls_linearly_to_zero():
    factor = build_schedule(ScheduleConfig(name="linear", decay_start=100), 200)
    assert [factor(step) for step in (0, 50, 100)] == [1, 1, 1]
    assert factor(150) == pytest.approx(0.5)
    assert factor(199) == pytest.approx(0.01)
    assert factor(200) == 0
    trainer, batch = build("train.steps=4", "train.schedule.name=linear", "train.schedule.decay_start=2")
    rates = []
    for _ in range(5):
        trainer.advance(batch)
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers.values()])
    assert rates == [[2e-4] * 2, [2e-4] * 2, [2e-4] * 2, [1e-4] * 2, [0.0] * 2]


def test_directions_name_the_folders_whatever_the_training_calls_forward():
    forward, batch = build()
    backward, _ = build("data.direction=b_to_a")
    assert forward.directions == ("a_to_b", "b_to_a")
    assert backward.directions == ("b_to_a", "a_to_b")
    for trainer in (forward, backward):
        results = {}
        with torch.no_grad():
            for way in ("ab", "ba"):
                results[way] = trainer.networks[f"generator_{way}"].eval()(batch["a"])
        first, second = trainer.directions
        assert torch.equal(trainer.translate(batch["a"], torch.Generator()), results["ab"])
        assert torch.equal(trainer.translate(batch["a"], torch.Generator(), first), results["ab"])
        assert torch.equal(trainer.translate(batch["a"], torch.Generator(), second), results["ba"])
    with pytest.raises(UserError, match="expected a_to_b or b_to_a, .* got sideways"):
        forward.translate(batch["a"], torch.Generator(), "sideways")


def test_the_preview_shows_both_domains_there_and_back():
    trainer, batch = build()
    (picture,) = trainer.preview(24, torch.Generator(), lambda count: batch)
    rows = picture.images.unflatten(0, (-1, 6))
    g, f = (lambda x, way=way: trainer.translate(x, torch.Generator(), way) for way in ("a_to_b", "b_to_a"))
    for column, expected in enumerate([batch["a"], g(batch["a"]), f(g(batch["a"])), batch["b"], f(batch["b"])]):
        torch.testing.assert_close(rows[:, column], expected)
    torch.testing.assert_close(rows[:, 5], g(f(batch["b"])))
    assert picture.columns == 6


def test_scores_are_the_cycle_and_the_distance_of_translations_in_both_directions():
    trainer, _ = build("evaluate.samples=70")
    evaluation = EvaluationData(trainer.config, trainer.device, 70)
    test = data.build(trainer.config.data.model_copy(update={"limit": 70}), "test")
    evaluation.dataset = lambda split: test
    trainer.translate = lambda images, generator, direction: images + (0.1 if direction == "a_to_b" else -0.1)
    perfect = {score.name: score for score in trainer.scores(evaluation)}
    assert perfect["cycle_l1_a"].value == pytest.approx(0, abs=1e-6)
    assert perfect["frechet_ab[pixels8]"].value > 0.1
    trainer.translate = lambda images, generator, direction: images * 0.5
    halved = {score.name: score for score in trainer.scores(evaluation)}
    b = torch.stack([test[index]["b"] for index in range(70)])
    assert halved["cycle_l1_b"].value == pytest.approx(0.75 * b.abs().mean().item(), rel=1e-5)
    assert set(halved) == {"cycle_l1_a", "cycle_l1_b", "frechet_ab[pixels8]", "frechet_ba[pixels8]"}
    assert not any(score.higher_is_better for score in halved.values())
    evaluation.samples = 20  # too few for a covariance of 64 features
    assert {"kid_ab[pixels8]", "kid_ba[pixels8]"} < {score.name for score in trainer.scores(evaluation)}


@pytest.mark.parametrize("loss", ["non_saturating", "hinge", "wasserstein"])
def test_any_adversarial_loss_and_regulariser_fit(loss):
    trainer, batch = build(
        f"gan.loss={loss}", "discriminator.normalization=none", "gan.regularizers.gradient_penalty.weight=10",
        "gan.regularizers.r1.weight=1", "gan.regularizers.spectral_norm=true", "train.grad_accumulation=2",
    )  # fmt: skip
    metrics = trainer.advance(batch)
    for domain in "ab":
        assert metrics[f"gradient_penalty_{domain}"] > 0
        assert metrics[f"r1_{domain}"] > 0


def test_signs_of_both_directions_and_both_discriminators_are_watched():
    trainer, batch = build()
    metrics = trainer.advance(batch)
    assert {"accuracy_a", "accuracy_b", "margin_a", "margin_b"} <= metrics.keys()
    trainer.translate = lambda images, generator, way: torch.zeros_like(images) if way == "b_to_a" else images
    assert trainer.vital_signs(lambda count: batch)["diversity"] == 0
    healthy = {f"{name}_{domain}": value for name, value in (("accuracy", 0.9), ("loss_d", 0.3)) for domain in "ab"}
    assert trainer.findings(healthy) == []
    sure = {**healthy, "accuracy_b": 1.0, "loss_d_b": 1e-4}
    assert [found.what for found in trainer.findings(sure)] == ["saturation"]


def test_micro_batches_give_the_gradient_of_the_whole():
    parts = generator_gradient("train.grad_accumulation=2")
    torch.testing.assert_close(parts, generator_gradient(), rtol=1e-3, atol=1e-5)


def test_a_short_training_learns_to_come_back():
    """|F(G(a)) - a| falls below a third; generators without one of their parts, or untrained ones, do not."""
    trainer, batch = build("data.batch_size=2", "generator_optimizer.lr=5e-3")
    first = trainer.advance(batch)["loss_cycle"].item()
    for _ in range(40):
        last = trainer.advance(batch)["loss_cycle"].item()
    assert last < first / 3, (first, last)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data.image_size=30"],
            "data.image_size: ResNet: expected sides of at least 16 px in multiples of 4, got 30x30",
        ),
        (["data.image_size=12"], "got 12x12"),
        (
            ["model.network=unet", "data.image_size=48"],
            "data.image_size: U-Net: expected a square of 32, 64, 128, 256, 512 px, got 48x48; or choose "
            "model.network=resnet",
        ),
        (["model.network=vit"], "model.network"),
        (["discriminator.receptive_field=286"], "at least 96 px for a receptive field of 286, got 32x32"),
        (["cycle.pool_size=-1"], "pool_size"),
        (["gan.loss=lsgn"], "did you mean 'lsgan'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(ConfigError) as caught:
        config(*overrides)
    assert message in str(caught.value)


def test_the_unet_of_pix2pix_trains_without_noise_and_translates_picture_by_picture(tmp_path):
    trainer, batch = build("model.network=unet")
    assert all(isinstance(trainer.networks[f"generator_{way}"], UnetGenerator) for way in ("ab", "ba"))
    assert trainer.networks["generator_ab"].noise_shapes == []
    for _ in range(2):
        metrics = trainer.advance(batch)
    assert all(torch.isfinite(value) for value in metrics.values())
    whole = trainer.translate(batch["a"], torch.Generator(), "a_to_b")
    singly = torch.cat([trainer.translate(image[None], torch.Generator(), "a_to_b") for image in batch["a"]])
    torch.testing.assert_close(singly, whole, rtol=1e-4, atol=1e-5)
    assert not torch.equal(whole, trainer.translate(batch["a"], torch.Generator(), "b_to_a"))
    options = config("model.network=unet", "train.steps=1")
    result = train(options, tmp_path / "run", evaluator=None)
    with pytest.raises(RunError, match="model.network: 'unet' -> 'resnet'"):
        train(config("train.steps=2"), tmp_path / "other", resume=result.last_checkpoint, evaluator=None)


def test_pairs_and_single_pictures_are_refused():
    for name, kind in (("outline_pairs", "paired"), ("digits", "images")):
        settings = config(f"data.name={name}")
        with pytest.raises(ConfigError, match=f"algorithm cyclegan: expected a data set of unpaired, got {kind}"):
            CycleGanTrainer(settings, DataSpec.of(data.build(settings.data)))


def run_cyclegan(overrides: list[str], run_dir: str) -> None:
    torch.set_num_threads(1)
    train(config(*overrides), run_dir, evaluator=None)


def test_two_processes_give_the_curve_and_the_pools_of_one(tmp_path):
    options = ["train.log_every=1", "train.steps=6", "train.checkpoint_every=6"]
    assert finish(run_cyclegan, options, str(tmp_path / "one")) == 0
    assert run_ranks(2, run_cyclegan, options, str(tmp_path / "two")) == [0, 0]

    def curves(run: Path) -> list[dict[str, float]]:
        return [row for row in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if "event" not in row]

    for one, two in zip(curves(tmp_path / "one"), curves(tmp_path / "two"), strict=True):
        for name in ("loss_g_ab", "loss_g_ba", "loss_cycle", "loss_identity", "loss_d_a", "loss_d_b"):
            assert two[name] == pytest.approx(one[name], rel=1e-3), name
    a, b = (load_checkpoint(find_checkpoint(tmp_path / name)).tensors for name in ("one", "two"))
    pools = [name for name in a if "pool" in name]
    assert len(pools) == 2
    for name in pools:
        # Adam makes whole steps of gradients that are only rounding: a few pixels part further than the curves do.
        assert (b[name] - a[name]).norm() <= 1e-2 * a[name].norm()
