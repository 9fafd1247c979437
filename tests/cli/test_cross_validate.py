"""`genlab cross-validate`: every sample judges once, and a second call goes on where the first stopped."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from genlab import cross_validation
from genlab.config import load_config
from genlab.cross_validation import FILE, fold_config, summarize
from genlab.data.partition import partition
from genlab.errors import ConfigError

WORDS = ["classifier_tiny", "train.steps=12", "data.limit=150", "train.tensorboard=false", "--device", "cpu"]
SMALL = [*WORDS, "--folds", 3]


@pytest.fixture(scope="module")
def folder(genlab, tmp_path_factory) -> tuple[Path, str]:
    target = tmp_path_factory.mktemp("folds") / "run"
    outcome = genlab("cross-validate", *SMALL, "--run-dir", target)
    assert outcome.code == 0, outcome.err
    return target, outcome.out


def test_every_sample_is_judged_by_one_fold_only() -> None:
    labels = np.arange(151) % 10
    config = load_config("classifier_tiny", ["split.test=0.2"])
    parts = [partition(labels, fold_config(config, 3, fold).split) for fold in range(3)]
    judged = np.concatenate([part["validation"] for part in parts])
    assert len(judged) == len(set(judged)) == 151 - len(parts[0]["test"])
    assert all(np.array_equal(part["test"], parts[0]["test"]) for part in parts)


def test_mean_and_deviation_are_those_of_the_folds_runs(folder) -> None:
    report = json.loads((folder[0] / FILE).read_text())
    values = []
    for fold in range(3):
        lines = (folder[0] / f"fold_{fold}" / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        values.append(next(r["value"] for r in rows if r["name"] == "validation_accuracy" and r["step"] == 12))
    found = report["summary"]["last"]["validation_accuracy"]
    assert found["mean"] == pytest.approx(statistics.fmean(values)) and found["count"] == 3
    assert found["sd"] == pytest.approx(statistics.stdev(values))
    assert [row["fold"] for row in report["rows"]] == [0, 1, 2] and report["folds"] == 3
    assert report["config"]["train"]["steps"] == 12


def test_the_table_has_every_fold_and_their_mean(folder) -> None:
    lines = folder[1].splitlines()
    (mean,) = [line for line in lines if "mean ± sd" in line]
    assert mean.count("±") > 2
    assert "3 folds, last checkpoints" in folder[1] and "validation_accuracy" in folder[1]


def test_a_second_call_trains_no_finished_fold_again(genlab, folder) -> None:
    before = json.loads((folder[0] / FILE).read_text())
    checkpoints = {path: path.stat().st_mtime_ns for path in folder[0].rglob("*.safetensors")}
    assert checkpoints
    (folder[0] / FILE).unlink()
    outcome = genlab("cross-validate", *SMALL, "--run-dir", folder[0], "--resume", "--which", "best")
    assert outcome.code == 0, outcome.err
    assert {path: path.stat().st_mtime_ns for path in folder[0].rglob("*.safetensors")} == checkpoints
    after = json.loads((folder[0] / FILE).read_text())
    assert after["rows"] == before["rows"] and "chosen by" in outcome.out


def test_what_does_not_fit_is_one_line(genlab, folder, tmp_path) -> None:
    target = folder[0]
    for words, told in (
        ([*SMALL, "--run-dir", target], "expected a new or empty folder"),
        ([*WORDS, "--folds", 4, "--run-dir", target, "--resume"], "expected --folds 3"),
        ([*SMALL, "--which", "first", "--run-dir", tmp_path / "a"], "--which: expected last or best, got 'first'"),
        (["dcgan_tiny", "--run-dir", tmp_path / "a"], "expected one with split.folds"),
        (["no_such_config", "--run-dir", tmp_path / "a"], "no_such_config"),
    ):
        outcome = genlab("cross-validate", *words)
        assert outcome.code == 2 and told in outcome.err, outcome.err
        assert len(outcome.error_lines) == 1
    assert not (tmp_path / "a").exists()


def test_a_stopped_one_says_how_to_go_on(genlab, tmp_path, monkeypatch) -> None:
    from genlab.runs import Interrupted

    def stopped(*arguments, **options):
        raise Interrupted(2, tmp_path / "step_00000004.safetensors")

    monkeypatch.setattr(cross_validation, "cross_validate", stopped)
    outcome = genlab("cross-validate", *SMALL, "--run-dir", tmp_path / "run")
    assert outcome.code == 130
    assert outcome.err.strip().endswith(f"--folds 3 --run-dir {tmp_path / 'run'} --device cpu --resume")


def test_scores_that_are_not_finite_are_left_out_of_the_mean() -> None:
    rows = [{"last": {"a": value}} for value in (1.0, None, 3.0)]
    assert summarize(rows, "last") == {"a": {"mean": 2.0, "sd": pytest.approx(2**0.5), "count": 2}}


def test_algorithms_without_folds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"algorithm vae: expected one with split\.folds"):
        fold_config(load_config("vae_tiny", []), 3, 0)
