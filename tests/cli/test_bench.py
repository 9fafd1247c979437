"""`genlab bench step`: it compares like with like, and says so."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genlab.bench import arms
from genlab.bench.arms import COMPILED, FUSED, KINDS, LAB, PLAIN, PLAIN_KEPT, PLAIN_TUNED, make_lab, make_stepper
from genlab.bench.plain_dcgan import PlainDcgan, copy_in_order
from genlab.bench.step import (
    StepSettings,
    check_agreement,
    run_step_bench,
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


@pytest.mark.parametrize("arm", [FUSED, PLAIN, PLAIN_TUNED])
def test_both_arms_take_the_same_steps(arm: str) -> None:
    ours, theirs = make_stepper(LAB, SMALL), make_stepper(arm, SMALL)
    for _ in range(4):
        a, b = ours(), theirs()
        for name in ("loss_d", "loss_g"):
            torch.testing.assert_close(a[name].float(), b[name].float(), rtol=1e-4, atol=1e-6)


RESNET = StepSettings(workload="cyclegan_resnet9", size=16, base_channels=4, batch=2, threads=1)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_both_generators_of_cyclegan_give_the_same_loss_and_gradient(precision: str, batch: int) -> None:
    settings = dataclasses.replace(RESNET, precision=precision, batch=batch)
    expected = make_stepper(LAB, settings)()
    assert expected["loss"] > 0 and expected["first_gradient"] > 0
    for arm in (PLAIN, PLAIN_TUNED):
        tolerance = 1e-3 if precision == "fp32" else 5e-2
        torch.testing.assert_close(make_stepper(arm, settings)(), expected, rtol=tolerance, atol=1e-6)


def test_the_tuned_peer_runs_in_channels_last_with_the_labs_allocator() -> None:
    assert KINDS[PLAIN_TUNED].channels_last and KINDS[PLAIN_TUNED].kept and not KINDS[PLAIN].kept
    assert KINDS[COMPILED].compiled and KINDS[COMPILED].channels_last and KINDS[COMPILED].kept


def test_peak_memory_counts_what_was_held_and_let_go() -> None:
    # A process of its own: one that has run other tests holds freed memory, in which 64 MiB may find room.
    code = """
import torch
from genlab.bench.peak_memory import PeakMemory
memory = PeakMemory("cpu")
torch.ones(2**24)  # 64 MiB
print(memory.bytes())
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert said == "None" or 60 * 2**20 < int(said) < 200 * 2**20


def test_a_machine_that_cannot_compile_leaves_that_arm_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    monkeypatch.setattr(arms, "KINDS", {name: KINDS[name] for name in (LAB, COMPILED)})  # two processes are enough
    settings = dataclasses.replace(RESNET, rounds=1, steps=1, warmup=1)
    result = run_step_bench(settings)
    assert [row["arm"] for row in result["arms"]] == [LAB]
    assert list(result["left_out"]) == [COMPILED] and result["left_out"][COMPILED].startswith(COMPILED)


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
            self.name, self.seconds, self.threads, self.peak_bytes = name, seconds, 1, 2**20 * len(name)

    # The machine is twice as slow in the second half: the ratio of each round is not disturbed.
    measured = [Measured(LAB, [1.0, 1.0, 2.0, 2.0]), Measured(PLAIN, [1.5, 1.5, 3.0, 3.0])]
    rows = summarize(SMALL, measured, {PLAIN: 0.0})["arms"]
    assert rows[1]["lab_is_quicker_by"] == pytest.approx(1.5)
    assert rows[1]["ratio_spread"] == pytest.approx(0)
    assert rows[0]["seconds_per_step"] == pytest.approx(1.5)
    assert rows[1]["lab_peak_share"] == pytest.approx(len(LAB) / len(PLAIN))
    assert rows[0]["samples_per_second"] == pytest.approx(4 / 1.5)


def test_spread_and_self_ratio_of_steady_turns_are_nothing() -> None:
    assert spread([2.0] * 8) == 0
    assert spread([1.0, 2.0]) == 0
    assert same_against_same([2.0] * 8) == 1
    assert same_against_same([2.0, 1.0] * 4) == 2


def test_bench_step_writes_what_a_timing_depends_on(genlab, tmp_path: Path) -> None:
    small = ["--config", "dcgan-28", "--batch", 2, "--base-channels", 2, "--threads", 1]
    outcome = genlab(
        "bench", "step", *small, "--rounds", 1, "--steps", 1, "--no-compile", "--json", tmp_path / "step.json"
    )
    assert outcome.code == 0, outcome.err
    result = json.loads((tmp_path / "step.json").read_text())
    assert [row["arm"] for row in result["arms"]] == [LAB, FUSED, PLAIN, PLAIN_KEPT, PLAIN_TUNED]
    assert all(row["seconds_per_step"] > 0 and row["loss_difference"] <= 1e-4 for row in result["arms"])
    assert all(row["peak_bytes"] is None or row["peak_bytes"] > 0 for row in result["arms"])
    assert result["settings"]["batch"] == 2 and result["machine"]["threads"] == 1
    assert result["machine"]["cpu"] and result["machine"]["torch"] and result["command"]


def test_bench_step_names_the_nearest_config(genlab) -> None:
    outcome = genlab("bench", "step", "--config", "dcgan-65")
    assert outcome.code == 2
    assert "did you mean 'dcgan-64'" in outcome.err or "expected one of dcgan-28" in outcome.err


def test_bench_step_refuses_a_batch_of_one_where_a_batch_is_normalised(genlab) -> None:
    outcome = genlab("bench", "step", "--config", "dcgan-28", "--batch", 1)
    assert outcome.code == 2
    assert "--batch: expected at least 2 for dcgan-28" in outcome.err
