"""The optimiser's ops themselves: registration, the norm, and refusals by type."""

from __future__ import annotations

import math

import pytest
import torch

from genlab import _extension
from genlab.ops import optimizer_step
from genlab.ops.optimizer_step import StepExtras

pytestmark = pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")
NONE = (None, None, None, None, math.inf)  # learning rate, scale, infinities and norm on the device; max_norm
NOTHING = ([], 0.0, None, [], math.inf)  # averages, share, the same on the device, shadows, bound


def lists(count: int) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [[torch.rand(size, generator=generator) for size in ((5,), (2, 3), (0,))] for _ in range(count)]


def steps() -> list[torch.Tensor]:
    return [torch.zeros(()) for _ in range(3)]


def after() -> tuple:
    shadows = [torch.zeros_like(t, dtype=torch.bfloat16) for t in lists(1)[0]]
    return lists(1)[0], 0.5, torch.tensor(0.25, dtype=torch.float64), shadows, 0.5


CALLS = {
    "optimizer_step_adam": lambda: (*lists(5), steps(), 0.1, 0.9, 0.99, 1e-8, 0.1, True, False, *NONE, *after()),
    "optimizer_step_rmsprop": lambda: (*lists(5), steps(), 0.1, 0.9, 1e-3, 0.1, 0.5, False, *NONE, *NOTHING),
    "optimizer_step_sgd": lambda: (*lists(3), [False, True, False], 0.1, 0.0, 0.9, 0.1, False, True, *NONE, *after()),
    "optimizer_step_follow": lambda: (*lists(1), *after()),
    "optimizer_step_norm": lambda: (*lists(1),),
}


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name):
    torch.library.opcheck(getattr(torch.ops.genlab, name).default, CALLS[name]())


@pytest.mark.parametrize("impl", ["native", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_norm_is_that_of_all_values_in_float64(impl, dtype):
    grads = [torch.randn(size).to(dtype) for size in ((3,), (0,), (), (9001,), (6, 5, 3, 3))]
    grads.append(torch.randn(8, 10).to(dtype)[:, ::3])
    expected = torch.cat([g.double().flatten() for g in grads]).norm()
    found = optimizer_step.gradient_norm(grads, impl=impl)
    assert found.dtype == torch.float64 and found.dim() == 0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_the_norm_of_large_and_small_values_neither_overflows_nor_vanishes():
    for size in (1e30, 1e-30):
        found = optimizer_step.gradient_norm([torch.full((4,), size)], impl="native")
        assert found.item() == pytest.approx(2 * size, rel=1e-6)


def test_lists_that_do_not_fit_are_refused_by_type():
    params, grads, first, second = lists(4)

    def adam(params=params, grads=grads, first=first, second=second, counts=None, **extras):
        settings = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
        optimizer_step.adam_step(
            params, grads, first, second, [], steps() if counts is None else counts, **settings,
            extras=StepExtras(**extras), impl="native",
        )  # fmt: skip

    adam()
    with pytest.raises(ValueError, match="one of gradients for each of 3 parameters, got 2"):
        adam(grads=grads[:2])
    with pytest.raises(ValueError, match="exp_avg for each of 3 parameters, got 1"):
        adam(first=first[:1])
    with pytest.raises(RuntimeError, match=r"exp_avg 1 of its parameter's shape \(2, 3\), got \(3, 2\)"):
        adam(first=[first[0], first[1].t(), first[2]])
    with pytest.raises(TypeError, match="gradient 0 of dtype Float, got Double"):
        adam(grads=[grads[0].double(), *grads[1:]])
    with pytest.raises(TypeError, match="parameters of one dtype, Float, got Double"):
        adam(params=[params[0], params[1].double(), params[2]])
    with pytest.raises(TypeError, match="steps of dtype Float, got Double"):
        adam(counts=[t.double() for t in steps()])
    with pytest.raises(ValueError, match="steps of one element"):
        adam(counts=[torch.zeros(2)] * 3)
    with pytest.raises(ValueError, match="bound >= 0"):
        adam(bound=-1.0)
    with pytest.raises(ValueError, match="grad_scale of one element"):
        adam(grad_scale=torch.ones(2))
    with pytest.raises(RuntimeError, match="Sparse"):
        adam(grads=[grads[0].to_sparse(), *grads[1:]])
    with pytest.raises(ValueError, match="at least one gradient"):
        optimizer_step.gradient_norm([])
    with pytest.raises(TypeError, match="gradients of one dtype"):
        optimizer_step.gradient_norm([torch.ones(2), torch.ones(2).double()], impl="native")


def test_integer_parameters_are_refused_as_every_op_refuses_them():
    with pytest.raises(NotImplementedError, match="dtype int64 is not one of"):
        optimizer_step.follow_step([torch.ones(2, dtype=torch.int64)], StepExtras(), impl="native")
