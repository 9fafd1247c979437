"""The emulation catches what can go wrong in a scan over time: each test breaks the kernels' source in one way."""

from __future__ import annotations

import dataclasses

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

# A library of one algorithm with the LSTM, bfloat16 and the smallest size alone: a fifth of the time to compile.
SOURCES = {"persistent": ("previous", "persistent", "persistent_backward"), "per_step": ("previous", "per_step")}
TEXT = """
{includes}
#include "emulation/harness.h"
extern "C" {{
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
NARROWED = {
    "launch.h": [
        (
            "  if (cell == Cell::kGru) return body(KindTag<Kind::kGru>{});\n  return body(KindTag<Kind::kRnn>{});\n",
            "",
        )
    ],
    "persistent_launch.h": SMALLEST_SIZE,
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """One mistake: `old` becomes `new` in `file`; found when `problem` fails under every schedule."""

    file: str
    old: str
    new: str
    problem: Problem = PERSISTENT


FAULTS = {
    "missing_barrier_forward": Fault(
        "persistent_mma.h", "__syncthreads();  // the stage has landed and h'", "// the stage has landed and h'"
    ),
    "missing_barrier_backward": Fault(
        "persistent_mma.h", "__syncthreads();  // the gates' gradients are", "// the gates' gradients are"
    ),
    "one_wait_too_few_forward": Fault(
        "persistent_mma.h",
        "async_copy_wait<kStages - 2>();\n    __syncthreads();  // the stage",
        "async_copy_wait<kStages - 1>();\n    __syncthreads();  // the stage",
    ),
    "stage_overwritten_while_read": Fault("persistent_mma.h", "load(index + kStages - 1);", "load(index + kStages);"),
    "state_changed_past_the_end": Fault(
        "persistent_mma.h", "n >= live) continue;  // a sequence", "n >= kSequences) continue;  // a sequence"
    ),
    "late_start_finds_no_state": Fault("persistent_mma.h", "to[0] = to[Shape::kStates] = narrow", "to[0] = narrow"),
    "tail_of_the_weights_not_masked": Fault("weights.h", "depth < p.hidden && row < p.hidden", "row < p.hidden"),
    "wrong_gate_order": Fault(
        "cell.h", "i = sigmoid(sum(0)), f = sigmoid(sum(1))", "f = sigmoid(sum(0)), i = sigmoid(sum(1))"
    ),
    "float_missing_barrier": Fault(
        "persistent_float.h", "__syncthreads();  // h' is written for all", "// h' is written for all", FLOATS
    ),
    "per_step_missing_barrier": Fault(
        "per_step.h", "__syncthreads();  // the warps' sums", "// the warps' sums", PER_STEP
    ),
    "per_step_reads_what_it_writes": Fault(
        "per_step.h", "w.values[(index + 1) % 2][direction", "w.values[index % 2][direction", PER_STEP
    ),
    "per_step_adds_what_never_ran": Fault(
        "per_step.h", "if (exists && b < ran_before) grad.h", "if (exists) grad.h", PER_STEP
    ),
}


def narrowed(algorithm: str, fault: Fault | None = None) -> Library:
    """The emulation of one algorithm with NARROWED, and the fault, applied to the kernels' headers."""
    changes = {file: list(pairs) for file, pairs in NARROWED.items()}
    if fault is not None:
        changes.setdefault(fault.file, []).append((fault.old, fault.new))
    includes = "\n".join(f'#include "kernels/recurrence_{name}.cu"' for name in SOURCES[algorithm])
    sizes = "hidden" if algorithm == "persistent" else "batch, hidden"
    text = TEXT.format(includes=includes, algorithm=algorithm, sizes=sizes)
    return Library(build(text, flags=("-O0", "-Wno-error", "-w"), extra=patched(changes)))


def outcome(library: Library, problem: Problem, seed: int, early: bool) -> str:
    """Empty when the run is right, else what was found."""
    library.configure(seed, early)
    try:
        error = problem.error(library)
    except KernelFault as fault:
        return str(fault)
    return "" if error < TOLERANCE[problem.dtype] else f"wrong result: relative error {error:.1e}"


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught_under_every_schedule(name: str) -> None:
    fault = FAULTS[name]
    library = narrowed(fault.problem.algorithm, fault)
    found = [apart(lambda s=s: outcome(library, fault.problem, *s)) for s in SCHEDULES]
    assert all(found), found


def test_the_right_kernels_raise_no_alarm() -> None:
    for problem in (PERSISTENT, FLOATS, PER_STEP):
        library = narrowed(problem.algorithm)
        assert [outcome(library, problem, seed, early) for seed in range(3) for early in (False, True)] == [""] * 6
