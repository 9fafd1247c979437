"""What nvcc makes of the kernels, checked without a GPU: no warnings, no spills, tensor cores where they belong."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from genlab import build

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc/kernels").glob("*.cu"))
FUNCTION = re.compile(r"Compiling entry function '(\w+)' for '(sm_\d+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
RECURRENCE = re.compile(
    r"recurrence_(persistent_mma|persistent_float|per_step)_(forward|backward)_kernel"
)  # the scans, less what prepares them
ARCHITECTURES = {"sm_80", "sm_90"}
MATRIX_KERNEL = re.compile(r"gemm_kernel|attention_(forward|backward_query|backward_key)_kernel")
MATRIX_SOURCE = re.compile(r"_implicit_gemm|attention_flash_")
# Of attention: the last template argument says whether the kernel knows masks and dropout.
WITH_EXTRAS = re.compile(r"attention_\w+_kernel\w+Lb1EEEv")


@pytest.fixture(scope="module", params=SOURCES, ids=lambda path: path.stem)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A source, its object file for both architectures, and what ptxas says of it."""
    home = build.find_cuda_home()
    if home is None:
        pytest.skip("nvcc is not there")
    target = tmp_path_factory.mktemp("kernels") / "kernel.o"
    command = [
        f"{home}/bin/nvcc", "-c", "-O3", "-std=c++17", "-Werror=all-warnings", "-Xptxas", "-v", f"-I{ROOT / 'csrc'}",
        "-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=sm_90", str(request.param), "-o",
        str(target),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return request.param, target, done.stdout + done.stderr


def disassembler() -> str:
    """cuobjdump of the toolkit, or the one that triton carries; skips where there is neither."""
    places = [f"{build.find_cuda_home()}/bin"]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        places.append(str(Path(triton.origin).parent / "backends/nvidia/bin"))
    for place in (None, *places):
        found = shutil.which("cuobjdump", path=place)
        if found is not None:
            return found
    pytest.skip("cuobjdump is not there")


def test_sources_compile_without_warnings_and_matrix_kernels_without_spills(compiled: tuple[Path, Path, str]) -> None:
    _, _, log = compiled
    functions = FUNCTION.findall(log)
    spills = SPILLS.findall(log)
    assert len(functions) == len(spills) > 0
    assert {architecture for _, architecture in functions} == ARCHITECTURES
    for (name, architecture), (stores, loads) in zip(functions, spills, strict=True):
        if WITH_EXTRAS.search(name):
            assert int(stores) <= 32, f"{name} for {architecture}"
        elif MATRIX_KERNEL.search(name) or "optimizer_" in name or RECURRENCE.search(name):
            assert (stores, loads) == ("0", "0"), f"{name} for {architecture}"
        else:
            # ptxas keeps a word or two of a memory-bound kernel in local memory to run one more block: not a defect.
            assert int(stores) <= (32 if "direct" in name else 16), f"{name} for {architecture}"


def test_matrix_kernels_use_tensor_cores_and_asynchronous_copies(compiled: tuple[Path, Path, str]) -> None:
    source, target, log = compiled
    if MATRIX_SOURCE.search(source.stem) is None:
        assert MATRIX_KERNEL.search(log) is None, "a matrix kernel in a file of another name escapes this test"
        return
    text = subprocess.run([disassembler(), "-sass", str(target)], capture_output=True, text=True, check=True).stdout
    kernels = [part for part in text.split("Function : ")[1:] if MATRIX_KERNEL.search(part.split("\n", 1)[0])]
    assert len(kernels) == sum(MATRIX_KERNEL.search(name) is not None for name, _ in FUNCTION.findall(log)) > 0
    for body in kernels:
        name = body.split("\n", 1)[0].strip()
        assert "HMMA" in body, name
        # tf32 operands of the weight gradient are transposed by plain loads: ldmatrix transposes 16-bit elements only.
        assert "LDSM" in body or name.startswith("_ZN6genlab18weight_gemm_kernelIf"), name
        # The last template argument says whether both operands, or the weights alone, come in 16-byte copies.
        assert "LDGSTS" in body or (name.startswith("_ZN6genlab18weight_gemm_kernel") and "Lb0EE" in name), name
        if not WITH_EXTRAS.search(name):
            assert not re.search(r"\b(STL|LDL)\b", body), f"{name} uses local memory"


def test_scans_in_16_bits_use_tensor_cores_and_keep_to_registers(compiled: tuple[Path, Path, str]) -> None:
    source, target, log = compiled
    names = [name for name, _ in FUNCTION.findall(log) if RECURRENCE.search(name)]
    if not names:
        assert source.stem not in {f"recurrence_{name}" for name in ("persistent", "persistent_backward", "per_step")}
        return
    text = subprocess.run([disassembler(), "-sass", str(target)], capture_output=True, text=True, check=True).stdout
    kernels = [part for part in text.split("Function : ")[1:] if RECURRENCE.search(part.split("\n", 1)[0])]
    assert len(kernels) == len(names)
    for body in kernels:
        name = body.split("\n", 1)[0].strip()
        half, persistent = "Float16" in name, "persistent_mma" in name
        assert ("HMMA" in body) == half, name  # float32 is exact
        assert ("LDSM" in body and "LDGSTS" in body) == (half and persistent), name
        assert half or "FFMA" in body, name
        assert not re.search(r"\b(STL|LDL)\b", body), f"{name} uses local memory"
