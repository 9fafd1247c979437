"""The emulation catches what can go wrong in attention: each test breaks the kernels' source in one way."""

from __future__ import annotations

import dataclasses
import re

import pytest
from attention_problem import Problem
from emulation_harness import CSRC, KernelFault, Library, build
from test_attention_kernels import far_heads
from test_seeded_faults import apart

LIBRARY = CSRC / "emulation" / "attention_bfloat16.cpp"
SCHEDULES = [(1, False), (2, True)]  # copies land late, and at once
PLAIN = Problem(queries=70, keys=150, heads=1, head_dim=40)
CAUSAL = dataclasses.replace(PLAIN, queries=150, causal=True)
DROPOUT = dataclasses.replace(PLAIN, dropout=0.3, keys=40)
MASKED = dataclasses.replace(PLAIN, mask="boolean", hidden_rows=True, keys=40)
LARGEST = "return body(std::integral_constant<int, 128>{});"
BARRIER = "__syncthreads();  // the block has landed for all, and all are done with the stage that is loaded next\n"
LOAD = "    if (block + 1 < blocks) load(block + 1);\n"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One mistake: `old` becomes `new` in every place of `file`; a run of `problem` under any schedule shows it."""

    name: str
    file: str
    old: str
    new: str
    message: str = "wrong result"
    problem: Problem = PLAIN
    places: int = 1
    backward: bool = False  # the forward pass stays right


FAULTS = [
    Fault("missing barrier", "forward_kernel.h", BARRIER, "", "race in shared memory"),
    Fault("missing barrier in the backward pass", "backward_kernels.h", BARRIER, "", "race in shared memory", places=2),
    Fault(
        "one wait too few",
        "forward_kernel.h",
        f"async_copy_wait<0>();\n    {BARRIER}",
        f"async_copy_wait<1>();\n    {BARRIER}",
        "reads bytes whose copy thread .* has not waited for",
    ),
    Fault(
        "the next block is loaded before the barrier",
        "forward_kernel.h",
        f"    {BARRIER}{LOAD}",
        f"{LOAD}    {BARRIER}",
        "starts a copy over bytes that thread .* read in the same barrier interval",
    ),
    Fault("the diagonal is left out", "scores.h", "key <= query)", "key < query)", problem=CAUSAL),
    Fault(
        "the test for the diagonal block looks at the last row",
        "forward_kernel.h",
        "last_key > first + warp_row)",
        "last_key > first + warp_row + Tile::kWarpRows - 1)",
        problem=CAUSAL,
    ),
    Fault(
        "the last key counts as inside",
        "forward_kernel.h",
        "last_key >= p.keys ||",
        "last_key > p.keys ||",
        problem=dataclasses.replace(PLAIN, keys=63),
    ),
    Fault("the output keeps its scale", "forward_kernel.h", "half + 1] *= shrink;", "half + 1] *= 1;"),
    Fault(
        "a row without a key is taken for one with scores",
        "forward_kernel.h",
        "greatest == -INFINITY ? 0.0f : greatest",
        "greatest",
        problem=MASKED,
    ),
    Fault(
        "the dropout counter is off by one row",
        "scores.h",
        "first_query + row + lane_row() + half * 8",
        "first_query + row + lane_row() + half * 8 + 1",
        problem=DROPOUT,
    ),
    Fault(
        "neighbours swap the wrong words of dropout",
        "scores.h",
        "odd ? even_word : odd_word, 4",
        "odd ? odd_word : even_word, 4",
        problem=DROPOUT,
        backward=True,
    ),
    Fault(
        "the first block of queries is skipped",
        "backward_kernels.h",
        "min(first / Tile::kStreamed,",
        "min(first / Tile::kStreamed + 1,",
        problem=CAUSAL,
        backward=True,
    ),
    Fault(
        "delta is of the neighbouring query",
        "backward_kernels.h",
        "(Tile::kStreamed + j * 8 + q % 2) * 4",
        "(Tile::kStreamed + j * 8) * 4",
        backward=True,
    ),
]


def patched(path: str, old: str, new: str, places: int = 1) -> dict[str, str]:
    text = (CSRC / path).read_text()
    assert text.count(old) == places, f"{path} no longer holds the text that this test changes: {old}"
    return {path: text.replace(old, new)}


def library_of(extra: dict[str, str]) -> Library:
    """The bfloat16 kernels with `extra` in front, for dims up to 64: the others would be compiled for nobody."""
    launch = "kernels/attention/launch.h"
    text = (CSRC / launch).read_text()
    for old in (*(f"if (wider <= {n}) return body(std::integral_constant<int, {n}>{{}});" for n in (32, 96)), LARGEST):
        assert text.count(old) == 1, f"{launch} no longer holds the text that this test changes: {old}"
        text = text.replace(old, "")
    # -Wno-error: the compiler itself warns of some faults.
    return Library(build(LIBRARY, flags=("-O0", "-Wno-error", "-w"), extra={launch: text} | extra))


def outcome(library: Library, problem: Problem, seed: int, early: bool, backward: bool) -> str:
    """Empty when the run is right, else what was found."""
    library.configure(seed, early)
    try:
        wrong = problem.wrong(library)
    except KernelFault as fault:
        return str(fault)
    if backward and not {"output", "lse"}.isdisjoint(wrong):
        return f"the forward pass is wrong too: {wrong}"
    return f"wrong result: {wrong}" if wrong else ""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_is_caught_under_every_schedule(fault: Fault) -> None:
    library = library_of(patched(f"kernels/attention/{fault.file}", fault.old, fault.new, fault.places))
    found = [apart(lambda s=s: outcome(library, fault.problem, *s, fault.backward)) for s in SCHEDULES]
    assert all(found), f"{sum(map(bool, found))} of {len(found)} schedules show it: {found}"
    for text in found:
        assert re.search(fault.message, text), text


@pytest.mark.parametrize("problem", [PLAIN, CAUSAL, DROPOUT, MASKED], ids=["plain", "causal", "dropout", "masked"])
def test_the_right_kernels_raise_no_alarm(problem: Problem) -> None:
    library = library_of({})
    assert [outcome(library, problem, seed, early, False) for seed in range(2) for early in (False, True)] == [""] * 4


@pytest.mark.parametrize("tensor", ["key", "output"])
def test_a_batch_offset_cut_to_32_bits_is_caught(tensor: str) -> None:
    kind = "T* const data = static_cast<T*>" if tensor == "output" else "const T* const data = static_cast<const T*>"
    old = f"  {kind}(tensor.data) + batch * tensor.batch_stride + head * tensor.head_stride;"
    new = old.replace("head * tensor.head_stride", "static_cast<int32_t>(head * tensor.head_stride)")
    library = library_of(patched("kernels/attention/problem.h", old, new))
    right, found = (apart(lambda which=which: far_heads(which)) for which in (library_of({}), library))
    if found.startswith("no address space"):
        pytest.skip(found)
    assert right == ""
    assert "wrong result" in found or "signal" in found
