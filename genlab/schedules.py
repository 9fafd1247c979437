"""Learning-rate schedules as pure functions step -> factor.

Nothing is stored: the factor follows from the configuration and the step alone, so a resumed run cannot fall out of
step with its schedule.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

from genlab.config import ScheduleConfig


def build_schedule(config: ScheduleConfig, total_steps: int) -> Callable[[int], float]:
    """The factor on every learning rate as a function of the step.

    Args:
        config: shape of the schedule.
        total_steps: steps of the whole training; the decay ends there unless `decay_end` is set.

    Returns:
        factor(step) for step = 0 (the first update) to total_steps - 1, each in [0, 1]. With `warmup_steps` = w, update
        number i < w is also scaled by (i + 1) / w, so that no update is wasted on a learning rate of 0.
    """
    end = config.decay_end if config.decay_end is not None else total_steps
    decay = _DECAYS[config.name]

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        return warmup * decay(config, step, end)

    return factor


def depends_on_total_steps(config: ScheduleConfig) -> bool:
    """Whether another `train.steps` would change the learning rate of steps already taken."""
    return config.name in {"linear", "cosine"} and config.decay_end is None


def _progress(config: ScheduleConfig, step: int, end: int) -> float:
    """0 until decay_start, 1 from `end` on, linear between."""
    if step <= config.decay_start:
        return 0.0
    return min(1.0, (step - config.decay_start) / max(1, end - config.decay_start))


def _constant(config: ScheduleConfig, step: int, end: int) -> float:
    return 1.0


def _linear(config: ScheduleConfig, step: int, end: int) -> float:
    return 1.0 + (config.final_factor - 1.0) * _progress(config, step, end)


def _cosine(config: ScheduleConfig, step: int, end: int) -> float:
    """Half a period of the cosine (Loshchilov and Hutter 2017, equation 5, without restarts)."""
    fall = 0.5 * (1.0 + math.cos(math.pi * _progress(config, step, end)))
    return config.final_factor + (1.0 - config.final_factor) * fall


def _step(config: ScheduleConfig, step: int, end: int) -> float:
    return config.gamma ** bisect_right(config.milestones, step)


def _exponential(config: ScheduleConfig, step: int, end: int) -> float:
    decayed = min(step, config.decay_end) if config.decay_end is not None else step
    return config.gamma ** max(0, decayed - config.decay_start)


def _inverse_sqrt(config: ScheduleConfig, step: int, end: int) -> float:
    """1 / sqrt(step) from the end of the warm-up on (Vaswani et al. 2017, equation 3, at 1 after the warm-up)."""
    begin = max(1, config.warmup_steps)
    return math.sqrt(begin / max(begin, step + 1))


_DECAYS = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "step": _step,
    "exponential": _exponential,
    "inverse_sqrt": _inverse_sqrt,
}
