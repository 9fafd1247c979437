"""Segmentation: colours to classes, scores by hand, a U-Net that learns, and the FCN score of a translator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genlab import data
from genlab.checkpoint import load_bundle
from genlab.config import DataConfig, load_config
from genlab.errors import ConfigError, DataError, MetricError
from genlab.metrics.segmentation import FACADES, OUTLINES, agreement, class_ious, pixel_confusion
from genlab.models.segmentation_unet import SegmentationUnet
from genlab.segmentation_scores import fcn_scores
from genlab.trainers import DataSpec, train
from genlab.trainers.evaluation import EvaluationData
from genlab.trainers.segmentation import MOST_DISTANCE, SegmentationTrainer

QUIET = ["train.tensorboard=false", "train.sample_every=1000", "train.log_every=100", "train.sample_count=6"]
LEARNING = ["train.steps=60", "data.limit=200", "model.base_channels=8", "optimizer.lr=1e-2", "model.dropout=0"]


def build(*overrides: str) -> tuple[SegmentationTrainer, data.BatchStream]:
    config = load_config("segmentation_tiny", [*QUIET, *overrides])
    dataset = data.build(config.data)
    trainer = SegmentationTrainer(config, DataSpec.of(dataset))
    return trainer, trainer.open_stream(dataset, seed=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("segmentation") / "run"
    train(load_config("segmentation_tiny", [*QUIET, *LEARNING]), folder, evaluator=None)
    return folder


# Colours and counts.


@pytest.mark.parametrize("palette", [FACADES, OUTLINES])
def test_painting_and_reading_labels_are_inverse_even_under_noise(palette):
    labels = torch.randint(0, len(palette.names), (2, 9, 11))
    painted = palette.paint(labels)
    assert torch.equal(palette.labels(painted), labels)
    noisy = (painted.int() + torch.randint(-6, 7, painted.shape)).clamp(0, 255).to(torch.uint8)
    assert torch.equal(palette.labels(noisy), labels)
    assert palette.distance(painted) == pytest.approx(0, abs=1e-6)
    assert len(set(palette.colours)) == len(palette.names)


def test_the_label_maps_of_the_facades_are_in_their_colours_and_the_photographs_are_not(shared_data):
    config = DataConfig(name="paired", root=shared_data / "facades.zip", image_size=256, interpolation="nearest")
    batch = data.build(config, "train").fetch(np.array([0, 57, 200, 333]))
    assert FACADES.distance(batch["target"]) < 0.7 * MOST_DISTANCE
    assert FACADES.distance(batch["input"]) > 1.5 * MOST_DISTANCE
    counts = torch.bincount(FACADES.labels(batch["target"]).flatten(), minlength=12) / batch["target"][:, 0].numel()
    assert counts[1] > 0.2  # wall
    assert counts[2] > 0.02  # windows
    assert (counts > 0.002).sum() >= 9


def test_scores_by_hand():
    labels = torch.tensor([[[0, 0, 0, 1], [1, 1, 2, 2]]])
    predicted = torch.tensor([[[0, 0, 1, 1], [1, 1, 2, 0]]])
    confusion = pixel_confusion(labels, predicted, 4)
    assert confusion.tolist() == [[2, 1, 0, 0], [0, 3, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    found = agreement(confusion)
    assert found["pixel_accuracy"] == 6 / 8
    assert found["class_accuracy"] == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert found["mean_iou"] == pytest.approx((2 / 4 + 3 / 4 + 1 / 2) / 3)
    ious = class_ious(confusion, "abcd")
    assert ious["a"] == 0.5
    assert ious["d"] != ious["d"]
    with pytest.raises(MetricError, match="expected predictions of shape"):
        pixel_confusion(labels, predicted[:, :1], 4)
    with pytest.raises(MetricError, match="expected labelled pixels, got none"):
        agreement(torch.zeros(2, 2))


# The network.


def test_the_unet_keeps_the_size_and_passes_detail_over_the_skips():
    network = SegmentationUnet(3, 5, 4, depth=3, dropout=0.0).eval()
    images = torch.randn(1, 3, 24, 40)
    assert network(images).shape == (1, 5, 24, 40)
    changed = images.clone()
    changed[..., 10, 10] += 1
    difference = (network(changed) - network(images)).abs().sum(1)[0]
    assert difference[10, 10] > 0
    for layer in network.enlarge:  # without what comes from below the skips alone still carry the pixel
        torch.nn.init.zeros_(layer.weight)
    assert (network(changed) - network(images)).abs().sum(1)[0][10, 10] > 0
    assert sum(isinstance(module, torch.nn.ConvTranspose2d) for module in network.modules()) == 3
    with pytest.raises(ValueError, match="expected sides that are multiples of 8 px, got 20x24"):
        network(torch.randn(1, 3, 20, 24))


def test_a_context_module_begins_without_an_effect():
    torch.manual_seed(0)
    plain = SegmentationUnet(3, 5, 4, depth=2, dropout=0.0).eval()
    wide = SegmentationUnet(3, 5, 4, depth=2, dropout=0.0, context=True).eval()
    wide.load_state_dict({**wide.state_dict(), **plain.state_dict()})
    images = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(wide(images), plain(images).relu())


# The trainer.


def test_the_loss_is_the_cross_entropy_of_the_pixels():
    trainer, stream = build("model.dropout=0")
    batch = next(stream)
    logits = trainer.networks["unet"](batch["input"])
    expected = torch.nn.functional.cross_entropy(logits, OUTLINES.labels(batch["target"]))
    assert float(trainer.advance(batch)["loss"]) == pytest.approx(expected.item(), rel=1e-4)


def test_it_learns_to_name_shapes_by_their_outlines(run):
    trainer = load_bundle(run).trainer
    scores = {s.name: s for s in trainer.scores(EvaluationData(trainer.config, trainer.device, 100))}
    assert tuple(scores) == trainer.own_score_names
    assert scores["pixel_accuracy"].value > 0.8
    assert scores["mean_iou"].value > 0.3  # naming everything ground gives 0.1
    ious = scores["mean_iou"].protocol["iou"]
    assert ious["ground"] > 0.8
    assert np.mean(list(ious.values())) == pytest.approx(scores["mean_iou"].value, abs=1e-3)


def test_pictures_show_photograph_segmentation_and_labels():
    trainer, stream = build()
    dataset = data.build(trainer.config.data)
    picture = trainer.preview(6, torch.Generator(), lambda n: dataset.fetch(np.arange(n)))[0]
    assert picture.images.shape == (6, 3, 32, 32)
    first = dataset.fetch(np.arange(1))
    assert torch.equal(picture.images[0], first["input"][0])
    assert torch.equal(picture.images[2], first["target"][0])
    assert OUTLINES.distance(picture.images[1:2]) == pytest.approx(0, abs=1e-6)


# The FCN score.


class _Translator:
    """Stands for a Pix2Pix that makes of label maps what it is given."""

    def __init__(self, answer) -> None:
        self.translate = lambda images, draws: answer(images)


@pytest.fixture
def reversed_data(run) -> EvaluationData:
    config = load_bundle(run).config
    return EvaluationData(
        config.model_copy(update={"data": config.data.model_copy(update={"direction": "b_to_a"})}),
        torch.device("cpu"),
        24,
    )


def test_a_perfect_translator_scores_as_the_real_photographs_and_an_empty_one_far_below(run, reversed_data):
    segmenter = load_bundle(run)
    photographs = iter(reversed_data.dataset("test").fetch(np.arange(24))["target"].split(8))
    perfect = _Translator(lambda images: next(photographs))
    found = {s.name: s.value for s in fcn_scores(perfect, segmenter, reversed_data)}
    assert set(found) == {
        f"fcn_{name}{suffix}" for name in ("pixel_accuracy", "class_accuracy", "mean_iou") for suffix in ("", "_real")
    }
    for name in ("pixel_accuracy", "class_accuracy", "mean_iou"):
        assert found[f"fcn_{name}"] == found[f"fcn_{name}_real"]
    assert found["fcn_mean_iou"] > 0.2
    empty = {s.name: s.value for s in fcn_scores(_Translator(torch.ones_like), segmenter, reversed_data)}
    assert empty["fcn_mean_iou"] < 0.7 * found["fcn_mean_iou"]
    assert empty["fcn_mean_iou_real"] == found["fcn_mean_iou_real"]


def test_another_judge_and_inputs_that_are_no_label_maps_are_refused(run, reversed_data, tmp_path, monkeypatch):
    train(
        load_config("dcgan_tiny", [*QUIET, "train.steps=1", "model.base_channels=2"]), tmp_path / "gan", evaluator=None
    )
    with pytest.raises(MetricError, match="expected a run of algorithm segmentation, got one of dcgan"):
        fcn_scores(_Translator(torch.ones_like), load_bundle(tmp_path / "gan"), reversed_data)
    segmenter = load_bundle(run)
    monkeypatch.setattr(type(segmenter.trainer), "palette", FACADES)
    with pytest.raises(
        MetricError, match="expected a translator whose inputs are label maps in the segmenter's colours"
    ):
        fcn_scores(_Translator(torch.ones_like), segmenter, reversed_data)


# Bad input.


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (["data.image_size=30"], ConfigError, "data.image_size: U-Net: expected sides that are multiples of 4 px"),
        (["palette=facades"], DataError, "target: expected label maps in the palette's 12 colours"),
        (["palette=faces"], ConfigError, "palette: expected 'facades' or 'outlines', got 'faces'"),
        (["data.channels=1"], ConfigError, "data.channels: expected 3, as label maps are coloured, got 1"),
        (["data.name=digits"], ConfigError, "algorithm segmentation: expected a data set of paired, got images"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(overrides, kind, message):
    with pytest.raises(kind, match=message) as caught:
        build(*overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [(torch.zeros(1, 1, 32, 32), "expected pictures"), (torch.full((1, 3, 32, 32), torch.inf), "expected finite")],
)
def test_pictures_that_are_none_are_refused(images, message):
    with pytest.raises(DataError, match=message):
        build()[0].segment(images)
