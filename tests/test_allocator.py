"""Freed memory stays mapped: a block of the same size costs page faults once."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
if sys.argv[1] == "keep":
    from genlab.allocator import keep_freed_memory
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(64 * 2**20)
before = faults()
for _ in range(4):
    torch.ones(16 * 2**20)  # 64 MiB = 16384 pages
print(faults() - before)
"""


def page_faults(mode: str) -> int:
    result = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_keep_freed_memory_spares_page_faults_of_repeated_blocks():
    assert page_faults("keep") < page_faults("default") / 2
