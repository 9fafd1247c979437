"""Pix2Pix's own rules: pairs, the halved discriminator, lambda, noise at test, and a training that must learn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from training_jobs import assert_same_checkpoint, finish, run_ranks

from genlab import data
from genlab.checkpoint import checkpoint_name, find_checkpoint
from genlab.config import RunConfig, load_config
from genlab.errors import ConfigError, UserError
from genlab.models.cyclegan import ResidualBlock
from genlab.nn import BatchNormAct2d, InstanceNormAct2d
from genlab.trainers import DataSpec, train
from genlab.trainers.evaluation import EvaluationData
from genlab.trainers.pix2pix import Pix2PixTrainer

QUIET = ["train.tensorboard=false", "evaluate.metrics=[]"]


def config(*overrides: str) -> RunConfig:
    return load_config("pix2pix_tiny", [*QUIET, *overrides])


def build(*overrides: str) -> tuple[Pix2PixTrainer, dict[str, torch.Tensor]]:
    settings = config(*overrides)
    dataset = data.build(settings.data)
    trainer = Pix2PixTrainer(settings, DataSpec.of(dataset))
    return trainer, next(trainer.open_stream(dataset, seed=0))


def state(trainer: Pix2PixTrainer, name: str) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in trainer.networks[name].state_dict().items()}


def changed(before: dict[str, torch.Tensor], trainer: Pix2PixTrainer, name: str) -> bool:
    now = trainer.networks[name].state_dict()
    return any(not torch.equal(value, now[key]) for key, value in before.items() if "num_batches" not in key)


def test_the_losses_are_those_of_the_paper():
    """Equation 4 with the generator's -log D and the discriminator's half, from the same noise, written out."""
    trainer, batch = build("generator_optimizer.lr=1e-12", "discriminator_optimizer.lr=1e-12")
    x, y = batch["input"], batch["target"]
    generator, discriminator = (trainer.networks[name] for name in ("generator", "discriminator"))
    twin = torch.Generator()
    twin.set_state(trainer.noise.generator.get_state())
    noise = [torch.rand(len(x), *shape, generator=twin) for shape in generator.noise_shapes]
    metrics = trainer.advance(batch)
    with torch.no_grad():
        fake = generator(x, noise)
        real_logits, fake_logits = discriminator(torch.cat([x, y], 1)), discriminator(torch.cat([x, fake], 1))
    ones, zeros = torch.ones_like(real_logits), torch.zeros_like(real_logits)
    binary = F.binary_cross_entropy_with_logits
    loss_d = 0.5 * (binary(real_logits, ones) + binary(fake_logits, zeros))
    torch.testing.assert_close(metrics["loss_d"], loss_d, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["loss_g"], binary(fake_logits, ones), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["loss_l1"], (fake - y).abs().mean(), rtol=1e-4, atol=1e-5)


def gradient_of_generator(trainer: Pix2PixTrainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    caught = []
    weight = trainer.networks["generator"].decoder[-1].weight
    trainer.optimizers["generator"].step = lambda **_: caught.append(weight.grad.clone())
    trainer.advance(batch)
    return caught[0]


def test_lambda_weighs_the_distance_against_the_adversarial_term():
    def gradient(*overrides: str) -> torch.Tensor:
        frozen = ["discriminator_optimizer.lr=1e-12"]
        return gradient_of_generator(*build(*frozen, *overrides))

    adversarial = gradient("objective.weight=0")
    distance = gradient("objective.adversarial_weight=0", "objective.weight=1")
    both = gradient()
    torch.testing.assert_close(both, adversarial + 100 * distance, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(gradient("objective.reconstruction=none"), adversarial, rtol=1e-3, atol=1e-6)
    assert (gradient("objective.reconstruction=l2") - both).abs().max() > 1e-3


def test_each_network_moves_in_its_own_update_only(monkeypatch):
    trainer, batch = build()
    generator, discriminator = state(trainer, "generator"), state(trainer, "discriminator")
    seen = []
    update_generator = trainer._update_generator

    def watched(*arguments):
        seen.append((changed(generator, trainer, "generator"), changed(discriminator, trainer, "discriminator")))
        held = state(trainer, "discriminator")
        metrics = update_generator(*arguments)
        parameters = dict(trainer.networks["discriminator"].named_parameters())
        seen.append(any(not torch.equal(held[name], value) for name, value in parameters.items()))
        return metrics

    monkeypatch.setattr(trainer, "_update_generator", watched)
    trainer.advance(batch)
    assert seen == [(False, True), False], "D moves first, then G alone, through a frozen D"
    assert changed(generator, trainer, "generator")


def test_the_discriminator_sees_the_input_beside_the_output_unless_told_otherwise():
    trainer, batch = build()
    judge = trainer._judge(batch["input"])
    assert not torch.equal(judge(batch["target"]), trainer._judge(batch["input"].flip(0))(batch["target"]))
    assert trainer.networks["discriminator"].layers[0].in_channels == 6
    blind, batch = build("objective.conditional=false")
    assert blind.networks["discriminator"].layers[0].in_channels == 3
    blind.advance(batch)


def assert_that_dropout_is_the_noise(trainer, images, **tolerance):
    """Drawn from the generator that is given, and of a picture whatever its neighbours; returns the translations."""
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    first, again, other = (trainer.translate(images, seed) for seed in seeds)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    parts = torch.Generator().manual_seed(1)
    singly = torch.cat([trainer.translate(image[None], parts) for image in images])
    torch.testing.assert_close(singly, first, **tolerance)
    return first


def test_noise_and_own_statistics_stay_on_at_test():
    trainer, batch = build()
    first = assert_that_dropout_is_the_noise(trainer, batch["input"])
    assert first.dtype == torch.float32
    assert first.abs().max() <= 1


def test_noise_and_statistics_of_the_training_are_options():
    trainer, batch = build("model.test_dropout=false", "model.test_statistics=running")
    draws = torch.Generator().manual_seed(1)
    first, second = (trainer.translate(batch["input"], draws) for _ in range(2))
    assert torch.equal(first, second)
    for _ in range(3):
        trainer.advance(batch)
    means = [value for key, value in trainer.networks["generator"].state_dict().items() if "running_mean" in key]
    assert means
    assert all(mean.abs().max() > 0 for mean in means)
    plain, _ = build()
    assert not any("running" in key for key in plain.networks["generator"].state_dict())


RESNET = ["model.network=resnet", "model.blocks=2"]


@pytest.mark.parametrize("normalization", ["batch", "instance"])
def test_the_resnet_of_cyclegan_has_dropout_in_its_blocks_as_noise(normalization):
    trainer, batch = build(*RESNET, f"model.normalization={normalization}")
    generator = trainer.networks["generator"]
    assert generator.noise_shapes == [(16, 8, 8)] * 2
    assert sum(isinstance(layer, ResidualBlock) for layer in generator.modules()) == 2
    kind = {"batch": BatchNormAct2d, "instance": InstanceNormAct2d}[normalization]
    assert isinstance(generator.layers[1], kind)
    assert generator.layers[1].weight is not None
    trainer.advance(batch)
    assert_that_dropout_is_the_noise(trainer, batch["input"], rtol=1e-4, atol=1e-5)


def test_the_resnet_takes_pictures_that_are_not_square_and_as_many_blocks_as_the_paper():
    settings = config("model.network=resnet", "model.dropout=0", "data.image_size=[32, 48]")
    trainer = Pix2PixTrainer(settings, DataSpec("facades", "paired", (3, 32, 48)))
    assert sum(isinstance(layer, ResidualBlock) for layer in trainer.networks["generator"].modules()) == 6
    assert trainer.networks["generator"].noise_shapes == []
    assert trainer.translate(torch.zeros(2, 3, 32, 48), torch.Generator()).shape == (2, 3, 32, 48)


def test_it_translates_in_its_own_direction_and_draws_nothing_from_noise():
    trainer, batch = build("data.direction=b_to_a")
    assert trainer.directions == ("b_to_a",)
    with pytest.raises(UserError, match="expected b_to_a, which the model was trained for, got a_to_b"):
        trainer.translate(batch["input"], torch.Generator(), "a_to_b")
    with pytest.raises(UserError, match="genlab translate"):
        trainer.sample(1, torch.Generator())


def test_the_preview_shows_input_output_and_target_in_rows():
    trainer, batch = build()
    (picture,) = trainer.preview(12, torch.Generator().manual_seed(0), lambda count: batch)
    rows = picture.images.unflatten(0, (-1, 3))
    assert torch.equal(rows[:, 0], batch["input"])
    assert torch.equal(rows[:, 2], batch["target"])
    assert torch.equal(rows[:, 1], trainer.translate(batch["input"], torch.Generator().manual_seed(0)))
    assert picture.columns % 3 == 0


@pytest.mark.parametrize("options", [[], ["train.grad_accumulation=2"]])
@pytest.mark.parametrize("loss", ["lsgan", "hinge", "wasserstein"])
def test_any_adversarial_loss_fits(loss, options):
    trainer, batch = build(f"gan.loss={loss}", "discriminator.normalization=none", *options)
    trainer.advance(batch)
    penalised, batch = build(
        f"gan.loss={loss}", "discriminator.normalization=none", "gan.regularizers.gradient_penalty.weight=10",
        "gan.regularizers.r1.weight=1", "gan.regularizers.spectral_norm=true", "gan.ema.decay=0.9", *options,
    )  # fmt: skip
    metrics = penalised.advance(batch)
    assert metrics["gradient_penalty"] > 0
    assert metrics["r1"] > 0


def test_outputs_that_do_not_follow_their_inputs_and_a_sure_discriminator_are_told():
    trainer, batch = build()
    trainer.translate = lambda images, generator, direction=None: torch.zeros_like(images)
    signs = trainer.vital_signs(lambda count: batch)
    assert signs["diversity"] == 0
    healthy = {"diversity": 0.9, "diversity_nearest": 0.9, "accuracy": 0.9, "loss_d": 0.3}
    assert trainer.findings(healthy) == []
    assert [found.what for found in trainer.findings({**healthy, "diversity": 0.0})] == ["collapse"]
    sure = {**healthy, "accuracy": 1.0, "loss_d": 1e-4}
    assert [found.what for found in trainer.findings(sure)] == ["saturation"]


@pytest.mark.parametrize(
    ("regularizer", "message"),
    [("consistency.weight=1", "objective.conditional"), ("manifold_entropy.weight=1", "codes of whole images")],
)
def test_regularisers_that_do_not_fit_pairs_are_refused(regularizer, message):
    with pytest.raises(ConfigError, match=message):
        config(f"gan.regularizers.{regularizer}")


def test_two_micro_batches_give_the_gradient_of_one():
    options = ["model.normalization=instance", "discriminator.normalization=instance"]
    whole = gradient_of_generator(*build(*options))
    parts = gradient_of_generator(*build(*options, "train.grad_accumulation=2"))
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-5)


def test_a_short_training_learns_negatives():
    """The target is the input's negative, 1.8 away from it; without skips, loss or updates 0.3 is out of reach."""
    trainer, batch = build("model.dropout=0", "model.normalization=instance", "generator_optimizer.lr=5e-3")
    batch["target"] = -batch["input"]

    def distance() -> float:
        output = trainer.translate(batch["input"], torch.Generator())
        return (output - batch["target"]).abs().mean().item()

    assert distance() > 0.6
    for _ in range(60):
        trainer.advance(batch)
    assert distance() < 0.3


def test_scores_stand_beside_identity_and_nearest_neighbour():
    settings = config("evaluate.samples=20", "data.image_size=32")
    dataset = data.build(settings.data)
    trainer = Pix2PixTrainer(settings, DataSpec.of(dataset))
    evaluation = EvaluationData(settings, trainer.device, 20)
    test = evaluation.dataset("test")
    small = data.build(settings.data.model_copy(update={"limit": 300}), "train")  # for a quick look-up
    evaluation.dataset = lambda split: {"test": test, "train": small}[split]
    trainer.translate = lambda images, generator, direction=None: 1 - images.abs()
    scores = {score.name: score for score in trainer.scores(evaluation)}
    x, y = (torch.stack([test[i][key] for i in range(20)]) for key in ("input", "target"))
    assert scores["l1"].value == pytest.approx((1 - x.abs() - y).abs().mean().item(), rel=1e-5)
    assert scores["l1_identity"].value == pytest.approx((x - y).abs().mean().item(), rel=1e-5)
    known = torch.stack([small[i]["input"] for i in range(300)]).flatten(1)
    nearest = [(known - row.flatten()).square().sum(1).argmin().item() for row in x]
    answers = torch.stack([small[i]["target"] for i in nearest])
    assert scores["l1_nearest"].value == pytest.approx((answers - y).abs().mean().item(), rel=1e-5)
    assert not any(score.higher_is_better for score in scores.values())
    assert scores["l1"].protocol["split"] == "test"
    assert scores["l1_nearest"].protocol["train_count"] == 300


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.image_size=48"], "data.image_size: U-Net: expected a square of 32, 64, 128, 256, 512 px, got 48x48"),
        (["data.image_size=[32, 64]"], "got 32x64; or choose model.network=resnet"),
        (["model.network=resnet", "data.image_size=30"], "ResNet: expected sides of at least 16 px in multiples of 4"),
        (["model.network=vit"], "model.network"),
        (["discriminator.receptive_field=142"], "at least 48 px for a receptive field of 142, got 32x32"),
        (["discriminator.receptive_field=71"], "receptive_field"),
        (["gan.discriminator_steps=2"], "discriminator_steps"),
        (["objective.reconstruction=l3"], "reconstruction"),
        (["model.test_statistics=none"], "test_statistics"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(ConfigError) as caught:
        config(*overrides)
    assert message in str(caught.value)


def test_the_full_receptive_field_follows_the_size():
    trainer, _ = build("discriminator.receptive_field=full", "data.image_size=64")
    assert trainer.field() == 70


def test_pictures_without_partners_are_refused():
    settings = config("data.name=two_domains")
    with pytest.raises(ConfigError, match="algorithm pix2pix: expected a data set of paired, got unpaired"):
        Pix2PixTrainer(settings, DataSpec.of(data.build(settings.data)))


def run_pix2pix(overrides: list[str], run_dir: str) -> None:
    torch.set_num_threads(1)
    train(config(*overrides), run_dir, evaluator=None)


def curve(run: Path, name: str) -> torch.Tensor:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return torch.tensor([row[name] for row in rows if "event" not in row])


def test_two_processes_give_the_curve_of_one(tmp_path):
    """With dropout, whose masks are drawn for the global batch; rank 0 alone draws a preview with own statistics."""
    options = ["train.log_every=1", "train.steps=6", "train.sync_batch_norm=true"]
    assert finish(run_pix2pix, options, str(tmp_path / "one")) == 0
    assert run_ranks(2, run_pix2pix, options, str(tmp_path / "two")) == [0, 0]
    for name in ("loss_d", "loss_g", "loss_l1"):
        one, two = curve(tmp_path / "one", name), curve(tmp_path / "two", name)
        assert len(one) == 6
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)


def test_a_resumed_training_is_the_same_bit_for_bit(tmp_path):
    options = config("train.steps=4", "train.checkpoint_every=2", "gan.ema.decay=0.9", "model.test_statistics=running")
    train(options, tmp_path / "whole", evaluator=None)
    middle = tmp_path / "whole" / "checkpoints" / checkpoint_name(2)
    train(options, tmp_path / "rest", resume=middle, evaluator=None)
    assert_same_checkpoint(find_checkpoint(tmp_path / "whole"), find_checkpoint(tmp_path / "rest"))
