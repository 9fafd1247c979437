"""One tiny run for the whole folder, and the command line called in this process."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = ["dcgan_tiny", "--device", "cpu"]


@dataclass
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return self.err.strip().splitlines()


Command = Callable[..., Outcome]


@pytest.fixture(scope="session")
def genlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """genlab(*words) runs the command line in this process."""
    from genlab.cli import main

    def run(*words: object) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(word) for word in words])
        return Outcome(code, out.getvalue(), err.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        # The allocator's settings would stay with the test process.
        patch.setattr("genlab.allocator.keep_freed_memory", lambda: True)
        patch.setenv("COLUMNS", "200")
        yield run


@pytest.fixture(scope="session")
def trained(genlab: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A finished run and what the command printed."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    outcome = genlab("train", *TINY, "--run-dir", run)
    assert outcome.code == 0, outcome.err
    return run, outcome


@pytest.fixture
def run_copy(trained: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def _heed_interrupts() -> None:
    """What a shell starts with `&` ignores SIGINT, and so would all that the tests start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start_genlab(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """start_genlab(*words) starts the command in a process of its own; it is ended with the test."""
    started: list[subprocess.Popen] = []

    def start(*words: object) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "genlab", *map(str, words)],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=_heed_interrupts,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
