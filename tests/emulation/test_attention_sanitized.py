"""The attention kernels' source under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from emulation_harness import SANITIZE, build

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return build(HERE / "sanitized_attention.cpp", flags=("-O0", *SANITIZE), program=True)
    except RuntimeError as error:
        if "cannot find" in str(error):  # the linker's words for a compiler without the sanitizers' libraries
            pytest.skip("the compiler has no sanitizer libraries")
        raise


def test_attention_is_clean(program: Path) -> None:
    result = subprocess.run([program], capture_output=True, text=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]


def test_a_read_past_the_end_is_found(program: Path) -> None:
    result = subprocess.run([program, "short"], capture_output=True, text=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr
