"""The emulation catches what can go wrong in a scan over time: each test makes one mistake in the kernels' source."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from emulation_harness import KernelFault, Library, build
from recurrence_problem import SMALLEST_SIZE, TOLERANCE, Problem, patched
from test_seeded_faults import apart

SCHEDULES = [(1, False), (2, True)]
RAGGED = (5, 5, 4, 4, 4, 2, 2, 1, 1)
PERSISTENT = Problem("lstm", torch.bfloat16, "persistent", steps=5, batch=9, hidden=40, lengths=RAGGED)
FLOATS = dataclasses.replace(PERSISTENT, dtype=torch.float32)
PER_STEP = dataclasses.replace(PERSISTENT, algorithm="per_step")
FAR = dataclasses.replace(PER_STEP, first_row=2**27 + 3)

# A library of one algorithm with the LSTM, two dtypes and the smallest size alone, which holds every mistake in it:
# genlab_set_fault(n) makes the n-th. So each algorithm is compiled once.
SOURCES = {"persistent": ("previous", "persistent", "persistent_backward"), "per_step": ("previous", "per_step")}
TEXT = """
{includes}
#include "emulation/harness.h"
extern "C" {{
GENLAB_EXPORT void genlab_set_fault(int32_t fault) {{ genlab_fault = fault; }}
GENLAB_EXPORT std::size_t genlab_recurrence_workspace(
    int32_t, int32_t cell, int32_t dtype, int64_t batch, int64_t hidden, int64_t directions) {{
  return genlab::workspace_of_recurrence_{algorithm}(genlab::Cell(cell), genlab::DType(dtype), {sizes}, directions);
}}
GENLAB_EXPORT int genlab_recurrence_forward(int32_t, const genlab::RecurrenceParams* p) {{
  return genlab::emulation::guarded([&] {{ genlab::launch_recurrence_forward_{algorithm}(*p, nullptr); }});
}}
GENLAB_EXPORT int genlab_recurrence_backward(int32_t, const genlab::RecurrenceBackwardParams* p) {{
  return genlab::emulation::guarded([&] {{ genlab::launch_recurrence_backward_{algorithm}(*p, nullptr); }});
}}
}}
"""
OTHER_CELLS = "  if (cell == Cell::kGru) return body(KindTag<Kind::kGru>{});\n  return body(KindTag<Kind::kRnn>{});\n"
DECLARED = ("#pragma once\n", "#pragma once\n#include <cstdint>\ninline int32_t genlab_fault = -1;\n")


@dataclasses.dataclass(frozen=True)
class Fault:
    """One mistake: `old` becomes `new` in `file`, where FAULT is whether to make it; found when `problem` fails."""

    file: str
    old: str
    new: str
    problem: Problem = PERSISTENT


def barrier(comment: str) -> tuple[str, str]:
    """A barrier, named by its comment, that is missing."""
    return f"__syncthreads();  // {comment}", f"if (!FAULT) __syncthreads();  // {comment}"


def one_wait_too_few(comment: str) -> tuple[str, str]:
    wait, rest = "async_copy_wait<kStages - {}>()", f";\n    __syncthreads();  // {comment}"
    return wait.format(2) + rest, f"FAULT ? {wait.format(1)} : {wait.format(2)}" + rest


FORWARD, BACKWARD = "persistent_mma_forward.h", "persistent_mma_backward.h"
OFFSET = "(row * p.directions + direction) * width * p.hidden"
FAULTS = {
    "one wait too few forward": Fault(FORWARD, *one_wait_too_few("the stage has landed and h'")),
    "one wait too few backward": Fault(BACKWARD, *one_wait_too_few("the gates' gradients are")),
    "missing barrier forward": Fault(FORWARD, *barrier("the stage has landed and h'")),
    "missing barrier backward": Fault(BACKWARD, *barrier("the gates' gradients are")),
    "stage overwritten while read": Fault(
        FORWARD, "load(index + kStages - 1);", "load(index + (FAULT ? kStages : kStages - 1));"
    ),
    "next state in the buffer that is read": Fault(
        FORWARD, "T* const to = states + (index + 1) % 2", "T* const to = states + (index + (FAULT ? 0 : 1)) % 2"
    ),
    "state changed past the end": Fault(
        FORWARD, "n >= live) continue;  // a sequence", "n >= (FAULT ? kSequences : live)) continue;  // a sequence"
    ),
    "gradient changed past the end": Fault(
        BACKWARD,
        "if (mine.unit_of(c) >= hidden || mine.sequence_of(c) >= live) continue;",
        "if (mine.unit_of(c) >= hidden || (!FAULT && mine.sequence_of(c) >= live)) continue;",
    ),
    "late start finds no state": Fault(
        FORWARD,
        "to[0] = to[Shape::kStates] = narrow",
        "T nowhere;\n    to[0] = (FAULT ? nowhere : to[Shape::kStates]) = narrow",
    ),
    "mask left out of the gradient": Fault(
        BACKWARD, "grad[c].h += factor[c] * (", "grad[c].h += (FAULT ? 1 : factor[c]) * ("
    ),
    "tail of the weights not masked": Fault(
        "weights.h", "depth < p.hidden && row < p.hidden", "(FAULT || depth < p.hidden) && row < p.hidden"
    ),
    "wrong gate order": Fault(
        "cell.h", "sigmoid(sum(0)), f = sigmoid(sum(1))", "sigmoid(sum(FAULT ? 1 : 0)), f = sigmoid(sum(FAULT ? 0 : 1))"
    ),
    "steps of the other direction": Fault(
        "rows.h",
        "direction == 0 ? step - 1 : step + 1",
        "direction == 0 || FAULT ? step - 1 : step + 1",
        FLOATS,
    ),
    "offset cut to 32 bits": Fault("rows.h", OFFSET, f"(FAULT ? static_cast<int32_t>({OFFSET}) : {OFFSET})", FAR),
    "float missing barrier": Fault("persistent_float.h", *barrier("h' is written for all"), FLOATS),
    "float quarter left out": Fault(
        "persistent_float.h",
        "+ __shfl_xor_sync(kAll, odd ? low_sum : high_sum, 1)",
        "+ (FAULT ? 0.0f : 1.0f) * __shfl_xor_sync(kAll, odd ? low_sum : high_sum, 1)",
        FLOATS,
    ),
    "per step missing barrier": Fault("per_step.h", *barrier("the warps' sums"), PER_STEP),
    "per step reads what it writes": Fault(
        "per_step.h",
        "w.values[(index + 1) % 2][direction",
        "w.values[(index + (FAULT ? 0 : 1)) % 2][direction",
        PER_STEP,
    ),
    "per step adds what never ran": Fault(
        "per_step.h", "(exists && b < ran_before) grad.h", "(exists && (FAULT || b < ran_before)) grad.h", PER_STEP
    ),
}


@functools.cache
def faulty(algorithm: str) -> Library:
    """The emulation of one algorithm, with every fault in it."""
    changes = {"cell.h": [DECLARED], "launch.h": [(OTHER_CELLS, "")], "persistent_launch.h": list(SMALLEST_SIZE)}
    for index, fault in enumerate(FAULTS.values()):
        changed = (fault.old, fault.new.replace("FAULT", f"(genlab_fault == {index})"))
        changes.setdefault(fault.file, []).append(changed)
    includes = "\n".join(f'#include "kernels/recurrence_{name}.cu"' for name in SOURCES[algorithm])
    sizes = "hidden" if algorithm == "persistent" else "batch, hidden"
    text = TEXT.format(includes=includes, algorithm=algorithm, sizes=sizes)
    return Library(build(text, flags=("-O0", "-Wno-error", "-w"), extra=patched(changes)))


def outcome(problem: Problem, seed: int, early: bool, fault: int = -1) -> str:
    """Empty when the run is right, else what was found."""
    library = faulty(problem.algorithm)
    library.value("genlab_set_fault", None, fault)
    library.configure(seed, early)
    try:
        error = problem.error(library)
    except KernelFault as found:
        return str(found)
    return "" if error < TOLERANCE[problem.dtype] else f"wrong result: relative error {error:.1e}"


@pytest.mark.parametrize("index", range(len(FAULTS)), ids=[name.replace(" ", "_") for name in FAULTS])
def test_a_fault_is_caught_under_every_schedule(index: int) -> None:
    problem = list(FAULTS.values())[index].problem
    faulty(problem.algorithm)  # compiled before the fork
    found = [apart(lambda s=s: outcome(problem, *s, fault=index)) for s in SCHEDULES]
    assert all(found), found


@pytest.mark.parametrize(
    "problem", [PERSISTENT, FLOATS, PER_STEP, FAR], ids=["persistent", "floats", "per_step", "far"]
)
def test_the_right_kernels_raise_no_alarm(problem: Problem) -> None:
    found = [outcome(problem, seed, early) for seed in range(3) for early in (False, True)]
    assert found == [""] * 6
