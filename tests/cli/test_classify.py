"""genlab predict, and genlab evaluate of a classifier: what they write, and what they refuse in one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SETTINGS = ["classifier_tiny", "--device", "cpu", "train.tensorboard=false", "train.steps=40", "train.sample_every=40"]


@pytest.fixture(scope="module")
def run(genlab, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classifier") / "run"
    outcome = genlab("train", *SETTINGS, "train.checkpoint_every=40", "--run-dir", folder)
    assert outcome.code == 0, outcome.err
    assert "validation_accuracy" in outcome.out
    return folder


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(draws.integers(0, 255, (20, 20), dtype=np.uint8)).save(folder / f"p{number}.png")
    return folder


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_predict_writes_a_row_for_each_test_image(genlab, run, tmp_path):
    outcome = genlab("predict", run, "--top", 10, "-o", tmp_path / "p.csv")
    assert outcome.code == 0, outcome.err
    rows = read(tmp_path / "p.csv")
    assert len(rows) == 297
    for row in rows[:20]:
        values = [float(row[f"probability_{place}"]) for place in range(1, 11)]
        assert sum(values) == pytest.approx(1, abs=1e-4)
        assert values == sorted(values, reverse=True)
    right = sum(row["label"] == row["class_1"] for row in rows) / 297
    evaluated = genlab("evaluate", run, "--json")
    scores = {row["name"]: row["value"] for row in map(json.loads, evaluated.out.splitlines())}
    assert right == pytest.approx(scores["test_accuracy"])
    assert f"{right:.2%} right" in outcome.out


def test_predict_names_files_and_has_no_labels_without_classes(genlab, run, pictures, tmp_path):
    outcome = genlab("predict", run, pictures, "--mc", 8, "--seed", 3, "-o", tmp_path / "p.csv")
    assert outcome.code == 0, outcome.err
    rows = read(tmp_path / "p.csv")
    assert [row["image"] for row in rows] == ["p0.png", "p1.png", "p2.png"]
    assert "label" not in rows[0]
    assert all(float(row["entropy"]) >= float(row["information"]) >= 0 for row in rows)
    assert any(float(row["variance"]) > 0 for row in rows)
    genlab("predict", run, pictures, "--mc", 8, "--seed", 3, "-o", tmp_path / "again.csv")
    assert read(tmp_path / "again.csv") == rows
    genlab("predict", run, pictures, "--mc", 8, "--seed", 4, "-o", tmp_path / "other.csv")
    assert read(tmp_path / "other.csv") != rows
    alone = genlab("predict", run, pictures / "p1.png")
    assert alone.code == 0, alone.err
    assert "p1.png" in alone.out


def test_the_parts_of_the_training_can_be_predicted(genlab, run):
    for part, count in (("validation", 150), ("train", 1350)):
        outcome = genlab("predict", run, "--split", part)
        assert outcome.code == 0, outcome.err
        assert f"{count:,} images of digits ({part})" in outcome.out


def test_evaluate_writes_tables_and_pictures_into_the_run_and_its_report(genlab, run):
    outcome = genlab("evaluate", run, "--prevalence", "3=0.01")
    assert outcome.code == 0, outcome.err
    for word in ("test_accuracy", "test_calibration_error", "sensitivity", "PPV", "0.0100"):
        assert word in outcome.out
    matrix = list(csv.reader((run / "evaluation" / "test" / "confusion_matrix.csv").read_text().splitlines()))
    assert sum(int(value) for row in matrix[1:] for value in row[1:]) == 297
    names = {path.name for path in (run / "samples").glob("*_test.png")}
    assert names == {
        f"step_00000040_{name}_test.png" for name in ("confusion", "roc", "precision_recall", "reliability")
    }
    page = (run / "report.html").read_text()
    assert "confusion_test" in page
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["name"] == "test_accuracy"][-1]
    assert last["protocol"]["checkpoint"] == "step_00000040.safetensors"


def test_another_classifier_can_be_asked_for_predictions_too(genlab, tmp_path):
    folder = tmp_path / "run"
    trained = genlab(
        "train", "encoder_classifier_tiny", "--device", "cpu", "train.tensorboard=false", "--run-dir", folder
    )
    assert trained.code == 0, trained.err
    assert "297 images" in genlab("predict", folder).out
    refused = genlab("predict", folder, "--mc", 5)
    assert refused.code == 2
    assert "--mc: expected a classifier with dropout, a model of classifier" in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top", "11"], "--top: expected at most 10, the classes of the model, got 11"),
        (["--split", "holdout"], "split: expected train, validation, test, got 'holdout'"),
        (["-o", "out.txt"], "-o: expected a file that ends in .csv, got out.txt"),
        (["--mc", "1"], "--mc"),
        (["nowhere.png"], "nowhere.png: expected an image, a folder or a zip archive"),
    ],
)
def test_predict_refuses_in_one_line(genlab, run, words, message):
    outcome = genlab("predict", run, *words)
    assert outcome.code == 2
    assert len(outcome.error_lines) == 1
    assert message in outcome.err


def test_predict_refuses_pictures_beside_a_split_and_of_other_channels(genlab, run, pictures, tmp_path):
    outcome = genlab("predict", run, pictures, "--split", "test")
    assert outcome.code == 2
    assert "--split: expected no images beside it" in outcome.err
    colour = tmp_path / "colour"
    colour.mkdir()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(colour / "c.png")
    outcome = genlab("predict", run, colour)
    assert outcome.code == 2
    assert "expected images of 1 channel(s), as the model was trained on, got 3" in outcome.err


def test_a_generator_predicts_nothing(genlab, trained):
    outcome = genlab("predict", trained[0])
    assert outcome.code == 2
    assert len(outcome.error_lines) == 1
    assert "predict: expected a classifier, a model of classifier, " in outcome.err
    assert outcome.err.endswith("got one of dcgan\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metrics", "fid"], "--metrics: expected a model that makes images, got a classifier"),
        (["--samples", "10"], "--samples: expected a model that makes images"),
        (["--prevalence", "3=1.5"], "--prevalence: expected CLASS=SHARE"),
        (["--split", "val"], "split: expected train, validation, test, got 'val'"),
    ],
)
def test_evaluate_refuses_in_one_line(genlab, run, words, message):
    outcome = genlab("evaluate", run, *words)
    assert outcome.code == 2
    assert len(outcome.error_lines) == 1
    assert message in outcome.err


def test_a_prevalence_is_of_classifiers(genlab, trained):
    outcome = genlab("evaluate", trained[0], "--prevalence", "3=0.1")
    assert outcome.code == 2
    assert "--prevalence: expected a model of algorithm classifier, got one of dcgan" in outcome.err


def test_folders_that_are_no_classes_of_the_model_are_not_judged(genlab, run, tmp_path) -> None:
    for name in ("cat", "dog"):  # one folder alone is no class
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "pictures" / name / "a.png")
    outcome = genlab("predict", run, tmp_path / "pictures")
    assert outcome.code == 0, outcome.err
    assert "; not judged, as the model has no class cat" in outcome.out
    assert "right" not in outcome.out
