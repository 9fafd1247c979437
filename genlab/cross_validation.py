"""k-fold cross-validation: one training for each fold, each judged by the samples that it was not trained on.

The folds are those of `split.folds` (`genlab.data.partition`): every sample of the training split, without the share
`split.test`, is judged once.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlab.checkpoint import write_atomically
from genlab.config import RunConfig
from genlab.errors import ConfigError, RunError

if TYPE_CHECKING:
    from genlab.trainers import TrainResult
    from genlab.trainers.callbacks import Callback

FILE = "cross_validation.json"
WHICH = ("last", "best")


def fold_config(config: RunConfig, folds: int, fold: int) -> RunConfig:
    """The configuration of one fold's training.

    Raises:
        ConfigError: an algorithm without folds, or fewer than two of them.
    """
    split = getattr(config, "split", None)
    if split is None or not hasattr(split, "folds"):
        raise ConfigError(
            f"algorithm {config.algorithm}: expected one with split.folds, such as classifier, to cross-validate"
        )
    tree = config.model_dump()
    tree["split"] |= {"folds": folds, "fold": fold}
    return type(config).model_validate(tree)


def cross_validate(
    config: RunConfig,
    folds: int,
    folder: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    callbacks: Callable[[int], Sequence[Callback]] = lambda fold: (),
) -> dict[str, Any]:
    """Trains every fold in a run of its own under `folder` and returns what its cross_validation.json holds.

    The file is renewed after each fold. A fold that is finished is not trained again, one that was stopped goes on.

    Args:
        config: of an algorithm with `split.folds`.
        folds: how many, from 2 on.
        folder: new or empty, or with `resume` that of an earlier call with the same settings.
        device: "cpu", "cuda" or "cuda:N".
        resume: go on in the folder.
        callbacks: fold -> observers of its training.

    Raises:
        UserError: settings, data or a folder that will not do.
        genlab.runs.Interrupted: SIGINT or SIGTERM, after a checkpoint.
    """
    configs = [fold_config(config, folds, fold) for fold in range(folds)]
    _check_folder(folder, folds, resume)
    report: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for fold, settings in enumerate(configs):
        rows.append(_train_fold(settings, folder / f"fold_{fold}", fold, device, callbacks(fold)))
        report = {
            "folds": folds,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "config": config.model_dump(mode="json"),
            "rows": rows,
            "summary": {which: summarize(rows, which) for which in WHICH},
        }
        write_atomically(folder / FILE, (json.dumps(report, indent=1) + "\n").encode())
    return report


def _check_folder(folder: Path, folds: int, resume: bool) -> None:
    if not resume:
        if folder.exists() and any(folder.iterdir()):
            raise RunError(f"{folder}: expected a new or empty folder, got one with files; name another, or --resume")
        return
    if (folder / FILE).is_file():
        before = json.loads((folder / FILE).read_text(encoding="utf-8"))["folds"]
        if before != folds:
            raise RunError(
                f"{folder}: expected --folds {before}, as it was begun with, got {folds}; name another folder"
            )


def _train_fold(config: RunConfig, run: Path, fold: int, device: str, callbacks: Sequence[Callback]) -> dict[str, Any]:
    from genlab.trainers import train

    result: TrainResult = train(config, run, device=device, resume="auto", callbacks=callbacks)
    return {
        "fold": fold,
        "run": run.name,
        "step": {"last": result.step, "best": result.best_step or result.step},
        "last": {row["name"]: row["value"] for row in result.last_scores},
        "best": {row["name"]: row["value"] for row in result.best_scores or result.last_scores},
    }


def summarize(rows: Sequence[dict[str, Any]], which: str) -> dict[str, dict[str, float]]:
    """Score -> its mean over the folds, sample standard deviation (NaN of a single fold) and number of folds.

    Args:
        rows: of the report.
        which: "last" or "best". Best checkpoints were chosen by the very samples that judge them, so that their
            validation scores are too good.
    """
    found = {}
    for name in rows[0][which]:
        values = [row[which][name] for row in rows if row[which].get(name) is not None]
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else math.nan
            found[name] = {"mean": statistics.fmean(values), "sd": deviation, "count": len(values)}
    return found
