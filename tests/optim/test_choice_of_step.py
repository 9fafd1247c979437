"""What `impl="auto"` runs for each rule and what is done beside it, and that the choice does not change the numbers."""

from __future__ import annotations

import pytest
import torch

from genlab import _extension, optim
from genlab.ops import implementation, optimizer_step
from genlab.ops.step_parts import OP, StepExtras
from genlab.ops.step_tuning import LEAST_FOLLOWED_DESCENT, MOST_AMSGRAD
from genlab.optim import WeightAverage

pytestmark = pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")

FEW, MANY, HUGE = 64, LEAST_FOLLOWED_DESCENT, MOST_AMSGRAD + 1
AVERAGE, BOUND = {"averages": [torch.ones(1)], "share": 0.1}, {"bound": 0.01}
CLIP, SCALE = {"grad_norm": torch.ones(()), "max_norm": 1.0}, {"grad_scale": torch.ones(1)}
SHADOW = {"shadows": [torch.ones(1).bfloat16()]}


@pytest.mark.parametrize(
    ("rule", "values", "beside", "expected"),
    [
        ("momentum", FEW, {}, "torch"),
        ("momentum", MANY, {}, "torch"),
        ("descent", FEW, {}, "torch"),
        ("momentum", FEW, AVERAGE, "torch"),
        ("momentum", MANY, AVERAGE, "native"),
        ("descent", FEW, BOUND, "torch"),
        ("descent", MANY, BOUND, "native"),
        ("momentum", FEW, CLIP, "native"),
        ("momentum", FEW, SCALE, "native"),
        ("momentum", FEW, SHADOW, "native"),
        ("adam", FEW, {}, "native"),
        ("adam", HUGE, {}, "native"),
        ("amsgrad", MANY, {}, "native"),
        ("amsgrad", HUGE, {}, "torch"),
        ("amsgrad", HUGE, AVERAGE, "native"),
        ("rmsprop", FEW, {}, "native"),
        ("rmsprop", HUGE, BOUND, "native"),
    ],
)
def test_auto_runs_what_was_quicker(rule: str, values: int, beside: dict, expected: str) -> None:
    params = [torch.zeros(1).expand(values)]  # so many values without their memory
    assert implementation.choose(OP, "auto", params[0], rule, params, StepExtras(**beside)) == expected
    assert implementation.choose(OP, "native", params[0], rule, params, StepExtras(**beside)) == "native"


def test_momentum_runs_torchs_fused_step_and_descent_its_foreach_one(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    real = optimizer_step.torch_sgd

    def noted(*arguments, **options):
        taken.append("fused" if options["fused"] else "foreach")
        real(*arguments, **options)

    monkeypatch.setattr(optimizer_step, "torch_sgd", noted)
    for options in ({"momentum": 0.9}, {"weight_decay": 0.1}, {}):
        parameter = torch.ones(5, requires_grad=True)
        parameter.grad = torch.ones(5)
        optim.SGD([parameter], lr=0.1, **options).step()
    assert taken == ["fused", "fused", "foreach"]


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}])
@pytest.mark.parametrize("beside", ["nothing", "average", "bound", "max_norm"])
def test_the_choice_does_not_change_the_step(options: dict, beside: str) -> None:
    found = {}
    for impl in ("auto", "native", "reference"):
        generator = torch.Generator().manual_seed(3)
        params = [torch.randn(size, generator=generator, dtype=torch.float64) for size in ((7,), (3, 2, 2, 2), ())]
        averages = [p.clone() for p in params]
        for p in params:
            p.requires_grad_()
        settings = {
            "nothing": {},
            "average": {"average": WeightAverage(dict(zip(params, averages, strict=True)), 0.2)},
            "bound": {"bound": 0.5},
            "max_norm": {"max_norm": 0.1},
        }[beside]
        optimizer = optim.SGD(params, lr=0.05, **options, impl=impl)
        for step in range(4):
            for number, p in enumerate(params):  # one joins late: its buffer begins while the others' go on
                p.grad = None if step == 0 and number == 1 else torch.sin(p.detach() * 10 + step)
            optimizer.step(**settings)
        found[impl] = [*(p.detach() for p in params), *averages]
    for impl in ("auto", "native"):
        torch.testing.assert_close(found[impl], found["reference"], rtol=1e-12, atol=1e-14)
