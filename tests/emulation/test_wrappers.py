"""Each PTX wrapper: the emulation against the PTX manual and, on a GPU, the hardware against the emulation."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch
from emulation_harness import CSRC, Library
from emulation_harness import build as build_on_host

from genlab import build

SOURCE = Path(__file__).parent / "wrapper_kernels.cu"
WRAPPERS = [
    *("load_matrices", "multiply_bfloat16", "multiply_float16", "multiply_tf32", "round_to_tf32", "async_copy"),
    *("pack_pair_bfloat16", "pack_pair_float16", "exp2_approximate", "collectives"),
]
OUTPUT_WORDS = 1024


def integers(*shape: int) -> torch.Tensor:
    """Integers whose products and sums of products are exact in every type here."""
    return torch.randint(-8, 9, shape)


def inputs(name: str) -> torch.Tensor:
    """4096 bytes for a kernel."""
    if name in ("multiply_bfloat16", "multiply_float16"):
        dtype = torch.bfloat16 if "bfloat16" in name else torch.float16
        data = integers(24, 16).to(dtype)
    elif name == "multiply_tf32":
        data = integers(24, 8).float()
    elif name == "round_to_tf32":
        data = torch.cat((torch.randn(1020), torch.tensor([torch.inf, -torch.inf, 0.0, 3.4e38])))
    elif name.startswith("pack_pair"):
        data = torch.cat((torch.randn(1000), torch.randn(20) * 1e-6, torch.tensor([torch.inf, -0.0, 3.4e38, 65519.0])))
    elif name == "exp2_approximate":
        data = torch.cat((torch.randn(1000) * 40, -torch.rand(20), torch.tensor([-torch.inf, torch.inf, 0.0, -140.0])))
    elif name == "collectives":
        data = torch.randint(1, 1000, (1024,), dtype=torch.int32)
    else:
        data = torch.randint(0, 256, (4096,), dtype=torch.uint8)
    raw = torch.zeros(4096, dtype=torch.uint8)
    data = data.contiguous().view(torch.uint8).flatten()
    raw[: data.numel()] = data
    return raw


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(build_on_host(SOURCE))


def emulated(library: Library, name: str, data: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(OUTPUT_WORDS, dtype=torch.int32)
    library.call(f"run_{name}", ctypes.c_void_p(data.data_ptr()), ctypes.c_void_p(out.data_ptr()))
    return out


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "tf32"])
def test_multiply_accumulate_is_the_matrix_product(library: Library, dtype: str) -> None:
    data = inputs(f"multiply_{dtype}")
    element = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32}[dtype]
    matrix = data[: 24 * 32].view(element).reshape(24, -1).double()
    start = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat_interleave(8, 0).repeat(1, 4)
    found = emulated(library, f"multiply_{dtype}", data)[:128].view(torch.float32).reshape(16, 8)
    assert torch.equal(found.double(), start.double() + matrix[:16] @ matrix[16:].t())


def test_load_matrices_hands_out_rows_and_transposed_rows(library: Library) -> None:
    data = inputs("load_matrices")
    matrices = data[:512].view(torch.int16).reshape(4, 8, 8)
    found = emulated(library, "load_matrices", data)[:256].view(torch.int16).reshape(32, 2, 4, 2)
    for lane in range(32):
        row, pair = lane // 4, 2 * (lane % 4)
        assert torch.equal(found[lane, 0], matrices[:, row, pair : pair + 2])
        assert torch.equal(found[lane, 1], matrices[:, pair : pair + 2, row])


def test_round_to_tf32_keeps_ten_bits_and_rounds_ties_away(library: Library) -> None:
    data = inputs("round_to_tf32")
    data[:8] = torch.tensor([1 + 2**-11, -1 - 2**-11]).view(torch.uint8)
    found = emulated(library, "round_to_tf32", data).view(torch.float32)
    given = data.view(torch.float32)
    assert found[:2].tolist() == [1 + 2**-10, -1 - 2**-10]
    assert ((found.view(torch.int32) & 0x1FFF) == 0).all()
    assert ((found - given).abs() <= given.abs() * 2**-11)[2:1020].all()
    assert found[1020:1022].tolist() == [torch.inf, -torch.inf]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_pairs_are_rounded_as_torch_rounds_and_lie_in_order(library: Library, dtype: torch.dtype) -> None:
    name = f"pack_pair_{str(dtype).removeprefix('torch.')}"
    data = inputs(name)
    found = emulated(library, name, data)[:512].view(dtype)
    assert torch.equal(found.view(torch.int16), data.view(torch.float32).to(dtype).view(torch.int16))


def assert_exp2(found: torch.Tensor, given: torch.Tensor) -> None:
    expected = given.double().exp2()
    expected[expected < torch.finfo(torch.float32).tiny] = 0
    finite = expected.isfinite() & (expected < torch.finfo(torch.float32).max)
    assert ((found.double() - expected).abs() <= 2 * 2**-23 * expected)[finite].all()
    assert found[~finite].eq(torch.inf).all()


def test_exp2_is_within_two_units_of_the_last_place(library: Library) -> None:
    data = inputs("exp2_approximate")
    assert_exp2(emulated(library, "exp2_approximate", data).view(torch.float32), data.view(torch.float32))


@pytest.mark.parametrize("early_copies", [False, True])
def test_async_copies_bring_the_valid_bytes_and_zeros(library: Library, early_copies: bool) -> None:
    library.configure(early_copies=early_copies)
    data = inputs("async_copy")
    found = emulated(library, "async_copy", data).view(torch.uint8)[: 512 + 384]
    library.configure()
    expected = data[:896].clone()
    for first, size in ((0, 16), (512, 8), (768, 4)):
        for lane in range(32):
            expected[first + lane * size + lane % (size + 1) : first + (lane + 1) * size] = 0
    expected[512:] = expected[512:].reshape(32, 12).flip(0).flatten()
    assert torch.equal(found, expected)


@pytest.mark.cuda
@pytest.mark.parametrize("name", WRAPPERS)
def test_the_gpu_does_what_the_emulation_does(library: Library, tmp_path: Path, name: str) -> None:
    home = build.find_cuda_home()
    if home is None:
        pytest.skip("nvcc is not there")
    target = tmp_path / "wrappers.so"
    major, minor = torch.cuda.get_device_capability()
    target_flags = ["-shared", "-Xcompiler", "-fPIC", f"-arch=sm_{major}{minor}"]
    command = [f"{home}/bin/nvcc", "-std=c++17", f"-I{CSRC}", *target_flags]
    subprocess.run([*command, str(SOURCE), "-o", str(target)], check=True)
    data = inputs(name)
    on_device, out = data.cuda(), torch.zeros(OUTPUT_WORDS, dtype=torch.int32, device="cuda")
    function = getattr(ctypes.CDLL(str(target)), f"run_{name}")
    assert function(ctypes.c_void_p(on_device.data_ptr()), ctypes.c_void_p(out.data_ptr())) == 0
    torch.cuda.synchronize()
    if name == "exp2_approximate":
        assert_exp2(out.cpu().view(torch.float32), data.view(torch.float32))
    else:
        assert torch.equal(out.cpu(), emulated(library, name, data))
