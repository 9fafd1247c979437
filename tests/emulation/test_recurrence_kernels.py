"""The recurrence kernels' own CUDA source, run on the host: values, bounds, lengths, schedules."""

from __future__ import annotations

import ctypes
import dataclasses

import pytest
import torch
from emulation_harness import CSRC, Guarded, Library, build
from recurrence_problem import (
    ALGORITHMS,
    CELLS,
    DTYPES,
    TOLERANCE,
    Backward,
    Forward,
    Problem,
    relative_error,
)

KINDS = ("rnn_tanh", "lstm", "gru")  # one cell of each structure; relu jumps where low precision moves a sum over 0
RAGGED = (4, 4, 3, 3, 3, 2, 1, 1, 1)
# Largest hidden size of the persistent kernels: in float32, and in the 16-bit types.
LARGEST = {"rnn_tanh": (128, 256), "rnn_relu": (128, 256), "lstm": (80, 128), "gru": (96, 128)}
FAST_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(build(CSRC / "emulation/recurrence.cpp"))


def runs(algorithm: str) -> tuple[torch.dtype, ...]:
    return DTYPES if algorithm == "naive" else FAST_DTYPES


CASES = [(algorithm, dtype) for algorithm in ALGORITHMS for dtype in runs(algorithm)]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("algorithm", "dtype"), CASES, ids=lambda v: str(v).removeprefix("torch."))
def test_agrees_with_the_definition(library: Library, algorithm: str, dtype: torch.dtype, cell: str) -> None:
    base = Problem(cell=cell, dtype=dtype, algorithm=algorithm)
    for sizes in (
        {"steps": 1, "batch": 1, "hidden": 1, "directions": 1},
        {"steps": 5, "batch": 2, "hidden": 17},
        {"steps": 4, "batch": 9, "hidden": 8, "lengths": RAGGED},  # whole chunks of 16 bytes
        {"steps": 4, "batch": 9, "hidden": 19, "lengths": RAGGED, "directions": 1},
        {"steps": 2, "batch": 17, "hidden": 24, "mask": False, "states": False, "bias": False},
        {"steps": 0, "batch": 3, "hidden": 5},
    ):
        problem = dataclasses.replace(base, **sizes)
        assert problem.error(library) < TOLERANCE[dtype], problem


@pytest.mark.parametrize("cell", KINDS)
@pytest.mark.parametrize("algorithm", ["persistent", "per_step"])
def test_every_compiled_size_agrees_with_the_definition(library: Library, algorithm: str, cell: str) -> None:
    base = Problem(cell=cell, algorithm=algorithm, steps=2, batch=3, lengths=(2, 2, 1))
    sizes = [(torch.float32, 64), (torch.bfloat16, 64), (torch.bfloat16, 100), (torch.float16, 72)]
    sizes += list(zip((torch.float32, torch.bfloat16), LARGEST[cell], strict=True))
    if algorithm == "per_step":  # more tiles of the depth than warps
        sizes = [(torch.float32, 100), (torch.bfloat16, 256)]
    for dtype, hidden in sizes:
        problem = dataclasses.replace(base, dtype=dtype, hidden=hidden, directions=1 if hidden > 128 else 2)
        assert problem.error(library) < TOLERANCE[dtype], problem


@pytest.mark.parametrize("cell", KINDS)
@pytest.mark.parametrize("algorithm", ["persistent", "per_step"])
def test_sequences_of_several_blocks(library: Library, algorithm: str, cell: str) -> None:
    lengths = (3,) * 16 + (2,) * 7 + (1,) * 12  # blocks that are whole, end early, and share a length
    for dtype in (torch.float32, torch.bfloat16):
        problem = Problem(cell, dtype, algorithm, steps=3, batch=len(lengths), hidden=20, lengths=lengths)
        assert problem.error(library) < TOLERANCE[dtype], problem


@pytest.mark.parametrize("cell", KINDS)
@pytest.mark.parametrize("algorithm", ["persistent", "per_step"])
def test_low_precision_rounds_where_the_naive_kernels_do(library: Library, algorithm: str, cell: str) -> None:
    problem = Problem(cell, torch.bfloat16, algorithm, steps=6, batch=3, hidden=40)
    found, expected = problem.run(library), dataclasses.replace(problem, algorithm="naive").run(library)
    for name in ("output", "h_n", "grad_input", "grad_h0", "previous"):
        assert relative_error(found[name], expected[name].double()) < 2e-3, name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_gates_may_overwrite_the_input(library: Library, algorithm: str, cell: str) -> None:
    problem = Problem(cell, torch.float32 if algorithm == "naive" else torch.bfloat16, algorithm, steps=6, hidden=16)
    apart, over = problem.run(library), dataclasses.replace(problem, in_place=True).run(library)
    for name in apart.keys() - {"input"}:
        assert torch.equal(apart[name], over[name]), name
    assert torch.equal(over["input"], apart["gates"])


@pytest.mark.parametrize("algorithm", ["persistent", "per_step"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tensors_that_start_off_16_bytes_give_the_same_bits(
    library: Library, algorithm: str, dtype: torch.dtype
) -> None:
    problem = Problem("lstm", dtype, algorithm, steps=4, batch=3, hidden=16)
    whole, odd = problem.run(library), dataclasses.replace(problem, offset=1).run(library)
    assert all(torch.equal(whole[name], odd[name]) for name in whole)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_is_kept_where_no_gradient_is_wanted(library: Library, algorithm: str, cell: str) -> None:
    problem = Problem(cell, algorithm=algorithm, hidden=9)
    made, kept = problem.made(), problem.run(library)
    shape = (sum(problem.sizes), problem.directions, problem.hidden)
    held = {name: Guarded(made[name]) for name in ("input", "mask", "h0")} | {"c0": Guarded(made.get("c0", made["h0"]))}
    held |= {"output": Guarded(torch.empty(shape), fill=False)}
    held |= {name: Guarded(torch.empty_like(made["h0"]), fill=False) for name in ("h_n", "c_n")}
    held["workspace"] = Guarded(torch.empty(1 << 17, dtype=torch.uint8), fill=False)
    numbers = (CELLS.index(cell), 0, problem.steps, problem.batch, problem.hidden, problem.directions, shape[0])
    params = Forward(*numbers, **{name: guarded.pointer for name, guarded in held.items()})
    pairs = {name: [Guarded(t) for t in made[name]] for name in ("weight", "bias_ih", "bias_hh")}
    for name, pair in pairs.items():
        setattr(params, name, (ctypes.c_void_p * 2)(*(t.pointer for t in pair)))
    library.call("genlab_recurrence_forward", ALGORITHMS.index(algorithm), ctypes.byref(params))
    for name in ("output", "h_n", *(["c_n"] if cell == "lstm" else [])):
        held[name].check(name)
        assert torch.equal(held[name].tensor, kept[name])


@pytest.mark.parametrize("cell", KINDS)
@pytest.mark.parametrize(("algorithm", "dtype"), [case for case in CASES if case[1] in (torch.float32, torch.bfloat16)])
def test_results_do_not_depend_on_the_schedule(library: Library, algorithm: str, dtype: torch.dtype, cell: str) -> None:
    problem = Problem(cell, dtype, algorithm, steps=4, batch=9, hidden=24, lengths=RAGGED)
    results = []
    for seed, early in ((1, False), (2, True), (3, False), (4, True)):
        library.configure(seed, early)
        results.append(problem.run(library))
    library.configure()
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rows_above_two_to_the_31_are_reached(library: Library, algorithm: str, dtype: torch.dtype) -> None:
    for cell in KINDS:
        near = Problem(cell, dtype, algorithm, steps=2, batch=3, hidden=8, lengths=(2, 2, 1))
        found, expected = dataclasses.replace(near, first_row=2**32 + 3).run(library), near.run(library)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_longer_run_carries_its_state(library: Library) -> None:
    """40 steps: every buffer and stage is met many times, and an error of the carried state would grow."""
    for cell, algorithm, dtype in (("lstm", "persistent", torch.float32), ("gru", "per_step", torch.float32)):
        problem = Problem(cell, dtype, algorithm, steps=40, batch=2, hidden=12, lengths=(40, 33))
        assert problem.error(library) < TOLERANCE[dtype]


def test_fragments_are_read_without_bank_conflicts(library: Library) -> None:
    for cell, hidden in (("lstm", 128), ("gru", 64), ("rnn_tanh", 256)):
        library.take_counters()
        Problem(cell, torch.bfloat16, "persistent", steps=2, batch=8, hidden=hidden, directions=1).run(library)
        counted = library.take_counters()
        assert counted["matrix_loads"] > 0 and counted["bank_conflicts"] == 0


def test_the_choice_of_kernels_and_what_each_refuses(library: Library) -> None:
    def refusal(algorithm: str, cell: str, dtype: torch.dtype, hidden: int) -> str | None:
        arguments = (ALGORITHMS.index(algorithm), CELLS.index(cell), DTYPES.index(dtype), ctypes.c_int64(hidden))
        text = library.value("genlab_recurrence_refusal", ctypes.c_char_p, *arguments)
        return None if text is None else text.decode()

    def chosen(cell: str, dtype: torch.dtype, hidden: int) -> str:
        arguments = (CELLS.index(cell), DTYPES.index(dtype), ctypes.c_int64(hidden))
        return ALGORITHMS[library.value("genlab_recurrence_algorithm", ctypes.c_int32, *arguments)]

    for cell, largest in LARGEST.items():
        for dtype in FAST_DTYPES:
            hidden = largest[0 if dtype == torch.float32 else 1]
            assert refusal("persistent", cell, dtype, hidden) is None
            assert chosen(cell, dtype, hidden) == "persistent"
            assert refusal("persistent", cell, dtype, hidden + 1) == "weight_hh does not fit the registers of one block"
            assert chosen(cell, dtype, hidden + 1) == "per_step"
    for algorithm in ("persistent", "per_step"):
        assert refusal(algorithm, "gru", torch.float64, 8) == "float64 has the naive kernels only"
    assert refusal("per_step", "gru", torch.float32, 2**21) == "the hidden size does not fit the grid"
    assert chosen("lstm", torch.float64, 8) == chosen("lstm", torch.float32, 2**21) == "naive"


def test_the_parameter_structs_have_the_layout_that_these_tests_declare(library: Library) -> None:
    sizes = (ctypes.c_int64 * 2)()
    library.value("genlab_recurrence_params_sizes", None, sizes)
    assert list(sizes) == [ctypes.sizeof(t) for t in (Forward, Backward)]
