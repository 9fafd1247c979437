"""The kernels' source under AddressSanitizer and UndefinedBehaviorSanitizer, with fibers announced to the former."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from emulation_harness import CSRC, SANITIZE, build

HERE = Path(__file__).parent


CONVOLUTIONS = ["direct", "implicit_gemm", "activation_implicit_gemm", "implicit_gemm_weight"]
CONVOLUTIONS += ["norm_implicit_gemm", "norm_gradient_implicit_gemm", "norm_weight_implicit_gemm"]
PROGRAMS = {
    "sanitized": [f"conv2d_{name}" for name in CONVOLUTIONS],
    "sanitized_optimizer": ["optimizer_multi_tensor"],
}


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> Path:
    kernels = [CSRC / "kernels" / f"{name}.cu" for name in PROGRAMS[request.param]]
    try:
        return build(HERE / f"{request.param}.cpp", flags=("-O0", *SANITIZE), beside=kernels, program=True)
    except RuntimeError as error:
        if "cannot find" in str(error):  # the linker's words for a compiler without the sanitizers' libraries
            pytest.skip("the compiler has no sanitizer libraries")
        raise


def test_the_kernels_are_clean(program: Path) -> None:
    result = subprocess.run([program], capture_output=True, text=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]


def test_a_read_past_the_end_is_found(program: Path) -> None:
    result = subprocess.run([program, "short"], capture_output=True, text=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr
