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
from genlab.trainers.dcgan import DcganTrainer
from genlab.trainers.diagnosis import (
    Diagnosis,
    Finding,
    Thresholds,
    discriminator_signs,
    diversity_signs,
    gradient_norm,
    score_findings,
)

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
    (event,) = diagnoses(tmp_path / "run")
    assert event["what"] == "saturation"
    assert "the discriminator has won: it tells 100.0% of the samples apart" in event["text"]


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
