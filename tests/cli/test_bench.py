"""`genlab bench step`: it compares like with like, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from genlab.bench.plain_dcgan import PlainDcgan, copy_in_order
from genlab.bench.step import (
    LAB,
    PLAIN,
    StepSettings,
    check_agreement,
    make_lab,
    make_stepper,
    same_against_same,
    spread,
    summarize,
)

SMALL = StepSettings(size=32, channels=1, base_channels=4, latent_dim=8, batch=4, threads=1)


@pytest.mark.parametrize("size", [28, 32, 64])
def test_peer_has_the_same_weights_in_the_same_order(size: int) -> None:
    settings = StepSettings(size=size, channels=3, base_channels=4, latent_dim=8, batch=2)
    trainer = make_lab(settings)
    plain = PlainDcgan(
        size, 3, 8, 4, lr=2e-4, betas=(0.5, 0.999), precision="fp32", device=torch.device("cpu")
    )  # fmt: skip
    copy_in_order(trainer.networks["generator"], plain.generator)
    copy_in_order(trainer.networks["discriminator"], plain.discriminator)
    z = torch.randn(2, 8)
    images = trainer.networks["generator"](z)
    torch.testing.assert_close(images, plain.generator(z[:, :, None, None]), rtol=1e-4, atol=1e-5)
    logits = plain.discriminator(images.detach()).flatten()
    torch.testing.assert_close(trainer.networks["discriminator"](images.detach()), logits, rtol=1e-4, atol=1e-5)


def test_copying_refuses_other_networks() -> None:
    with pytest.raises(ValueError, match="same shapes"):
        copy_in_order(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))


def test_both_arms_take_the_same_steps() -> None:
    ours, theirs = make_stepper(LAB, SMALL), make_stepper(PLAIN, SMALL)
    for _ in range(4):
        a, b = ours(), theirs()
        for name in ("loss_d", "loss_g"):
            torch.testing.assert_close(a[name].float(), b[name].float(), rtol=1e-4, atol=1e-6)


def test_arms_that_compute_something_else_are_not_timed() -> None:
    step = {"loss_d": 1.0, "loss_g": 2.0}
    nan, tolerances = float("nan"), (1e-4, 1e-2)
    assert check_agreement([step, step], [step, {"loss_d": 1.009, "loss_g": 2.0}], tolerances, PLAIN) == 0
    with pytest.raises(RuntimeError, match="differ from the lab's by 0.1 relative in step 1"):
        check_agreement([step, step], [{"loss_d": 1.1, "loss_g": 2.0}, step], tolerances, PLAIN)
    with pytest.raises(RuntimeError, match="relative in step 2"):
        check_agreement([step, step], [step, {"loss_d": 1.0, "loss_g": 2.1}], tolerances, PLAIN)
    for values in ({"loss_d": nan, "loss_g": 2.0}, {"loss_d": 1.0, "loss_g": nan}):
        with pytest.raises(RuntimeError, match="differ"):
            check_agreement([step, step], [values, step], tolerances, PLAIN)


def test_summary_compares_turns_of_the_same_round() -> None:
    class Measured:
        def __init__(self, name: str, seconds: list[float]) -> None:
            self.name, self.seconds, self.threads = name, seconds, 1

    # The machine is twice as slow in the second half: the ratio of each round is not disturbed.
    arms = [Measured(LAB, [1.0, 1.0, 2.0, 2.0]), Measured(PLAIN, [1.5, 1.5, 3.0, 3.0])]
    rows = summarize(SMALL, arms, {PLAIN: 0.0})["arms"]
    assert rows[1]["lab_is_quicker_by"] == pytest.approx(1.5)
    assert rows[1]["ratio_spread"] == pytest.approx(0)
    assert rows[0]["seconds_per_step"] == pytest.approx(1.5)
    assert rows[0]["images_per_second"] == pytest.approx(4 / 1.5)


def test_spread_and_self_ratio_of_steady_turns_are_nothing() -> None:
    assert spread([2.0] * 8) == 0
    assert spread([1.0, 2.0]) == 0
    assert same_against_same([2.0] * 8) == 1
    assert same_against_same([2.0, 1.0] * 4) == 2


def test_bench_step_writes_what_a_timing_depends_on(genlab, tmp_path: Path) -> None:
    small = ["--config", "dcgan-28", "--batch", 2, "--base-channels", 2, "--threads", 1]
    outcome = genlab("bench", "step", *small, "--rounds", 1, "--steps", 1, "--json", tmp_path / "step.json")
    assert outcome.code == 0, outcome.err
    result = json.loads((tmp_path / "step.json").read_text())
    assert [row["arm"] for row in result["arms"]] == ["genlab", "plain torch", "plain torch, memory kept"]
    assert all(row["seconds_per_step"] > 0 and row["loss_difference"] <= 1e-4 for row in result["arms"])
    assert result["settings"]["batch"] == 2 and result["machine"]["threads"] == 1
    assert result["machine"]["cpu"] and result["machine"]["torch"] and result["command"]


def test_bench_step_names_the_nearest_config(genlab) -> None:
    outcome = genlab("bench", "step", "--config", "dcgan-65")
    assert outcome.code == 2
    assert "did you mean 'dcgan-64'" in outcome.err or "expected one of dcgan-28" in outcome.err
