"""The two tables of word2vec."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genlab.ops import HierarchicalSoftmax, NegativeSampling
from genlab.ops.word2vec_objectives import Objective


class WordVectorTables(nn.Module):
    """Word vectors, and what they are trained against.

    Args:
        words: V, size of the vocabulary.
        dim: D, numbers of a vector.
        objective: "negative_sampling" or "hierarchical_softmax".
        negatives, noise_power: of negative sampling.

    Attributes:
        inputs: (V, D), the word vectors; at first uniform in [-1 / 2D, 1 / 2D], as in the original program.
        outputs: (V, D) of words, or (V - 1, D) of inner nodes; at first zeros.
        counts: int64 (V,), how often each word occurs: the noise and the tree follow from them.
    """

    def __init__(
        self, words: int, dim: int, objective: str = "negative_sampling", negatives: int = 5, noise_power: float = 0.75
    ) -> None:
        super().__init__()
        self._sampled, self._negatives, self._power = objective == "negative_sampling", negatives, noise_power
        self.inputs = nn.Parameter((torch.rand(words, dim) - 0.5) / dim)
        self.outputs = nn.Parameter(torch.zeros(words if self._sampled else words - 1, dim))
        self.register_buffer("counts", torch.ones(words, dtype=torch.int64))
        self._made: tuple[Tensor, Objective] | None = None

    @property
    def objective(self) -> Objective:
        """The noise or the tree of the present counts."""
        if self._made is None or not torch.equal(self._made[0], self.counts):
            counts = self.counts.cpu()
            made = (
                NegativeSampling.from_counts(counts, self._negatives, self._power)
                if self._sampled
                else HierarchicalSoftmax.from_counts(counts)
            )
            self._made = (self.counts.clone(), made.to(self.counts.device))
        return self._made[1]
