"""What a person reads while a model trains."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from genlab.cli import progress
from genlab.cli.console import print_wide_table
from genlab.cli.progress import TrainingDisplay


@dataclass
class Score:
    name: str
    value: float


@pytest.fixture
def display(monkeypatch):
    """A display off a terminal whose clock the test sets: (display, clock, text)."""
    text, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown = TrainingDisplay(Console(file=text, width=200, highlight=False))
    shown._total = 10
    return shown, clock, text


def test_notes_are_told_in_their_own_words_and_other_events_by_name(display):
    shown, _, text = display
    shown.on_event({"event": "note", "text": "12 of 120 samples are held out"})
    shown.on_event({"event": "resume", "step": 4, "checkpoint": "step_00000004.safetensors"})
    shown.on_event({"event": "environment", "torch": "x"})
    assert text.getvalue().splitlines() == [
        "note: 12 of 120 samples are held out",
        "resume: step 4, checkpoint step_00000004.safetensors",
    ]


def test_training_the_judge_is_announced_once(display):
    shown, _, text = display
    for done in (1, 2, 3):
        shown.on_progress("train digits_cnn", done, 3)
    shown.on_progress("fake images", 1, 2)
    assert text.getvalue().count("digits_cnn") == 1


def test_the_time_left_is_estimated_from_steps_without_evaluations(display):
    shown, clock, text = display
    clock[0] = 4.0
    shown.on_step(4, {"loss_g": 1.0})
    shown.on_progress("train digits_cnn", 1, 2)
    clock[0] = 904.0
    shown.on_scores(4, [Score("frechet[x]", 1.0)])
    clock[0] = 905.0
    shown.on_step(5, {"loss_g": 1.0})
    assert [line.rsplit("eta ", 1)[1] for line in text.getvalue().splitlines() if "eta" in line] == ["6 s", "5 s"]


def test_a_narrow_terminal_shows_bar_and_time_left_in_full():
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True, color_system=None)
    bars = progress.make_bars(console)
    bars.add_task("train", total=30_000, completed=15_000)
    bars.add_task("train digits_cnn", total=375, completed=10)
    metrics = {"loss_d": 1.25, "loss_g": 0.5, "fake_logit": -1.0, "images_per_second": 99}
    bars.status = progress.describe_metrics(metrics)
    console.print(bars.get_renderable())
    lines = text.getvalue().splitlines()
    assert "15000/30000" in lines[0] and "50%" in lines[0] and "eta -:--:--" in lines[0]
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in lines[0] and "train digits_cnn" in lines[1]
    assert lines[2].rstrip() == "loss_d 1.250  loss_g 0.500  fake_logit -1.000  99 images/s"


def test_numbers_that_three_decimals_would_hide_are_shown_by_their_power_of_ten():
    metrics = {"loss_d": -0.00042, "wasserstein": 0.0099, "accuracy": 0.0, "real_logit": 0.01}
    assert (
        progress.describe_metrics(metrics) == "loss_d -4.2e-04  wasserstein 9.9e-03  accuracy 0.000  real_logit 0.010"
    )


@pytest.mark.parametrize("width", [40, 60, 200])
def test_a_table_too_wide_for_the_terminal_becomes_several_with_no_number_broken(width):
    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None)
    columns = ["class", *(f"measure_{number}" for number in range(6))]
    rows = [[name, *(f"{0.1234 + number:.4f}" for number in range(6))] for name in ("cat", "dog")]
    print_wide_table(console, "scores", columns, rows, right=columns[1:])
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert text.getvalue().count("class") == {40: 3, 60: 2, 200: 1}[width]
    for number in range(6):
        assert sum(f"{0.1234 + number:.4f}" in line and ("cat" in line or "dog" in line) for line in lines) == 2
