"""The attention kernels' own CUDA source, run on the host against float64: values, bounds, schedules."""

from __future__ import annotations

import ctypes
import dataclasses
import mmap

import pytest
import torch
from attention_problem import (
    FORWARD_TOLERANCE,
    SEED,
    AttentionBackwardParams,
    AttentionParams,
    AttentionProblem,
    AttentionTensor,
    Problem,
    kept_weights,
    philox,
    relative_error,
)
from emulation_harness import CSRC, KernelFault, Library, build
from test_seeded_faults import MAP_NORESERVE, apart

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
IDS = ["bf16", "fp16", "fp32"]

LENGTHS = [
    Problem(queries=queries, keys=keys, head_dim=head_dim, heads=1, causal=causal)
    for queries, keys, head_dim, causal in [
        *[(1, 1, 16, False), (1, 1, 64, True), (63, 65, 40, False), (64, 64, 64, True), (65, 63, 32, False)],
        *[(197, 197, 64, False), (129, 150, 80, True), (70, 20, 128, True), (20, 140, 24, True), (1, 197, 96, False)],
    ]
]
DIMS = [(1, 1), (16, 128), (40, 8), (64, 80), (72, 96), (96, 64), (128, 16), (128, 128), (33, 31)]
WIDTHS = [Problem(queries=33, keys=47, head_dim=head, value_dim=value, heads=1) for head, value in DIMS]
VARIANTS = [
    Problem(heads=4, kv_heads=2, batch=2, queries=30, keys=40, head_dim=32),
    Problem(heads=6, kv_heads=1, queries=17, keys=70, head_dim=16, causal=True, dropout=0.2),
    Problem(layout="heads last", batch=2, head_dim=40),
    Problem(layout="heads last", head_dim=20, value_dim=36, offset=2),
    Problem(offset=1, head_dim=64, queries=40, keys=35),
    Problem(scale=0.3, head_dim=48, causal=True),
    Problem(scale=-0.2, head_dim=32),
    Problem(scale=0.0, head_dim=32, causal=True),
]
MASKS = [
    Problem(mask="boolean", batch=2, heads=2, head_dim=32, queries=40),
    Problem(mask="boolean", hidden_rows=True, head_dim=128, queries=40, keys=50),
    Problem(mask="padding", batch=2, head_dim=64, queries=35, keys=100),
    Problem(mask="additive", hidden_rows=True, head_dim=40, heads=4, kv_heads=2, queries=35),
    Problem(mask="additive float32", head_dim=96, queries=35),
    Problem(mask="additive", causal=True, head_dim=64, queries=80, keys=100),
]
DROPOUT = [
    Problem(dropout=0.1, batch=2, head_dim=64),
    Problem(dropout=0.5, causal=True, head_dim=80, queries=100, keys=70),
    Problem(dropout=0.3, mask="additive", hidden_rows=True, heads=4, kv_heads=2, head_dim=16, queries=30),
    Problem(dropout=1.0, head_dim=32, queries=20, keys=30),
]


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(build(CSRC / "emulation" / "attention.cpp"))


def test_the_parameter_structs_match_the_header(library: Library) -> None:
    sizes = (ctypes.c_int64 * 3)()
    library.value("attention_params_sizes", None, sizes)
    structs = (AttentionProblem, AttentionParams, AttentionBackwardParams)
    assert list(sizes) == [ctypes.sizeof(struct) for struct in structs]


@pytest.mark.parametrize("problem", [*LENGTHS, *WIDTHS, *VARIANTS, *MASKS, *DROPOUT], ids=str)
def test_forward_and_backward_in_bfloat16(library: Library, problem: Problem) -> None:
    assert problem.wrong(library) == {}


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=IDS[1:])
@pytest.mark.parametrize("problem", [LENGTHS[2], LENGTHS[7], WIDTHS[4], WIDTHS[8], *MASKS[1:4], *DROPOUT[:3]], ids=str)
def test_forward_and_backward_in_the_other_types(library: Library, problem: Problem, dtype: torch.dtype) -> None:
    assert dataclasses.replace(problem, dtype=dtype).wrong(library) == {}


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=[*IDS, "fp64"])
@pytest.mark.parametrize(
    "problem",
    [
        Problem(queries=20, keys=37, head_dim=17, value_dim=5, heads=4, kv_heads=2, causal=True, offset=1),
        Problem(queries=9, keys=33, head_dim=8, mask="additive", hidden_rows=True, dropout=0.3, batch=2),
        Problem(queries=3, keys=5, head_dim=140, value_dim=200, heads=1, mask="boolean", layout="heads last"),
    ],
    ids=str,
)
def test_attention_by_definition(library: Library, problem: Problem, dtype: torch.dtype) -> None:
    assert dataclasses.replace(problem, dtype=dtype).wrong(library, direct=True) == {}


def test_float32_keeps_the_digits_of_float32(library: Library) -> None:
    """Three products of tf32 parts: no further from float64 than torch's own float32 by a factor of two."""
    problem = Problem(queries=65, keys=130, head_dim=64, heads=1, dtype=torch.float32)
    expected, given = problem.reference()["output"], problem.inputs()
    of_torch = torch.softmax(given["query"] @ given["key"].transpose(-1, -2) / 8, -1) @ given["value"]
    found = problem.run(library, backward=False)["output"]
    assert relative_error(found, expected) < 2 * relative_error(of_torch, expected)


@pytest.mark.parametrize("direct", [False, True], ids=["tensor_cores", "by_definition"])
def test_no_keys_give_zeros(library: Library, direct: bool) -> None:
    found = Problem(queries=70, keys=0, head_dim=40).run(library, direct=direct)
    assert found["output"].eq(0).all() and found["grad_query"].eq(0).all()
    assert found["lse"].eq(-torch.inf).all()


@pytest.mark.parametrize("direct", [False, True], ids=["tensor_cores", "by_definition"])
@pytest.mark.parametrize("causal", [False, True])
def test_no_queries_give_zero_gradients(library: Library, direct: bool, causal: bool) -> None:
    found = Problem(queries=0, keys=70, head_dim=40, causal=causal).run(library, direct=direct)
    assert found["grad_key"].eq(0).all() and found["grad_value"].eq(0).all()


@pytest.mark.parametrize("direct", [False, True])
def test_no_query_heads_give_zero_gradients(library: Library, direct: bool) -> None:
    found = Problem(heads=0, kv_heads=2, queries=4, keys=20, head_dim=16).run(library, direct=direct)
    assert found["grad_key"].shape[1] == found["grad_value"].shape[1] == 2
    assert found["grad_key"].eq(0).all() and found["grad_value"].eq(0).all()


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"heads": 0}, {"queries": 0, "keys": 0}], ids=str)
def test_nothing_is_done_where_nothing_is_there(library: Library, sizes: dict) -> None:
    problem = dataclasses.replace(Problem(queries=5, keys=6, head_dim=16), **sizes)
    library.take_counters()
    assert all(tensor.numel() == 0 for tensor in problem.run(library).values())
    assert library.take_counters()["blocks"] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_rows_without_a_key_are_exactly_zero(library: Library, dtype: torch.dtype) -> None:
    problem = Problem(mask="boolean", hidden_rows=True, head_dim=32, queries=70, dtype=dtype)
    found = problem.run(library)
    assert found["output"][:, :, ::5].eq(0).all() and found["grad_query"][:, :, ::5].eq(0).all()
    assert found["lse"][:, :, ::5].eq(-torch.inf).all()
    assert not any(tensor.isnan().any() for tensor in found.values())


def test_a_mask_of_the_least_finite_number_leaves_the_mean_of_the_values(library: Library) -> None:
    """Scores near -3.4e38 must not become -infinity on their way to the base of the exponential."""
    problem = LeastMask(queries=5, keys=33, head_dim=16, heads=1, mask="additive float32")
    mean = problem.inputs()["value"].double().mean(2, keepdim=True).expand(1, 1, 5, 16)
    found = problem.run(library, backward=False)["output"]
    assert relative_error(found, mean) < FORWARD_TOLERANCE[torch.bfloat16]


class LeastMask(Problem):
    def mask_tensor(self) -> torch.Tensor:
        return torch.full((1, self.heads, self.queries, self.keys), torch.finfo(torch.float32).min)


@pytest.mark.parametrize("unwanted", ["grad_query", "grad_key", "grad_value", "grad_mask"])
@pytest.mark.parametrize("direct", [False, True], ids=["tensor_cores", "by_definition"])
def test_gradients_that_are_not_wanted_are_left_out(library: Library, direct: bool, unwanted: str) -> None:
    problem = Problem(queries=20, keys=30, head_dim=16, heads=1, mask="additive")
    every = problem.run(library, direct=direct)
    some = problem.run(library, direct=direct, unwanted=(unwanted,))
    assert set(every) - set(some) == {unwanted}
    assert all(torch.equal(some[name], every[name]) for name in some)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("extras", [False, True], ids=["plain", "mask_and_dropout"])
def test_every_legal_schedule_gives_the_same_bits(library: Library, extras: bool, dtype: torch.dtype) -> None:
    more = {"mask": "additive", "dropout": 0.2} if extras else {}
    problem = Problem(queries=130, keys=70, heads=2, kv_heads=1, head_dim=24, causal=True, dtype=dtype, **more)
    results = []
    for seed, early in [(1, False), (2, True), (3, False)]:
        library.configure(seed, early)
        results.append(problem.run(library))
    library.configure()
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


def test_dropout_draws_philox_and_forward_and_backward_agree(library: Library) -> None:
    """The generator's published answer, and weights read off one by one: value is the identity."""
    zero = torch.zeros(1, dtype=torch.int64).numpy().astype("uint64")
    assert [int(word[0]) for word in philox([zero] * 4, 0)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    problem = Identity(queries=40, keys=48, head_dim=16, value_dim=48, heads=2, dropout=0.4, dtype=torch.float32)
    kept = kept_weights(80, 48, 0.4).view(1, 2, 40, 48)
    found = problem.run(library)
    assert torch.equal(found["output"] != 0, kept != 0)
    assert problem.wrong(library) == {}
    assert 0.5 < kept.mean() < 0.7
    assert SEED[0] > 2**32, "both words of the key are in use"


class Identity(Problem):
    def inputs(self) -> dict[str, torch.Tensor]:
        identity = torch.eye(self.keys).expand(1, self.heads, self.keys, self.keys)
        return super().inputs() | {"value": identity.contiguous()}


def test_shared_memory_is_read_without_bank_conflicts(library: Library) -> None:
    library.take_counters()
    for dtype in DTYPES:
        for head_dim in (32, 64, 96, 128):
            Problem(queries=33, keys=33, heads=1, head_dim=head_dim, dtype=dtype).run(library)
    counters = library.take_counters()
    assert counters["matrix_loads"] > 0
    assert counters["bank_conflicts"] == 0


def test_blocks_above_the_diagonal_are_skipped(library: Library) -> None:
    """Two tiles of 128 queries: of 4 x 4 blocks of 64 keys the first needs two, the second all four."""
    problem = Problem(queries=256, keys=256, heads=1, head_dim=64)
    products = {}
    for causal in (False, True):
        library.take_counters()
        dataclasses.replace(problem, causal=causal).run(library, backward=False)
        products[causal] = library.take_counters()["matrix_products"]
    assert products[False] == 2 * 256 * 256 * 64 // (16 * 8 * 16)
    assert products[True] * 4 == products[False] * 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": torch.float64}, "float64"),
        ({"head_dim": 129}, "above 128"),
        ({"value_dim": 136}, "above 128"),
    ],
)
def test_what_the_tensor_core_kernels_cannot_do_is_refused_and_runs_by_definition(
    library: Library, changes: dict, reason: str
) -> None:
    problem = dataclasses.replace(Problem(queries=5, keys=9, head_dim=16), **changes)
    kinds = {torch.float64: 1}
    struct = AttentionProblem(
        batch=1, heads=2, kv_heads=2, queries=5, keys=9, head_dim=problem.head_dim,
        value_dim=problem.value_dim or problem.head_dim, dtype=kinds.get(problem.dtype, 2),
    )  # fmt: skip
    refusal = library.value("refusal_of_flash", ctypes.c_char_p, ctypes.byref(struct))
    assert refusal is not None and reason in refusal.decode()
    assert problem.wrong(library) == {}


def far_heads(library: Library) -> str:
    """Two heads more than 2^31 elements apart; the memory between them is never touched."""
    distance, rows, columns = 2**31 + 4096, 20, 16
    span = 2 * distance + 2**20
    try:
        memory = mmap.mmap(-1, 4 * span, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    except (OSError, ValueError) as error:
        return f"no address space: {error}"
    flat = torch.frombuffer(memory, dtype=torch.bfloat16)
    problem = Problem(queries=rows, keys=rows, head_dim=columns)
    params = AttentionParams(
        problem=AttentionProblem(
            batch=1, heads=2, kv_heads=2, queries=rows, keys=rows, head_dim=columns, value_dim=columns, dtype=2,
            scale=columns**-0.5,
        )
    )  # fmt: skip
    placed = {}
    for index, name in enumerate(("query", "key", "value", "output")):
        # In the upper half, so that an offset that wraps to a negative one still reads mapped memory.
        placed[name] = flat[span + index * 2**12 :].as_strided((1, 2, rows, columns), (0, distance, columns, 1))
        if name != "output":
            placed[name].copy_(problem.inputs()[name])
        setattr(params, name, AttentionTensor(placed[name].data_ptr(), (ctypes.c_int64 * 3)(0, distance, columns)))
    lse = torch.empty(2, rows)
    params.lse = lse.data_ptr()
    try:
        library.call("run_forward", ctypes.byref(params))
    except KernelFault as fault:
        return str(fault)
    error = relative_error(placed["output"], problem.reference()["output"])
    return "" if error < FORWARD_TOLERANCE[torch.bfloat16] else f"wrong result: relative error {error:.1e}"


def test_offsets_above_two_to_the_31_are_right(library: Library) -> None:
    found = apart(lambda: far_heads(library))
    if found.startswith("no address space"):
        pytest.skip(found)
    assert found == ""
