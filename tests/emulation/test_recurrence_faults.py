"""The emulation catches what can go wrong in a scan over time: each test breaks the kernels' source in one way."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from emulation_harness import CSRC, KernelFault, Library, build
from recurrence_problem import TOLERANCE, Problem
from test_seeded_faults import apart

FOLDER = "kernels/recurrence/"
SCHEDULES = [(1, False), (2, True), (3, False)]
RAGGED = (5, 5, 4, 4, 4, 2, 2, 1, 1)
PERSISTENT = Problem("lstm", torch.bfloat16, "persistent", steps=5, batch=9, hidden=40, lengths=RAGGED)
FLOATS = dataclasses.replace(PERSISTENT, dtype=torch.float32)
PER_STEP = dataclasses.replace(PERSISTENT, algorithm="per_step")

# The library with the LSTM, bfloat16 and the smallest size alone: a fifth of the time to compile.
NARROWED = {
    "launch.h": [
        ("  if (cell == Cell::kGru) return body(KindTag<Kind::kGru>{});\n  return body(KindTag<Kind::kRnn>{});\n", "")
    ],
    "persistent_launch.h": [
        ("constexpr int kLargestFours = kKind == Kind::kRnn ? 8 : 6", "constexpr int kLargestFours = 4"),
        ("  return body(std::integral_constant<int, 8>{});\n", ""),
        ("  return body(Float16{});\n", ""),
    ],
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
    "one_wait_too_few_backward": Fault(
        "persistent_mma.h",
        "async_copy_wait<kStages - 2>();\n    __syncthreads();  // the gates'",
        "async_copy_wait<kStages - 1>();\n    __syncthreads();  // the gates'",
    ),
    "stage_overwritten_while_read": Fault("persistent_mma.h", "load(index + kStages - 1);", "load(index + kStages);"),
    "next_state_in_the_buffer_that_is_read": Fault(
        "persistent_mma.h", "T* const to = states + (index + 1) % 2", "T* const to = states + index % 2"
    ),
    "state_changed_past_the_end": Fault(
        "persistent_mma.h", "n >= live) continue;  // a sequence", "n >= kSequences) continue;  // a sequence"
    ),
    "gradient_changed_past_the_end": Fault(
        "persistent_mma.h",
        "if (mine.unit_of(c) >= hidden || mine.sequence_of(c) >= live) continue;",
        "if (mine.unit_of(c) >= hidden) continue;",
    ),
    "late_start_finds_no_state": Fault("persistent_mma.h", "to[0] = to[Shape::kStates] = narrow", "to[0] = narrow"),
    "tail_of_the_weights_not_masked": Fault("weights.h", "depth < p.hidden && row < p.hidden", "row < p.hidden"),
    "wrong_gate_order": Fault(
        "cell.h", "i = sigmoid(sum(0)), f = sigmoid(sum(1))", "f = sigmoid(sum(0)), i = sigmoid(sum(1))"
    ),
    "steps_of_the_other_direction": Fault("rows.h", "direction == 0 ? step - 1 : step + 1", "step - 1"),
    "mask_left_out_of_the_gradient": Fault("persistent_mma.h", "grad[c].h += factor[c] * (", "grad[c].h += ("),
    "float_missing_barrier": Fault(
        "persistent_float.h", "__syncthreads();  // h' is written for all", "// h' is written for all", FLOATS
    ),
    "float_quarter_left_out": Fault(
        "persistent_float.h", "__shfl_xor_sync(kAll, odd ? low_sum : high_sum, 1)", "0.0f", FLOATS
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


def narrowed(fault: Fault | None = None) -> Library:
    """The emulation library with NARROWED, and the fault, applied to the kernels' headers."""
    changes = {file: list(pairs) for file, pairs in NARROWED.items()}
    if fault is not None:
        changes.setdefault(fault.file, []).append((fault.old, fault.new))
    extra = {}
    for file, pairs in changes.items():
        text = (CSRC / FOLDER / file).read_text()
        for old, new in pairs:
            assert text.count(old) == 1, f"{file} no longer holds the text that this test changes: {old}"
            text = text.replace(old, new)
        extra[FOLDER + file] = text
    return Library(build(CSRC / "emulation" / "recurrence.cpp", flags=("-O0", "-Wno-error", "-w"), extra=extra))


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
    library = narrowed(fault)
    found = [apart(lambda s=s: outcome(library, fault.problem, *s)) for s in SCHEDULES]
    assert all(found), found


def test_the_right_kernels_raise_no_alarm() -> None:
    library = narrowed()
    for problem in (PERSISTENT, FLOATS, PER_STEP):
        assert [outcome(library, problem, seed, early) for seed in range(4) for early in (False, True)] == [""] * 8
