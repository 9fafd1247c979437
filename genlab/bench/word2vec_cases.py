"""The word2vec rows of `genlab bench op`: a block of text learnt in one call, beside embedding bags with autograd.

Both sides make the same predictions. Ours draws windows and noise words inside the call; the peer is given its own,
drawn before the clock starts. It takes all gradients at the old tables, ours moves them after every prediction, and
with several threads loses a few updates: at so small a rate the changes of the tables agree to two parts in a hundred.
Five are let pass; nothing learnt, or other predictions, would be an error of one or more.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab import ops
from genlab.bench.cases import Case, Tensors
from genlab.ops import NegativeSampling, word2vec_reference

OP = "word2vec_step"
KEY, RATE, SLACK = 7, 4e-4, 5e3
SENTENCE = 20  # words


@dataclass(frozen=True)
class Words:
    """`length` words of `vocabulary` in sentences of 20, vectors of `dim` numbers; window 5 or `window`."""

    label: str
    architecture: str
    vocabulary: int
    length: int
    dim: int
    negatives: int = 5
    window: int = 5
    threads: int = 0

    @property
    def shape(self) -> str:
        return f"{self.length} of {self.vocabulary} words, {self.dim} numbers, {self.negatives} noise words"


FULL = (
    Words("skip-gram", "skip_gram", 10000, 10000, 100),
    Words("CBOW", "cbow", 10000, 10000, 100),
    Words("skip-gram, 300 numbers", "skip_gram", 30000, 10000, 300, negatives=15),
)
QUICK = FULL[:2]
TINY = (Words("tiny", "skip_gram", 200, 60, 8, threads=1), Words("tiny", "cbow", 200, 60, 8, threads=1))


@dataclass(frozen=True)
class Block:
    """A text, and the predictions that `word2vec_step` makes on it with `KEY`.

    Attributes:
        words, starts, noise: arguments of `word2vec_step`.
        bags, offsets: words whose vectors predict, and where each prediction's begin.
        targets, labels, weights: (P, 1 + negatives), rows of the output table, 1 for the word that is there, and 0
            where a noise word is that word and does not count.
    """

    words: Tensor
    starts: Tensor
    noise: NegativeSampling
    bags: Tensor
    offsets: Tensor
    targets: Tensor
    labels: Tensor
    weights: Tensor


@functools.lru_cache(maxsize=2)
def block(shape: Words, device: torch.device) -> Block:
    """The text of a row: words by falling frequency, as subsampling leaves them."""
    generator = torch.Generator().manual_seed(1)
    shares = 1 / (torch.arange(shape.vocabulary, dtype=torch.float32) + 50)
    words = torch.multinomial(shares, shape.length, replacement=True, generator=generator).int()
    starts = torch.arange(0, shape.length + SENTENCE, SENTENCE).clamp_max(shape.length)
    counts = torch.bincount(words, minlength=shape.vocabulary).clamp_min(1)
    noise = NegativeSampling.from_counts(counts, negatives=shape.negatives)
    groups, rows = _predictions(shape, words.tolist(), starts.tolist(), noise)
    targets, weights = torch.zeros(len(rows), 1 + shape.negatives, dtype=torch.int64), torch.zeros(len(rows), 1)
    weights = weights.repeat(1, targets.shape[1])
    for number, row in enumerate(rows):
        targets[number, : len(row)], weights[number, : len(row)] = torch.tensor(row), 1.0
    labels = torch.zeros_like(weights)
    labels[:, 0] = 1.0
    offsets = torch.tensor([0, *map(len, groups)]).cumsum(0)[:-1]
    bags = torch.tensor([word for group in groups for word in group])
    tensors = [t.to(device) for t in (bags, offsets, targets, labels, weights)]
    return Block(words.to(device), starts.to(device), noise.to(device), *tensors)


def _predictions(
    shape: Words, text: list[int], starts: list[int], noise: NegativeSampling
) -> tuple[list[list[int]], list[list[int]]]:
    """(context words, target rows) of each prediction, by the draws of the reference."""
    groups, rows = [], []
    for first, last in pairwise(starts):
        for centre in range(first, last):
            state = word2vec_reference.word_state(KEY, centre)
            reach = 1 + word2vec_reference.below(word2vec_reference.draw(state, word2vec_reference.REACH), shape.window)
            context = text[max(first, centre - reach) : centre] + text[centre + 1 : min(last, centre + 1 + reach)]
            found = [context] if shape.architecture == "cbow" and context else [[word] for word in context]
            groups += found
            rows += [word2vec_reference.targets(noise, text[centre], state, n)[0].tolist() for n in range(len(found))]
    return groups, rows


def word2vec_cases(shapes: str) -> list[Case]:
    """The rows of "quick", "full" or "tiny"."""
    return [_case(shape) for shape in {"tiny": TINY, "quick": QUICK, "full": FULL}[shapes]]


def _case(shape: Words) -> Case:
    def make(generator: torch.Generator) -> Tensors:
        sizes = (shape.vocabulary, shape.dim)
        return tuple(torch.randn(sizes, generator=generator) * 0.1 for _ in range(2))

    # Of the mean reach of (window + 1) / 2 places on either side; a prediction's dot products and two updates.
    reached = shape.length * ((shape.window + 1) if shape.architecture == "skip_gram" else 1)
    flops = 6.0 * reached * (1 + shape.negatives) * shape.dim
    return Case(
        OP, shape.architecture, shape.label, shape.shape, make, functools.partial(_ours, shape),
        functools.partial(_torch, shape), (), (0, 1), flops, 4.0 * shape.vocabulary * shape.dim, slack=SLACK,
    )  # fmt: skip


def _ours(shape: Words, inputs: Tensor, outputs: Tensor, *, impl: str) -> Tensors:
    """Change of both tables in units of the rate, of fresh copies, which the peer makes too."""
    text, x, y = block(shape, inputs.device), inputs.clone(), outputs.clone()
    ops.word2vec_step(
        x, y, text.words, text.starts, text.noise, lr=RATE, architecture=shape.architecture, window=shape.window,
        mean_gradient=True, key=KEY, threads=shape.threads, impl=impl,
    )  # fmt: skip
    return (x - inputs) / RATE, (y - outputs) / RATE


def _torch(shape: Words, inputs: Tensor, outputs: Tensor) -> Tensors:
    text = block(shape, inputs.device)
    x, y = inputs.clone().requires_grad_(), outputs.clone().requires_grad_()
    with torch.enable_grad():
        means = F.embedding_bag(text.bags, x, text.offsets, mode="mean", sparse=True)
        logits = (F.embedding(text.targets, y, sparse=True) @ means[:, :, None])[..., 0]
        weights, labels = text.weights.to(logits.dtype), text.labels.to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
        gradients = torch.autograd.grad(loss, (x, y))
    for table, gradient in zip((x, y), gradients, strict=True):
        table.detach().add_(gradient, alpha=-RATE)
    return (x.detach() - inputs) / RATE, (y.detach() - outputs) / RATE
