"""benchmarks/likelihood.py: one run for each k, gone on with when more epochs are asked for."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "likelihood.py"


def run(monkeypatch, folder: Path, epochs: int) -> dict:
    words = ["--config", "vae_tiny", "--epochs", epochs, "--every", 1, "--importance-samples", 1, 3, "--draws", 60]
    tiny = ["--images", 40, "train.tensorboard=false", "train.sample_every=9999", "data.limit=160"]
    monkeypatch.setattr(sys, "argv", ["likelihood.py", *map(str, [folder, *words, *tiny])])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return json.loads((folder / "likelihood.json").read_text())


def test_every_k_is_trained_for_as_many_epochs_and_goes_on_where_it_was(monkeypatch, tmp_path, capsys):
    first = run(monkeypatch, tmp_path, 1)
    assert [(row["k"], row["epochs"]) for row in first["runs"]] == [(1, 1.0), (3, 1.0)]
    second = run(monkeypatch, tmp_path, 2)
    for before, after in zip(first["runs"], second["runs"], strict=True):
        assert [point["epoch"] for point in after["curve"]] == [1.0, 2.0]
        assert after["curve"][0] == before["curve"][0]
        assert {row["name"]: row["protocol"].get("k") for row in after["final"]}["nll"] == 60
    assert second["torch"]
    assert second["commit"] is None or isinstance(second["commit"], str)
    assert "k 3, seed 0, epoch 2" in capsys.readouterr().out
