"""How well pixels are named: of a segmentation's own test pictures, and of photographs that a translator made.

The second is the FCN score of Isola et al. 2017 (section 3.3): a network that segments real photographs is shown
generated ones; the better they are, the more it finds in them the labels that they were made from.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.errors import MetricError
from genlab.metrics.score import Score
from genlab.metrics.segmentation import agreement, class_ious, pixel_confusion

if TYPE_CHECKING:
    from genlab.checkpoint import Bundle
    from genlab.trainers.evaluation import EvaluationData
    from genlab.trainers.pix2pix import Pix2PixTrainer
    from genlab.trainers.segmentation import SegmentationTrainer


def segmentation_scores(trainer: SegmentationTrainer, data: EvaluationData) -> list[Score]:
    """ "mean_iou", "pixel_accuracy" and "class_accuracy" on the test split."""
    from genlab.data import iterate

    test = data.dataset("test")
    classes = len(trainer.palette.names)
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    seen = 0
    for batch in iterate(test, min(data.batch_size, 8)):
        found = trainer.segment(batch["input"]).cpu()
        counts += pixel_confusion(trainer.palette.labels(batch["target"]), found, classes)
        seen += len(found)
        data.progress("segment the test split", seen, len(test))
    ious = class_ious(counts, trainer.palette.names)
    source = {"source": test.name, "split": test.split, "count": seen, "fingerprint": test.fingerprint}
    protocol = {
        "real": source,
        "pixels": int(counts.sum()),
        "iou": {name: None if math.isnan(value) else round(value, 4) for name, value in ious.items()},
    }
    values = agreement(counts)
    return [Score(name, values[name], None, protocol, lower_is_better=False) for name in trainer.own_score_names]


def fcn_scores(trainer: Pix2PixTrainer, segmenter: Bundle, data: EvaluationData) -> list[Score]:
    """What a segmentation finds in photographs made of the test split's label maps, and in the real ones beside them.

    Args:
        trainer: of a Pix2Pix from label maps to photographs.
        segmenter: of algorithm segmentation.
        data: of the Pix2Pix run.

    Returns:
        "fcn_pixel_accuracy", "fcn_class_accuracy" and "fcn_mean_iou" of the generated photographs, then the same of the
        real ones ("..._real"), which is what can be reached.

    Raises:
        MetricError: a segmenter of another algorithm, or a translator whose inputs are no label maps.
    """
    from genlab.data import iterate
    from genlab.metrics.extractors.base import hash_weights
    from genlab.trainers.segmentation import MOST_DISTANCE, SegmentationTrainer

    judge = segmenter.trainer
    if not isinstance(judge, SegmentationTrainer):
        raise MetricError(
            f"segmenter {segmenter.path}: expected a run of algorithm segmentation, got one of "
            f"{segmenter.config.algorithm}"
        )
    test = data.dataset("test")
    count, classes = min(len(test), data.samples), len(judge.palette.names)
    counts = torch.zeros(2, classes, classes, dtype=torch.int64)
    draws, seen = data.generator(), 0
    for batch in iterate(test, 8, limit=count):
        distance = judge.palette.distance(batch["input"])
        if distance > MOST_DISTANCE:
            raise MetricError(
                f"segmenter: expected a translator whose inputs are label maps in the segmenter's colours, got "
                f"pictures {distance:.2f} from them (at most {MOST_DISTANCE}); evaluate one of the other data.direction"
            )
        made = trainer.translate(batch["input"], draws).cpu()
        labels = judge.palette.labels(batch["input"])
        for row, photographs in enumerate((made, batch["target"])):
            found = judge.segment(_at_size(photographs, judge.data.shape[1:])).cpu()
            counts[row] += pixel_confusion(_labels_at_size(labels, found.shape[1:]), found, classes)
        seen += len(made)
        data.progress("segment translations", seen, count)
    protocol: dict[str, Any] = {
        "split": "test",
        "count": count,
        "seed": data.seed,
        "segmenter": f"{judge.data.name}, step {segmenter.step}",
        "segmenter_hash": hash_weights(judge.inference_network("unet")),
        "size": f"{judge.data.shape[1]}x{judge.data.shape[2]}",
    }
    scores = []
    for suffix, confusion in zip(("", "_real"), counts, strict=True):
        for name, value in agreement(confusion).items():
            scores.append(Score(f"fcn_{name}{suffix}", value, None, protocol, lower_is_better=False))
    return scores


def _at_size(images: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return F.interpolate(images, size=tuple(size), mode="bilinear", align_corners=False, antialias=True).clamp(-1, 1)


def _labels_at_size(labels: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    return F.interpolate(labels[:, None].float(), size=tuple(size), mode="nearest")[:, 0].long()
