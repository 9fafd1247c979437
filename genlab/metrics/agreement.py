"""Does a conditional generator make what it is asked for? A classifier of the real data is the judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genlab.errors import MetricError
from genlab.metrics.extractors.base import FeatureExtractor
from genlab.metrics.score import Score

if TYPE_CHECKING:
    from genlab.trainers.evaluation import EvaluationData


def judge_agreement(
    sample: Callable[[int, torch.Generator, Tensor], Tensor], judge: FeatureExtractor, data: EvaluationData
) -> Score:
    """Share of generated images that the judge assigns to the class they were asked for.

    Classes are asked for in turn, so that each counts the same. A perfect generator reaches about the judge's accuracy
    on real images, which the protocol names with the judge's hash, beside the share of every class.

    Args:
        sample: (count, generator, labels) -> images (count, C, H, W) in [-1, 1].
        judge: extractor whose logits are over the classes of the data.
        data: how many images, batch size, seed and progress.

    Raises:
        MetricError: the judge names no classes.
    """
    classes = judge.num_classes
    if not classes:
        raise MetricError(f"judge {judge.name!r}: expected a classifier of the data set, got one without classes")
    generator = data.generator()
    asked, hits = torch.zeros(2, classes, dtype=torch.float64)
    for start in range(0, data.samples, data.batch_size):
        data.progress("judge samples", start, data.samples)
        labels = torch.arange(start, min(start + data.batch_size, data.samples)) % classes
        _, logits = judge(sample(len(labels), generator, labels))
        right = logits.argmax(dim=1).cpu() == labels
        asked += torch.bincount(labels, minlength=classes)
        hits += torch.bincount(labels[right], minlength=classes)
    data.progress("judge samples", data.samples, data.samples)
    protocol = {
        **judge.describe(),
        "fake": {"source": "generator", "count": data.samples},
        "labels": "every class in turn",
        "seed": data.seed,
        "share_by_class": [round(share, 4) for share in (hits / asked).nan_to_num(0.0).tolist()],
    }
    return Score("judge_agreement", float(hits.sum() / asked.sum()), None, protocol, lower_is_better=False)
