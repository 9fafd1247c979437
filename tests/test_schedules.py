"""Schedules against their formulas at the ends, in the middle and during the warm-up."""

from __future__ import annotations

import pytest

from genlab.config import ScheduleConfig
from genlab.schedules import build_schedule, depends_on_total_steps


def factors(steps, total=100, **settings):
    schedule = build_schedule(ScheduleConfig(**settings), total)
    return [schedule(step) for step in steps]


def test_constant_is_one():
    assert factors([0, 50, 99]) == [1.0, 1.0, 1.0]


def test_linear_falls_from_decay_start_to_decay_end():
    assert factors([0, 20, 60, 100, 500], name="linear", decay_start=20) == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert factors([0, 25, 50], name="linear", decay_end=50, final_factor=0.5) == [1.0, 0.75, 0.5]


def test_cosine_is_half_a_period():
    values = factors([0, 50, 100], name="cosine", final_factor=0.2)
    assert values == pytest.approx([1.0, 0.6, 0.2])


def test_step_multiplies_at_its_milestones():
    values = factors([0, 9, 10, 29, 30], name="step", milestones=[10, 30], gamma=0.1)
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_exponential_multiplies_at_every_step_of_its_span():
    values = factors([0, 5, 7, 100], name="exponential", gamma=0.5, decay_start=5, decay_end=8)
    assert values == pytest.approx([1, 1, 0.25, 0.125])


def test_warm_up_rises_to_one_and_scales_the_decay():
    assert factors([0, 1, 3, 4], warmup_steps=4) == [0.25, 0.5, 1.0, 1.0]
    assert factors([1], name="linear", warmup_steps=4)[0] == pytest.approx(0.5 * 0.99)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "exponential"])
def test_factors_never_leave_zero_to_one(name):
    assert all(0 <= value <= 1 for value in factors(range(200), name=name, warmup_steps=3, decay_start=10))


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"name": "linear"}, True),
        ({"name": "cosine"}, True),
        ({"name": "cosine", "decay_end": 50}, False),
        ({"name": "constant"}, False),
        ({"name": "exponential"}, False),
    ],
)
def test_whether_more_steps_change_the_past(settings, answer):
    config = ScheduleConfig(**settings)
    assert depends_on_total_steps(config) is answer
    schedules = build_schedule(config, 100), build_schedule(config, 200)
    assert any(schedules[0](step) != schedules[1](step) for step in range(100)) is answer
