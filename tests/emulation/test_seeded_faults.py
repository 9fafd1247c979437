"""The emulation catches what goes wrong in real kernels: each test breaks the convolution's source text in one way.

The text that nvcc compiles holds no switches for this; a patch that no longer applies fails its test.
"""

from __future__ import annotations

import ctypes
import dataclasses
import mmap
import os
import re
import signal
from collections.abc import Callable

import pytest
import torch
from conv2d_problem import TOLERANCE, ForwardParams, Problem, Strides, relative_error
from emulation_harness import CSRC, KernelFault, Library, build

LIBRARY = CSRC / "emulation" / "conv2d_implicit_gemm.cpp"
MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python names it from 3.12 on
FOLDER = "kernels/implicit_gemm/"
SCHEDULES = [(seed, early) for seed in range(3) for early in (False, True)]
SMALL = Problem(n=1, c_in=40, c_out=40, h=9, w=9, tile="64x64")
STRIDED = Problem(n=1, c_in=40, c_out=40, h=9, w=9, kernel=(4, 4), stride=(2, 2), tile="64x64")


@dataclasses.dataclass(frozen=True)
class Fault:
    """One mistake: `old` becomes `new` in `file`; found when a run of `problem` under any schedule fails."""

    name: str
    file: str
    old: str
    new: str
    message: str  # of the report, or what comparing with the reference says
    problem: Problem = SMALL
    op: str = "run_forward"


FAULTS = [
    Fault(
        "missing barrier before a slab is read",
        "gather_gemm_kernel.h",
        "__syncthreads();  // the slab has landed",
        "// the slab has landed",
        "race in shared memory: thread",
    ),
    Fault(
        "one wait too few",
        "gather_gemm_kernel.h",
        "async_copy_wait<Tile::kStages - 2>()",
        "async_copy_wait<Tile::kStages - 1>()",
        "reads bytes whose copy thread .* has not waited for",
    ),
    Fault(
        "a stage is overwritten while others read it",
        "gather_gemm_kernel.h",
        "slab + Tile::kStages - 1 < slabs ? load(slab + Tile::kStages - 1)",
        "slab + Tile::kStages - 1 < slabs ? load(slab + Tile::kStages)",
        "race in shared memory|wrong result",
    ),
    Fault(
        "the next slab is loaded before the barrier",
        "gather_gemm_kernel.h",
        "__syncthreads();  // the slab has landed for all, and all are done with the stage that is loaded next\n"
        "    inside = inside << kPasses | (slab + Tile::kStages - 1 < slabs ? load(slab + Tile::kStages - 1) : 0u);\n",
        "inside = inside << kPasses | (slab + Tile::kStages - 1 < slabs ? load(slab + Tile::kStages - 1) : 0u);\n"
        "    __syncthreads();\n",
        "starts a copy over bytes that thread .* read in the same barrier interval",
    ),
    Fault(
        "missing barrier before the sums are staged",
        "gather_gemm_kernel.h",
        "__syncthreads();  // the stages, or the rows staged before, have been read",
        "// the stages, or the rows staged before, have been read",
        "wrong result",
    ),
    Fault(
        "a tap is left out",
        "gather_gemm.h",
        "if (++tap_w == taps_w) {",
        "if (++tap_w == taps_w - 1) {",
        "wrong result",
    ),
    Fault(
        "padding is read from memory",
        "gather_gemm.h",
        "async_copy<kChunkBytes>(stage + swizzle(row, chunk), from, offset < 0 ? 0 : kChunkBytes)",
        "async_copy<kChunkBytes>(stage + swizzle(row, chunk), from, kChunkBytes)",
        "wrong result",
    ),
    Fault(
        "the last channels are not masked",
        "epilogue.h",
        "if (offset < 0 || first_channel + column >= p.result_channels) continue;",
        "if (offset < 0) continue;",
        "a write above|wrong result",
    ),
    Fault(
        "a wrong lane names a row of B",
        "gather_gemm.h",
        "(lane & 7) + ((lane >> 4) << 3)",
        "(lane & 7) + (((lane >> 3) & 1) << 3)",
        "wrong result",
    ),
    Fault(
        "stores of two phases overlap",
        "gather_gemm_kernel.h",
        "int64_t(w.result_base + line.remainder * w.result_step)",
        "int64_t(w.result_base + line.remainder)",
        "wrong result",
        STRIDED,
        "run_backward_input",
    ),
    Fault(
        "an accumulator is not set to zero",
        "gather_gemm_kernel.h",
        "GemmSums<Tile> sums = {};",
        "GemmSums<Tile> sums;",
        "wrong result",
    ),
    Fault(
        "a shared array is too small",
        "fused_epilogue.h",
        "constexpr int kFusedSharedBytes = Tile::kRowTableBytes + ",
        "constexpr int kFusedSharedBytes = ",
        "outside the block's shared memory",
    ),
    Fault(
        "a copy starts off its alignment",
        "gather_gemm.h",
        "const T* from = inside ? weight + int64_t(first_column + row) * row_elements + k : weight;",
        "const T* from = inside ? weight + int64_t(first_column + row) * row_elements + k + 1 : weight;",
        "cp.async source: the address is not a multiple of 16",
    ),
]


def broken(fault: Fault) -> Library:
    text = (CSRC / FOLDER / fault.file).read_text()
    assert text.count(fault.old) == 1, f"{fault.file} no longer holds the text that this test changes: {fault.old}"
    # -Wno-error: the compiler itself warns of some of these.
    extra = {FOLDER + fault.file: text.replace(fault.old, fault.new)}
    return Library(build(LIBRARY, flags=("-O0", "-Wno-error", "-w"), extra=extra))


def outcome(library: Library, problem: Problem, op: str, seed: int, early: bool) -> str:
    """Empty when the run is right, else what was found."""
    library.configure(seed, early)
    try:
        error = getattr(problem, op)(library)
    except KernelFault as fault:
        return str(fault)
    return "" if error < TOLERANCE[problem.dtype] else f"wrong result: relative error {error:.1e}"


def apart(function: Callable[[], str]) -> str:
    """Runs `function` in a forked process, so that a broken kernel can neither crash nor hang the tests."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        signal.alarm(60)
        try:
            text = function()
        except BaseException as error:  # the child must end here, whatever happens
            text = f"unexpected {error!r}"
        os.write(writer, text.encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(process, 0)
    return text if os.WIFEXITED(status) else f"ended by signal {os.WTERMSIG(status)}"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_is_caught_under_every_schedule(fault: Fault) -> None:
    library = broken(fault)
    found = [apart(lambda s=s: outcome(library, fault.problem, fault.op, *s)) for s in SCHEDULES]
    assert all(found), f"{sum(map(bool, found))} of {len(found)} schedules show it: {found}"
    for text in found:
        assert re.search(fault.message, text), text


def test_the_right_kernel_raises_no_alarm() -> None:
    library = Library(build(LIBRARY))
    problems = [(SMALL, "run_forward"), (STRIDED, "run_backward_input"), (STRIDED, "run_forward")]
    problems.append((dataclasses.replace(SMALL, c_in=5, c_out=7), "run_forward"))
    for seed in range(15):
        for early in (False, True):
            for problem, op in problems:
                assert outcome(library, problem, op, seed, early) == ""
    library.configure()


def far_images(library: Library) -> str:
    """A 3x3 convolution of two images more than 2^31 elements apart; the memory between them is never touched."""
    distance = 2**31 + 4096
    problem = dataclasses.replace(SMALL, n=2)
    span = 2 * distance + 2**20
    try:
        # Both operands in the upper half, so that an offset that wraps to a negative one still reads mapped memory.
        memory = mmap.mmap(-1, 4 * span, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    except (OSError, ValueError) as error:
        return f"no address space: {error}"
    flat = torch.frombuffer(memory, dtype=torch.bfloat16)
    h, w, c = problem.h, problem.w, problem.c_in
    strides = (distance, 1, w * c, c)
    source = flat[span:].as_strided((2, c, h, w), strides)
    result = flat[span + 2**16 :].as_strided((2, c, h, w), strides)
    source.copy_(problem.random(2, c, h, w))
    weight, bias = problem.random(c, c, 3, 3), problem.random(c)
    params = ForwardParams(geometry=problem.geometry(), source=source.data_ptr(), result=result.data_ptr())
    params.weight, params.bias, params.activation = weight.data_ptr(), bias.data_ptr(), 0
    params.source_stride = params.result_stride = Strides(*strides)
    params.weight_stride = Strides(*weight.stride())
    try:
        library.call("run_forward", ctypes.byref(params), None, 2)
    except KernelFault as fault:
        return str(fault)
    expected = problem.forward(source.double(), weight.double(), bias.double())
    error = relative_error(result, expected)
    return "" if error < TOLERANCE[torch.bfloat16] else f"wrong result: relative error {error:.1e}"


def test_offsets_above_two_to_the_31_are_right() -> None:
    library = Library(build(LIBRARY))
    found = apart(lambda: far_images(library))
    if found.startswith("no address space"):
        pytest.skip(found)
    assert found == ""


@pytest.mark.parametrize("operand", ["source", "result"])
def test_an_offset_cut_to_32_bits_is_caught(operand: str) -> None:
    old = f"image.quotient * p.{operand}_stride[0]"
    library = broken(Fault("", "gather_gemm_kernel.h", old, f"static_cast<int32_t>({old})", ""))
    found = apart(lambda: far_images(library))
    if found.startswith("no address space"):
        pytest.skip(found)
    assert "wrong result" in found or "signal" in found
