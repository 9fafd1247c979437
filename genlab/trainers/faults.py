"""What the loop does where a training goes wrong: values that are not finite, and findings of the diagnosis."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlab.checkpoint import Checkpoint, list_checkpoints, load_checkpoint
from genlab.errors import RunError
from genlab.trainers.guard import non_finite_networks

if TYPE_CHECKING:
    from genlab.trainers.loop import Loop


def rolled_back(loop: Loop, check_weights: bool) -> bool:
    """Whether a value was not finite and the run went back to its last checkpoint.

    A loss may be finite and its gradient not: with `check_weights` the weights are looked at too, so that no checkpoint
    holds a NaN.

    Raises:
        RunError: it was not, and `on_nan` says stop or `max_rollbacks` is spent.
    """
    fault = loop.window.first_fault(loop.distributed)
    if fault is None and check_weights:
        broken = non_finite_networks(loop.trainer.networks)
        if loop.distributed.maximum(len(broken)):
            fault = (loop.trainer.step, loop.batch_numbers, [f"weights of {name}" for name in broken])
    if fault is None:
        return False
    step, batches, names = fault
    source = loop.distributed.gather(loop.last_checkpoint)[0]
    batch = ", ".join(map(str, batches))
    where = f"step {step}, batch {batch}: {', '.join(names)}: expected a finite number, got NaN or Inf"
    if loop.config.train.on_nan == "stop":
        raise RunError(
            f"{where}. The checkpoint {source} is whole: lower the learning rate, or continue with "
            "train.on_nan=rollback, which leaves the batch out"
        )
    _check_budget(loop, where, f"The checkpoint {source} is whole: lower the learning rate")
    _go_back(loop, load_checkpoint(source), batches, {"fault_step": step, "batches": list(batches), "metrics": names})
    return True


def heeded(loop: Loop, values: dict[str, float]) -> bool:
    """Tells what the diagnosis finds in a log interval; whether the run went back because of it.

    Raises:
        RunError: a serious finding, and `on_collapse` says stop or `max_rollbacks` is spent.
    """
    step = loop.trainer.step
    findings = loop.distributed.on_main(lambda: loop.diagnosis.judge(step, values))
    for finding in findings:
        loop.recorder.log(finding.event(step))
    serious = next((finding for finding in findings if finding.serious), None)
    action = loop.config.train.on_collapse
    if serious is None or action == "warn":
        return False
    began = loop.distributed.on_main(lambda: loop.diagnosis.began(serious, step))
    at, source = loop.distributed.on_main(lambda: _checkpoint_before(loop, began))
    if at <= began:
        place = f"The checkpoint {source} is from before"
    else:
        place = f"None of the checkpoints that are kept is from before; the oldest is {source} (train.keep_last)"
    if action == "stop":
        more = "; rollback goes on from it with other batches" if at <= began else ""
        raise RunError(f"step {step}: {serious.text}. {place} (train.on_collapse=stop){more}")
    _check_budget(loop, f"step {step}: {serious.text}", place)
    checkpoint = load_checkpoint(source)
    first, end = (state["batches_consumed"] for state in (checkpoint.state["stream"], loop.stream.state_dict()))
    _go_back(loop, checkpoint, range(first, end), {"fault_step": step, "what": serious.what})
    return True


def _checkpoint_before(loop: Loop, step: int) -> tuple[int, Path]:
    """(step, file) of the newest checkpoint that is not after `step`, else of the oldest that is still there."""
    assert loop.run is not None
    kept = sorted(list_checkpoints(loop.run.checkpoints))
    return next(((at, path) for at, path in reversed(kept) if at <= step), kept[0])


def _check_budget(loop: Loop, where: str, remedy: str) -> None:
    train, done = loop.config.train, loop.progress.rollbacks
    if done >= train.max_rollbacks:
        raise RunError(f"{where}, after {done} rollbacks (train.max_rollbacks). {remedy}")


def _go_back(loop: Loop, checkpoint: Checkpoint, batches: Iterable[int], facts: dict[str, Any]) -> None:
    """Continues from the checkpoint without these batches; the count of rollbacks and the clock go on."""
    skipped, rollbacks = sorted({*loop.progress.skipped, *batches}), loop.progress.rollbacks + 1
    seconds = loop.recorder.seconds()
    loop.restore(checkpoint)
    loop.progress.skipped, loop.progress.rollbacks = skipped, rollbacks
    loop.progress.seconds = seconds
    loop.recorder.start_clock()
    loop.rewind_run()
    loop.recorder.log({"event": "rollback", "step": loop.trainer.step, **facts})
