"""The layer normalisation kernels' own CUDA source, run on the host: values, bounds, schedules."""

from __future__ import annotations

import ctypes

import pytest
import torch
import torch.nn.functional as F
from emulation_harness import CSRC, Guarded, Library, build

from genlab.ops import activation as act

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ACTIVATIONS = (None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu")
EPS, SLOPE = 1e-3, 0.2
Pointer = ctypes.c_void_p


def fields(*names: str) -> list[tuple]:
    return [(name, Pointer) for name in names]


SIZES = [
    ("rows", ctypes.c_int64),
    ("columns", ctypes.c_int64),
    ("dtype", ctypes.c_int32),
    ("activation", ctypes.c_int32),
]


class Forward(ctypes.Structure):
    _fields_ = [
        *SIZES,
        *((name, ctypes.c_double) for name in ("eps", "negative_slope")),
        *fields("input", "weight", "bias", "residual", "output", "mean", "rstd"),
    ]


class Backward(ctypes.Structure):
    _fields_ = [
        *SIZES,
        ("negative_slope", ctypes.c_double),
        *fields("grad_output", "input", "mean", "rstd", "weight", "bias", "residual"),
        *fields("grad_input", "grad_residual", "grad_weight", "grad_bias", "partial"),
    ]


@pytest.fixture(scope="module")
def library():
    return Library(build(CSRC / "emulation/layer_norm_act.cpp"))


def run(library, rows, columns, dtype, activation, offset=0):
    """Results of the kernels, and the same from the definition in float64."""
    generator = torch.Generator().manual_seed(rows + columns)
    draw = lambda *sizes: torch.randn(sizes, generator=generator, dtype=torch.float64)  # noqa: E731
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    input, residual, grad_output = (
        Guarded(t.to(dtype), offset=offset)
        for t in (draw(rows, columns) * 2 + 3, draw(rows, columns), draw(rows, columns))
    )
    weight, bias = (Guarded(draw(columns).to(wide)) for _ in range(2))
    empty = lambda like: Guarded(like, fill=False)  # noqa: E731
    output, grad_input, grad_residual = (empty(input.tensor) for _ in range(3))
    mean, rstd = (empty(torch.empty(rows, dtype=wide)) for _ in range(2))
    grad_weight, grad_bias = (empty(weight.tensor) for _ in range(2))
    parts = min(max((rows + 63) // 64, 1), 256)
    partial = empty(torch.empty(parts * 2 * columns, dtype=wide))
    head = (rows, columns, DTYPES.index(dtype), ACTIVATIONS.index(activation))
    forward = (input, weight, bias, residual, output, mean, rstd)
    library.call("genlab_layer_norm_act", ctypes.byref(Forward(*head, EPS, SLOPE, *(t.pointer for t in forward))))
    backward = (
        *(grad_output, input, mean, rstd, weight, bias, residual),
        *(grad_input, grad_residual, grad_weight, grad_bias, partial),
    )
    library.call("genlab_layer_norm_act_backward", ctypes.byref(Backward(*head, SLOPE, *(t.pointer for t in backward))))
    for guarded in {*forward, *backward}:
        guarded.check()
    leaves = [t.tensor.double().requires_grad_() for t in (input, residual, weight, bias)]
    z = F.layer_norm(leaves[0], (columns,), leaves[2], leaves[3], EPS) + leaves[1]
    expected = act.apply(z, activation, SLOPE)
    gradients = torch.autograd.grad(expected, leaves, grad_output.tensor.double())
    found = [t.tensor for t in (output, grad_input, grad_residual, grad_weight, grad_bias)]
    return found, [expected.detach(), *gradients]


def assert_close(found, expected):
    for a, e in zip(found, expected, strict=True):
        step = torch.finfo(a.dtype).eps
        loose = 64 if a.dtype in (torch.float32, torch.float64) else 4
        torch.testing.assert_close(a.double(), e, rtol=loose * step, atol=loose * step * max(e.abs().max().item(), 1.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_the_definition(library, dtype):
    for rows, columns in ((1, 2), (3, 7), (5, 64), (2, 1030), (130, 24)):
        assert_close(*run(library, rows, columns, dtype, "leaky_relu"))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(library, activation):
    assert_close(*run(library, 3, 20, torch.float64, activation))


def test_rows_that_start_off_a_pack_boundary_take_the_narrow_path(library):
    assert_close(*run(library, 3, 64, torch.float32, "relu", offset=1))


def test_results_do_not_depend_on_the_schedule(library):
    results = []
    for seed in (1, 2, 3):
        library.configure(seed)
        results.append(run(library, 70, 100, torch.float32, "leaky_relu")[0])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_parameter_structs_have_the_layout_that_these_tests_declare(library):
    sizes = (ctypes.c_int64 * 2)()
    library.value("genlab_layer_norm_act_params_sizes", None, sizes)
    assert list(sizes) == [ctypes.sizeof(t) for t in (Forward, Backward)]
