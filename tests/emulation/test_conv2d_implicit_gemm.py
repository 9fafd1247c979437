"""The tensor-core convolutions, run from their own CUDA source on the host against float64."""

from __future__ import annotations

import ctypes
import dataclasses

import pytest
import torch
from conv2d_problem import ACTIVATIONS, TOLERANCE, ForwardParams, Problem
from emulation_harness import CSRC, KernelFault, Library, build

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
IDS = ["bf16", "fp16", "tf32"]

CHANNELS = [
    Problem(c_in=c_in, c_out=c_out, h=6, w=5)
    for c_in, c_out in [(1, 1), (3, 64), (64, 3), (5, 8), (8, 5), (24, 72), (72, 24), (33, 31), (4, 12)]
]
KERNELS = [
    Problem(kernel=(1, 1), padding=(0, 0)),
    Problem(kernel=(4, 4), stride=(2, 2), c_in=16, h=8, w=10),
    Problem(kernel=(4, 4), stride=(2, 2), c_in=3, h=9, w=11),
    Problem(kernel=(3, 3), stride=(2, 2), c_in=24),
    Problem(kernel=(5, 3), stride=(1, 2), padding=(2, 0), h=11),
    Problem(kernel=(5, 5), padding=(4, 3), h=5, w=4),
    Problem(kernel=(3, 3), dilation=(2, 3), padding=(2, 3), h=9, w=12),
    Problem(kernel=(3, 3), stride=(2, 2), dilation=(2, 2), padding=(0, 1), h=11, w=9),
    Problem(kernel=(2, 3), stride=(3, 5), padding=(0, 0), h=10, w=13),
    Problem(kernel=(4, 4), padding=(0, 0), h=4, w=4, c_in=64, c_out=8),
    Problem(kernel=(4, 4), padding=(3, 3), h=1, w=1, c_in=40, c_out=24),
]
GROUPED = [
    Problem(c_in=32, c_out=48, groups=2, kernel=(4, 4), stride=(2, 2), h=8, w=10),
    Problem(c_in=51, c_out=60, groups=3, h=6, w=5),
    Problem(c_in=48, c_out=32, groups=2, channels_last=False, reflect=True, bias=False),
]
# A 1x1 map to a patch of the kernel's size and back: one plain product where the order of memory allows it.
PROJECTIONS = [
    Problem(n=3, c_in=c_in, c_out=c_out, h=4, w=5, kernel=(4, 5), padding=(0, 0), stride=stride, bias=False, **more)
    for c_in, c_out, stride, more in [
        *[(24, 40, (1, 1), {}), (3, 100, (1, 1), {}), (5, 7, (2, 3), {"activation": "relu"})],
        (24, 40, (1, 1), {"channels_last": False, "groups": 1}),
    ]
]
# Rows, columns and depth of the matrix form one below, at and one above the tiles and the slab of 32 elements.
TAILS = [
    Problem(n=1, h=1, w=w, c_in=c_in, c_out=c_out, kernel=(1, 1), padding=(0, 0), tile=tile)
    for w, c_in, c_out, tile in [
        *[(63, 31, 63, "64x64"), (64, 32, 64, "64x64"), (65, 33, 65, "64x64")],
        *[(127, 24, 120, "128x128"), (128, 32, 128, "128x128"), (129, 40, 136, "128x128")],
        *[(127, 88, 31, "128x32"), (128, 96, 32, "128x32"), (129, 104, 1, "128x32"), (130, 8, 40, "128x32")],
    ]
]


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(build(CSRC / "emulation" / "conv2d_implicit_gemm.cpp"))


def check(library: Library, problem: Problem, *ops: str) -> None:
    for op in ops:
        error = getattr(problem, f"run_{op}")(library)
        assert error < TOLERANCE[problem.dtype], f"{op}: {error}"


def test_the_parameter_structs_match_the_header(library: Library) -> None:
    for op in ("forward", "backward_input"):
        assert library.value(f"size_of_{op}_params", ctypes.c_int64) == ctypes.sizeof(ForwardParams)


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("problem", [*CHANNELS, *KERNELS, *GROUPED, *PROJECTIONS], ids=str)
def test_forward_and_input_gradient_of_any_shape(library: Library, problem: Problem, dtype: torch.dtype) -> None:
    check(library, dataclasses.replace(problem, dtype=dtype), "forward", "backward_input")


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("problem", TAILS, ids=str)
def test_tails_of_every_tile(library: Library, problem: Problem, dtype: torch.dtype) -> None:
    check(library, dataclasses.replace(problem, dtype=dtype), "forward")


@pytest.mark.parametrize("problem", [*CHANNELS[3:7], KERNELS[1], KERNELS[4]], ids=str)
def test_contiguous_layout(library: Library, problem: Problem) -> None:
    check(library, dataclasses.replace(problem, channels_last=False), "forward", "backward_input")


@pytest.mark.parametrize(("h", "w", "padding", "c_in"), [(7, 9, (3, 2), 8), (4, 5, (3, 4), 3), (2, 2, (1, 1), 16)])
def test_reflect_padding_by_index(library: Library, h: int, w: int, padding: tuple[int, int], c_in: int) -> None:
    problem = Problem(h=h, w=w, padding=padding, c_in=c_in, reflect=True, activation="leaky_relu")
    # Up to nine rounded values are summed at the border.
    assert problem.run_backward_input(library) < 1.5 * TOLERANCE[problem.dtype]
    check(library, problem, "forward")
    check(library, dataclasses.replace(problem, stride=(2, 1), channels_last=False), "forward")
    strided = dataclasses.replace(problem, stride=(2, 1), channels_last=False, dtype=torch.float32)
    assert strided.run_backward_input(library) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_bias_and_activation_in_the_epilogue(library: Library, activation: str | None, bias: bool) -> None:
    problem = Problem(c_in=3, c_out=8, stride=(2, 2), activation=activation, bias=bias, dtype=torch.float16)
    check(library, problem, "forward", "backward_input")


@pytest.mark.parametrize("early_copies", [False, True], ids=["late", "early"])
@pytest.mark.parametrize("tile", ["64x64", "128x128", "128x32"])
def test_every_legal_schedule_gives_the_same_result(library: Library, tile: str, early_copies: bool) -> None:
    problem = Problem(n=1, c_in=40, c_out=40, h=9, w=8, stride=(2, 1), tile=tile)
    errors = set()
    for seed in range(6):
        library.configure(seed, early_copies)
        errors.add((problem.run_forward(library), problem.run_backward_input(library)))
    library.configure()
    assert len(errors) == 1
    assert max(*errors.pop()) < TOLERANCE[torch.bfloat16]


def test_shared_memory_is_read_without_bank_conflicts(library: Library) -> None:
    library.take_counters()
    for dtype in DTYPES:
        Problem(c_in=64, c_out=64, dtype=dtype).run_forward(library)
    counters = library.take_counters()
    assert counters["matrix_loads"] > 0
    assert counters["bank_conflicts"] == 0


def test_the_phases_of_a_transposed_convolution_form_no_wasted_product(library: Library) -> None:
    """4x4 stride 2: four phases of 2x2 taps, a quarter of the products that inserted zeros would cost."""
    problem = Problem(n=1, c_in=64, c_out=32, h=16, w=16, kernel=(4, 4), stride=(2, 2), tile="64x64")
    library.take_counters()
    problem.run_backward_input(library)
    products = library.take_counters()["matrix_products"] * 16 * 8 * 16
    assert products == 16 * 16 * 64 * (32 * 4 * 4) // 4


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_projection_to_a_patch_forms_no_product_with_padding(library: Library, channels_last: bool) -> None:
    problem = Problem(n=64, c_in=4, c_out=64, h=4, w=4, kernel=(4, 4), padding=(0, 0), bias=False, tile="64x64")
    problem = dataclasses.replace(problem, channels_last=channels_last)
    library.take_counters()
    assert problem.run_backward_input(library) < TOLERANCE[problem.dtype]
    assert library.take_counters()["matrix_products"] * 16 * 8 * 16 == 64 * 64 * (4 * 4 * 4)


@pytest.mark.parametrize(
    ("problem", "op", "reason"),
    [
        (Problem(c_in=16, c_out=64, groups=2), "forward", "fewer than 16 channels"),
        (Problem(dtype=torch.float64), "forward", "float64"),
        (Problem(h=30, w=30, stride=(9, 1)), "backward_input", "stride above 8"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused_with_a_reason(
    library: Library, problem: Problem, op: str, reason: str
) -> None:
    with pytest.raises(NotImplementedError, match=reason):
        getattr(problem, f"run_{op}")(library)


@pytest.mark.parametrize("tile", ["128x128", "128x32"])
def test_a_tile_that_needs_vector_loads_refuses_other_sources(library: Library, tile: str) -> None:
    with pytest.raises(KernelFault, match="16-byte loads"):
        Problem(c_in=5, c_out=72, tile=tile).run_forward(library)
