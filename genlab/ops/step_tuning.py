"""Calls of the optimiser's step that `impl="auto"` leaves to torch on the CPU, with what was measured there.

Ratios are the time of torch's best step (fused or foreach, then the average and the bound in calls of their own) over
that of the one native pass, on AMD Zen 4 with AVX-512, torch 2.14, two threads of a quiet machine, caches emptied
before each step; 62 thousand, 3.6 and 11 million float32 values.

Adam 1.12, 1.03, 1.03; AMSGrad 1.12, 1.00, 0.94; with an average 1.08, 1.13, 1.04; RMSprop 2.3-4.0. Gradient descent
with momentum 0.73, 0.86, 0.91 and without 0.67, 0.84, 0.88; with an average 0.86, 1.13, 1.13 and with a bound 0.93,
1.27, 1.58; clipped 1.5-3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

TORCH_SUMMARY = "gradient descent alone, AMSGrad of many values: torch's step is 1.1-1.5x of the native pass (Zen 4)"

DESCENTS = ("descent", "momentum")
# Values of all parameters: from so many on an average or a bound in the same pass pays beside gradient descent, and up
# to so many AMSGrad's pass is not the slower one.
LEAST_FOLLOWED_DESCENT = 1 << 20
MOST_AMSGRAD = 1 << 22


def torch_wins(first: Tensor, rule: str, params: Sequence[Tensor], extras: Any) -> bool:
    """Whether torch's step is the quicker one.

    Args:
        first: of the parameters.
        rule: "adam", "amsgrad", "rmsprop", "momentum" or "descent".
        params: of one call.
        extras: `genlab.ops.optimizer_step.StepExtras`.
    """
    scaled = extras.grad_norm is not None or extras.grad_scale is not None or extras.found_inf is not None
    if rule not in (*DESCENTS, "amsgrad") or scaled or extras.shadows:
        return False
    if rule in DESCENTS:
        followed = bool(extras.averages) or math.isfinite(extras.bound)
        return not followed or _values(params) < LEAST_FOLLOWED_DESCENT
    return not extras.averages and math.isinf(extras.bound) and _values(params) > MOST_AMSGRAD


def _values(params: Sequence[Tensor]) -> int:
    return sum(p.numel() for p in params)
