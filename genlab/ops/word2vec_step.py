"""word2vec's training on a block of text, in place."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from genlab.ops import implementation, word2vec_reference
from genlab.ops.word2vec_objectives import NegativeSampling, Objective

OP = "word2vec_step"
ARCHITECTURES = ("skip_gram", "cbow")
MOST_WINDOW = 2**20
Architecture = Literal["skip_gram", "cbow"]


class Word2vecTotals(NamedTuple):
    """What a block of text was.

    Attributes:
        loss: nats of all predictions together.
        predictions: how many there were: of CBOW one a word, of skip-gram one a word and context word.
        words: that subsampling left.
    """

    loss: float
    predictions: int
    words: int


@torch.no_grad()
def word2vec_step(
    inputs: Tensor,
    outputs: Tensor,
    words: Tensor,
    starts: Tensor,
    objective: Objective,
    *,
    lr: float,
    architecture: Architecture = "skip_gram",
    window: int = 5,
    keep: Tensor | None = None,
    mean_gradient: bool = False,
    key: int = 0,
    position: int = 0,
    threads: int = 1,
    impl: str = "auto",
) -> Word2vecTotals:
    """Trains word vectors on a block of sentences by stochastic gradient descent, one prediction after another.

    Every word of a sentence is a centre; its context are the words at most r places away, r uniform in 1 ... `window`,
    among those that subsampling left. skip_gram: each context word's vector predicts the centre. cbow: their mean does.
    (Mikolov et al. 2013a, "Efficient estimation of word representations in vector space"; 2013b, "Distributed
    representations of words and phrases and their compositionality", section 2.) All derivatives of a prediction are
    taken before its vectors move.

    Draws are numbers of (key, position of the word in the text), so that they depend neither on how the text is cut
    into blocks nor on threads. With one thread the result is the same bit for bit. Several train parts of the block at
    once over the same tables without locks (Hogwild, Recht et al. 2011), as the original program does: what one writes
    over another's work is lost, and no two runs are alike.

    Args:
        inputs: float32 (V, D), the word vectors; changed in place.
        outputs: float32, (V, D) of words for negative sampling, (V - 1, D) of inner nodes for hierarchical softmax;
            changed in place.
        words: int32 (L,), numbers of words.
        starts: int64 (S + 1,), rising from 0 to L: sentence i is words[starts[i]] ... words[starts[i + 1] - 1].
        objective: `NegativeSampling` or `HierarchicalSoftmax` of the V words.
        lr: learning rate; 0 only measures.
        architecture: "skip_gram" or "cbow".
        window: most places between a word and its context, from 1 to 2^20.
        keep: float32 (V,), probability that an occurrence of each word stays (`keep_probabilities`); None: all stay.
        mean_gradient: CBOW: each context word moves by its share of the derivative (Irsoy et al. 2021) and not, as in
            the original program, by the derivative with respect to their mean.
        key: of the draws; `genlab.data.randomness.hash64` makes one of a seed and an epoch.
        position: place of words[0] in the whole text.
        threads: 0: as many as torch has. On a GPU 1 is a single warp, and any other number as many as the rows that
            most predictions share bear (512, for hierarchical softmax 64), which add to the tables atomically.
        impl: "auto", "native", "torch" or "reference"; the last two are the same plain loop, with one thread.

    Returns:
        The loss before each prediction's step, summed, and what was counted.

    Raises:
        ValueError: shapes, numbers or settings that do not fit.
        TypeError: other dtypes.
        RuntimeError: tensors on several devices, or impl="native" where the extension is not built.
        NotImplementedError: tensors on a GPU where the extension has no CUDA, or on another device.

    Example:
        >>> text = torch.randint(50, (1000,), dtype=torch.int32)
        >>> noise = NegativeSampling.from_counts(torch.bincount(text, minlength=50))
        >>> inputs, outputs = torch.randn(50, 8) / 8, torch.zeros(50, 8)
        >>> word2vec_step(inputs, outputs, text, torch.tensor([0, 1000]), noise, lr=0.025).words
        1000
    """
    _check(inputs, outputs, words, starts, objective, architecture, window, keep, threads)
    sampled = isinstance(objective, NegativeSampling)
    if implementation.choose(OP, impl, inputs) == "native":
        totals = torch.ops.genlab.word2vec_step(
            inputs, outputs, words, starts, keep,
            objective.noise if sampled else None,
            None if sampled else objective.path_starts,
            None if sampled else objective.path_nodes,
            None if sampled else objective.path_codes,
            0 if sampled else objective.longest,
            architecture, mean_gradient, window, objective.negatives if sampled else 0, lr, key, position, threads,
        )  # fmt: skip
        loss, predictions, kept = totals.tolist()
        return Word2vecTotals(loss, int(predictions), int(kept))
    if inputs.device.type != "cpu":
        raise NotImplementedError(
            f"{OP}: on a GPU expected the compiled kernel, got impl={impl!r}; build it with CUDA, or move the tables "
            "to the CPU"
        )
    found = word2vec_reference.train(
        inputs, outputs, words, starts, objective, lr=lr, cbow=architecture == "cbow", window=window, keep=keep,
        mean_gradient=mean_gradient, key=key, position=position,
    )  # fmt: skip
    return Word2vecTotals(*found)


def _check(
    inputs: Tensor, outputs: Tensor, words: Tensor, starts: Tensor, objective: Objective, architecture: str,
    window: int, keep: Tensor | None, threads: int,
) -> None:  # fmt: skip
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{OP}: expected architecture {' or '.join(ARCHITECTURES)}, got {architecture!r}")
    if not 1 <= window <= MOST_WINDOW:
        raise ValueError(f"{OP}: expected window from 1 to {MOST_WINDOW}, got {window}")
    if threads < 0:
        raise ValueError(f"{OP}: expected threads of at least 0, got {threads}")
    if inputs.device.type not in ("cpu", "cuda"):
        raise NotImplementedError(f"{OP}: expected tensors on the CPU or a GPU, got {inputs.device.type}")
    if inputs.dim() != 2 or inputs.shape[0] < 1:
        raise ValueError(f"{OP}: expected inputs of shape (words, d), got {tuple(inputs.shape)}")
    count, d = inputs.shape
    sampled = isinstance(objective, NegativeSampling)
    known = len(objective.noise) if sampled else len(objective.path_starts) - 1
    if known != count:
        raise ValueError(f"{OP}: expected an objective of the {count} words of inputs, got one of {known}")
    rows = count if sampled else count - 1
    expected = {
        "inputs": (inputs, torch.float32, (count, d)),
        "outputs": (outputs, torch.float32, (rows, d)),
        "words": (words, torch.int32, (words.numel(),)),
        "starts": (starts, torch.int64, (max(starts.numel(), 1),)),
    }
    if keep is not None:
        expected["keep"] = (keep, torch.float32, (count,))
    for name, (tensor, dtype, shape) in expected.items():
        if tensor.dtype != dtype:
            raise TypeError(f"{OP}: expected {name} of dtype {dtype}, got {tensor.dtype}")
        if tuple(tensor.shape) != shape or not tensor.is_contiguous():
            raise ValueError(f"{OP}: expected {name} contiguous and of shape {shape}, got {tuple(tensor.shape)}")
        if tensor.device != inputs.device:
            raise RuntimeError(f"{OP}: expected {name} on the inputs' device {inputs.device}, got {tensor.device}")
    if words.numel() and not 0 <= int(words.min()) <= int(words.max()) < count:
        raise ValueError(f"{OP}: expected words to be numbers from 0 to {count - 1}")
    if int(starts[0]) != 0 or int(starts[-1]) != words.numel() or bool((starts.diff() < 0).any()):
        raise ValueError(f"{OP}: expected starts to rise from 0 to {words.numel()}")
