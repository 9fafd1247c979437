"""The tensor-core weight gradient, run from its own CUDA source on the host against float64."""

from __future__ import annotations

import ctypes
import dataclasses

import pytest
import torch
from conv2d_problem import TOLERANCE, Problem, WeightParams
from emulation_harness import CSRC, KernelFault, Library, build

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
IDS = ["bf16", "fp16", "tf32"]

SHAPES = [
    *[
        Problem(c_in=c_in, c_out=c_out, h=6, w=5)
        for c_in, c_out in [(1, 1), (3, 64), (64, 3), (5, 8), (8, 5), (24, 72), (33, 31), (4, 12)]
    ],
    Problem(kernel=(1, 1), padding=(0, 0), c_in=64, c_out=64, n=1, h=1, w=1),
    Problem(kernel=(4, 4), stride=(2, 2), c_in=16, h=8, w=10),
    Problem(kernel=(4, 4), stride=(2, 2), c_in=3, h=9, w=11, n=3),
    Problem(kernel=(5, 3), stride=(1, 2), padding=(2, 0), h=11),
    Problem(kernel=(3, 3), dilation=(2, 3), padding=(2, 3), h=9, w=12),
    Problem(kernel=(2, 3), stride=(3, 5), padding=(0, 0), h=10, w=13),
    Problem(kernel=(5, 5), padding=(3, 2), reflect=True),
    Problem(kernel=(4, 4), padding=(0, 0), h=4, w=4, c_in=64, c_out=8),
    Problem(c_in=32, c_out=48, groups=2, kernel=(4, 4), stride=(2, 2), h=8, w=10),
    Problem(c_in=51, c_out=60, groups=3, h=6, w=5),
    # Sums long enough to be split, with a last slab that is one pixel short of whole, whole, and one pixel long.
    Problem(n=1, h=1, w=1023, kernel=(1, 1), padding=(0, 0)),
    Problem(n=1, h=1, w=1024, kernel=(1, 1), padding=(0, 0)),
    Problem(n=5, h=5, w=41, kernel=(1, 1), padding=(0, 0)),
]


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(build(CSRC / "emulation" / "conv2d_implicit_gemm_weight.cpp"))


def check(library: Library, problem: Problem) -> None:
    error = problem.run_backward_weight(library)
    # One rounding of few sums may be large beside them all: gradients of a bias of few channels.
    assert error < (2 if min(problem.c_in, problem.c_out) < 8 else 1) * TOLERANCE[problem.dtype]


def test_the_parameter_struct_matches_the_header(library: Library) -> None:
    assert library.value("size_of_backward_weight_params", ctypes.c_int64) == ctypes.sizeof(WeightParams)


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("problem", SHAPES, ids=str)
def test_weight_and_bias_gradient_of_any_shape(library: Library, problem: Problem, dtype: torch.dtype) -> None:
    check(library, dataclasses.replace(problem, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize(("c_in", "c_out"), [(16, 128), (8, 120), (24, 136)])
def test_the_wide_tile_and_its_tails(library: Library, c_in: int, c_out: int, dtype: torch.dtype) -> None:
    check(library, Problem(c_in=c_in, c_out=c_out, h=4, w=5, tile="128x128", dtype=dtype))


@pytest.mark.parametrize("problem", [SHAPES[2], SHAPES[9], SHAPES[16]], ids=str)
def test_contiguous_layout_without_bias(library: Library, problem: Problem) -> None:
    check(library, dataclasses.replace(problem, channels_last=False, bias=False))


def test_an_empty_batch_gives_zeros(library: Library) -> None:
    problem = Problem(n=0)
    assert problem.run_backward_weight(library) == 0.0


@pytest.mark.parametrize("early_copies", [False, True], ids=["late", "early"])
def test_every_legal_schedule_gives_the_same_bits(library: Library, early_copies: bool) -> None:
    problem = Problem(n=2, c_in=40, c_out=40, h=16, w=17)
    errors = set()
    for seed in range(5):
        library.configure(seed, early_copies)
        errors.add(problem.run_backward_weight(library))
    library.configure()
    assert len(errors) == 1
    assert errors.pop() < TOLERANCE[torch.bfloat16]


def test_shared_memory_is_read_without_bank_conflicts(library: Library) -> None:
    library.take_counters()
    for dtype in (torch.bfloat16, torch.float16):
        Problem(c_in=64, c_out=64, dtype=dtype).run_backward_weight(library)
    counters = library.take_counters()
    assert counters["matrix_loads"] > 0
    assert counters["bank_conflicts"] == 0


@pytest.mark.parametrize(
    ("problem", "message"),
    [(Problem(c_in=5, tile="128x128"), "16-byte loads"), (Problem(tile="128x32"), "no 128x32 tile")],
)
def test_a_tile_that_cannot_run_is_refused(library: Library, problem: Problem, message: str) -> None:
    with pytest.raises(KernelFault, match=message):
        problem.run_backward_weight(library)
