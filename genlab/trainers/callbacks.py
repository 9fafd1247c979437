"""What an observer of a training is told; the command line draws its progress bar from this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genlab.metrics import Score
    from genlab.trainers.base import Trainer


class Callback:
    """Every method may be overridden; none of them does anything here. Called on rank 0 only."""

    def on_start(self, trainer: Trainer, run_path: Path, total_steps: int) -> None:
        """Training begins (or goes on) at `trainer.step`."""

    def on_step(self, step: int, metrics: dict[str, float] | None) -> None:
        """A step is done; `metrics` are the interval's averages at log steps and None otherwise."""

    def on_samples(self, step: int, path: Path) -> None:
        """A sample grid was written."""

    def on_progress(self, what: str, done: int, total: int | None) -> None:
        """Something long inside an evaluation is at `done` of `total`."""

    def on_scores(self, step: int, scores: Sequence[Score]) -> None:
        """An evaluation was done."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """A checkpoint is on the disk."""

    def on_event(self, row: dict[str, Any]) -> None:
        """Something rare, as logged: {"event": "rollback", "resume", "note" or "diagnosis", ...}."""

    def on_end(self, trainer: Trainer) -> None:
        """Training ended, also by an error."""
