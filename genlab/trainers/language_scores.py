"""Scores of a language model: what the tokens of a text cost that was not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
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
        context = "state carried on" if trainer.stateful else f"windows of {dataset.sequence_length} tokens"
        protocol = {"real": source_facts(dataset, seen), "unit": trainer.codec.unit, "context": context}
        perplexity = math.exp(min(mean, LONGEST_EXPONENT))
        for name, value in (("nats_per_token", mean), ("perplexity", perplexity)):
            found.append(Score(f"{dataset.split}_{name}", value, None, protocol, lower_is_better=True))
    return found


def token_losses(trainer: LanguageModelTrainer, dataset: StreamDataset, batch_size: int) -> Iterator[Tensor]:
    """-log p of every token of a text but the first, in nats, by batches of windows (N, T).

    A network with a state reads `SCORED_ROWS` parts of the text side by side, each from its beginning to its end.
    """
    network = trainer.networks["model"]
    rows = min(SCORED_ROWS, len(dataset)) if trainer.stateful else batch_size
    each = len(dataset) // rows
    with trainer.inference():
        if not trainer.stateful:
            requests = [np.arange(at, min(at + rows, len(dataset))) for at in range(0, len(dataset), rows)]
        else:
            requests = [np.arange(rows) * each + window for window in range(each)]
            requests += [np.array([window]) for window in range(rows * each, len(dataset))]
        state: State | None = None
        for number, request in enumerate(requests):
            tokens = dataset.fetch(request)["tokens"].to(trainer.device)
            if trainer.stateful and number in (0, each):
                state = network.start(len(tokens), trainer.device)
            logits, state = network(tokens[:, :-1], state if trainer.stateful else None)
            nats = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
            yield nats.view(len(tokens), -1)
