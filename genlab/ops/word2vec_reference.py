"""word2vec's training written out: one prediction after another in numpy, over the tensors' own memory."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from genlab.ops.word2vec_objectives import NegativeSampling, Objective

_GOLDEN, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1
KEEP, REACH, NOISE = 0, 1, 2  # numbers of a word's draws; those of the noise go on from the last


def train(
    inputs: Tensor, outputs: Tensor, words: Tensor, starts: Tensor, objective: Objective, *, lr: float, cbow: bool,
    window: int, keep: Tensor | None, mean_gradient: bool, key: int, position: int,
) -> tuple[float, int, int]:  # fmt: skip
    """(loss, predictions, words left) of `genlab.ops.word2vec_step`, whose arguments these are."""
    x, y, text = inputs.numpy(), outputs.numpy(), words.tolist()
    bounds, rate = starts.tolist(), np.float32(lr)
    shares = None if keep is None else keep.tolist()
    loss, predictions, left = 0.0, 0, 0
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        places = [at for at in range(first, last) if shares is None or _stays(key, position + at, shares[text[at]])]
        left += len(places)
        for i, centre in enumerate(places):
            state = word_state(key, position + centre)
            reach = 1 + below(draw(state, REACH), window)
            context = [text[at] for at in places[max(0, i - reach) : i] + places[i + 1 : i + 1 + reach]]
            groups = [context] if cbow and context else [[word] for word in context]
            for n, group in enumerate(groups):
                rows, labels = targets(objective, text[centre], state, n)
                loss += predict(x, y, group, rows, labels, rate, whole=not mean_gradient)
            predictions += len(groups)
    return loss, predictions, left


def predict(
    x: np.ndarray, y: np.ndarray, context: list[int], rows: np.ndarray, labels: np.ndarray, rate: np.float32,
    whole: bool,
) -> float:  # fmt: skip
    """One step on -sum log s(+-h.y_row), h the mean of the context's rows of x; returns that sum before it.

    Args:
        x, y: tables, changed in place.
        context: rows of x.
        rows, labels: rows of y, and 1 where s(h.y) is to be 1.
        rate: of learning.
        whole: each row of the context moves by the derivative with respect to h, not by its share of it.
    """
    h = x[context].mean(axis=0)
    logits = y[rows] @ h
    slopes = (labels - 1.0 / (1.0 + np.exp(-logits))).astype(np.float32) * rate
    error = slopes @ y[rows]
    np.add.at(y, rows, slopes[:, None] * h)
    np.add.at(x, context, error if whole else error / np.float32(len(context)))
    return float(np.logaddexp(0.0, np.where(labels > 0.5, -logits, logits)).sum())


def targets(objective: Objective, word: int, state: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the output table, labels) of the n-th prediction of `word` at a place."""
    if not isinstance(objective, NegativeSampling):
        nodes, codes = objective.path(word)
        return nodes.numpy(), 1.0 - codes.numpy().astype(np.float32)
    numbers = range(NOISE + n * objective.negatives, NOISE + (n + 1) * objective.negatives)
    noise = [noise_word(objective.noise.numpy(), draw(state, number)) for number in numbers]
    rows = np.array([word, *(other for other in noise if other != word)])
    return rows, (np.arange(len(rows)) == 0).astype(np.float32)


def _stays(key: int, position: int, share: float) -> bool:
    return (draw(word_state(key, position), KEEP) >> 40) * 2.0**-24 < share


# The draws of csrc/kernels/word2vec.h, in Python's integers.


def _mix(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def word_state(key: int, position: int) -> int:
    """What the draws of a place follow from."""
    return _mix((((key & _MASK) ^ _mix((position + _GOLDEN) & _MASK)) + _GOLDEN) & _MASK)


def draw(state: int, number: int) -> int:
    """64 bits."""
    return _mix((state + _GOLDEN * (number + 1)) & _MASK)


def below(bits: int, count: int) -> int:
    """Uniform in 0 ... count - 1."""
    return ((bits >> 32) * count) >> 32


def noise_word(noise: np.ndarray, bits: int) -> int:
    """A word by the alias table of `NegativeSampling`."""
    slot = below(bits, len(noise))
    entry = int(noise[slot]) & _MASK
    return slot if (bits & 0xFFFFFFFF) < (entry >> 32) else entry & 0xFFFFFFFF
