"""Verdicts of `genlab doctor` on machines that are described, not present."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from genlab.doctor import Facts, diagnose, first_line, gather, remedy, to_json, usable

HEALTHY = Facts(
    python=(3, 11, 7), torch="2.14.1", torch_cuda="13.0", compiler="c++ (Debian 12.2.0-14+deb12u1) 12.2.0",
    nvcc="/usr/local/cuda/bin/nvcc", nvcc_cuda="13.0", ninja="1.13.2", disk_free=50 * 2**30, cache="/home/x/.cache",
    extension=True, extension_cuda=True, source_hash="abc",
    build={"torch": "2.14.1", "cuda": "13.0", "architectures": "8.0;9.0+PTX", "source_hash": "abc"},
)  # fmt: skip
H100 = [("NVIDIA H100", "9.0")]


def examine(**changes: Any) -> tuple[dict[str, Any], str]:
    """Findings by subject, and the remedy, of the healthy machine with changes."""
    findings = diagnose(dataclasses.replace(HEALTHY, **changes))
    return {finding.subject: finding for finding in findings}, remedy(findings)


def test_healthy_machine_has_nothing_to_mend() -> None:
    found, command = examine(gpus=H100)
    assert command == ""
    assert {finding.verdict for finding in found.values()} <= {"ok", "note"}


@pytest.mark.parametrize(
    "changes, subject, verdict, command",
    [
        ({"python": (3, 9, 2)}, "python", "fail", "make PYTHON=python3.12 train"),
        ({"python_headers": False}, "python", "warn", "apt-get install python3.11-dev"),
        ({"torch": None}, "torch", "fail", "pip install 'torch>=2.11'"),
        ({"torch": "2.10.3"}, "torch", "fail", "pip install -U 'torch>=2.11'"),
        ({"compiler": None, "extension": False, "build": {}}, "compiler", "warn", "apt-get install g++"),
        (
            {"compiler": "g++ (Debian 10.2.1-6) 10.2.1", "extension": False},
            "compiler",
            "warn",
            "apt-get install g++-12",
        ),
        ({"extension": False, "build": {}, "extension_reason": "not built"}, "kernels", "warn", "genlab build"),
        ({"extension": False, "extension_reason": "does not load"}, "kernels", "warn", "genlab build --force"),
        ({"torch": "2.15.0"}, "kernels", "warn", "genlab build --force"),
        ({"source_hash": "def"}, "kernels", "warn", "genlab build"),
        ({"gpus": H100, "extension_cuda": False}, "kernels", "warn", "genlab build --force"),
        ({"gpus": [("RTX", "12.0")]}, "gpu", "warn", "TORCH_CUDA_ARCH_LIST=12.0 genlab build --force"),
        ({"cache_writable": False}, "cache", "fail", "export GENLAB_CACHE=/tmp/genlab-cache"),
        ({"ninja": None, "extension": False, "build": {}}, "ninja", "warn", "pip install ninja"),
        ({"disk_free": 2**20}, "disk", "warn", ""),
        ({"nvcc_cuda": "12.8", "gpus": H100}, "nvcc", "warn", ""),
        ({"nvcc": None, "nvcc_cuda": None, "gpus": H100}, "nvcc", "warn", ""),
    ],
)
def test_each_fault_is_found_and_mended(changes: dict, subject: str, verdict: str, command: str) -> None:
    found, mends = examine(**changes)
    assert found[subject].verdict == verdict
    assert mends == command


@pytest.mark.parametrize("absent", [{"nvcc": None}, {"inception": None}, {"gpus": []}, {"torch_cuda": None}])
def test_parts_that_are_not_needed_are_only_notes(absent: dict) -> None:
    found, command = examine(**absent)
    assert command == ""
    assert usable(list(found.values()))


def test_gravest_fault_is_mended_first() -> None:
    assert examine(ninja=None, extension=False, build={}, torch=None)[1] == "pip install 'torch>=2.11'"


@pytest.mark.parametrize(
    "capability, covered", [("8.0", True), ("8.6", True), ("9.0", True), ("7.5", False), ("10.0", False)]
)
def test_gpu_needs_machine_code_of_its_generation(capability: str, covered: bool) -> None:
    found, _ = examine(gpus=[("GPU", capability)])
    assert (found["gpu"].verdict == "ok") == covered


def test_without_a_compiler_the_lab_is_usable() -> None:
    found, _ = examine(compiler=None, ninja=None, extension=False, build={}, nvcc=None, nvcc_cuda=None)
    assert usable(list(found.values()))


def test_doctor_examines_this_machine() -> None:
    facts = gather()
    assert facts.torch and facts.python >= (3, 10)
    ops = {row.op for row in facts.ops}
    assert {"conv2d", "conv_transpose2d"} <= ops
    findings = diagnose(facts)
    assert usable(findings)
    json.dumps(to_json(facts, findings))


def test_probe_that_fails_counts_as_absent() -> None:
    assert first_line(["false"]) is None
    assert first_line(["no-such-command-here"]) is None
    assert first_line(["echo", "hello"]) == "hello"
