"""The optimiser kernels' own CUDA source, run on the host: values, bounds, schedules, and mistakes that must show."""

from __future__ import annotations

import ctypes
import dataclasses
import re

import pytest
import torch
from emulation_harness import CSRC, KernelFault, Library, build
from optimizer_problem import CHUNK, DTYPES, FACTOR_BYTES, Params, Problem, TensorRow

SOURCE = CSRC / "emulation/optimizer.cpp"
SMALL = ((3,), (0,), (CHUNK + 5,), (18,))
PROBLEMS = {
    "adam": Problem(),
    "amsgrad": Problem(states=(True, True, True), settings={"weight_decay": 0.1, "maximize": 1.0}, bound=0.5),
    "adamw": Problem(settings={"weight_decay": 0.1, "decoupled": 1.0, "beta1": 0.4}, share=0.9),
    "rmsprop": Problem("rmsprop", states=(True, False, False), bound=0.01, share=None),
    "rmsprop_all": Problem("rmsprop", states=(True, True, True), settings={"momentum": 0.9, "beta2": 0.3}),
    "sgd": Problem("sgd", states=(False, False, False), shadow=None),
    "sgd_momentum": Problem("sgd", states=(True, False, False), settings={"momentum": 0.9, "dampening": 0.3}),
    "sgd_first": Problem(
        "sgd", states=(True, False, False), settings={"momentum": 0.9, "dampening": 0.3, "nesterov": 1.0}, steps=0
    ),
    "follow": Problem("none", states=(False, False, False), bound=0.7, shadow=torch.float16),
    "scaled_and_clipped": Problem(scale=64.0, max_norm=0.02, found=0.0),
    "clip_beyond_the_norm": Problem(max_norm=1e9),
    "skipped": Problem(found=1.0, bound=0.5),
    "many_tensors": Problem(sizes=tuple((n % 7,) for n in range(95)), max_norm=0.5, scale=2.0),
}


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(build(SOURCE))


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_rule_and_option_agrees_with_the_reference(library, name):
    PROBLEMS[name].check(library)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["amsgrad", "rmsprop_all", "sgd_momentum", "follow", "scaled_and_clipped"])
def test_every_dtype(library, name, dtype):
    dataclasses.replace(PROBLEMS[name], dtype=dtype, sizes=SMALL, shadow=torch.float16).check(library)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tensors_off_a_pack_boundary_take_the_narrow_path(library, dtype):
    aligned = dataclasses.replace(PROBLEMS["amsgrad"], dtype=dtype, sizes=SMALL)
    found = dataclasses.replace(aligned, offset=1).check(library)
    assert all(torch.equal(a, b) for a, b in zip(found["param"], aligned.run(library)["param"], strict=True))


def test_a_skipped_step_leaves_parameters_states_and_counts(library):
    problem = dataclasses.replace(PROBLEMS["skipped"], bound=float("inf"))
    found, before = problem.run(library), problem.draw()
    for name in ("param", "state0", "state1"):
        assert all(torch.equal(a, b) for a, b in zip(found[name], before[name], strict=True))
    assert {float(step) for step in found["step"]} == {4.0}
    assert not torch.equal(found["average"][0], before["average"][0])


def test_results_do_not_depend_on_the_schedule(library):
    results = []
    for seed in (1, 2, 3):
        library.configure(seed)
        results.append(dataclasses.replace(PROBLEMS["scaled_and_clipped"], sizes=SMALL).run(library))
    for other in results[1:]:
        for name, values in results[0].items():
            assert all(torch.equal(a, b) for a, b in zip(values, other[name], strict=True)), name


def test_the_structs_have_the_layout_that_these_tests_declare(library):
    sizes = (ctypes.c_int64 * 5)()
    library.value("genlab_optimizer_sizes", None, sizes)
    assert list(sizes) == [ctypes.sizeof(TensorRow), ctypes.sizeof(Params), FACTOR_BYTES, CHUNK, 40]


# Each breaks the kernels' text in one way; a patch that no longer applies fails its test.
FAULTS = {
    "no barrier in the sum": ("__syncthreads();\n    if (int(threadIdx.x) < width)", "if (int(threadIdx.x) < width)"),
    "a chunk too long": (
        "t.count - begin < kOptimizerChunk ? t.count : begin",
        "t.count - begin < kOptimizerChunk ? t.count + 2 : begin",
    ),
    "the tail is left out": ("for (int64_t at = whole + threadIdx.x; at < end;", "for (int64_t at = end; at < end;"),
    "the neighbour's tensor": ("if (table.first_chunk[middle] <= chunk)", "if (table.first_chunk[middle] < chunk)"),
    "the bound is forgotten": ("narrow<T>(bounded(x[j], c.bound))", "narrow<T>(x[j])"),
    "the second table holds the first's tensors": ("tensors[first + i]", "tensors[i]"),
    "the second table's sums over the first's": ("partial + chunks)", "partial)"),
    "steps are counted when skipped": ("if (!optimizer_skips(p)) *counter", "*counter"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_seeded_fault_is_caught(name):
    old, new = FAULTS[name]
    text = (CSRC / "kernels/optimizer_multi_tensor.cu").read_text()
    assert text.count(old) == 1, "the patch no longer applies"
    broken = Library(build(SOURCE, extra={"kernels/optimizer_multi_tensor.cu": text.replace(old, new)}))
    aligned = dataclasses.replace(PROBLEMS["scaled_and_clipped"], sizes=SMALL)
    problems = [aligned, dataclasses.replace(aligned, offset=1), PROBLEMS["many_tensors"], PROBLEMS["skipped"]]
    caught = []
    for problem in problems:
        for seed in (1, 2, 3):
            broken.configure(seed)
            try:
                problem.check(broken)
            except (KernelFault, AssertionError) as error:
                caught.append(re.sub(r"\s+", " ", str(error))[:100])
    assert caught, "the fault passes unseen"
