"""Scores of models of text: accuracy of sentences and tags, nats per token of a language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from genlab.errors import DataError
from genlab.metrics.score import Score

if TYPE_CHECKING:
    from genlab.data.text_base import TokenDataset
    from genlab.data.text_vocabulary import TextCodec
    from genlab.trainers.base import Batch, Trainer
    from genlab.trainers.evaluation import EvaluationData

PARTS = ("val", "test")


def scored_parts(trainer: Trainer, data: EvaluationData, parts: Sequence[str] = PARTS) -> list[TokenDataset]:
    """The parts of the run's data set that there are, checked to have the model's vocabulary.

    The first score decides which checkpoint is best, so that the validation part comes first where there is one.

    Raises:
        DataError: none of the parts is there, or a part is in other tokens than the model's.
    """
    from genlab.data import DATASETS
    from genlab.data.text_vocabulary import TextCodec, require_same_codec

    found = []
    for part in parts:
        if part not in DATASETS.get(data.config.data.name).splits:
            continue
        try:
            dataset = data.dataset(part, given_codec(trainer))
        except DataError:
            if part == "test" and not found:
                raise
            continue  # no file holds it and nothing is held out
        for key, codec in getattr(dataset, "codecs", {}).items():
            known = TextCodec.from_dict((trainer.data.codecs or {})[key])
            require_same_codec(known, codec, f"data set {dataset.name!r} ({part}): {key}")
        found.append(dataset)
    return found


def given_codec(trainer: Trainer) -> TextCodec | None:
    """The codec that the run took from elsewhere, which need not be there any more; None where the data give it."""
    from genlab.data.text_vocabulary import TextCodec
    from genlab.text_config import TextDataConfig

    data = trainer.config.data
    if not isinstance(data, TextDataConfig) or data.vocabulary is None:
        return None
    return TextCodec.from_dict((trainer.data.codecs or {})["tokens"])


def source_facts(dataset: TokenDataset, count: int) -> dict[str, Any]:
    """What a protocol says of the data that a score was taken on."""
    return {"source": dataset.name, "split": dataset.split, "count": count, "fingerprint": dataset.fingerprint}


def accuracy_scores(
    count_right: Callable[[Batch], tuple[int, int]], trainer: Trainer, data: EvaluationData, facts: dict[str, Any]
) -> list[Score]:
    """ "val_accuracy" and "test_accuracy": the share that is right, with the deviation of such a share.

    Args:
        count_right: batch -> (right ones, all).
        trainer: whose vocabulary the data must have.
        data: of the run.
        facts: what else the numbers depend on.
    """
    from genlab.data import iterate

    scores = []
    for dataset in scored_parts(trainer, data):
        right = seen = 0
        for number, batch in enumerate(iterate(dataset, data.batch_size), start=1):
            more_right, more = count_right(trainer.to_device(batch))
            right, seen = right + more_right, seen + more
            data.progress("classification", min(number * data.batch_size, len(dataset)), len(dataset))
        accuracy = right / seen
        deviation = math.sqrt(accuracy * (1 - accuracy) / seen)
        protocol = {"real": source_facts(dataset, seen), "wrong": seen - right, **facts}
        scores.append(Score(f"{dataset.split}_accuracy", accuracy, deviation, protocol, lower_is_better=False))
    return scores
