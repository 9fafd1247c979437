"""Convolutions of a gradient through an activation: the derivative is taken as the operand is loaded, on the host.

The tensor-core kernels and the direct ones, from their own CUDA source, against float64.
"""

from __future__ import annotations

import ctypes
import dataclasses

import pytest
import torch
from conv2d_problem import TOLERANCE, ForwardParams, Problem, WeightParams
from emulation_harness import CSRC, Library, build

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
IDS = ["bf16", "fp16", "tf32"]
THROUGH = ["relu", "leaky_relu", "tanh", "sigmoid"]
FACTOR = 2.0  # the operand is rounded once more on its way in

PROBLEMS = [
    Problem(c_in=16, c_out=24, h=9, w=7, through="leaky_relu"),
    Problem(c_in=3, c_out=64, h=10, w=8, kernel=(4, 4), stride=(2, 2), through="leaky_relu"),
    Problem(c_in=64, c_out=3, h=8, w=9, kernel=(4, 4), stride=(2, 2), through="tanh"),
    Problem(c_in=5, c_out=7, h=6, w=5, kernel=(5, 3), padding=(2, 0), stride=(1, 2), bias=False, through="sigmoid"),
    Problem(c_in=24, c_out=16, h=11, w=9, dilation=(2, 1), padding=(2, 1), through="relu"),
    Problem(c_in=24, c_out=16, h=6, w=6, channels_last=False, through="tanh"),
    Problem(c_in=32, c_out=48, h=8, w=6, groups=2, through="sigmoid"),
    Problem(c_in=8, c_out=16, h=7, w=5, padding=(2, 1), reflect=True, through="leaky_relu"),
    Problem(n=3, c_in=24, c_out=40, h=4, w=5, kernel=(4, 5), padding=(0, 0), bias=False, through="relu"),
]
# Rows, columns and depth one below, at and one above the tiles and the slab.
TAILS = [
    Problem(n=1, h=1, w=w, c_in=c_in, c_out=c_out, kernel=(1, 1), padding=(0, 0), tile=tile, through="tanh")
    for w, c_in, c_out, tile in [
        *[(63, 31, 63, "64x64"), (64, 32, 64, "64x64"), (65, 40, 72, "64x64")],
        *[(127, 24, 120, "128x128"), (129, 40, 136, "128x128"), (130, 88, 24, "128x32")],
    ]
]


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(build(CSRC / "emulation" / "conv2d_implicit_gemm.cpp"))


@pytest.fixture(scope="module")
def weight_library() -> Library:
    return Library(build(CSRC / "emulation" / "conv2d_implicit_gemm_weight.cpp"))


@pytest.fixture(scope="module")
def direct() -> Library:
    return Library(build(CSRC / "emulation" / "conv2d.cpp"))


def worst(problem: Problem, library: Library, weight_library: Library) -> float:
    """Of the three kernels; the weight's gradient with either operand as the gradient."""
    found = [problem.run_forward(library), problem.run_backward_input(library)]
    if problem.tile != "128x32":
        found.append(problem.run_backward_weight(weight_library))
        found.append(dataclasses.replace(problem, through_side="input").run_backward_weight(weight_library))
    return max(found)


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("problem", [*PROBLEMS, *TAILS], ids=str)
def test_the_gradient_through_an_activation_of_any_shape(
    library: Library, weight_library: Library, problem: Problem, dtype: torch.dtype
) -> None:
    if problem.tile != "64x64" and problem.tile != "auto" and (problem.c_in % 8 or problem.c_out % 8):
        pytest.skip("wide tiles take whole vectors")
    problem = dataclasses.replace(problem, dtype=dtype)
    assert worst(problem, library, weight_library) < FACTOR * TOLERANCE[dtype]


@pytest.mark.parametrize("through", THROUGH)
@pytest.mark.parametrize("c_in", [16, 5])
def test_every_derivative_by_vectors_and_by_elements(
    library: Library, weight_library: Library, through: str, c_in: int
) -> None:
    problem = Problem(c_in=c_in, c_out=c_in, h=6, w=5, through=through, dtype=torch.float32)
    assert worst(problem, library, weight_library) < FACTOR * TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_an_output_that_does_not_start_on_16_bytes_is_read_by_element(
    library: Library, weight_library: Library, dtype: torch.dtype
) -> None:
    problem = Problem(c_in=16, c_out=24, h=6, w=5, through="tanh", dtype=dtype, shift=1)
    assert worst(problem, library, weight_library) < FACTOR * TOLERANCE[dtype]


@pytest.mark.parametrize("early_copies", [False, True], ids=["late", "early"])
@pytest.mark.parametrize("tile", ["64x64", "128x128", "128x32"])
def test_every_legal_schedule_gives_the_same_error(
    library: Library, weight_library: Library, tile: str, early_copies: bool
) -> None:
    problem = Problem(n=1, c_in=40, c_out=40, h=9, w=8, stride=(2, 1), tile=tile, through="sigmoid")
    found = set()
    for seed in range(4):
        library.configure(seed, early_copies)
        weight_library.configure(seed, early_copies)
        found.add(worst(problem, library, weight_library))
    library.configure()
    weight_library.configure()
    assert len(found) == 1


class DirectProblem(Problem):
    """The same by the direct kernels, which take no workspace and no tile."""

    def _call(self, op: str, library: Library, params: ctypes.Structure, buffers: dict) -> None:
        library.call(f"genlab_conv2d_{op}", ctypes.byref(params))
        for name, buffer in buffers.items():
            buffer.check(name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=["fp64", "fp32", "bf16"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_direct_kernels(direct: Library, problem: Problem, dtype: torch.dtype) -> None:
    problem = DirectProblem(**dataclasses.asdict(dataclasses.replace(problem, dtype=dtype)))
    limit = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: FACTOR * TOLERANCE[torch.bfloat16]}[dtype]
    assert worst(problem, direct, direct) < limit


def test_the_parameter_structs_match_the_header(direct: Library) -> None:
    sizes = (ctypes.c_int64 * 3)()
    direct.value("genlab_conv2d_params_sizes", ctypes.c_int64, sizes)
    assert list(sizes) == [ctypes.sizeof(ForwardParams)] * 2 + [ctypes.sizeof(WeightParams)]
