"""The training loop that all algorithms share: data, what is due when, checkpoints and faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genlab.checkpoint import (
    BEST_NAME,
    Checkpoint,
    checkpoint_name,
    list_checkpoints,
    load_checkpoint,
    mark_best,
    prune_checkpoints,
    save_checkpoint,
)
from genlab.errors import CheckpointError
from genlab.runs import Interrupted, RunDirectory
from genlab.trainers.base import Batch, Trainer
from genlab.trainers.callbacks import Callback
from genlab.trainers.diagnosis import Diagnosis
from genlab.trainers.evaluation import Evaluator
from genlab.trainers.facts import environment_facts
from genlab.trainers.faults import heeded, rolled_back
from genlab.trainers.guard import MetricWindow
from genlab.trainers.recorder import Progress, Recorder
from genlab.trainers.signals import SignalWatch
from genlab.trainers.state import capture_state, restore_state

if TYPE_CHECKING:
    from genlab.data import ImageDataset


class Loop:
    """Runs a trainer to `train.steps` inside a run directory.

    Args:
        trainer: freshly built.
        stream: a `genlab.data.BatchStream`.
        run: the run directory on rank 0, None on the others.
        evaluator: scores the trainer; None takes no scores.
        callbacks: told of everything that happens.
        signals: says whether somebody asked to stop.
        dataset: what is trained on; the digest of its contents is kept in checkpoints, its notes in the log.
    """

    def __init__(
        self,
        trainer: Trainer,
        stream: Any,
        run: RunDirectory | None,
        *,
        evaluator: Evaluator | None = None,
        callbacks: Sequence[Callback] = (),
        signals: SignalWatch | None = None,
        dataset: ImageDataset | None = None,
    ) -> None:
        self.trainer, self.stream, self.run = trainer, stream, run
        self.config = trainer.config
        self.distributed = trainer.distributed
        self.window = MetricWindow(trainer.device)
        self.recorder = Recorder(trainer, run, callbacks, dataset)
        self.last_checkpoint: Path | None = None
        self._evaluator = evaluator
        self._signals = signals or SignalWatch()
        self._dataset_contents = getattr(dataset, "contents", None)
        self._notes = getattr(dataset, "notes", ())
        self.diagnosis = Diagnosis(trainer, self.recorder.examples if dataset is not None else None, dataset)
        self.batch_numbers: list[int] = []  # of the present step

    @property
    def progress(self) -> Progress:
        return self.recorder.progress

    # The whole.

    def fit(self) -> None:
        """Trains until `train.steps`, or raises.

        Raises:
            Interrupted: a signal arrived; the checkpoint of the last step is on the disk.
            RunError: a loss that is not finite, a collapse that `train.on_collapse` stops for, or a file that cannot be
                written; the last checkpoint is whole.
        """
        trainer, total = self.trainer, self.config.train.steps
        self.recorder.start_clock()
        self.recorder.tell("on_start", trainer, self.run.path if self.run else None, total)
        try:
            # A resumed run may go on with another machine or torch: its log then holds both.
            facts = {**environment_facts(self.config, trainer.device), **trainer.batch_description()}
            facts["cuda_graphs"] = trainer.graphs.describe()
            self.recorder.log({"event": "environment", **facts})
            if self.last_checkpoint is None:
                without_judge = self.diagnosis.classes.note() if self.run is not None else None
                for note in filter(None, (*self._notes, *trainer.notes, without_judge)):
                    self.recorder.log({"event": "note", "text": note})
            if self.distributed.gather(self.last_checkpoint)[0] is None:
                self.save()  # from here on there is always something to resume from
            while trainer.step < total:
                self.batch_numbers, batches = self._next_batches()
                trainer.watches_gradients = self._log_due(trainer.step + 1)
                metrics = trainer.advance(*batches)
                for text in trainer.graphs.take_news():
                    self.recorder.log({"event": "note", "step": trainer.step, "text": text})
                self.progress.images += len(batches) * self.config.data.batch_size
                self.window.add(trainer.step, metrics, self.batch_numbers)
                self._after_step(last=trainer.step >= total)
            self._finish()
        finally:
            self.recorder.tell("on_end", trainer)

    def _after_step(self, last: bool) -> None:
        step, train = self.trainer.step, self.config.train
        signum = self._signals.agreed(self.distributed)
        log_due = self._log_due(step)
        sample_due = step % train.sample_every == 0 or last
        score_due = self._evaluator is not None and not last and _divides(self.config.evaluate.every, step)
        save_due = step % train.checkpoint_every == 0 or last or score_due or signum is not None
        # On a GPU reading the losses waits for it: only where something is written anyway.
        read_due = log_due or sample_due or save_due or self.trainer.device.type == "cpu"
        if read_due and self._rolled_back(check_weights=save_due):
            return
        logged = self._log() if log_due else None
        self.recorder.tell("on_step", step, logged)
        if logged is not None and heeded(self, logged):
            return
        if sample_due:
            self.recorder.draw_samples()
        if score_due and signum is None:
            self._evaluate()
        if save_due:
            self.save()
        self._stop_if(signum)

    def _log_due(self, step: int) -> bool:
        return step % self.config.train.log_every == 0 or step >= self.config.train.steps

    def _log(self) -> dict[str, float]:
        """Writes the row of a log interval: averages, and on rank 0 the vital signs of its last step."""
        averages = self.window.averages(self.distributed)
        if self.run is None:
            return self.recorder.log_interval(averages)
        return self.recorder.log_interval({**averages, **self.diagnosis.measure()}, self.diagnosis.lists())

    def _rolled_back(self, check_weights: bool) -> bool:
        return rolled_back(self, check_weights)

    def _finish(self) -> None:
        """The last evaluation, after the last checkpoint is safe; a resumed run makes up for a missed one."""
        scored = any(row["step"] == self.trainer.step for row in self.progress.last_scores)
        if self._evaluator is not None and not self.distributed.gather(scored)[0]:
            self._evaluate()
            self._stop_if(self._signals.agreed(self.distributed))
            self.save()

    def _evaluate(self) -> None:
        """Rank 0 takes the scores; the other processes wait for it."""
        evaluator = self._evaluator
        assert evaluator is not None
        self.distributed.on_main(lambda: self.recorder.evaluate(evaluator))

    def _stop_if(self, signum: int | None) -> None:
        if signum is not None:
            raise Interrupted(signum, self.last_checkpoint or Path())

    # Data.

    def _next_batches(self) -> tuple[list[int], list[Batch]]:
        """The batches of one step with their numbers in the stream; batches that a rollback condemned are left out."""
        numbers, batches = [], []
        while len(batches) < self.trainer.batches_per_step:
            number = self.stream.state_dict()["batches_consumed"]
            batch = next(self.stream)
            if number not in self.progress.skipped:
                numbers.append(number)
                batches.append(batch)
        return numbers, batches

    # Checkpoints.

    def save(self) -> None:
        """Writes the checkpoint of this step; every process must call it.

        Raises:
            RunError: it cannot be written; the ones before are whole.
        """
        tensors, plain = capture_state(self.trainer)
        sums, counts = self.window.state_dict()
        tensors.update({f"window/{name}": value for name, value in sums.items()})
        state = {
            **plain,
            "algorithm": self.config.algorithm,
            "config": self.config.model_dump(mode="json"),
            "data": self.trainer.data.to_dict(),
            "dataset_contents": self._dataset_contents,
            "stream": self.stream.state_dict(),
            "window_counts": counts,
            "progress": {
                **asdict(self.progress),
                "seconds": self.recorder.seconds(),
                "diagnosis": self.diagnosis.state,
            },
            "versions": _versions(),
        }
        self.distributed.on_main(lambda: self._write(tensors, state))

    def _write(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        assert self.run is not None
        path = self.run.checkpoints / checkpoint_name(self.trainer.step)
        save_checkpoint(path, tensors, state)
        if self.progress.best is not None and self.progress.best["step"] == self.trainer.step:
            mark_best(path)
        prune_checkpoints(self.run.checkpoints, self.config.train.keep_last)
        self.last_checkpoint = path
        self.recorder.tell("on_checkpoint", self.trainer.step, path)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continues from a checkpoint: trainer, data position, unfinished averages, scores."""
        state = checkpoint.state
        restore_state(self.trainer, checkpoint.tensors, state, str(checkpoint.path))
        self.stream.load_state_dict(state["stream"])
        prefix = "window/"
        sums = {key[len(prefix) :]: value for key, value in checkpoint.tensors.items() if key.startswith(prefix)}
        self.window.load_state_dict(sums, state["window_counts"])
        self.recorder.progress = Progress(**state["progress"])
        self.diagnosis.restore(self.progress.diagnosis)
        self.last_checkpoint = checkpoint.path

    def resume(self, checkpoint: Checkpoint, same_run: bool) -> None:
        """Continues a run in its own directory, or a checkpoint of another run in a new one."""
        self.restore(checkpoint)
        event = {"event": "resume", "step": self.trainer.step, "checkpoint": checkpoint.path.name}
        if same_run:
            self.rewind_run()
        else:
            self.progress.best = None
            self.last_checkpoint = None  # so that `fit` writes one into this directory first
        self.recorder.log(event)

    def rewind_run(self) -> None:
        """Brings the run directory back to the trainer's step: logs, pictures, checkpoints and the best one.

        A kill may have come between writing the best checkpoint and marking it, and a run that is continued from an
        earlier checkpoint leaves a future behind that it will write again.
        """
        if self.run is None:
            return
        self.run.rewind(self.trainer.step)
        if self.trainer.config.evaluate.select == "none":  # it may have been another when the run began
            self.progress.best = None
        numbered = dict(list_checkpoints(self.run.checkpoints))
        best, best_step = self.run.checkpoints / BEST_NAME, (self.progress.best or {}).get("step")
        if best_step in numbered:
            if not (best.exists() and best.samefile(numbered[best_step])):
                mark_best(numbered[best_step])
        elif best.exists() or best_step is not None:
            self._keep_or_forget_best(best, best_step)

    def _keep_or_forget_best(self, best: Path, best_step: int | None) -> None:
        """Removes a best checkpoint that is of another step or unreadable; a lost one does not stop the run."""
        try:
            if load_checkpoint(best).step == best_step:
                return
            reason = "is of a later step"
        except CheckpointError as error:
            reason = f"is lost: {error}"
        best.unlink(missing_ok=True)
        self.progress.best = None  # the next evaluation names a new one
        if best_step is not None:
            text = f"the best checkpoint, of step {best_step}, {reason}; the next evaluation names a new one"
            self.recorder.log({"event": "note", "step": self.trainer.step, "text": text})


def _divides(interval: int | None, step: int) -> bool:
    return interval is not None and step % interval == 0


def _versions() -> dict[str, str]:
    from genlab import __version__

    return {"genlab": __version__, "torch": torch.__version__}
