"""Autoencoders: what is corrupted and compared, layer-wise pre-training, and results that a broken net cannot have."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from training_jobs import assert_same_checkpoint, finish, run_ranks

from genlab import data
from genlab.checkpoint import checkpoint_name, find_checkpoint
from genlab.config import load_config
from genlab.errors import ConfigError, RunError, UserError
from genlab.reconstruction import pca_error, reconstruction_rows, squared_errors
from genlab.trainers import DataSpec, train
from genlab.trainers.autoencoder import AutoencoderTrainer
from genlab.trainers.evaluation import EvaluationData

SMALL = ["data.image_size=8", "data.batch_size=8", "train.tensorboard=false", "train.sample_count=4"]
CONV = ["model.network=conv", "model.hidden=[4,3]", "model.code=2"]
EAGER = {"warmup_steps": 0, "late_steps": 0, "diversity": 1e-4}
LAYERED = ["model.hidden=[12,6]", "model.code=2", "pretraining.steps=2", "train.steps=8"]


def tiny(*overrides: str):
    return load_config("autoencoder_tiny", [*SMALL, *overrides])


def build(*overrides: str) -> AutoencoderTrainer:
    config = tiny(*overrides)
    return AutoencoderTrainer(config, DataSpec("digits", "images", (1, *config.data.height_width), 10))


def batch(count: int = 8) -> dict[str, torch.Tensor]:
    return {"image": torch.rand(count, 1, 8, 8) * 2 - 1}


def twin_noise(trainer: AutoencoderTrainer) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(trainer.noise.generator.get_state())
    return generator


# What is watched.


def test_a_decoder_that_gives_one_picture_for_all_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(AutoencoderTrainer, "thresholds", replace(AutoencoderTrainer.thresholds, **EAGER))
    train(tiny("train.steps=8", "train.log_every=2"), tmp_path / "healthy", evaluator=None)
    settings = ["train.steps=12", "train.log_every=2", "train.on_collapse=stop"]
    decode = AutoencoderTrainer.decode
    monkeypatch.setattr(AutoencoderTrainer, "decode", lambda *args: torch.zeros_like(decode(*args)))
    with pytest.raises(RunError, match=r"step 6: the autoencoder gives nearly the same for all pictures: .* lie at 0%"):
        train(tiny(*settings), tmp_path / "dead", evaluator=None)
    healthy = [json.loads(line) for line in (tmp_path / "healthy" / "log.jsonl").read_text().splitlines()]
    assert not [row for row in healthy if row.get("event") == "diagnosis"]
    assert all(row["diversity"] > 1e-4 for row in healthy if "event" not in row)


def test_layers_that_are_not_trained_yet_are_not_watched():
    trainer = build(*LAYERED)
    examples = lambda count: batch(count)  # noqa: E731
    trainer.step = 3
    assert trainer.vital_signs(examples) == {}
    trainer.step = 6
    assert set(trainer.vital_signs(examples)) == {"diversity", "diversity_nearest"}


# The loss.


@pytest.mark.parametrize("reconstruction", ["mse", "cross_entropy"])
@pytest.mark.parametrize(
    "corruption", [{}, {"gaussian": 0.4}, {"masking": 0.3}, {"gaussian": 0.2, "masking": 0.5}], ids=str
)
def test_the_corrupted_image_goes_in_and_the_clean_one_is_the_target(reconstruction, corruption):
    trainer = build(
        f"reconstruction={reconstruction}", *(f"corruption.{name}={value}" for name, value in corruption.items())
    )
    network, generator, images = copy.deepcopy(trainer.networks["autoencoder"]), twin_noise(trainer), batch()
    x = (images["image"] + 1) / 2
    seen = x
    if "gaussian" in corruption:
        seen = seen + corruption["gaussian"] * torch.randn(8, 1, 8, 8, generator=generator)
    if "masking" in corruption:
        seen = torch.where(torch.rand(8, 1, 8, 8, generator=generator) < corruption["masking"], 0.0, seen)
    z = torch.sigmoid(network(seen))
    if reconstruction == "mse":
        expected = 0.5 * (z - x).square().flatten(1).sum(1).mean()
    else:
        expected = F.binary_cross_entropy(z, x, reduction="none").flatten(1).sum(1).mean()
    metrics = trainer.advance(images)
    torch.testing.assert_close(metrics["loss"], expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(metrics["mse"], (z - x).square().mean().detach(), rtol=1e-5, atol=1e-6)


def test_a_linear_output_is_compared_as_it_is():
    trainer = build("model.output=linear")
    network, images = copy.deepcopy(trainer.networks["autoencoder"]), batch()
    x = (images["image"] + 1) / 2
    expected = 0.5 * (network(x) - x).square().sum() / 8
    torch.testing.assert_close(trainer.advance(images)["loss"], expected.detach(), rtol=1e-5, atol=1e-5)


def test_micro_batches_give_the_step_of_the_whole_batch():
    whole, parts = (build("corruption.gaussian=0.3", f"train.grad_accumulation={n}") for n in (1, 4))
    images = batch()
    for trainer in (whole, parts):
        trainer.advance(images)
    for a, b in zip(*(t.networks["autoencoder"].parameters() for t in (whole, parts)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# Pre-training.


def test_phases_follow_the_steps_of_each_layer():
    trainer = build("model.hidden=[12,6]", "pretraining.steps=[2,0,3]", "train.steps=8")
    phases = []
    for _ in range(8):
        phases.append(trainer.layer_in_training)
        names = set(trainer.advance(batch()))
        assert names == ({"loss", "mse"} if phases[-1] is None else {f"loss_layer{phases[-1] + 1}"})
    assert phases == [0, 0, 2, 2, 2, None, None, None]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("overrides", [LAYERED, [*CONV, "pretraining.steps=2", "train.steps=8"]], ids=["dense", "conv"])
def test_pre_training_changes_its_own_layer_and_nothing_else(overrides, tied):
    trainer = build(*overrides, f"model.tied={tied}", "optimizer.weight_decay=0.1")
    network = trainer.networks["autoencoder"]
    for step in range(8):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        layer = trainer.layer_in_training
        trainer.advance(batch())
        changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
        if layer is None:
            assert changed == set(before), step
        else:
            own = {n for n in before if n.startswith((f"encoder.layers.{layer}.", f"decoder.{layer}."))}
            assert changed == own, step
    assert all(module.training for module in network.modules())


def test_a_layer_learns_to_restore_the_code_of_the_layers_below():
    trainer = build(*LAYERED, "corruption.masking=0.4", "model.activation=sigmoid", "reconstruction=cross_entropy")
    for _ in range(2):
        trainer.advance(batch())
    network, images = copy.deepcopy(trainer.networks["autoencoder"]), batch()
    generator = twin_noise(trainer)
    h = network.encoder((images["image"] + 1) / 2, depth=1)
    seen = h * (torch.rand(h.shape, generator=generator) >= 0.4)
    z = network.decoder[1](network.encoder.layers[1](seen), network.encoder.layers[1])
    expected = F.binary_cross_entropy(z, h.detach(), reduction="sum") / 8
    torch.testing.assert_close(trainer.advance(images)["loss_layer2"], expected.detach(), rtol=1e-5, atol=1e-5)


def test_each_phase_begins_with_fresh_moments():
    trainer = build(*LAYERED)
    for _ in range(7):
        trainer.advance(batch())
    counts = {int(state["step"]) for state in trainer.optimizers["autoencoder"].state.values()}
    assert counts == {1}  # one step of the whole, whatever was done in pre-training


def test_corruption_can_end_with_pre_training():
    trainer = build(*LAYERED, "corruption.masking=0.5", "corruption.pretraining_only=true")
    for _ in range(6):
        before = trainer.noise.generator.get_state()
        trainer.advance(batch())
        assert not torch.equal(before, trainer.noise.generator.get_state())
    network, images = copy.deepcopy(trainer.networks["autoencoder"]), batch()
    x = (images["image"] + 1) / 2
    expected = 0.5 * (torch.sigmoid(network(x)) - x).square().sum() / 8
    torch.testing.assert_close(trainer.advance(images)["loss"], expected.detach(), rtol=1e-5, atol=1e-5)
    assert trainer.corrupt(images["image"], torch.Generator()) is None


def test_a_run_resumes_bit_for_bit_inside_every_phase(tmp_path):
    config = tiny(
        *LAYERED, "corruption.gaussian=0.2", "train.checkpoint_every=1", "train.keep_last=20", "train.sample_every=8",
        "train.schedule.name=cosine",
    )  # fmt: skip
    train(config, tmp_path / "whole", evaluator=None)
    for step in (1, 2, 3, 5, 7):
        middle = tmp_path / "whole" / "checkpoints" / checkpoint_name(step)
        train(config, tmp_path / str(step), resume=middle, evaluator=None)
        assert_same_checkpoint(find_checkpoint(tmp_path / "whole"), find_checkpoint(tmp_path / str(step)))


def run_layered(run_dir: str) -> None:
    torch.set_num_threads(1)
    config = tiny(*LAYERED, "corruption.masking=0.3", "train.log_every=1", "train.sample_every=8")
    train(config, run_dir, evaluator=None)


def test_two_processes_give_the_loss_curve_of_one(tmp_path):
    assert finish(run_layered, str(tmp_path / "one")) == 0
    assert run_ranks(2, run_layered, str(tmp_path / "two")) == [0, 0]
    curves = []
    for name in ("one", "two"):
        rows = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        curves.append([value for row in rows for key, value in row.items() if key.startswith("loss")])
    assert len(curves[0]) == 8
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


# Results.


@pytest.fixture(scope="module")
def trained() -> AutoencoderTrainer:
    config = load_config(
        "autoencoder_tiny",
        ["model.hidden=[128]", "model.code=8", "data.batch_size=50", "data.image_size=16", "train.steps=700",
         "train.schedule.name=cosine", "optimizer.lr=4e-3"],
    )  # fmt: skip
    dataset = data.build(config.data)
    trainer = AutoencoderTrainer(config, DataSpec.of(dataset))
    stream = trainer.open_stream(dataset, seed=0)
    for _ in range(config.train.steps):
        trainer.advance(next(stream))
    return trainer


def test_a_short_training_beats_principal_components_of_the_same_length_by_a_fifth(trained):
    (score,) = trained.scores(EvaluationData(trained.config, trained.device, 100))
    assert score.name == "reconstruction_mse"
    assert not score.higher_is_better
    assert score.protocol["real"]["split"] == "test"
    assert score.value < 0.8 * score.protocol["pca_mse"]


def test_the_score_is_the_error_of_test_images_in_intensities(trained):
    test = data.build(trained.config.data, "test")
    images = torch.cat([b["image"] for b in data.iterate(test, 100)])
    expected = ((images - trained.reconstruct(images)) / 2).square().mean().item()
    (score,) = trained.scores(EvaluationData(trained.config, trained.device, 100))
    assert score.value == pytest.approx(expected, rel=1e-4)


def test_the_principal_components_error_is_scikit_learns():
    from sklearn.decomposition import PCA

    train_x, test_x = (torch.rand(n, 1, 6, 6) * 2 - 1 for n in (80, 30))
    pca = PCA(5).fit(train_x.flatten(1).numpy())
    again = pca.inverse_transform(pca.transform(test_x.flatten(1).numpy()))
    expected = ((again - test_x.flatten(1).numpy()) ** 2).mean() / 4
    assert pca_error(train_x.split(32), test_x.split(7), 5) == pytest.approx(expected, rel=1e-5)


def test_a_linear_autoencoder_comes_near_the_principal_components_and_not_below():
    """The least squares bound (Bourlard and Kamp 1988): what a leak of the target into the output would break."""
    config = tiny("model.hidden=[]", "model.code=4", "model.output=linear", "data.batch_size=100", "train.steps=600",
                  "optimizer.lr=1e-2", "train.schedule.name=cosine")  # fmt: skip
    dataset = data.build(config.data)
    trainer = AutoencoderTrainer(config, DataSpec.of(dataset))
    stream = trainer.open_stream(dataset, seed=0)
    for _ in range(600):
        trainer.advance(next(stream))
    images = torch.cat([b["image"] for b in data.iterate(dataset, 500)])
    with torch.no_grad():
        again = trainer.networks["autoencoder"]((images + 1) / 2) * 2 - 1
    error, bound = squared_errors(images, again).mean().item(), pca_error([images], [images], 4)
    assert bound * (1 - 1e-6) <= error < 1.15 * bound


def test_a_denoising_training_makes_noisy_digits_cleaner():
    config = tiny("model.hidden=[64]", "model.code=16", "corruption.gaussian=0.5", "data.batch_size=50",
                  "train.steps=300", "optimizer.lr=5e-3")  # fmt: skip
    dataset = data.build(config.data)
    trainer = AutoencoderTrainer(config, DataSpec.of(dataset))
    stream = trainer.open_stream(dataset, seed=0)
    for _ in range(300):
        trainer.advance(next(stream))
    test = next(data.iterate(data.build(config.data, "test"), 200))
    clean, noisy, again = reconstruction_rows(trainer, test, torch.Generator().manual_seed(0))
    assert squared_errors(clean, again).mean() < 0.5 * squared_errors(clean, noisy).mean()


# Pictures.


def test_rows_show_the_input_what_was_made_of_it_and_the_output():
    plain, denoising = build(), build("corruption.masking=0.5")
    images = batch(5)
    assert len(reconstruction_rows(plain, images, torch.Generator())) == 2
    rows = reconstruction_rows(denoising, images, torch.Generator().manual_seed(1))
    assert len(rows) == 3
    assert torch.equal(rows[0], images["image"])
    masked = rows[1] == -1
    assert 0.3 < masked.float().mean() < 0.7
    torch.testing.assert_close(rows[1][~masked], rows[0][~masked])
    torch.testing.assert_close(rows[2], denoising.reconstruct(rows[1]))
    assert all(row.abs().max() <= 1 for row in rows)


def test_a_training_writes_rows_and_at_its_end_the_plane_of_codes(tmp_path):
    train(tiny("train.steps=4", "train.sample_every=2", "train.sample_count=3"), tmp_path / "run", evaluator=None)
    names = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert names == ["step_00000002.png", "step_00000004.png", "step_00000004_latents.png"]


# Bad input.


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.network=conv", "model.hidden=[4,4,4,4,4]"], "model.hidden: expected at most 3 convolutions, each of"),
        (
            ["reconstruction=cross_entropy", "model.output=linear"],
            "model.output: expected sigmoid with reconstruction=",
        ),
        (["pretraining.steps=[1,2]"], "pretraining.steps: expected a number of at least 0 for each of the 3 layers"),
        (["pretraining.steps=[1,2,-1]"], "pretraining.steps: expected a number of at least 0"),
        (["pretraining.steps=3"], "train.steps: expected more than the 9 steps of pre-training, which it counts too"),
        (["corruption.masking=1.0"], "corruption.masking: expected less than 1, got 1.0"),
        (["model.code=0"], "model.code: expected greater than or equal to 1"),
        (["model.activation=maxout"], "model.activation: expected"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(ConfigError) as caught:
        tiny(*overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_an_autoencoder_cannot_do_is_told():
    trainer = build()
    with pytest.raises(UserError, match="was trained without labels"):
        trainer.encode(batch()["image"], torch.zeros(8, dtype=torch.int64))
    with pytest.raises(UserError, match="algorithm autoencoder"):
        trainer.sample(2, torch.Generator())


def test_an_algorithm_without_reconstructions_names_those_that_have_them():
    from genlab.trainers.dcgan import DcganTrainer

    trainer = DcganTrainer(load_config("dcgan_tiny"), DataSpec("digits", "images", (1, 28, 28), 10))
    for method in (trainer.reconstruct, trainer.encode):
        with pytest.raises(UserError, match="algorithm dcgan: cannot .* images; those that can: .*autoencoder"):
            method(torch.zeros(1, 1, 28, 28))
