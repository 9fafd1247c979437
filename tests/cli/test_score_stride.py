"""`genlab evaluate --stride` as a person calls it: more context for a Transformer's tokens, refused elsewhere."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def runs(genlab, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("language"), {}
    for network in ("transformer", "lstm"):
        made[network] = folder / network
        outcome = genlab(
            "train", "language_model_tiny", f"model.network={network}", "data.sequence_length=16",
            "evaluate.metrics=[]",
            "--run-dir", made[network], "--device", "cpu",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
    return made


def test_a_smaller_stride_scores_the_same_tokens_with_more_before_them(genlab, runs):
    rows = []
    for extra in ((), ("--stride", 4)):
        outcome = genlab("evaluate", runs["transformer"], "--metrics", "own", "--json", *extra)
        assert outcome.code == 0, outcome.err
        rows.append({row["name"]: row for row in map(json.loads, outcome.out.splitlines())}["test_nats_per_token"])
    alone, overlapping = rows
    assert alone["protocol"]["context"] == "windows of 16 tokens"
    assert "moved on by 4" in overlapping["protocol"]["context"]
    assert alone["protocol"]["real"]["count"] == overlapping["protocol"]["real"]["count"]
    assert alone["value"] != overlapping["value"]


@pytest.mark.parametrize(
    ("network", "stride", "message"),
    [
        ("transformer", 5, "score_stride: expected a divisor of data.sequence_length=16, got 5"),
        ("lstm", 4, "score_stride: expected model.network=transformer, got lstm"),
    ],
)
def test_a_stride_that_does_not_fit_is_one_line(genlab, runs, network, stride, message):
    outcome = genlab("evaluate", runs[network], "--metrics", "own", "--stride", stride)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err
