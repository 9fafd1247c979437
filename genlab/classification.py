"""A trained classifier on the parts of its data: probabilities, scores, tables and pictures of an evaluation."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genlab.data import ImageDataset, build, iterate
from genlab.data.partition import part_of, require_every_class
from genlab.errors import DataError
from genlab.inputs import moved
from genlab.metrics.labelled import Predictions, class_table
from genlab.metrics.score import Score
from genlab.outputs import writing

if TYPE_CHECKING:
    from genlab.trainers.classifier import ClassifierTrainer
    from genlab.trainers.evaluation import EvaluationData

PARTS = ("train", "validation", "test")
BATCH = 250
Progress = Callable[[str, int, "int | None"], None]


def part_dataset(trainer: ClassifierTrainer, part: str, root: Path | None = None) -> ImageDataset:
    """The samples of a part of the run's data, unvaried: as the training divided them.

    Args:
        trainer: of the run.
        part: "train", "validation" or "test".
        root: where the files lie now; None: where they were.

    Raises:
        DataError: no such part, a class without samples in it, or other classes than the model's.
    """
    config, split = trainer.config.data, trainer.config.split
    if part not in PARTS:
        raise DataError(f"split: expected {', '.join(PARTS)}, got {part!r}")
    if part == "validation" and not split.has_validation:
        raise DataError("split: expected train or test, as the run kept no validation part, got 'validation'")
    config = moved(config, root)
    if part == "test" and split.test == 0:
        dataset = build(config.model_copy(update={"limit": None}), "test")
        names = tuple(dataset.class_names or ())
        if names != tuple(trainer.data.class_names or ()):
            strangers = sorted(set(trainer.data.class_names or ()) ^ set(names))
            raise DataError(
                f"data set {dataset.name!r}: expected the model's classes in the test split, got others "
                f"({', '.join(strangers[:5]) or 'in another order'}); give every class a folder in both"
            )
        require_every_class(dataset, "the test split")
        return dataset
    return part_of(build(config, config.split), split, part)


def predictions_of(
    predict: Callable[[Tensor], Tensor],
    dataset: ImageDataset,
    *,
    batch_size: int = BATCH,
    progress: Progress | None = None,
) -> Predictions:
    """Probabilities of a whole labelled set.

    Args:
        predict: pictures (N, C, H, W) in [-1, 1] to probabilities (N, K).
        dataset: with labels.
        batch_size: pictures of a pass.
        progress: called with (what, done, total).
    """
    parts, labels, seen = [], [], 0
    for batch in iterate(dataset, batch_size):
        parts.append(predict(batch["image"]).double().cpu().numpy())
        labels.append(batch["label"].numpy())
        seen += len(labels[-1])
        if progress is not None:
            progress("classification", seen, len(dataset))
    return Predictions(np.concatenate(parts), np.concatenate(labels), tuple(dataset.class_names or ()))


def part_scores(trainer: ClassifierTrainer, data: EvaluationData) -> list[Score]:
    """Accuracy and loss on the validation part, and accuracy, top-5, loss, F1, AUC and calibration on the test part."""
    scores = []
    for part in ("validation", "test"):
        if part == "test" or trainer.config.split.has_validation:
            dataset = part_dataset(trainer, part)
            predictions = predictions_of(trainer.predict, dataset, batch_size=data.batch_size, progress=data.progress)
            scores += scores_of(predictions, part, protocol_of(trainer, dataset, predictions))
    return scores


def protocol_of(trainer: ClassifierTrainer, dataset: ImageDataset, predictions: Predictions) -> dict[str, Any]:
    """What the numbers depend on, beside checkpoint and weights."""
    source = {
        "source": dataset.name,
        "split": dataset.split,
        "count": len(predictions.labels),
        "fingerprint": dataset.fingerprint,
    }
    wrong = int((predictions.predicted != predictions.labels).sum())
    return {"real": source, "wrong": wrong, "partition": trainer.config.split.model_dump(mode="json")}


def scores_of(predictions: Predictions, part: str, protocol: dict[str, Any]) -> list[Score]:
    """`Score`s called "<part>_<name>"; accuracies have the deviation of a proportion in so many samples."""
    count = len(predictions.labels)

    def share(name: str, value: float) -> Score:
        return Score(f"{part}_{name}", value, math.sqrt(value * (1 - value) / count), protocol, lower_is_better=False)

    scores = [share("accuracy", predictions.accuracy())]
    loss = Score(f"{part}_loss", predictions.loss(), None, protocol, lower_is_better=True)
    if part == "validation":
        return [*scores, loss]
    if len(predictions.class_names) > 5:
        scores.append(share("top5_accuracy", predictions.top_accuracy(5)))
    scores += [loss, Score(f"{part}_f1", predictions.macro_f1(), None, protocol, lower_is_better=False)]
    auc = predictions.macro_auc()
    if math.isfinite(auc):
        scores.append(Score(f"{part}_auc", auc, None, protocol, lower_is_better=False))
    bins = {**protocol, "bins": 15}
    return [
        *scores,
        Score(f"{part}_calibration_error", predictions.calibration_error(15), None, bins, lower_is_better=True),
    ]


def write_tables(
    predictions: Predictions, folder: Path, prevalences: Mapping[int, float] | None = None
) -> tuple[Path, Path]:
    """Writes confusion_matrix.csv (row = label, column = prediction) and classes.csv into `folder`.

    Raises:
        UserError: a folder that cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    names = predictions.class_names
    matrix = [["label", *names]]
    matrix += [[name, *map(int, row)] for name, row in zip(names, predictions.confusion(), strict=True)]
    table = class_table(predictions, prevalences)
    rows = [list(table[0]), *([_cell(value) for value in row.values()] for row in table)]
    paths = folder / "confusion_matrix.csv", folder / "classes.csv"
    for path, lines in zip(paths, (matrix, rows), strict=True):
        with writing(path), open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
    return paths


def _cell(value: Any) -> Any:
    return ("" if math.isnan(value) else f"{value:.6g}") if isinstance(value, float) else value


def parse_prevalences(texts: Sequence[str], class_names: Sequence[str]) -> dict[int, float]:
    """["cat=0.01"] -> {3: 0.01}.

    Raises:
        DataError: no such class, given twice, or a share that is none.
    """
    found: dict[int, float] = {}
    for text in texts:
        name, separator, share = text.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not separator or not 0 < value < 1:
            raise DataError(f"--prevalence: expected CLASS=SHARE with a share between 0 and 1, got {text!r}")
        number = list(class_names).index(name) if name in class_names else int(name) if name.isdigit() else -1
        if not 0 <= number < len(class_names):
            raise DataError(f"--prevalence: expected one of {', '.join(class_names[:20])}, got {name!r}")
        if number in found:
            raise DataError(f"--prevalence: expected each class once, got {name!r} twice")
        found[number] = value
    return found


def uncertainty(samples: Tensor) -> dict[str, Tensor]:
    """What Monte Carlo passes say together.

    Args:
        samples: probabilities (passes, N, K).

    Returns:
        "mean" (N, K), the predictive mean; "variance" (N, K) over the passes; "entropy" (N,) of the mean in nats, the
        whole uncertainty; "information" (N,), what of it is the model's: entropy less the mean entropy of the passes.
    """
    mean = samples.mean(0)
    entropy = -torch.special.xlogy(mean, mean).sum(1)
    within = -torch.special.xlogy(samples, samples).sum(2).mean(0)
    return {
        "mean": mean,
        "variance": samples.var(0, unbiased=False),
        "entropy": entropy,
        "information": (entropy - within).clamp_min(0),
    }
