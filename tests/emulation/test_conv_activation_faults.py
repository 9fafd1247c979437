"""The emulation catches what can go wrong in a fused derivative: each test breaks the kernels' source in one way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from conv2d_problem import TOLERANCE, Problem
from emulation_harness import CSRC, KernelFault, Library, build
from test_seeded_faults import FOLDER, apart

SMALL = Problem(n=2, c_in=40, c_out=40, h=6, w=7, tile="64x64", through="tanh")
RELU = dataclasses.replace(SMALL, through="relu")
BY_ELEMENT = dataclasses.replace(SMALL, c_in=5)
ACTIVATION = "kernels/common/activation.h"
# name: file, old text, new text, the run that finds it
FAULTS = {
    # Where the gradient is a zero that stands for nothing the output must not be read: 0 * (1 - NaN) is no zero.
    "tail_of_the_output_is_not_masked": (
        FOLDER + "gather_gemm.h",
        "        if (offset >= 0) {\n          offset += rows.base[i]",
        "        {\n          offset += rows.base[i]",
        "forward",
    ),
    "tail_of_the_output_begins_one_pixel_early": (
        FOLDER + "gather_gemm.h",
        "second, offset < 0 ? 0 : kChunkBytes);",
        "second, offset <= 0 ? 0 : kChunkBytes);",
        "forward",
    ),
    "copy_of_the_output_lands_beside_its_place": (
        FOLDER + "gather_gemm.h",
        "async_copy<kChunkBytes>(stage + Tile::kStageBytes + swizzle(row, chunk), second",
        "async_copy<kChunkBytes>(stage + Tile::kStageBytes + swizzle(row, chunk ^ 1), second",
        "forward",
    ),
    "output_of_another_row": (
        FOLDER + "gather_gemm.h",
        "static_cast<const T*>(p.transform.second) + (from - static_cast<const T*>(p.source));",
        "static_cast<const T*>(p.transform.second) + cursor.channel;",
        "forward",
    ),
    "derivative_from_the_input_instead_of_the_output": (
        FOLDER + "transform.h",
        "activate_gradient_from_output<float>(t.activation, gradient, output, t.below)",
        "activate_gradient<float>(t.activation, gradient, output, t.below)",
        "forward",
    ),
    "derivative_taken_before_the_copy_has_landed": (
        FOLDER + "gather_gemm_kernel.h",
        "async_copy_wait<Tile::kStages - 2>();",
        "async_copy_wait<Tile::kStages - 1>();",
        "forward",
    ),
    "weight_gradient_forgets_the_derivative": (
        FOLDER + "weight_gemm.h",
        "if (t.mean == nullptr && t.second == nullptr) return;",
        "if (t.mean == nullptr) return;",
        "backward_weight",
    ),
    "bias_sums_the_gradient_as_given": (
        FOLDER + "weight_reduce.h",
        "const bool plain = p.derivative.second == nullptr;",
        "const bool plain = true;",
        "backward_weight",
    ),
    "slope_where_the_output_is_positive": (
        ACTIVATION,
        "return y <= A(0) ? A(0) : grad;",
        "return y >= A(0) ? A(0) : grad;",
        "backward_weight",
    ),
}


def outcome(library: Library, op: str, seed: int) -> str:
    """Empty when the result is right, else what was found."""
    library.configure(seed, False)
    for problem in (SMALL, RELU, BY_ELEMENT):
        try:
            error = getattr(problem, f"run_{op}")(library)
        except KernelFault as fault:
            return str(fault)
        if not error < 2 * TOLERANCE[torch.bfloat16]:
            return f"wrong result: {error}"
    return ""


def source_of(op: str) -> Path:
    return CSRC / "emulation" / f"conv2d_implicit_gemm{'_weight' if op == 'backward_weight' else ''}.cpp"


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught_under_every_schedule(name: str) -> None:
    file, old, new, op = FAULTS[name]
    text = (CSRC / file).read_text()
    assert text.count(old) == 1, f"{file} no longer holds the text that this test changes: {old}"
    extra = {file: text.replace(old, new)}
    library = Library(build(source_of(op), flags=("-O0", "-Wno-error", "-w"), extra=extra))
    found = [apart(lambda s=seed: outcome(library, op, s)) for seed in range(2)]
    assert all(found), found


@pytest.mark.parametrize("op", ["forward", "backward_weight"])
def test_the_right_kernels_raise_no_alarm(op: str) -> None:
    library = Library(build(source_of(op)))
    assert [outcome(library, op, seed) for seed in range(4)] == [""] * 4
    library.configure()
