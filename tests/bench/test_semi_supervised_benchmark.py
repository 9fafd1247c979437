"""The error table of semi-supervised learning: a cell that cannot be trained is told before the first one is."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "semi_supervised.py"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sgan_tiny", "--labels", "20", "5"], "--labels: expected at least 10, one label for each class, got 5"),
        (["dcgan_tiny"], "dcgan_tiny: expected a configuration of algorithm sgan, got dcgan"),
    ],
)
def test_a_table_that_cannot_be_made_is_one_line_and_nothing_is_trained(tmp_path, monkeypatch, capsys, words, message):
    folders = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "table.json")]
    monkeypatch.setattr(sys, "argv", ["semi_supervised.py", *words, *folders])
    with pytest.raises(SystemExit) as ending:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ending.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []
