"""Scores of a language model: what the tokens of a text cost that was not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.metrics.score import Score
from genlab.metrics.text_scores import scored_parts, source_facts

if TYPE_CHECKING:
    from genlab.data.text_base import StreamDataset
    from genlab.models.language_models import State
    from genlab.trainers.evaluation import EvaluationData
    from genlab.trainers.language_model import LanguageModelTrainer

SCORED_ROWS = 16  # parts of a text that are scored side by side
LONGEST_EXPONENT = 700.0  # above, exp leaves float64


def likelihood_scores(trainer: LanguageModelTrainer, data: EvaluationData) -> list[Score]:
    """`<part>_nats_per_token` and its exponential `<part>_perplexity`, on the parts that are not trained on."""
    found = []
    for dataset in scored_parts(trainer, data):
        total, seen = 0.0, 0
        for nats in token_losses(trainer, dataset, data.batch_size):
            total, seen = total + float(nats.double().sum()), seen + nats.numel()
            data.progress("likelihood", seen, len(dataset) * dataset.sequence_length)
        mean = total / seen
        protocol = {
            "real": source_facts(dataset, seen),
            "unit": trainer.codec.unit,
            "context": _context(trainer, dataset),
        }
        perplexity = math.exp(min(mean, LONGEST_EXPONENT))
        for name, value in (("nats_per_token", mean), ("perplexity", perplexity)):
            found.append(Score(f"{dataset.split}_{name}", value, None, protocol, lower_is_better=True))
    return found


def _context(trainer: LanguageModelTrainer, dataset: StreamDataset) -> str:
    """What a scored token sees, in words."""
    length, stride = dataset.sequence_length, trainer.config.score_stride
    if trainer.stateful:
        return "state carried on"
    if stride is None:
        return f"windows of {length} tokens"
    return f"windows of {length} tokens moved on by {stride}: at least {length - stride} before each token"


def token_losses(trainer: LanguageModelTrainer, dataset: StreamDataset, batch_size: int) -> Iterator[Tensor]:
    """-log p of every token of a text but the first, in nats, by batches of windows (N, number of scored tokens).

    A network with a state reads `SCORED_ROWS` parts of the text side by side, each from its beginning to its end. The
    windows of one without a state stand side by side or, with `score_stride`, overlap: then the last so many tokens of
    each are scored, and all of the first.
    """
    with trainer.inference():
        if trainer.stateful:
            yield from _carried_on(trainer, dataset)
        else:
            yield from _windows_alone(trainer, dataset, batch_size)


def _carried_on(trainer: LanguageModelTrainer, dataset: StreamDataset) -> Iterator[Tensor]:
    network, rows = trainer.networks["model"], min(SCORED_ROWS, len(dataset))
    each = len(dataset) // rows
    requests = [np.arange(rows) * each + window for window in range(each)]
    requests += [np.array([window]) for window in range(rows * each, len(dataset))]
    state: State | None = None
    for number, request in enumerate(requests):
        tokens = dataset.fetch(request)["tokens"].to(trainer.device)
        if number in (0, each):
            state = network.start(len(tokens), trainer.device)
        logits, state = network(tokens[:, :-1], state)
        yield _nats(logits, tokens[:, 1:])


def _windows_alone(trainer: LanguageModelTrainer, dataset: StreamDataset, batch_size: int) -> Iterator[Tensor]:
    length = dataset.sequence_length
    stride = trainer.config.score_stride or length
    first, others = torch.arange(0, (len(dataset) - 1) * length + 1, stride).tensor_split([1])
    for starts, scored in [(first, length), *((part, stride) for part in others.split(batch_size) if len(part))]:
        tokens = dataset.windows(starts).to(trainer.device)
        logits, _ = trainer.networks["model"](tokens[:, :-1], None)
        yield _nats(logits[:, -scored:], tokens[:, 1:][:, -scored:])


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view(len(targets), -1)
