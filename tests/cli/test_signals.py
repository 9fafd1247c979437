"""Ctrl-C, SIGTERM and a reader that goes away: what the process leaves behind and how it ends."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = ["train", "dcgan_tiny", "train.steps=1000000", "evaluate.metrics=[]", "--device", "cpu", "--run-dir", "run"]


def wait_for(path: Path, process: subprocess.Popen, pattern: str) -> None:
    """Until a file holds the pattern."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and pattern in path.read_text():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{path} never held {pattern!r}")


def wait_until_asleep(process: subprocess.Popen) -> None:
    """Until the process has used no CPU for a second, asleep each time that we looked."""
    deadline, still, before = time.monotonic() + 120, 0, None
    while still < 20:
        assert time.monotonic() < deadline, "the process never came to rest"
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        state, used = fields[0], fields[11:13]
        still = still + 1 if state == "S" and used == before else 0
        before = used
        time.sleep(0.05)


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2, 0.3, 0.5])
def test_signal_while_torch_is_loaded_is_neither_lost_nor_fatal(start_genlab, tmp_path: Path, delay: float) -> None:
    os.mkfifo(tmp_path / "set.zip")
    process = start_genlab("data", "check", "set.zip")
    wait_for(Path(f"/proc/{process.pid}/maps"), process, "libtorch")
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (130, "error: interrupted")


@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_training_after_a_checkpoint(
    start_genlab, genlab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int, code: int
) -> None:
    process = start_genlab(*ENDLESS)
    wait_for(tmp_path / "run" / "log.jsonl", process, '"step": 2')
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("stopped after step ")
    newest = max((tmp_path / "run" / "checkpoints").glob("step_*.safetensors"))
    assert lines[0].endswith(f"--resume run/checkpoints/{newest.name}")
    step = int(newest.stem.removeprefix("step_"))
    assert (tmp_path / "run" / "report.html").is_file()
    monkeypatch.chdir(tmp_path)
    words = shlex.split(lines[0].partition("go on with: genlab ")[2])
    assert words[:2] == ["train", "run/config.yaml"], "the run's own settings, overrides included"
    resumed = genlab(*words, f"train.steps={step + 1}", "--device", "cpu")
    assert resumed.code == 0, resumed.err
    assert (tmp_path / "run" / "checkpoints" / f"step_{step + 1:08d}.safetensors").is_file()


@pytest.mark.parametrize(
    "signum, code, word", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signal_ends_other_verbs_in_one_line(start_genlab, tmp_path: Path, signum: int, code: int, word: str) -> None:
    os.mkfifo(tmp_path / "set.zip")  # reading it waits for a writer that never comes
    process = start_genlab("data", "check", "set.zip")
    wait_until_asleep(process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.strip() == f"error: {word}"


def test_reader_that_goes_away_is_no_error(start_genlab) -> None:
    process = start_genlab("list", "datasets")
    process.stdout.close()
    assert process.wait(timeout=60) in {0, 141}
    assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_behind_stdout_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "genlab", "--version"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == "error: No space left on device; free some space, or write to another disk"


@pytest.mark.parametrize("stream, code", [("1>&-", 0), ("2>&-", 0)])
def test_closed_streams_are_no_error(stream: str, code: int) -> None:
    command = f"exec '{sys.executable}' -m genlab --version {stream}"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")


def test_second_process_in_a_run_directory_is_refused(start_genlab, genlab, tmp_path: Path) -> None:
    process = start_genlab(*ENDLESS)
    wait_for(tmp_path / "run" / "log.jsonl", process, '"step": 2')
    outcome = genlab("train", "dcgan_tiny", "--device", "cpu", "--resume", "auto", "--run-dir", tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert outcome.code == 2 and len(outcome.error_lines) == 1
    assert "another process" in outcome.err
