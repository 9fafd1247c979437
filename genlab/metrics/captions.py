"""Scores of captions: BLEU-1 to BLEU-4, exact matches, and the perplexity of the captions that people gave."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from genlab.metrics.bleu import caption_bleu
from genlab.metrics.score import Score
from genlab.metrics.text_scores import scored_parts, source_facts

if TYPE_CHECKING:
    from genlab.data.captions import CaptionDataset
    from genlab.trainers.captioning import CaptioningTrainer
    from genlab.trainers.evaluation import EvaluationData

ORDERS = (4, 3, 2, 1)


def caption_scores(trainer: CaptioningTrainer, data: EvaluationData) -> list[Score]:
    """Of the validation and the test part: what is said of each picture against all that people said of it.

    BLEU is of the corpus, against texts, not tokens. A match is exact where the words are those of any of the picture's
    captions, none of them unknown. Perplexity is exp of the mean nats of a word, the end of a caption counted, over all
    captions; a word that the vocabulary lacks counts as the unknown one, and the protocol says how many there are.
    """
    scores = []
    for dataset in scored_parts(trainer, data):
        scores += _part_scores(trainer, data, dataset)
    return scores


def _part_scores(trainer: CaptioningTrainer, data: EvaluationData, dataset: CaptionDataset) -> list[Score]:
    from genlab.data import evenly_spaced

    chosen = evenly_spaced(len(dataset.references), data.samples)
    references = [dataset.references[row] for row in chosen]
    found: list[str] = []
    for start in range(0, len(chosen), data.batch_size):
        found += trainer.caption(dataset.pictures(chosen[start : start + data.batch_size]))
        data.progress("captions", len(found), len(chosen))
    config = trainer.config
    facts = {
        "real": source_facts(dataset, len(chosen)),
        "captions": sum(len(row) for row in references),
        "decoding": config.decoding.model_dump(mode="json"),
    }
    if config.model.attention == "hard":
        facts["glimpse"] = config.hard.glimpse
    scores = []
    for order in ORDERS:
        value, signature = caption_bleu(found, references, order, config.data.lowercase)
        name = f"{dataset.split}_bleu{order}"
        scores.append(Score(name, value, None, {"sacrebleu": signature, **facts}, lower_is_better=False))
    share = sum(_is_match(trainer, text, row) for text, row in zip(found, references, strict=True)) / len(found)
    deviation = math.sqrt(share * (1 - share) / len(found))
    scores.append(Score(f"{dataset.split}_exact_match", share, deviation, facts, lower_is_better=False))
    return [*scores, _perplexity(trainer, data, dataset, chosen, facts)]


def _is_match(trainer: CaptioningTrainer, text: str, references: list[str]) -> bool:
    split = trainer.codec.split
    return split(text) in [split(reference) for reference in references]


def _perplexity(
    trainer: CaptioningTrainer, data: EvaluationData, dataset: CaptionDataset, chosen: np.ndarray, facts: dict
) -> Score:
    from genlab.captioning import read_captions
    from genlab.data.text_vocabulary import PAD, UNKNOWN

    samples = np.flatnonzero(np.isin(dataset.picture_of, chosen))
    pad, unknown = (trainer.codec.special(role) for role in (PAD, UNKNOWN))
    nats, words, strange = 0.0, 0, 0
    for start in range(0, len(samples), data.batch_size):
        batch = dataset.fetch(samples[start : start + data.batch_size])
        logs, _ = read_captions(trainer, batch["image"], batch["caption"])
        nats -= float(logs.double().sum())
        words += int((batch["caption"] != pad).sum())
        strange += int((batch["caption"] == unknown).sum())
    protocol = {**facts, "words": words, "unknown_words": strange}
    return Score(f"{dataset.split}_perplexity", math.exp(nats / words), None, protocol, lower_is_better=True)
