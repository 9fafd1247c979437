"""Decoding of sequence-to-sequence models: beam search, and the greedy choice that it becomes with one beam.

A model has `begin(source, lengths)`, a tuple of tensors with the row first, and `step(tokens, state)`, which reads one
token of each row and gives (logits (N, V), state).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

State = tuple[Tensor, ...]


def length_penalty(length: int, alpha: float) -> float:
    """What a hypothesis's log-probability is divided by (Wu et al. 2016, equation 14)."""
    return ((5 + length) / 6) ** alpha


def greedy_search(model: Any, source: Tensor, lengths: Tensor, begin: int, end: int, longest: int) -> list[list[int]]:
    """The likeliest token at each step, until the end token or `longest` tokens; without begin and end."""
    state = model.begin(source, lengths)
    tokens = torch.full((len(source),), begin, device=source.device)
    rows: list[list[int]] = [[] for _ in range(len(source))]
    done = [False] * len(source)
    for _ in range(longest):
        logits, state = model.step(tokens, state)
        tokens = logits.argmax(1)
        for number, token in enumerate(tokens.tolist()):
            done[number] = done[number] or token == end
            if not done[number]:
                rows[number].append(token)
        if all(done):
            break
    return rows


def beam_search(
    model: Any,
    source: Tensor,
    lengths: Tensor,
    begin: int,
    end: int,
    *,
    beam: int = 4,
    longest: int = 100,
    alpha: float = 0.6,
) -> list[list[int]]:
    """The best hypothesis of each sentence, without begin and end.

    At each step the best 2 * beam continuations are looked at in order: one that ends and is among the best `beam` is a
    hypothesis, the first `beam` that do not end go on. A sentence is done with `beam` hypotheses.

    Args:
        model: in evaluation mode.
        source, lengths: (N, S) and (N,) int64.
        begin, end: special tokens.
        beam: hypotheses that are followed.
        longest: tokens of a hypothesis at most; those that have not ended then count as they are.
        alpha: of the length penalty; 0 for none.
    """
    count, device = len(source), source.device
    state = tuple(part.repeat_interleave(beam, 0) for part in model.begin(source, lengths))
    tokens = torch.full((count * beam,), begin, device=device)
    totals = torch.full((count, beam), -torch.inf, device=device)
    totals[:, 0] = 0.0  # all beams are the same at first: only one may go on
    texts: list[list[list[int]]] = [[[] for _ in range(beam)] for _ in range(count)]
    found: list[list[tuple[float, list[int]]]] = [[] for _ in range(count)]
    for step in range(1, longest + 1):
        logits, state = model.step(tokens, state)
        logs = logits.float().log_softmax(1)
        vocabulary = logs.shape[1]
        sums = (totals[:, :, None] + logs.view(count, beam, vocabulary)).flatten(1)
        best, places = sums.topk(min(2 * beam, sums.shape[1]), dim=1)
        rows, nexts, kept = [], [], []
        for number, (values, spots) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
            following: list[tuple[float, int, int]] = []
            for rank, (value, spot) in enumerate(zip(values, spots, strict=True)):
                parent, token = divmod(spot, vocabulary)
                if token == end:
                    if rank < beam and len(found[number]) < beam and value > -torch.inf:
                        found[number].append((value / length_penalty(step, alpha), texts[number][parent]))
                elif len(following) < beam:
                    following.append((value, parent, token))
            texts[number] = [texts[number][parent] + [token] for _, parent, token in following]
            rows += [number * beam + parent for _, parent, _ in following]
            nexts += [token for *_, token in following]
            kept.append([value for value, *_ in following])
        if all(len(hypotheses) >= beam for hypotheses in found):
            break
        picked = torch.tensor(rows, device=device)
        state = tuple(part.index_select(0, picked) for part in state)
        tokens, totals = torch.tensor(nexts, device=device), torch.tensor(kept, device=device)
    for number, hypotheses in enumerate(found):
        if len(hypotheses) < beam:  # never ended
            values = totals[number].tolist()
            hypotheses += [
                (value / length_penalty(len(text), alpha), text)
                for value, text in zip(values, texts[number], strict=True)
            ]
    return [max(hypotheses, key=lambda pair: pair[0])[1] for hypotheses in found]
