"""Classifiers on a pre-trained encoder: what is frozen, which labels are read, where weights come from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from training_jobs import assert_same_checkpoint

from genlab import data
from genlab.checkpoint import checkpoint_name, find_checkpoint, load_bundle, load_checkpoint
from genlab.config import load_config
from genlab.data.budget import label_budget
from genlab.errors import CheckpointError, ConfigError, DataError
from genlab.trainers import DataSpec, train
from genlab.trainers.encoder_classifier import EncoderClassifierTrainer
from genlab.trainers.evaluation import EvaluationData

QUIET = ["train.tensorboard=false", "train.sample_every=100", "train.log_every=100", "train.sample_count=4"]
SMALL = ["data.image_size=8", "data.batch_size=20", "train.steps=4", "train.checkpoint_every=2", *QUIET]


@pytest.fixture(scope="module")
def autoencoders(tmp_path_factory) -> dict[str, Path]:
    """A dense and a convolutional run, of sizes that no preset has."""
    folder = tmp_path_factory.mktemp("autoencoders")
    sizes = {"dense": ["model.hidden=[24]", "model.code=6", "model.activation=tanh"],
             "conv": ["model.network=conv", "model.hidden=[4,6]", "model.code=5"]}  # fmt: skip
    for name, chosen in sizes.items():
        config = load_config("autoencoder_tiny", [*SMALL, *chosen, "train.steps=20", "train.checkpoint_every=20"])
        train(config, folder / name, evaluator=None)
    return {name: folder / name for name in sizes}


def classifier(*overrides: str):
    return load_config("encoder_classifier_tiny", [*SMALL, *overrides])


def build(*overrides: str) -> tuple[EncoderClassifierTrainer, data.BatchStream]:
    config = classifier(*overrides)
    dataset = data.build(config.data)
    trainer = EncoderClassifierTrainer(config, DataSpec.of(dataset))
    trainer.begin()
    return trainer, trainer.open_stream(dataset, seed=0)


def copy_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


# The encoder.


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_the_sizes_and_weights_are_the_autoencoders(autoencoders, kind):
    trainer, _ = build(f"model.encoder={autoencoders[kind]}")
    saved = load_checkpoint(find_checkpoint(autoencoders[kind])).tensors
    own = trainer.networks["encoder"].state_dict()
    prefix = "networks/autoencoder/encoder."
    assert {prefix + name for name in own} == {name for name in saved if name.startswith(prefix)}
    assert all(torch.equal(value, saved[prefix + name]) for name, value in own.items())
    images = torch.rand(4, 1, 8, 8) * 2 - 1
    assert torch.equal(trainer.encode(images), load_bundle(autoencoders[kind]).trainer.encode(images))


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_a_frozen_encoder_stays_bit_for_bit_while_the_head_learns(autoencoders, kind):
    trainer, stream = build(
        f"model.encoder={autoencoders[kind]}", "classifier.freeze=true", "optimizer.weight_decay=0.5"
    )
    encoder, head = copy_of(trainer.networks["encoder"]), copy_of(trainer.networks["head"])
    for _ in range(3):
        trainer.advance(next(stream))
    assert all(torch.equal(value, encoder[name]) for name, value in trainer.networks["encoder"].state_dict().items())
    assert not any(torch.equal(value, head[name]) for name, value in trainer.networks["head"].state_dict().items())


def test_an_encoder_frozen_for_two_steps_is_tuned_from_the_third(autoencoders):
    trainer, stream = build(f"model.encoder={autoencoders['conv']}", "classifier.freeze=2")
    start = copy_of(trainer.networks["encoder"])
    for step in range(4):
        trainer.advance(next(stream))
        same = [torch.equal(value, start[name]) for name, value in trainer.networks["encoder"].state_dict().items()]
        assert all(same) if step < 2 else not any(same), step


def test_the_head_of_a_frozen_encoder_sees_its_running_statistics(autoencoders):
    """Otherwise the features in training would be others than in use."""
    trainer, stream = build(f"model.encoder={autoencoders['conv']}", "classifier.freeze=true")
    batch = next(stream)
    expected = torch.nn.functional.cross_entropy(
        trainer.networks["head"](trainer.encode(batch["image"])), batch["label"]
    )
    torch.testing.assert_close(trainer.advance(batch)["loss"], expected.detach(), rtol=1e-5, atol=1e-6)


def test_random_weights_are_the_baseline_of_the_same_seed(autoencoders):
    given, scratch = build(f"model.encoder={autoencoders['dense']}")[0], build()[0]
    sized = build("model.hidden=[24]", "model.code=6", "model.activation=tanh")[0]
    assert scratch.config.model.hidden == [32, 16]
    assert not torch.equal(sized.networks["encoder"].layers[0].weight, given.networks["encoder"].layers[0].weight)
    assert torch.equal(sized.networks["head"].layers[0].weight, given.networks["head"].layers[0].weight)


def test_the_run_needs_the_autoencoders_file_only_at_its_start(autoencoders, tmp_path):
    source = Path(shutil.copytree(autoencoders["dense"], tmp_path / "source"))
    config = classifier(f"model.encoder={source}", "classifier.freeze=1")
    train(config, tmp_path / "whole", evaluator=None)
    shutil.rmtree(source)
    again = load_config(tmp_path / "whole" / "config.yaml")
    assert again == config
    middle = tmp_path / "whole" / "checkpoints" / checkpoint_name(2)
    train(again, tmp_path / "rest", resume=middle, evaluator=None)
    assert_same_checkpoint(find_checkpoint(tmp_path / "whole"), find_checkpoint(tmp_path / "rest"))
    images = torch.rand(4, 1, 8, 8) * 2 - 1
    probabilities = load_bundle(tmp_path / "rest").trainer.predict(images)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))
    with pytest.raises(CheckpointError, match=r"model\.encoder: "):
        train(again, tmp_path / "new", evaluator=None)
    assert not (tmp_path / "new").exists()


# Labels.


def test_labels_outside_the_budget_are_never_read(tmp_path, monkeypatch):
    """Spoiling all of them, once the budget is chosen, changes no bit of the training."""
    config = classifier("classifier.labels=30", "train.steps=6")
    chosen: list[np.ndarray] = []

    def poisoning(labels, *arguments):
        indices = label_budget(labels, *arguments)
        outside = np.setdiff1d(np.arange(len(labels)), indices)
        assert len(outside) == len(labels) - 30
        assert not labels.flags.owndata
        labels[outside] = -123_456  # the data set's own memory; the loss would refuse it
        chosen.append(indices)
        return indices

    train(config, tmp_path / "clean", evaluator=None)
    monkeypatch.setattr("genlab.data.budget.label_budget", poisoning)
    train(config, tmp_path / "spoilt", evaluator=None)
    assert len(chosen[0]) == 30
    assert_same_checkpoint(find_checkpoint(tmp_path / "clean"), find_checkpoint(tmp_path / "spoilt"))


def test_the_stream_holds_the_budget_and_nothing_else():
    trainer, stream = build("classifier.labels=40", "classifier.label_seed=3")
    dataset = data.build(trainer.config.data)
    allowed = label_budget(dataset.labels.numpy(), 10, 40, 3)
    images = {image.numpy().tobytes(): int(label) for image, label in _samples(dataset, allowed)}
    for _ in range(6):
        batch = next(stream)
        for image, label in zip(batch["image"], batch["label"], strict=True):
            assert images[image.numpy().tobytes()] == int(label)
    assert stream.batches_per_epoch == 2


def _samples(dataset, indices):
    batch = dataset.fetch(indices)
    return zip(batch["image"], batch["label"], strict=True)


def test_without_a_budget_every_label_is_used():
    _, stream = build("classifier.labels=null")
    assert stream.batches_per_epoch == 1500 // 20


# Results.


def test_all_labels_give_a_classifier_and_the_scores_say_what_they_depend_on():
    trainer, stream = build(
        "classifier.labels=null", "model.hidden=[64]", "model.code=16", "data.batch_size=50", "train.steps=300",
        "optimizer.lr=5e-3",
    )  # fmt: skip
    for _ in range(300):
        trainer.advance(next(stream))
    error, accuracy = trainer.scores(EvaluationData(trainer.config, trainer.device, 100))
    assert (error.name, accuracy.name) == trainer.own_score_names
    assert accuracy.value > 0.93
    assert error.value == pytest.approx(1 - accuracy.value)
    assert not error.higher_is_better
    assert accuracy.higher_is_better
    test = data.build(trainer.config.data, "test")
    images = torch.cat([b["image"] for b in data.iterate(test, 100)])
    wrong = int((trainer.predict(images).argmax(1) != test.labels).sum())
    assert error.protocol["wrong"] == wrong
    assert error.value == pytest.approx(wrong / len(test))
    assert error.protocol["real"]["count"] == 297
    assert {"labels", "label_seed", "freeze", "pretrained"} <= error.protocol.keys()


# Bad input.


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (
            ["classifier.labels=9"],
            DataError,
            "classifier.labels: expected at least 10, one label for each class, got 9",
        ),
        (
            ["classifier.labels=1501"],
            DataError,
            "classifier.labels: expected at most 1500, the samples of the training",
        ),
        (["classifier.labels=0"], ConfigError, "classifier.labels: expected greater than or equal to 1, got 0"),
        (["classifier.labels=10"], Exception, "expected 1 to 10, the samples of 'digits, 10 labels'"),
        (["classifier.freeze=true"], ConfigError, "classifier.freeze: expected false without model.encoder"),
        (["classifier.freeze=5"], ConfigError, "classifier.freeze: expected false without model.encoder"),
        (["classifier.freeze=-1"], ConfigError, "classifier.freeze: expected true, false or a number of steps of at"),
        (["classifier.freeze=some"], ConfigError, "classifier.freeze: expected true, false or a number of steps"),
        (["model.encoder=nowhere"], CheckpointError, "model.encoder: "),
    ],
)
def test_settings_that_cannot_be_met_are_refused(overrides, kind, message):
    with pytest.raises(kind) as caught:
        build(*overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("overrides", "given"), [(["data.image_size=16"], "1x16x16"), (["data.channels=3"], "3x8x8")])
def test_images_of_another_shape_than_the_encoders_are_refused(autoencoders, overrides, given):
    with pytest.raises(CheckpointError, match=rf"was trained on images of 1x8x8 .*, got {given}; set data.image_size"):
        build(f"model.encoder={autoencoders['dense']}", *overrides)


def test_another_algorithms_checkpoint_is_no_encoder(tmp_path):
    config = load_config("dcgan_tiny", ["train.steps=1", "model.base_channels=2", *QUIET])
    train(config, tmp_path / "gan", evaluator=None)
    with pytest.raises(
        CheckpointError, match=r"model\.encoder: .*: expected a checkpoint of algorithm autoencoder, got dcgan"
    ):
        classifier(f"model.encoder={tmp_path / 'gan'}")


def test_a_set_without_classes_is_refused():
    config = classifier()
    with pytest.raises(DataError, match="expected at least 2 classes, which a classifier needs, got none"):
        EncoderClassifierTrainer(config, DataSpec("folder", "images", (1, 8, 8)))
    with pytest.raises(DataError, match="which a classifier needs, got only cats; widen data.classes"):
        EncoderClassifierTrainer(config, DataSpec("folder", "images", (1, 8, 8), 1, ("cats",)))


def test_an_encoder_put_under_the_sizes_of_another_is_refused(autoencoders, tmp_path):
    config = classifier(f"model.encoder={autoencoders['dense']}")
    tree = config.model_dump(mode="json")
    tree["model"]["encoder"] = str(autoencoders["conv"])
    from genlab.config import parse_config

    with pytest.raises(CheckpointError, match="expected an encoder of the sizes in the model section"):
        train(parse_config(tree), tmp_path / "run", evaluator=None)
