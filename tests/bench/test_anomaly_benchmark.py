"""benchmarks/anomaly_detection.py: the test's images, or training images that the model has not seen."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from genlab import data
from genlab.config import load_config

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "anomaly_detection.py"


def run(monkeypatch, folder: Path, *words: object) -> dict:
    common = ["autoencoder_tiny", "--runs", folder / "runs", "--out", folder / "table.json", "--outliers", 3, 8]
    monkeypatch.setattr(sys, "argv", ["anomaly_detection.py", *map(str, [*common, *words])])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return json.loads((folder / "table.json").read_text())


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_validation_images_are_of_the_training_part_and_not_trained_on(share):
    outlier = 3
    others = [number for number in range(10) if number != outlier]
    config = load_config("autoencoder_tiny", [f"data.classes={others}"])
    count, judged = runpy.run_path(str(SCRIPT))["divide"](config, outlier, share)
    whole = data.build(config.data.model_copy(update={"classes": None}), "train")
    images = whole.fetch(np.arange(len(whole)))["image"].flatten(1)
    trained_on = data.build(config.data.model_copy(update={"limit": count}), "train")
    seen = {row.numpy().tobytes() for row in trained_on.fetch(np.arange(len(trained_on)))["image"].flatten(1)}
    labels = whole.labels.numpy()
    assert len(trained_on) == count == round((labels != outlier).sum() * (1 - share))
    assert (labels[judged] == outlier).sum() == round((labels == outlier).sum() * share)
    normal = judged[labels[judged] != outlier]
    assert len(normal) + count == (labels != outlier).sum()
    assert not any(images[row].numpy().tobytes() in seen for row in normal)


def test_the_table_says_which_images_were_judged_and_has_a_row_for_each_outlier(monkeypatch, tmp_path):
    report = run(monkeypatch, tmp_path / "test")
    assert "every test image" in report["protocol"]["data"]
    test = data.build(load_config("autoencoder_tiny").data, "test")
    assert [row["outlier"] for row in report["rows"]] == ["3", "8"]
    assert all(row["normal"] + row["outliers"] == len(test) for row in report["rows"])
    chosen = run(monkeypatch, tmp_path / "validation", "--validation", 0.2, "--blur", 0)
    assert "share of 0.2 of the training images" in chosen["protocol"]["data"]
    assert set(chosen["mean_auc"]) == {"relative, blur 0", "mse, blur 0"}
    assert "outliers_above_threshold" not in chosen["rows"][0]
    mean = np.mean([row["auc"]["mse, blur 0"] for row in chosen["rows"]])
    assert chosen["mean_auc"]["mse, blur 0"] == pytest.approx(mean)
