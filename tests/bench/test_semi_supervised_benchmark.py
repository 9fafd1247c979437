"""The error table of semi-supervised learning: what is printed and kept, and what is refused before any training."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

ROWS = ("test_error", "test_error_unaveraged")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "semi_supervised.py"


def run_script(monkeypatch, folder: Path, *words: str) -> None:
    folders = ["--runs", str(folder / "runs"), "--out", str(folder / "table.json")]
    monkeypatch.setattr(sys, "argv", ["semi_supervised.py", *words, *folders])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def logged(run: Path) -> dict[str, list[list[float]]]:
    """Name of a score -> (step, value) of each evaluation, as the run wrote them."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {name: [[row["step"], row["value"]] for row in rows if row["name"] == name] for name in ROWS}


FEW_STEPS = ["train.steps=4", "evaluate.every=2", "train.checkpoint_every=4", "train.tensorboard=false"]


def test_the_table_has_both_columns_and_goes_on_where_it_stood(tmp_path, monkeypatch, capsys):
    words = ["sgan_tiny", "--labels", "20", "--splits", "1", *FEW_STEPS]
    run_script(monkeypatch, tmp_path, *words)
    report = json.loads((tmp_path / "table.json").read_text())
    runs = {column: tmp_path / "runs" / f"digits-20-0-{column}" for column in ("labels_alone", "sgan")}
    for cell, column in zip(report["cells"], runs, strict=True):
        scores = logged(runs[column])
        assert (cell["labels"], cell["split"], cell["supervised"]) == (20, 0, column == "labels_alone")
        assert [step for step, _ in cell["curve"]] == [2, 4]
        assert cell["curve"] == scores["test_error"]
        assert {name: cell[name] for name in ROWS} == {name: scores[name][-1][1] for name in ROWS}
        assert cell["facts"]["torch"]
    sgan, alone = (f"{100 * logged(runs[column])['test_error'][-1][1]:.2f} (1)" for column in ("sgan", "labels_alone"))
    expected = [
        f"{'labels':>8}  {'sgan, test error %':>28}  {'labels alone, %':>28}",
        f"{20:>8}  {sgan:>28}  {alone:>28}",
    ]
    assert report["table"] == expected
    assert capsys.readouterr().out.endswith("\n".join(expected) + "\n")
    # A second start finds every cell trained: the same table, and no step is done again.
    before = {path: _steps(path) for path in (tmp_path / "runs").glob("*/log.jsonl")}
    assert len(before) == 2
    run_script(monkeypatch, tmp_path, *words)
    assert json.loads((tmp_path / "table.json").read_text())["cells"] == report["cells"]
    assert all(_steps(path) == steps for path, steps in before.items())


def _steps(log: Path) -> list[dict]:
    return [row for row in map(json.loads, log.read_text().splitlines()) if "event" not in row]


def test_a_line_is_the_mean_and_deviation_over_splits():
    summary = runpy.run_path(str(SCRIPT))["summary"]
    cells = [
        {"labels": labels, "supervised": supervised, "test_error": error}
        for labels, supervised, error in (
            (100, False, 0.01), (100, False, 0.02), (100, False, 0.03), (20, True, 0.25), (100, True, 0.125),
        )
    ]  # fmt: skip
    rows = [" ".join(line.split()) for line in summary(cells)[1:]]
    assert rows == ["20 - 25.00 (1)", "100 2.00 ± 1.00 (3) 12.50 (1)"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sgan_tiny", "--labels", "20", "5"], "--labels: expected at least 10, one label for each class, got 5"),
        (["dcgan_tiny"], "dcgan_tiny: expected a configuration of algorithm sgan, got dcgan"),
    ],
)
def test_a_table_that_cannot_be_made_is_one_line_and_nothing_is_trained(tmp_path, monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit) as ending:
        run_script(monkeypatch, tmp_path, *words)
    assert ending.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []
