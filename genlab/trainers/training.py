"""`train`: from a configuration to a trained run directory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from genlab.checkpoint import BEST_NAME, find_checkpoint, list_checkpoints, load_checkpoint
from genlab.config import RunConfig
from genlab.distributed import Distributed, resolve_device
from genlab.errors import RunError
from genlab.runs import RunDirectory, default_run_directory, latest_run_directory
from genlab.seeding import derive_seed, deterministic_algorithms
from genlab.trainers.callbacks import Callback
from genlab.trainers.data_spec import DataSpec
from genlab.trainers.evaluation import DatasetEvaluator, EvaluationStopped, Evaluator, Progress
from genlab.trainers.loop import Loop
from genlab.trainers.resuming import check_compatible
from genlab.trainers.signals import SignalWatch


@dataclass(frozen=True)
class TrainResult:
    """Where a training ended.

    Attributes:
        step: steps done in all.
        run_path: the run directory.
        last_checkpoint, best_checkpoint: files; best is None without scores.
        last_scores, best_scores: rows of metrics.jsonl ({"step", "checkpoint", "name", "value", "std", "protocol"}).
        best_step: step of the best checkpoint.
        samples: the last sample grid or text.
    """

    step: int
    run_path: Path
    last_checkpoint: Path
    best_checkpoint: Path | None
    last_scores: list[dict[str, Any]] = field(default_factory=list)
    best_scores: list[dict[str, Any]] = field(default_factory=list)
    best_step: int | None = None
    samples: Path | None = None


def train(
    config: RunConfig,
    run_dir: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    resume: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    evaluator: Evaluator | str | None = "dataset",
) -> TrainResult:
    """Trains what `config` describes, or continues it.

    Under torchrun every process calls this with the same arguments; rank 0 alone writes files and calls `callbacks`.

    Args:
        config: of the class of its algorithm (`genlab.config.load_config`).
        run_dir: new or empty folder, or with `resume` the run's own; default `runs/<algorithm>-<n>`, or the folder of
            the run that `resume` names.
        device: "cpu", "cuda" or "cuda:N".
        resume: None begins anew; "auto" continues from the newest checkpoint in `run_dir` and begins anew where the
            folder is new; a checkpoint file or a run continues that one, in a new `run_dir` where another is given.
        callbacks: observers, called in order.
        evaluator: scores the trainer every `evaluate.every` steps and at the end; "dataset" compares with the run's own
            data as `config.evaluate` says (with an empty list of metrics: not at all); None takes no scores.

    Returns:
        Where the training ended; equal on every process.

    Raises:
        UserError: data, configuration, checkpoint, run directory or device that will not do, or a loss of NaN.
        genlab.runs.Interrupted: SIGINT or SIGTERM, after a checkpoint.
    """
    from genlab import data, ops
    from genlab.trainers import ALGORITHMS

    with ExitStack() as stack:
        distributed = Distributed.from_environment(device)
        stack.callback(distributed.close)
        target = resolve_device(device, distributed.local_rank)
        _require_kernels(config, target)
        stack.enter_context(ops.default_impl(config.kernels.impl))
        stack.enter_context(deterministic_algorithms(config.train.deterministic))
        signals = stack.enter_context(SignalWatch())

        plan = distributed.on_main(lambda: _plan(config, run_dir, resume))
        dataset = data.build(config.data, split=config.data.split)
        config = ALGORITHMS.get(config.algorithm).settle(config, dataset)
        checkpoint = None
        if plan.source is not None:
            checkpoint = load_checkpoint(plan.source)
            check_compatible(checkpoint, config, dataset.contents)
        trainer = ALGORITHMS.get(config.algorithm)(config, DataSpec.of(dataset), device=target, distributed=distributed)
        if checkpoint is None:
            trainer.begin()
        stream = trainer.open_stream(
            dataset,
            seed=derive_seed(config.seed, "data"),
            rank=distributed.rank,
            world_size=distributed.world_size,
            workers=config.data.workers,
            pin_memory=target.type == "cuda",
        )
        stack.callback(stream.close)
        if evaluator == "dataset":
            evaluator = DatasetEvaluator(_progress(callbacks, signals)) if config.evaluate.metrics != [] else None
        if isinstance(evaluator, DatasetEvaluator):
            check = evaluator.check
            distributed.on_main(lambda: check(trainer))
        opened: list[RunDirectory] = []
        distributed.on_main(lambda: opened.append(plan.open(config)))
        if opened:
            stack.callback(opened[0].close)
        loop = Loop(
            trainer,
            stream,
            opened[0] if opened else None,
            evaluator=evaluator,
            callbacks=callbacks,
            signals=signals,
            dataset=dataset,
        )
        if checkpoint is not None:
            loop.resume(checkpoint, same_run=plan.opening == "continue")
        loop.fit()
        return distributed.on_main(lambda: _result(loop, plan.path))


@dataclass(frozen=True)
class _Plan:
    """What `run_dir` and `resume` mean: where the run lies, how it is opened, and what it continues from."""

    path: Path
    opening: Literal["create", "continue", "restart"]
    source: Path | None = None

    def open(self, config: RunConfig) -> RunDirectory:
        if self.opening == "create":
            return RunDirectory.create(self.path, config)
        if self.opening == "restart":
            return RunDirectory.restart(self.path, config)
        run = RunDirectory.open(self.path)
        run.write_config(config)
        return run


def _plan(config: RunConfig, run_dir: str | Path | None, resume: str | Path | None) -> _Plan:
    named = Path(run_dir) if run_dir is not None else None
    if resume is None:
        return _Plan(named or default_run_directory(config.algorithm), "create")
    if str(resume) == "auto":
        path = named or latest_run_directory(config.algorithm) or default_run_directory(config.algorithm)
        if (path / "config.yaml").exists():
            # Another process there is told now: its checkpoints may be gone by the time they are read.
            RunDirectory.open(path).close()
        if list_checkpoints(path / "checkpoints"):
            return _Plan(path, "continue", find_checkpoint(path))
        return _Plan(path, "restart" if (path / "config.yaml").exists() else "create")
    source = find_checkpoint(resume)
    home = source.parent.parent if source.parent.name == "checkpoints" else None
    path = named or home or default_run_directory(config.algorithm)
    same = home is not None and path.exists() and path.samefile(home)
    return _Plan(path, "continue" if same else "create", source)


def _require_kernels(config: RunConfig, device: torch.device) -> None:
    """Raises RunError where the configuration insists on compiled kernels that are not there."""
    from genlab import _extension

    if config.kernels.require or config.kernels.impl == "native":
        key = "kernels.require=true" if config.kernels.require else "kernels.impl=native"
        reasons = _extension.reasons(_extension.status(), with_cuda=device.type == "cuda")
        if reasons:
            raise RunError(f"{key}: {'; '.join(reasons)}")


def _progress(callbacks: Sequence[Callback], signals: SignalWatch) -> Progress:
    def report(what: str, done: int, total: int | None) -> None:
        if signals.received is not None:
            raise EvaluationStopped
        for callback in callbacks:
            callback.on_progress(what, done, total)

    return report


def _result(loop: Loop, path: Path) -> TrainResult:
    best_file, best = path / "checkpoints" / BEST_NAME, loop.progress.best
    written = (path / "samples" / f"step_{loop.trainer.step:08d}{suffix}" for suffix in (".png", ".txt"))
    assert loop.last_checkpoint is not None
    return TrainResult(
        step=loop.trainer.step,
        run_path=path,
        last_checkpoint=loop.last_checkpoint,
        best_checkpoint=best_file if best_file.exists() else None,
        last_scores=loop.progress.last_scores,
        best_scores=best["scores"] if best else [],
        best_step=best["step"] if best else None,
        samples=next((file for file in written if file.exists()), None),
    )
