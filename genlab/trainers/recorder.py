"""What a run writes for people while it trains: log rows, curves, pictures and scores; and what observers are told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genlab.checkpoint import checkpoint_name, write_atomically
from genlab.images import save_grid
from genlab.log_rows import PER_SECOND
from genlab.runs import RunDirectory, reporting_write_errors
from genlab.seeding import generator, preserved_rng
from genlab.trainers.base import Batch, Trainer, Writing
from genlab.trainers.callbacks import Callback
from genlab.trainers.class_watch import evaluation_row
from genlab.trainers.diagnosis import score_findings
from genlab.trainers.evaluation import EvaluationStopped, Evaluator, selecting_score

if TYPE_CHECKING:
    from genlab.data import ImageDataset


@dataclass
class Progress:
    """What the loop remembers beside the trainer; part of every checkpoint.

    Attributes:
        seconds: time spent in earlier processes of this run.
        images: training samples that the steps so far took in.
        skipped: numbers of the batches that `on_nan: rollback` leaves out.
        rollbacks: how often it went back.
        last_scores: rows of the last evaluation.
        best: {"step", "name", "value"} of the best score so far, with the "scores" of that evaluation.
        diagnosis: what the diagnosis remembers.
    """

    seconds: float = 0.0
    images: int = 0
    skipped: list[int] = field(default_factory=list)
    rollbacks: int = 0
    last_scores: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    diagnosis: dict[str, Any] = field(default_factory=dict)


class Recorder:
    """Writes into the run directory on rank 0; on the other processes every method does nothing.

    Args:
        trainer: what is recorded.
        run: the run directory, or None where this process is not rank 0.
        callbacks: told of everything that happens.
        dataset: where the examples that some pictures show come from.

    Attributes:
        progress: counters and scores that belong into checkpoints.
    """

    def __init__(
        self,
        trainer: Trainer,
        run: RunDirectory | None,
        callbacks: Sequence[Callback],
        dataset: ImageDataset | None = None,
    ) -> None:
        self.trainer, self.run = trainer, run
        self.progress = Progress()
        self._train = trainer.config.train
        self._callbacks = callbacks if run is not None else ()
        self._dataset = dataset
        self.start_clock()

    def start_clock(self) -> None:
        """Counts time and speed from here on."""
        self._started = time.monotonic()
        self._rate_mark = (self._started, self.progress.images)

    def seconds(self) -> float:
        """Time spent on this run, in earlier processes too."""
        return self.progress.seconds + time.monotonic() - self._started

    def tell(self, event: str, *arguments: Any) -> None:
        """Calls the method `event` of every observer."""
        for callback in self._callbacks:
            getattr(callback, event)(*arguments)

    def log(self, row: dict[str, Any]) -> None:
        """Appends a row to log.jsonl; events are told to observers too."""
        if self.run is not None:
            self.run.log.append(row)
            if "event" in row:
                self.tell("on_event", row)

    def log_interval(self, metrics: dict[str, float], lists: dict[str, list[float]] | None = None) -> dict[str, float]:
        """Writes the averages of a log interval with the learning rate and the speed; returns all of them.

        Args:
            metrics: single numbers.
            lists: what else the row says.
        """
        step, now, (since, then) = self.trainer.step, time.monotonic(), self._rate_mark
        samples, (unit, each) = self.progress.images, self.trainer.counted
        rate = each * (samples - then) / max(now - since, 1e-9)
        self._rate_mark = (now, samples)
        values = {**metrics, "learning_rate": self.trainer.learning_rate, f"{unit}{PER_SECOND}": round(rate, 2)}
        self.log({"step": step, "time": round(self.seconds(), 3), unit: each * samples, **values, **(lists or {})})
        if self.run is not None and self._train.tensorboard:
            self.run.add_scalars(step, values)
        return values

    def draw_samples(self) -> None:
        """Writes the trainer's pictures and texts: the same noise and the same examples every time."""
        if self.run is None:
            return
        trainer = self.trainer
        with preserved_rng(trainer.device):
            count, draws = self._train.sample_count, generator(trainer.config.seed, "samples")
            pictures = trainer.preview(count, draws, self.examples)
        for picture in pictures:
            if isinstance(picture, Writing):
                path = self.run.sample_path(trainer.step, picture.name, ".txt")
                with reporting_write_errors(path):
                    write_atomically(path, picture.text.rstrip("\n").encode() + b"\n")
            else:
                path = self.run.sample_path(trainer.step, picture.name)
                with reporting_write_errors(path):
                    save_grid(picture.images, path, columns=picture.columns)
            self.tell("on_samples", trainer.step, path)

    def examples(self, count: int) -> Batch:
        """Evenly spaced, unvaried samples of the training set; fewer where it has fewer."""
        from genlab.data import evenly_spaced

        if self._dataset is None:
            raise RuntimeError("recorder: expected the data set, which the pictures of this algorithm show; got None")
        return self.trainer.to_device(self._dataset.fetch(evenly_spaced(len(self._dataset), count)))

    def evaluate(self, evaluator: Evaluator) -> None:
        """Scores the trainer and notes whether this step is the best so far; leaves early where asked to stop."""
        if self.run is None:
            return
        step, began = self.trainer.step, time.monotonic()
        try:
            with preserved_rng(self.trainer.device):
                scores = list(evaluator(self.trainer, step))
        except EvaluationStopped:
            return
        since, then = self._rate_mark
        self._rate_mark = (since + time.monotonic() - began, then)  # the speed is of training alone
        rows = [{"step": step, "checkpoint": checkpoint_name(step), **score.to_json()} for score in scores]
        for row in rows:
            self.run.metrics.append(row)
        self.progress.last_scores = rows
        chosen = selecting_score(scores, self.trainer.config.evaluate.select)
        if chosen is not None and self._is_better(chosen):
            self.progress.best = {"step": step, "name": chosen.name, "value": chosen.value, "scores": rows}
        if self._train.tensorboard:
            self.run.add_scalars(step, {score.name: score.value for score in scores})
        self.tell("on_scores", step, scores)
        for score in scores:
            if score.name.startswith("class_kl") and "histogram" in score.protocol:
                self.run.log.append(evaluation_row(step, score.protocol))
        for finding in score_findings(scores, self.trainer.data.class_names, self.trainer.thresholds):
            self.log(finding.event(step))

    def _is_better(self, score: Any) -> bool:
        best = self.progress.best
        if best is None or best["name"] != score.name:
            return True
        return score.value > best["value"] if score.higher_is_better else score.value < best["value"]
