"""Live diagnosis: what is found when, told once, and what train.on_collapse then does."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from training_jobs import tiny_config

from genlab import data
from genlab.checkpoint import load_checkpoint
from genlab.cli.progress import TrainingDisplay
from genlab.errors import ConfigError, RunError
from genlab.losses import ADVERSARIAL_LOSSES
from genlab.metrics import Score
from genlab.trainers import DataSpec, train
from genlab.trainers.autoencoder import AutoencoderTrainer
from genlab.trainers.dcgan import DcganTrainer
from genlab.trainers.diagnosis import (
    Diagnosis,
    Finding,
    Thresholds,
    collapse_finding,
    discriminator_signs,
    diversity_signs,
    gradient_norm,
    saturation_finding,
    score_findings,
)
from genlab.trainers.judged import Judged
from genlab.trainers.vae import VaeTrainer

pytestmark = pytest.mark.usefixtures("empty_cache")  # a judge at hand would count classes too

EAGER = Thresholds(warmup_steps=0, late_steps=0)
# Rows of the log at every step, a checkpoint at every second one.
ROWS = ["train.log_every=1", "train.checkpoint_every=2", "train.keep_last=20", "train.steps=12"]
HEALTHY = {"loss_d": 1.2, "loss_g": 0.9, "grad_norm_generator": 0.3, "diversity": 0.9, "diversity_nearest": 0.8}


@pytest.fixture
def trainer(monkeypatch) -> DcganTrainer:
    monkeypatch.setattr(DcganTrainer, "thresholds", EAGER)
    return DcganTrainer(tiny_config(), DataSpec("digits", "images", (1, 28, 28), 10))


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.what for finding in findings]


def told(diagnosis: Diagnosis, rows: list[dict[str, float]]) -> list[list[str]]:
    return [kinds(diagnosis.judge(step, row)) for step, row in enumerate(rows, start=1)]


def test_a_collapse_is_told_once_when_it_has_lasted_and_again_after_a_recovery(trainer):
    ill = {**HEALTHY, "diversity": 0.1}
    rows = [HEALTHY, ill, ill, HEALTHY, ill, ill, ill, ill, ill, HEALTHY, ill, ill, ill]
    found = told(Diagnosis(trainer), rows)
    assert [number for number, what in enumerate(found) if what] == [6, 12]
    assert found[6] == ["collapse"]


def test_heaps_of_alike_samples_are_a_collapse_though_they_lie_far_apart(trainer):
    assert told(Diagnosis(trainer), [{**HEALTHY, "diversity_nearest": 0.05}] * 3)[-1] == ["collapse"]


# Rows of real trainings, at every `every`-th step: (diversity, diversity_nearest, accuracy, loss of D).
CGAN_THAT_GETS_WELL = (20, [  # ends with 93 % of its digits being the ones it was asked for
    (0.055, 0.066, 0.97, 0.55), (0.16, 0.18, 1.0, 0.47), (0.31, 0.15, 0.99, 0.53), (0.59, 0.094, 0.95, 0.71),
    (0.72, 0.08, 0.99, 0.72), (0.79, 0.076, 0.92, 0.84), (0.78, 0.078, 0.95, 0.85), (0.81, 0.081, 0.92, 0.86),
    (0.85, 0.091, 0.94, 0.85), (0.79, 0.091, 0.96, 0.87), (0.86, 0.10, 0.95, 0.86), (0.81, 0.13, 0.92, 0.88),
    (0.82, 0.16, 0.95, 0.89), (0.83, 0.2, 0.96, 0.85), (0.86, 0.26, 0.96, 0.85), (0.84, 0.35, 0.93, 0.89),
    (0.85, 0.46, 0.93, 0.89), (0.89, 0.61, 0.86, 0.95), (0.88, 0.73, 0.85, 1.01), (0.87, 0.8, 0.77, 1.08),
])  # fmt: skip
SGAN_THAT_GETS_WELL = (100, [  # ends at 1 % test error with 100 labels
    (0.12, 0.013, 0.91, 0.19), (0.11, 0.013, 0.99, 0.029), (0.16, 0.018, 0.98, 0.047), (0.18, 0.017, 0.97, 0.079),
    (0.21, 0.025, 0.98, 0.059), (0.21, 0.032, 0.98, 0.067), (0.26, 0.033, 0.98, 0.046), (0.23, 0.054, 0.99, 0.043),
    (0.26, 0.063, 0.98, 0.068), (0.32, 0.093, 0.98, 0.059), (0.33, 0.11, 0.97, 0.077), (0.36, 0.16, 0.97, 0.078),
    (0.38, 0.16, 0.96, 0.11), (0.47, 0.21, 0.95, 0.12), (0.54, 0.29, 0.96, 0.13), (0.52, 0.29, 0.95, 0.13),
    (0.57, 0.35, 0.96, 0.12), (0.53, 0.35, 0.95, 0.14), (0.55, 0.35, 0.94, 0.15), (0.62, 0.42, 0.94, 0.15),
    (0.61, 0.44, 0.94, 0.15), (0.61, 0.47, 0.94, 0.17), (0.65, 0.48, 0.93, 0.18),
])  # fmt: skip
SGAN_WHOSE_DISCRIMINATOR_WINS = (100, [
    (0.095, 0.01, 0.92, 0.21), (0.16, 0.012, 0.99, 0.049), (0.18, 0.012, 0.97, 0.09), (0.2, 0.013, 0.97, 0.082),
    (0.22, 0.022, 0.99, 0.043), (0.26, 0.021, 0.99, 0.036), (0.23, 0.013, 0.997, 0.0077), (0.17, 0.007, 1, 0.0014),
    (0.14, 0.011, 0.96, 4.2), (0.067, 0.006, 0.999, 0.005), (0.13, 0.009, 0.999, 0.0046), (0.23, 0.017, 0.998, 0.0056),
    (0.14, 0.01, 1, 0.00058), (0.078, 0.005, 1, 0.0005), (0.043, 0.0035, 1, 0.00024), (0.048, 0.003, 1, 0.00014),
    (0.032, 0.0027, 1, 0.00013), (0.048, 0.0026, 1, 0.00012), (0.019, 0.0015, 1, 8e-05), (0.026, 0.0012, 1, 8e-05),
    (0.018, 0.0014, 1, 8e-05), (0.015, 0.0007, 1, 7e-05),
])  # fmt: skip


def replayed(trainer, kind: str, log: tuple[int, list[tuple[float, ...]]]) -> list[tuple[int, str, bool]]:
    """(step, what, serious) of all that is told over the rows of a log."""
    diagnosis, (every, rows) = Diagnosis(trainer), log
    loss = "loss_unlabelled" if kind == "sgan" else "loss_d"
    names = ("diversity", "diversity_nearest", "accuracy", loss)
    found = []
    for number, row in enumerate(rows, start=1):
        values = dict(zip(names, row, strict=True))
        found += [(number * every, f.what, f.serious) for f in diagnosis.judge(number * every, values)]
    return found


@pytest.mark.parametrize(("kind", "log"), [("cgan", CGAN_THAT_GETS_WELL), ("sgan", SGAN_THAT_GETS_WELL)])
def test_heaps_that_a_generator_has_yet_to_part_are_no_collapse(trainer, monkeypatch, kind, log):
    monkeypatch.setattr(DcganTrainer, "thresholds", Thresholds())
    assert replayed(trainer, kind, log) == []
    monkeypatch.setattr(DcganTrainer, "thresholds", Thresholds(apart=0.0, varied=0.0))
    assert "collapse" in {what for _, what, _ in replayed(trainer, kind, log)}, "else the rows would show nothing"


def test_a_semi_supervised_discriminator_that_wins_is_told_at_last_in_earnest(trainer, monkeypatch):
    monkeypatch.setattr(DcganTrainer, "thresholds", Thresholds())
    assert replayed(trainer, "sgan", SGAN_WHOSE_DISCRIMINATOR_WINS) == [
        (1200, "saturation", False),
        (1900, "saturation", True),
        (2200, "collapse", True),
    ]


def test_samples_that_fall_into_heaps_are_a_collapse_early_too(trainer, monkeypatch):
    monkeypatch.setattr(DcganTrainer, "thresholds", Thresholds())
    every, rows = CGAN_THAT_GETS_WELL
    fallen = [*rows, *[(0.8, 0.1, 0.9, 0.9)] * 3]
    assert replayed(trainer, "cgan", (every, fallen)) == [(20 * len(fallen), "collapse", True)]
    late = (100, [(0.8, 0.1, 0.9, 0.9)] * 25)
    assert replayed(trainer, "cgan", late) == [(2200, "collapse", True)], "heaps that are never parted, late"


def test_close_neighbours_are_no_collapse_of_a_likelihood_model():
    """A VAE of two latents after 6,000 steps: 18 % of the distance between nearest real samples, 50 % of all."""
    values = {"diversity": 0.45, "diversity_nearest": 0.13}
    assert collapse_finding(values, VaeTrainer.thresholds) is None
    assert collapse_finding(values, AutoencoderTrainer.thresholds) is None
    vae = VaeTrainer.__new__(VaeTrainer)
    (found,) = Judged.findings(vae, {**values, "diversity": 0.2})
    assert found.text.endswith("before, a lower learning rate, a lower vae.beta, or more latents (model.latent_dim)")


def test_a_vanished_gradient_is_found_whatever_the_optimiser_of_the_generators_is_called():
    for name in ("grad_norm_generator", "grad_norm_generators"):
        assert "length of only 1e-09" in saturation_finding({name: 1e-9}, EAGER).text
        assert saturation_finding({name: 1e-3, "grad_norm_discriminators": 0.0}, EAGER) is None


def test_nothing_is_told_before_the_warm_up_ends(trainer, monkeypatch):
    monkeypatch.setattr(DcganTrainer, "thresholds", replace(EAGER, warmup_steps=10))
    diagnosis = Diagnosis(trainer)
    ill = {**HEALTHY, "diversity": 0.0}
    assert [diagnosis.judge(step, ill) for step in range(10)] == [[]] * 10
    assert [kinds(diagnosis.judge(step, ill)) for step in (10, 11, 12)] == [[], [], ["collapse"]]


def test_a_generator_that_has_not_come_to_life_yet_has_not_collapsed(trainer, monkeypatch):
    monkeypatch.setattr(DcganTrainer, "thresholds", replace(EAGER, late_steps=20))
    unborn, ill = {**HEALTHY, "diversity": 0.2}, {**HEALTHY, "diversity": 0.2}
    late = told(Diagnosis(trainer), [unborn] * 24)
    assert [number for number, what in enumerate(late, start=1) if what] == [22], "late it is one in any case"
    fallen = told(Diagnosis(trainer), [unborn] * 5 + [HEALTHY] + [ill] * 4)
    assert [number for number, what in enumerate(fallen, start=1) if what] == [9]


@pytest.mark.parametrize("name", ["loss_d", "loss_g", "grad_norm_generator"])
def test_a_loss_or_gradient_far_above_its_usual_size_is_a_divergence(trainer, name):
    rows = [HEALTHY] * 6 + [{**HEALTHY, name: 250.0}] * 3
    found = told(Diagnosis(trainer), rows)
    assert found == [[]] * 8 + [["divergence"]]


def test_large_losses_are_usual_where_they_were_always_large(trainer):
    large = {**HEALTHY, "loss_d": -4000.0, "grad_norm_generator": 900.0}
    assert told(Diagnosis(trainer), [large] * 20) == [[]] * 20


def test_the_first_losses_have_nothing_to_be_compared_with(trainer):
    rows = [{**HEALTHY, "loss_d": 1e6}] * 3 + [HEALTHY] * 10
    assert told(Diagnosis(trainer), rows) == [[]] * 13


def test_the_state_survives_json_so_that_a_resumed_run_tells_at_the_same_step(trainer):
    rows = [HEALTHY] * 6 + [{**HEALTHY, "loss_d": 500.0}] * 4
    whole = told(Diagnosis(trainer), rows)
    for cut in range(1, len(rows)):
        first, second = Diagnosis(trainer), Diagnosis(trainer)
        found = told(first, rows[:cut])
        second.restore(json.loads(json.dumps(first.state)))
        found += [kinds(second.judge(cut + n, row)) for n, row in enumerate(rows[cut:], start=1)]
        assert found == whole


def test_diversity_is_relative_to_the_data():
    torch.manual_seed(0)
    real = torch.randn(32, 1, 8, 8)
    alike = diversity_signs(torch.ones_like(real), real)
    assert alike["diversity"] == 0
    assert alike["diversity_nearest"] == 0
    for value in diversity_signs(3 * real, real).values():
        assert value.item() == pytest.approx(3, rel=1e-4)
    heaps = real[:2].repeat_interleave(16, dim=0)
    signs = diversity_signs(heaps, real)
    assert signs["diversity"] > 0.4
    assert signs["diversity_nearest"] == 0


def test_the_norm_of_a_gradient_is_that_of_all_its_numbers():
    parameters = [torch.zeros(3, 2), torch.zeros(4), torch.zeros(1)]
    parameters[0].grad, parameters[1].grad = torch.full((3, 2), 2.0), torch.full((4,), -1.0)
    assert gradient_norm(parameters).item() == pytest.approx((6 * 4 + 4) ** 0.5)
    assert gradient_norm([torch.zeros(2)]) == 0


@pytest.mark.parametrize(
    ("loss", "right", "wrong"), [("hinge", 0.1, -0.1), ("lsgan", 0.6, 0.4), ("minimax", 2.0, -3.0)]
)
def test_accuracy_counts_both_kinds_of_samples_at_the_boundary_of_the_loss(loss, right, wrong):
    boundary = ADVERSARIAL_LOSSES.get(loss).boundary
    real, fake = torch.tensor([right, right, right, wrong]), torch.tensor([right, wrong])
    signs = discriminator_signs(real, fake, boundary)
    assert signs["accuracy"].item() == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert signs["margin"].item() == pytest.approx((real.mean() - fake.mean()).item())


def test_a_critic_has_a_margin_and_no_accuracy():
    signs = discriminator_signs(torch.ones(3), torch.zeros(3), ADVERSARIAL_LOSSES.get("wasserstein").boundary)
    assert set(signs) == {"margin"}


def test_a_certain_discriminator_and_a_vanished_gradient_are_a_saturation(trainer):
    certain = {**HEALTHY, "accuracy": 0.999, "loss_d": 0.002}
    assert told(Diagnosis(trainer), [certain] * 3)[-1] == ["saturation"]
    assert told(Diagnosis(trainer), [{**HEALTHY, "grad_norm_generator": 1e-9}] * 3)[-1] == ["saturation"]
    good = {**HEALTHY, "accuracy": 0.99, "loss_d": 0.15}
    assert told(Diagnosis(trainer), [good] * 5) == [[]] * 5


def test_a_discriminator_that_wins_in_training_is_told(tmp_path, monkeypatch):
    """A generator that stands still against a quick discriminator."""
    monkeypatch.setattr(DcganTrainer, "thresholds", replace(EAGER, diversity=0.0, nearest=0.0, growth=1e9))
    speeds = ["generator_optimizer.lr=1e-12", "discriminator_optimizer.lr=0.01", "model.base_channels=8"]
    config = tiny_config(*ROWS, *speeds, "train.steps=60", "data.batch_size=16")
    train(config, tmp_path / "run", evaluator=None)
    first, lasting = diagnoses(tmp_path / "run")
    assert first["what"] == lasting["what"] == "saturation"
    assert "the discriminator has won: it tells 100.0% of the samples apart" in first["text"]
    assert "It has lasted for 10 rows of the log" in lasting["text"]
    assert lasting["step"] == first["step"] + EAGER.lasting - EAGER.patience


@pytest.mark.parametrize("action", ["stop", "rollback"])
def test_a_saturation_that_lasts_is_acted_upon_and_a_short_one_is_not(tmp_path, monkeypatch, action):
    monkeypatch.setattr(DcganTrainer, "thresholds", replace(EAGER, lasting=6))
    won = saturation_finding({"accuracy": 1.0, "loss_d": 0.001}, DcganTrainer.thresholds)
    for name, steps in (("short", range(3, 8)), ("lasting", range(3, 9))):
        monkeypatch.setattr(DcganTrainer, "findings", lambda self, values, at=steps: [won] if self.step in at else [])
        config = tiny_config(*ROWS, f"train.on_collapse={action}", "train.max_rollbacks=1")
        if name == "short":
            train(config, tmp_path / name, evaluator=None)
            assert [row["step"] for row in diagnoses(tmp_path / name)] == [5]
            continue
        with pytest.raises(RunError, match=r"step 8: the discriminator has won.*It has lasted for 6 rows"):
            train(config, tmp_path / name, evaluator=None)
        gone_back = [row for row in log_of(tmp_path / name) if row.get("event") == "rollback"]
        assert [row["step"] for row in gone_back] == ([2] if action == "rollback" else [])


def test_classes_that_the_judge_hardly_finds_are_named():
    def scored(histogram: list[int]) -> list[Score]:
        return [
            Score("fid", 3.0),
            Score("class_kl[digits_cnn]", 0.2, None, {"histogram": histogram, "extractor": "cnn"}),
        ]

    (finding,) = score_findings(scored([100, 3, 100, 0]), ("ox", "cat", "dog", "hen"), EAGER)
    assert (finding.what, finding.serious) == ("collapse", False)
    assert "hardly any of classes cat, hen among 203 samples, says cnn" in finding.text
    assert score_findings(scored([100, 30, 100, 20]), None, EAGER) == []


def test_modes_that_no_point_reaches_are_counted():
    def scored(covered: float) -> list[Score]:
        return [Score("modes", covered, None, {"num_modes": 25})]

    (finding,) = score_findings(scored(7.0), None, EAGER)
    assert "7 of 25 modes are reached" in finding.text
    assert score_findings(scored(22.0), None, EAGER) == []


def test_an_evaluation_tells_what_the_samples_leave_out(tmp_path):
    def evaluator(trainer, step):
        return [Score("class_kl[judge]", 2.0, None, {"histogram": [0, 0, 0, 0, 0, 0, 0, 50, 50, 50]})]

    train(tiny_config("train.steps=2"), tmp_path / "run", evaluator=evaluator)
    (event,) = diagnoses(tmp_path / "run")
    assert "hardly any of classes 0, 1, 2, 3, 4, 5, 6 among 150 samples" in event["text"]


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def diagnoses(run: Path) -> list[dict]:
    return [row for row in log_of(run) if row.get("event") == "diagnosis"]


def test_a_healthy_run_is_told_nothing_and_its_rows_hold_the_vital_signs(tmp_path):
    config = tiny_config("train.log_every=1", "train.steps=20", "model.base_channels=8", "data.batch_size=32")
    train(config, tmp_path / "run", evaluator=None)
    assert diagnoses(tmp_path / "run") == []
    rows = [row for row in log_of(tmp_path / "run") if "event" not in row]
    assert len(rows) == 20
    for row in rows:
        assert row["grad_norm_generator"] > 0
        assert row["grad_norm_discriminator"] > 0
        assert row["diversity"] > 0
        assert row["diversity_nearest"] > 0


class Collapsing:
    """Makes the samples of a trainer alike from a step on, until `cured`."""

    def __init__(self, monkeypatch, from_step: int) -> None:
        self.cured = False
        decode = DcganTrainer.decode

        def patched(trainer, latents, labels=None):
            images = decode(trainer, latents)
            return torch.zeros_like(images) if trainer.step >= from_step and not self.cured else images

        monkeypatch.setattr(DcganTrainer, "thresholds", replace(EAGER, diversity=1e-4, nearest=0.0))
        monkeypatch.setattr(DcganTrainer, "decode", patched)


def test_by_default_a_collapse_is_an_event_in_the_log_and_the_training_goes_on(tmp_path, monkeypatch):
    Collapsing(monkeypatch, from_step=5)
    result = train(tiny_config(*ROWS), tmp_path / "run", evaluator=None)
    (event,) = diagnoses(tmp_path / "run")
    assert (event["what"], event["step"]) == ("collapse", 7)
    assert event["text"].startswith("the samples have collapsed: they lie at 0% of the distance between real samples")
    assert result.step == 12


def test_the_command_line_and_the_report_show_it(tmp_path, monkeypatch):
    Collapsing(monkeypatch, from_step=5)
    output = io.StringIO()
    display = TrainingDisplay(Console(file=output, width=400))
    train(tiny_config(*ROWS), tmp_path / "run", evaluator=None, callbacks=[display])
    line = "step 7: the samples have collapsed: they lie at 0% of the distance between real samples"
    assert [text for text in output.getvalue().splitlines() if text.startswith(f"diagnosis: {line}")]
    assert f"<th>diagnosis</th><td>{line}" in display.report.read_text()


def test_stop_ends_the_training_and_names_a_checkpoint_from_before(tmp_path, monkeypatch):
    Collapsing(monkeypatch, from_step=5)
    with pytest.raises(
        RunError, match=r"step 7: the samples have collapsed.*step_00000004\.safetensors is from before"
    ):
        train(tiny_config(*ROWS, "train.on_collapse=stop"), tmp_path / "run", evaluator=None)
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "step_00000004.safetensors").step == 4


def test_stop_says_where_no_checkpoint_from_before_is_kept(tmp_path, monkeypatch):
    Collapsing(monkeypatch, from_step=5)
    overrides = [*ROWS, "train.keep_last=1", "train.on_collapse=stop"]
    message = r"None of the checkpoints that are kept is from before; the oldest is .*step_00000006\.safetensors"
    with pytest.raises(RunError, match=message):
        train(tiny_config(*overrides), tmp_path / "run", evaluator=None)


def test_what_was_seen_during_the_warm_up_began_there(trainer, monkeypatch):
    monkeypatch.setattr(DcganTrainer, "thresholds", replace(EAGER, warmup_steps=10))
    diagnosis, ill = Diagnosis(trainer), {**HEALTHY, "diversity": 0.1}
    found = [diagnosis.judge(step, HEALTHY if step < 8 else ill) for step in range(1, 13)]
    assert kinds(found[-1]) == ["collapse"]
    assert diagnosis.began(found[-1][0], 12) == 8 - trainer.config.train.log_every


def test_rollback_goes_on_from_before_the_collapse_with_other_batches(tmp_path, monkeypatch):
    collapse = Collapsing(monkeypatch, from_step=5)
    batches: list[list[int]] = []
    from genlab.trainers.loop import Loop

    restore, next_batches = Loop.restore, Loop._next_batches

    def cure(loop, checkpoint):
        restore(loop, checkpoint)
        collapse.cured = True

    def noted(loop):
        numbers, values = next_batches(loop)
        batches.append(numbers)
        return numbers, values

    monkeypatch.setattr(Loop, "restore", cure)
    monkeypatch.setattr(Loop, "_next_batches", noted)
    result = train(tiny_config(*ROWS, "train.on_collapse=rollback"), tmp_path / "run", evaluator=None)
    (event,) = [row for row in log_of(tmp_path / "run") if row.get("event") == "rollback"]
    assert event == {"event": "rollback", "step": 4, "fault_step": 7, "what": "collapse"}
    assert result.step == 12
    assert batches == [[n] for n in range(15)], "batches 4 to 6 are not trained on again"
    assert [row["step"] for row in log_of(tmp_path / "run") if "event" not in row] == list(range(1, 13))


def test_rollbacks_are_bounded(tmp_path, monkeypatch):
    Collapsing(monkeypatch, from_step=5)
    overrides = [*ROWS, "train.on_collapse=rollback", "train.max_rollbacks=2"]
    with pytest.raises(RunError, match=r"after 2 rollbacks \(train\.max_rollbacks\)"):
        train(tiny_config(*overrides), tmp_path / "run", evaluator=None)


def test_a_finding_that_is_not_serious_is_only_told(tmp_path, monkeypatch):
    monkeypatch.setattr(DcganTrainer, "thresholds", EAGER)
    harmless = Finding("remark", "something odd", serious=False, patience=1)
    monkeypatch.setattr(DcganTrainer, "findings", lambda self, values: [harmless])
    train(tiny_config(*ROWS, "train.on_collapse=stop"), tmp_path / "run", evaluator=None)
    assert [(row["what"], row["step"]) for row in diagnoses(tmp_path / "run")] == [("remark", 1)]


def test_watching_does_not_change_the_training(tmp_path, monkeypatch):
    """Rows at every step, with their samples and norms, or none before the end: the same weights."""
    for name, every in (("often", 1), ("never", 100)):
        train(tiny_config("train.steps=4", f"train.log_every={every}"), tmp_path / name, evaluator=None)
    often, never = (
        load_checkpoint(tmp_path / name / "checkpoints" / "step_00000004.safetensors") for name in ("often", "never")
    )
    weights = [name for name in often.tensors if not name.startswith("window/")]
    assert [name for name in weights if not torch.equal(often.tensors[name], never.tensors[name])] == []


def test_an_unknown_action_is_refused():
    with pytest.raises(ConfigError, match=r"train\.on_collapse: .*'warn', 'stop' or 'rollback'.*got 'panic'"):
        tiny_config("train.on_collapse=panic")


def test_samples_come_from_the_present_weights_and_the_same_noise(trainer):
    dataset = data.build(trainer.config.data, "train")
    examples = lambda count: trainer.to_device(dataset.fetch(torch.arange(count).numpy()))  # noqa: E731
    before = Diagnosis(trainer, examples).measure()
    assert Diagnosis(trainer, examples).measure() == before
    trainer.advance({"image": torch.rand(8, 1, 28, 28) * 2 - 1})
    with torch.no_grad():
        trainer.networks["generator"].layers[-1].weight.zero_()
    after = Diagnosis(trainer, examples).measure()
    assert after["diversity"] == pytest.approx(0, abs=1e-6), "the average still makes varied pictures"
