"""`genlab bench step` on models of text, and the sizes that a workload does not have."""

from __future__ import annotations

import json

import pytest

from genlab.bench.arms import LAB


def test_bench_step_times_a_model_of_text(genlab, tmp_path) -> None:
    outcome = genlab(
        "bench", "step", "--config", "gru_characters", "--batch", 2, "--length", 4, "--width", 8, "--threads", 1,
        "--rounds", 1, "--steps", 1, "--no-compile", "--json", tmp_path / "step.json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    result = json.loads((tmp_path / "step.json").read_text())
    assert result["arms"][0]["arm"] == LAB and len(result["arms"]) == 3
    assert all(row["loss_difference"] <= 1e-5 and row["samples_per_second"] > 0 for row in result["arms"])
    assert (result["settings"]["length"], result["settings"]["width"]) == (4, 8)
    assert "gru_characters, 4 tokens, width 8" in " ".join(outcome.out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lenet5_mnist", "--length", 8), "--length: lenet5_mnist has no such size"),
        (("gru_characters", "--base-channels", 8), "--base-channels: gru_characters has no such size"),
        (("dcgan-28", "--width", 8), "--width: dcgan-28 has no such size"),
        (("transformer_characters", "--width", 6), "--width: expected a multiple of the 4 heads, got 6"),
        (("gru_character",), "did you mean 'gru_characters'"),
    ],
)
def test_sizes_that_a_workload_lacks_are_refused(genlab, arguments: tuple, message: str) -> None:
    outcome = genlab("bench", "step", "--config", *arguments)
    assert outcome.code == 2 and message in outcome.err
