"""word2vec's own CUDA source, run on the host: one warp does what is written out, many learn, faults are caught."""

from __future__ import annotations

import ctypes

import pytest
import torch
from emulation_harness import CSRC, Guarded, KernelFault, Library, build
from test_seeded_faults import apart

from genlab.ops import HierarchicalSoftmax, NegativeSampling, keep_probabilities, word2vec_step

SOURCE = CSRC / "emulation/word2vec.cpp"
KERNEL = "word2vec_warp_per_centre.cu"
LONGS = ("sentences", "vocabulary", "d", "window", "negatives", "targets", "position")
READ = ("words", "starts", "keep", "noise", "path_starts", "path_nodes", "path_codes")
WRITTEN = ("inputs", "outputs", "totals")


class Params(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in LONGS),
        ("key", ctypes.c_uint64),
        ("rate", ctypes.c_float),
        ("cbow", ctypes.c_bool),
        ("mean_gradient", ctypes.c_bool),
        *((name, ctypes.c_void_p) for name in READ + WRITTEN),
    ]


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(build(SOURCE))


def problem(sampled: bool, length: int = 120, words: int = 30, d: int = 37):
    """(inputs, outputs, text, starts, keep, objective)."""
    generator = torch.Generator().manual_seed(length)
    shares = 1 / torch.arange(1.0, words + 1)
    text = torch.multinomial(shares, length, replacement=True, generator=generator).to(torch.int32)
    counts = torch.bincount(text, minlength=words)
    objective = NegativeSampling.from_counts(counts, 5) if sampled else HierarchicalSoftmax.from_counts(counts)
    rows = words if sampled else words - 1
    tables = [torch.randn(count, d, generator=generator) / 5 for count in (words, rows)]
    starts = torch.tensor([0, length // 4, length // 4 + 1, length])
    return *tables, text, starts, keep_probabilities(counts, 3e-2), objective


def run(library: Library, given, cbow: bool = False, one_warp: bool = True, mean: bool = False, rate: float = 0.1):
    """(inputs, outputs, totals) after the kernel."""
    inputs, outputs, text, starts, keep, objective = given
    sampled = isinstance(objective, NegativeSampling)
    tensors = {"words": text, "starts": starts, "keep": keep, "inputs": inputs.clone(), "outputs": outputs.clone()}
    tensors["totals"] = torch.zeros(3, dtype=torch.float64)
    if sampled:
        tensors["noise"] = objective.noise
    else:
        tensors |= {name: getattr(objective, name) for name in ("path_starts", "path_nodes", "path_codes")}
    buffers = {name: Guarded(tensor) for name, tensor in tensors.items()}
    params = Params(
        len(starts) - 1, *inputs.shape, 4, objective.negatives if sampled else 0,
        1 + objective.negatives if sampled else objective.longest, 11, 5, rate, cbow, mean,
    )  # fmt: skip
    for name, buffer in buffers.items():
        setattr(params, name, buffer.pointer)
    library.call("genlab_word2vec", ctypes.byref(params), ctypes.c_int64(len(text)), int(one_warp))
    for name, buffer in buffers.items():
        buffer.check(name)
        if name in READ:
            assert torch.equal(buffer.tensor, tensors[name]), name
    return tuple(buffers[name].tensor for name in WRITTEN)


def written_out(given, cbow: bool, mean: bool = False, rate: float = 0.1):
    inputs, outputs, text, starts, keep, objective = given
    tables = (inputs.clone(), outputs.clone())
    totals = word2vec_step(
        *tables, text, starts, objective, lr=rate, architecture="cbow" if cbow else "skip_gram", window=4, keep=keep,
        mean_gradient=mean, key=5, position=11, impl="reference",
    )  # fmt: skip
    return *tables, torch.tensor(totals, dtype=torch.float64)


def wrong(found, expected) -> str:
    for name, one, other in zip(WRITTEN, found, expected, strict=True):
        if not torch.allclose(one, other, rtol=1e-5, atol=3e-6):
            return name
    return ""


def test_the_structure_is_declared_as_the_kernel_sees_it(library) -> None:
    size = library.value("genlab_word2vec_params_size", ctypes.c_int64)
    assert size == ctypes.sizeof(Params)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("sampled", [True, False], ids=["negative_sampling", "hierarchical_softmax"])
@pytest.mark.parametrize(("cbow", "mean"), [(False, False), (True, False), (True, True)])
def test_one_warp_does_what_is_written_out(library, cbow, mean, sampled, seed) -> None:
    library.configure(seed)
    given = problem(sampled)
    assert wrong(run(library, given, cbow, mean=mean), written_out(given, cbow, mean)) == ""


@pytest.mark.parametrize("d", [1, 31, 32, 100])
def test_every_length_of_a_vector(library, d) -> None:
    given = problem(True, length=30, d=d)
    assert wrong(run(library, given), written_out(given, False)) == ""


@pytest.mark.parametrize("sampled", [True, False], ids=["negative_sampling", "hierarchical_softmax"])
@pytest.mark.parametrize("cbow", [False, True])
def test_many_warps_count_the_same_and_learn(library, cbow, sampled) -> None:
    given = problem(sampled)
    *_, totals = written_out(given, cbow, rate=0.0)
    *tables, found = run(library, given, cbow, one_warp=False, rate=0.0)
    assert wrong((*tables, found), (*given[:2], totals)) == ""
    inputs, outputs, first = run(library, given, cbow, one_warp=False)
    *_, second = run(library, (inputs, outputs, *given[2:]), cbow, one_warp=False)
    assert second[0] < first[0] and torch.equal(second[1:], totals[1:])


@pytest.mark.parametrize(("sampled", "most"), [(True, 512), (False, 64)])
def test_no_more_predictions_are_under_way_than_shared_rows_bear(library, sampled, most) -> None:
    library.take_counters()
    run(library, problem(sampled, length=3000), one_warp=False)
    assert library.take_counters()["blocks"] * 2 == most  # of two warps each


def test_vectors_that_do_not_fit_are_refused(library) -> None:
    given = problem(True, length=4, d=7000)
    with pytest.raises(KernelFault, match="expected vectors, windows and targets of at most 49152 bytes together"):
        run(library, given)


FAULTS = {
    "the_context_is_laid_over_the_sentences_end": ("place < p.starts[sentence + 1]", "place < p.starts[p.sentences]"),
    "noise_that_is_the_word_itself_counts": ("noise == word ? -1 : noise", "noise"),
    "rows_move_by_stale_slopes": (
        "  __syncwarp();\n  for (int64_t i = 0; i < count; ++i) {\n    if (room.rows[i] < 0)",
        "  for (int64_t i = 0; i < count; ++i) {\n    if (room.rows[i] < 0)",
    ),
    "subsampling_forgets_the_position_of_the_block": (
        "const uint64_t coin = word2vec_draw(word2vec_state(p.key, p.position + at)",
        "const uint64_t coin = word2vec_draw(word2vec_state(p.key, at)",
    ),
    "the_last_numbers_of_a_vector_are_left_out": (
        "room.x[at] = row[at];",
        "room.x[at] = at < p.d / 32 * 32 ? row[at] : 0;",
    ),
}


def outcome(library: Library, seed: int) -> str:
    library.configure(seed)
    try:
        found = [wrong(run(library, given), written_out(given, False)) for given in (problem(True), problem(False))]
    except KernelFault as fault:
        return str(fault)
    return "; ".join(filter(None, found))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught_under_every_schedule(name: str) -> None:
    old, new = FAULTS[name]
    text = (CSRC / "kernels" / KERNEL).read_text()
    assert old in text, f"{KERNEL} no longer holds the text that this test changes: {old}"
    changed = {f"kernels/{KERNEL}": text.replace(old, new)}
    library = Library(build(SOURCE, flags=("-O0", "-Wno-error", "-w"), extra=changed))
    found = [apart(lambda s=seed: outcome(library, s)) for seed in range(2)]
    assert all(found), found


def test_the_right_kernel_raises_no_alarm(library) -> None:
    assert [outcome(library, seed) for seed in range(2)] == ["", ""]
    library.configure()
