"""A classifier's run as the judge: its features and classes, its name and hash, and what it refuses to judge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genlab import data
from genlab.checkpoint import load_bundle
from genlab.config import DataConfig, load_config
from genlab.errors import MetricError
from genlab.metrics import evaluate, resolve, resolve_for
from genlab.trainers import train

QUIET = ["train.tensorboard=false", "train.sample_every=1000", "train.log_every=100", "train.sample_count=4"]
DIGITS = DataConfig(name="digits", image_size=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("judge") / "run"
    settings = ["train.steps=150", "train.checkpoint_every=150", "augment.cutout=null", "model.base_channels=16"]
    settings += ["optimizer.name=adam", "optimizer.lr=3e-3", "data.batch_size=50", "optimizer.momentum=0"]
    train(load_config("classifier_tiny", [*QUIET, *settings]), folder)
    return folder


def test_it_gives_the_runs_features_and_classes(run):
    judge = resolve(str(run), train=data.build(DIGITS, "train"))
    test = data.build(DIGITS, "test")
    batch = next(data.iterate(test, 300))
    features, logits = judge(batch["image"])
    bundle = load_bundle(run, "best")
    assert judge.name == "digits_small_cnn"
    assert (judge.dim, judge.num_classes) == (features.shape[1], 10)
    torch.testing.assert_close(logits.softmax(1), bundle.trainer.predict(batch["image"]), rtol=1e-3, atol=1e-4)
    assert judge.accuracy == pytest.approx((logits.argmax(1) == batch["label"]).float().mean().item(), abs=0.01)
    assert judge.accuracy > 0.8
    again = resolve(str(run))
    assert again.hash == judge.hash
    assert judge.describe()["run"] == "run"
    larger, _ = judge(torch.nn.functional.interpolate(batch["image"], scale_factor=2))
    assert larger.shape == features.shape


def test_a_distance_in_its_features_bears_its_name(run):
    judge = resolve_for(DIGITS, str(run))
    halves = [data.build(DIGITS, split) for split in ("train", "test")]
    scores = evaluate(*halves, judge, ("fid", "is"))
    assert [score.name for score in scores] == ["frechet[digits_small_cnn]", "is[digits_small_cnn]"]
    assert scores[0].protocol["extractor_hash"] == judge.hash
    noise = torch.rand(300, 1, 8, 8) * 2 - 1
    assert evaluate(halves[0], noise, judge, ("fid",))[0].value > 5 * scores[0].value


def test_a_generators_evaluation_takes_it(run, tmp_path):
    overrides = ["train.steps=1", "data.image_size=28", f"evaluate.extractor={run}", "evaluate.metrics=[fid]"]
    config = load_config("dcgan_tiny", [*QUIET, *overrides, "evaluate.samples=80"])
    result = train(config, tmp_path / "gan")
    assert [row["name"] for row in result.last_scores] == ["frechet[digits_small_cnn]"]


def test_another_algorithm_other_classes_and_nothing_are_refused(run, tmp_path):
    train(
        load_config("dcgan_tiny", [*QUIET, "train.steps=1", "model.base_channels=2"]), tmp_path / "gan", evaluator=None
    )
    with pytest.raises(MetricError, match="expected a run of algorithm classifier, got one of dcgan"):
        resolve(str(tmp_path / "gan"))
    few = data.build(DataConfig(name="digits", image_size=8, classes=[0, 1]), "train")
    with pytest.raises(
        MetricError, match="expected a classifier of the classes of digits .* train one on the same data"
    ):
        resolve(str(run), train=few)
    with pytest.raises(MetricError, match="expected one of auto, .*, or a classifier's run, got 'runs/none'"):
        resolve("runs/none")
