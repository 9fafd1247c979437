"""The scans' source under AddressSanitizer and UndefinedBehaviorSanitizer, with fibers announced to the former."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from emulation_harness import SANITIZE, build
from recurrence_problem import SMALLEST_SIZE, patched

SOURCE = Path(__file__).parent / "recurrence_sanitized.cpp"


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        extra = patched({"persistent_launch.h": SMALLEST_SIZE})
        return build(SOURCE, flags=("-O0", "-w", *SANITIZE), extra=extra, program=True)
    except RuntimeError as error:
        if "cannot find" in str(error):  # the linker's words for a compiler without the sanitizers' libraries
            pytest.skip("the compiler has no sanitizer libraries")
        raise


def test_the_scans_are_clean(program: Path) -> None:
    result = subprocess.run([program], capture_output=True, text=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]


def test_a_read_past_the_end_is_found(program: Path) -> None:
    result = subprocess.run([program, "short"], capture_output=True, text=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr
