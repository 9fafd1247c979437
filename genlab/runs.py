"""Run directories: config.yaml, log.jsonl, metrics.jsonl, samples/, checkpoints/, tensorboard/.

A directory belongs to one run. A second run into it is refused; a resumed run cuts the logs back to the step it resumes
from, so that a log never tells of steps that the weights have not taken.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genlab.checkpoint import list_checkpoints, remove_partial_files, write_atomically
from genlab.config import RunConfig, dump_config
from genlab.errors import RunError


class Interrupted(Exception):
    """A signal ended the training after a checkpoint was written.

    Attributes:
        signum: the signal; the command line exits with 128 + signum (130 for SIGINT, 143 for SIGTERM).
        checkpoint: file to resume from.
    """

    def __init__(self, signum: int, checkpoint: Path) -> None:
        super().__init__(f"stopped by signal {signum}; continue with --resume {checkpoint}")
        self.signum = signum
        self.checkpoint = checkpoint


def default_run_directory(config_name: str, root: str | Path = "runs") -> Path:
    """`<root>/<config name>-<n>` with the first n that no directory has."""
    return Path(root) / f"{config_name}-{max(_numbers(config_name, root), default=0) + 1}"


def latest_run_directory(config_name: str, root: str | Path = "runs") -> Path | None:
    """The run of that configuration with the highest number, or None: what `--resume auto` means without --run-dir."""
    number = max(_numbers(config_name, root), default=None)
    return None if number is None else Path(root) / f"{config_name}-{number}"


def _numbers(config_name: str, root: str | Path) -> list[int]:
    pattern = re.compile(rf"{re.escape(config_name)}-(\d+)")
    folders = Path(root).iterdir() if Path(root).is_dir() else ()
    return [int(match.group(1)) for path in folders if (match := pattern.fullmatch(path.name))]


@contextmanager
def reporting_write_errors(path: Path) -> Iterator[None]:
    """Turns a failure of the file system into a RunError that names the path and the way on."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"run file {path}: cannot be written ({error.strerror or error}); checkpoints written before are whole: "
            "free space or permissions, then continue with --resume auto"
        ) from error


class JsonLines:
    """A file of one JSON object a line, each on its way to the disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: dict[str, Any]) -> None:
        with reporting_write_errors(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def truncate_after(self, step: int) -> None:
        """Drops rows of later steps, and a last line that a kill cut off."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row.get("step", 0) <= step:
                kept.append(line)
        with reporting_write_errors(self.path):
            write_atomically(self.path, "".join(f"{line}\n" for line in kept).encode())


class RunDirectory:
    """The files of one run. Make it with `create` or `open`; close it to let another process in.

    Attributes:
        path: the directory.
        log, metrics: the two JSON-lines files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = JsonLines(path / "log.jsonl")
        self.metrics = JsonLines(path / "metrics.jsonl")
        self._lock: int | None = None
        self._writer: Any = None

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def sample_path(self, step: int, name: str = "", suffix: str = ".png") -> Path:
        """`samples/step_00001000.png`, or with a name `samples/step_00001000_<name>.png`; texts end in ".txt"."""
        return self.path / "samples" / f"step_{step:08d}{'_' * bool(name)}{name}{suffix}"

    @classmethod
    def create(cls, path: str | Path, config: RunConfig) -> RunDirectory:
        """A new run directory with its configuration.

        Raises:
            RunError: the directory holds something already, is a file, or cannot be written.
        """
        run = cls(Path(path))
        if run.path.exists() and not run.path.is_dir():
            raise RunError(f"run directory {run.path}: expected a folder, got a file; choose another --run-dir")
        if run.path.is_dir() and not is_unused(run.path):
            raise RunError(
                f"run directory {run.path}: expected a new or empty folder, got one in use; continue that run with "
                "--resume auto, or choose another --run-dir"
            )
        with reporting_write_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        run._acquire()
        with reporting_write_errors(run.path):
            (run.path / "samples").mkdir(exist_ok=True)
            run.checkpoints.mkdir(exist_ok=True)
            write_atomically(run.config_path, dump_config(config).encode())
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run directory, locked, with what a killed writer left behind removed."""
        run = cls(Path(path))
        if not run.config_path.exists():
            raise RunError(f"run directory {run.path}: expected a run (config.yaml), found none")
        run._acquire()
        with reporting_write_errors(run.path):
            for folder in (run.path, run.checkpoints, run.path / "samples"):
                folder.mkdir(exist_ok=True)
                remove_partial_files(folder)
        return run

    @classmethod
    def restart(cls, path: str | Path, config: RunConfig) -> RunDirectory:
        """The directory of a run that ended before its first checkpoint, made new."""
        run = cls.open(path)
        run.rewind(-1)
        with reporting_write_errors(run.log.path):
            run.log.path.unlink(missing_ok=True)
        run.write_config(config)
        return run

    def write_config(self, config: RunConfig) -> None:
        with reporting_write_errors(self.config_path):
            write_atomically(self.config_path, dump_config(config).encode())

    def rewind(self, step: int) -> None:
        """Forgets logs, scores, pictures and checkpoints of steps after `step`."""
        self.log.truncate_after(step)
        self.metrics.truncate_after(step)
        with reporting_write_errors(self.path):
            for sample in (self.path / "samples").glob("step_*.*"):
                number = sample.stem[5:].partition("_")[0]
                if number.isdigit() and int(number) > step:
                    sample.unlink(missing_ok=True)
            for later, checkpoint in list_checkpoints(self.checkpoints):
                if later > step:
                    checkpoint.unlink(missing_ok=True)

    def add_scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers for TensorBoard, whose writer is imported at the first call."""
        with reporting_write_errors(self.path / "tensorboard"):
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes TensorBoard and gives the lock back."""
        writer, self._writer = self._writer, None
        lock, self._lock = self._lock, None
        try:
            if writer is not None:
                with reporting_write_errors(self.path / "tensorboard"):
                    writer.close()
        finally:
            if lock is not None:
                os.close(lock)

    def _acquire(self) -> None:
        """Holds `.lock` until `close` or the end of the process, however it ends."""
        import fcntl  # POSIX; the lab runs on Linux

        path = self.path / ".lock"
        with reporting_write_errors(path):
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise RunError(f"run directory {self.path}: another process trains in it; wait for its end") from None
        except OSError:
            pass  # a file system without locks; the check for a used directory still stands
        self._lock = lock


def is_unused(path: Path) -> bool:
    """Whether a folder holds nothing but the lock or half-written files of a run that never began."""
    if not path.is_dir():
        return not path.exists()
    for entry in path.iterdir():
        empty_folder = entry.is_dir() and entry.name in {"samples", "checkpoints"} and not any(entry.iterdir())
        if not (empty_folder or entry.name == ".lock" or entry.name.endswith(".partial")):
            return False
    return True
