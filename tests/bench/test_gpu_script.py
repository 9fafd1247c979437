"""benchmarks/gpu.sh: a stage that fails or hangs is written down and the next one starts. No GPU is needed for that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"

# Stands in for Python: says that there is a GPU, builds, fails the tests, hangs in one bench, and else succeeds.
PRETENDER = """#!/usr/bin/env bash
case "$*" in
  "- "*) exec {python} "$@" ;;
  *get_device_capability*) echo 9.0 ;;
  *"-m pytest"*) echo "1 failed"; exit 1 ;;
  *"bench op"*bf16*) sleep 60 ;;
  *) echo "ran $*" ;;
esac
"""


def run(tmp_path: Path, python: Path, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": str(python), "CUDA_HOME": str(tmp_path / "none"), **variables}
    return subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "out")], env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def test_failed_and_hanging_stages_are_recorded_and_the_rest_runs(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(PRETENDER.format(python=sys.executable))
    python.chmod(0o755)
    done = run(tmp_path, python, STAGE_LIMIT="2", GENLAB_COMMIT="abc123")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    outcomes = {stage["stage"]: stage["outcome"] for stage in summary["stages"]}
    assert outcomes["build"] == outcomes["doctor"] == outcomes["bench_op_fp32"] == outcomes["training"] == "passed"
    assert outcomes["tests_ops"] == outcomes["tests_rest"] == "failed with 1"
    assert outcomes["bench_op_bf16"] == "timed out after 2 s"
    assert summary["commit"] == "abc123" and summary["machine"]["torch"]
    assert done.returncode == sum(outcome not in {"passed", "not there"} for outcome in outcomes.values())
    assert "1 failed" in (tmp_path / "out" / "logs" / "tests_ops.log").read_text()


def test_stages_that_the_budget_leaves_no_time_for_are_named(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(PRETENDER.format(python=sys.executable))
    python.chmod(0o755)
    run(tmp_path, python, BUDGET="0")
    stages = json.loads((tmp_path / "out" / "summary.json").read_text())["stages"]
    assert {stage["outcome"] for stage in stages if stage["stage"] != "sanitizer"} == {"no time left"}


def test_without_a_gpu_it_says_so_and_stops(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/usr/bin/env bash\n[ "$1" = - ] && exec ' + sys.executable + ' "$@"\nexit 1\n')
    python.chmod(0o755)
    done = run(tmp_path, python)
    assert done.returncode == 1
    assert "torch sees no CUDA device" in done.stdout
