"""benchmarks/sharpness_comparison.py: two trainings from one start, and the eigenvalue of each."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from genlab import ops
from genlab.checkpoint import load_bundle
from genlab.classification import part_dataset
from genlab.data import iterate
from genlab.sharpness import leading_eigenvalue

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "sharpness_comparison.py"
VIT = ["model.network=vit_cifar", "model.patch=4", "model.depth=1", "optimizer.lr=0.02"]


def run(monkeypatch, folder: Path, *words: object) -> dict:
    tiny = ["classifier_tiny", "--runs", folder / "runs", "--out", folder / "found.json", "--steps", 6]
    tiny += ["--samples", 24, "--chunk", 8, "--iterations", 40, *VIT, "data.limit=120"]
    monkeypatch.setattr(sys, "argv", ["sharpness_comparison.py", *map(str, [*tiny, *words])])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return json.loads((folder / "found.json").read_text())


def test_both_trainings_are_measured_alike_and_not_repeated(monkeypatch, tmp_path, capsys) -> None:
    first = run(monkeypatch, tmp_path)
    plain, sam = first["rows"]
    assert (plain["training"], plain["rho"], sam["training"], sam["rho"]) == ("plain", None, "sam", 0.1)
    assert plain["steps"] == sam["steps"] == 6 and plain["samples"] == sam["samples"] == 24
    assert plain["leading_eigenvalue"] != sam["leading_eigenvalue"] and 0 <= plain["test_accuracy"] <= 1
    assert first["protocol"]["config"]["train"]["steps"] == 6
    out = capsys.readouterr().out
    assert "leading_eigenvalue" in out and len(out.splitlines()[-1].split()) == 7

    trainer = load_bundle(tmp_path / "runs" / "plain").trainer
    network = trainer.networks["classifier"].eval()
    batch = next(iter(iterate(part_dataset(trainer, "train"), 24)))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), ops.default_impl("torch"):
        loss = lambda: nn.functional.cross_entropy(network(batch["image"]), batch["label"])  # noqa: E731
        generator = torch.Generator().manual_seed(0)
        value, _ = leading_eigenvalue(loss, list(network.parameters()), iterations=40, generator=generator)
    assert plain["leading_eigenvalue"] == pytest.approx(value, rel=1e-2), "in parts as in one graph"

    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path)
    assert "expected a new or empty folder" in capsys.readouterr().err
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    again = run(monkeypatch, tmp_path, "--resume")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")} == written
    assert again["rows"] == first["rows"]


def test_other_algorithms_are_refused(monkeypatch, tmp_path) -> None:
    words = ["sharpness_comparison.py", "vae_tiny", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "a.json")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="vae_tiny: expected algorithm classifier, got vae"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
