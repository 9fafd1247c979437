"""Scores of a classifier on the samples of a split."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from genlab.metrics.score import Score

if TYPE_CHECKING:
    from genlab.trainers.evaluation import EvaluationData


def classification_scores(
    predict: Callable[[Tensor], Tensor], data: EvaluationData, facts: dict[str, Any], split: str = "test"
) -> list[Score]:
    """ "test_error" and "test_accuracy", shares of all samples of a split.

    Args:
        predict: images (N, C, H, W) in [-1, 1] to a value for each class, (N, K), the largest of which wins.
        data: of the run.
        facts: what else the numbers depend on, for the protocol.
        split: that is classified.

    Returns:
        The two scores; their deviation is that of a proportion in so many independent samples.
    """
    from genlab.data import iterate

    dataset = data.dataset(split)
    right, seen = 0, 0
    for batch in iterate(dataset, data.batch_size):
        right += int((predict(batch["image"]).argmax(1).cpu() == batch["label"]).sum())
        seen += len(batch["label"])
        data.progress("classification", seen, len(dataset))
    accuracy = right / seen
    deviation = math.sqrt(accuracy * (1 - accuracy) / seen)
    source = {"source": dataset.name, "split": dataset.split, "count": seen, "fingerprint": dataset.fingerprint}
    protocol = {"real": source, "wrong": seen - right, **facts}
    return [
        Score("test_error", 1 - accuracy, deviation, protocol, lower_is_better=True),
        Score("test_accuracy", accuracy, deviation, protocol, lower_is_better=False),
    ]
