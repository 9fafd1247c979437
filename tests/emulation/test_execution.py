"""The emulation itself: what a kernel may rely on holds, and what it may not do is reported."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from emulation_harness import CSRC, Guarded, KernelFault, Library, build

SOURCE = Path(__file__).parent / "small_kernels.cpp"


@pytest.fixture(scope="module", params=[(), ("-DGENLAB_EMULATION_UCONTEXT",)], ids=["switch", "ucontext"])
def library(request: pytest.FixtureRequest) -> Library:
    return Library(build(SOURCE, flags=("-O1", *request.param)))


def run(library: Library, name: str, *tensors: torch.Tensor) -> None:
    library.call(f"run_{name}", *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors))


@pytest.mark.parametrize("seed", range(4))
def test_shared_memory_and_barrier_transpose_a_tile(library: Library, seed: int) -> None:
    library.configure(seed)
    image, out = torch.randn(32, 32), torch.empty(32, 32)
    run(library, "transpose", image, out)
    assert torch.equal(out, image.t() + 1)


def test_a_missing_barrier_gives_nan_under_every_seed(library: Library) -> None:
    image, out = torch.randn(32, 32), torch.zeros(32, 32)
    for seed in range(20):
        library.configure(seed)
        run(library, "transpose_without_barrier", image, out)
        assert out.isnan().any()


@pytest.mark.parametrize("seed", range(4))
def test_warp_collectives_follow_the_programming_guide(library: Library, seed: int) -> None:
    library.configure(seed)
    values = torch.randint(0, 100, (32,), dtype=torch.int32)
    out = torch.zeros(32, 8, dtype=torch.int32)
    run(library, "warp", values, out)
    v = values.tolist()
    ballot = sum(1 << lane for lane in range(32) if v[lane] > 50)
    ballot -= (ballot >> 31) << 32
    for lane in range(32):
        expected = [
            v[lane ^ 5],
            v[lane - 3] if lane % 16 >= 3 else v[lane],
            v[lane + 2] if lane % 8 < 6 else v[lane],
            v[lane // 16 * 16 + 9],
            ballot,
            2,
            sum(v),
            max(v[:16]) if lane < 16 else min(v[16:]),
        ]
        assert out[lane].tolist() == expected


def test_votes_of_the_block(library: Library) -> None:
    out = torch.zeros(3, dtype=torch.int32)
    run(library, "vote", out)
    assert out.tolist() == [40, 1, 1]


def test_atomics_of_several_blocks(library: Library) -> None:
    sums, ticket, real = torch.zeros(2, dtype=torch.int32), torch.zeros(1, dtype=torch.int32), torch.zeros(1)
    run(library, "atomics", sums, ticket, real)
    assert sums.tolist() == [150, 49]
    assert ticket.item() == 150 % 7
    assert real.item() == 75.0


def test_ended_threads_count_as_arrived(library: Library) -> None:
    out = torch.full((100,), -1, dtype=torch.int32)
    run(library, "early_exit", out)
    assert out[:32].tolist() == [7] * 32
    assert out[32:35].tolist() == [-1] * 3
    assert out[35:64].tolist() == [39] * 29
    assert out[64:70].tolist() == [-1] * 6  # lane 7 of the third warp has ended: the shuffle gives all-ones bytes


def test_every_thread_of_the_grid_runs_once(library: Library) -> None:
    out = torch.zeros(12 * 30, dtype=torch.int32)
    run(library, "index", out)
    assert out.tolist() == [1] * 360


def test_the_seed_sets_the_order_of_warps(library: Library) -> None:
    orders = set()
    for seed in (1, 2, 3, 1):
        library.configure(seed)
        counter, order = torch.zeros(1, dtype=torch.int32), torch.zeros(256, dtype=torch.int32)
        run(library, "order", counter, order)
        orders.add(tuple(order.tolist()))
    assert len(orders) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("barrier_in_branch", r"deadlock .*barrier 0 at library\.cpp:\d+ has 40 of 64 .*misses lanes 0 1 2 3 4 5 6 7;"),
        ("two_barriers", "divergent barrier"),
        ("mixed_collectives", "different collectives"),
        ("not_in_mask", "not in its own mask"),
        ("shared_overrun", "between two arrays was overwritten"),
    ],
)
def test_a_fault_is_reported(library: Library, name: str, message: str) -> None:
    with pytest.raises(KernelFault, match=message):
        run(library, name)


def test_a_misaligned_access_is_reported_with_block_and_thread(library: Library) -> None:
    with pytest.raises(KernelFault, match=r"block \(0, 0, 0\) thread \(\d+, 0, 0\): atomicAdd: .*multiple of 4"):
        run(library, "misaligned", torch.zeros(16, dtype=torch.uint8))


def test_unwritten_shared_memory_is_nan(library: Library) -> None:
    out = torch.zeros(64)
    run(library, "uninitialised", out)
    assert out.isnan().all()


@pytest.mark.parametrize(("blocks", "threads", "shared"), [(70000, 32, 0), (1, 1025, 0), (0, 32, 0), (1, 32, 49153)])
def test_a_launch_that_the_device_refuses_is_refused(library: Library, blocks: int, threads: int, shared: int) -> None:
    with pytest.raises(KernelFault, match="invalid configuration"):
        library.call("run_refused", blocks, threads, ctypes.c_uint64(shared))


def test_canaries_report_a_write_outside_the_buffer() -> None:
    buffer = Guarded(torch.zeros(3, 5))
    buffer.check()
    memory = (ctypes.c_float * 16).from_address(buffer.pointer)
    memory[15] = 1.0
    with pytest.raises(KernelFault, match="above x"):
        buffer.check("x")


def test_emulation_files_stay_readable() -> None:
    for path in (CSRC / "emulation").glob("*"):
        assert len(path.read_text().splitlines()) <= 400, path
