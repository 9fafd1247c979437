"""What word2vec predicts a word by, as tables that its kernel reads: noise words, or the paths of a Huffman tree."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class NegativeSampling:
    """A word against `negatives` words of the noise (Mikolov et al. 2013b, section 2.2).

    Attributes:
        negatives: noise words of a prediction; the word itself, where it is drawn, is left out.
        noise: int64 (V,), Walker's alias table: slot i goes to word i with probability t / 2^32, t the upper 32 bits of
            its entry, and else to the word in the lower 32 bits.
    """

    negatives: int
    noise: Tensor

    @classmethod
    def from_counts(cls, counts: Tensor, negatives: int = 5, power: float = 0.75) -> NegativeSampling:
        """Noise of the distribution counts^power.

        Args:
            counts: (V,), how often each word occurs.
            negatives: noise words of a prediction, at least 1.
            power: 0 is uniform, 1 the words' own distribution.

        Raises:
            ValueError: no word that occurs, or no negatives.
        """
        if negatives < 1:
            raise ValueError(f"negatives: expected at least 1, got {negatives}")
        weights = checked_counts(counts).astype(np.float64) ** power
        return cls(negatives, torch.from_numpy(alias_table(weights)))

    def to(self, device: torch.device | str) -> NegativeSampling:
        """The same noise on another device."""
        return NegativeSampling(self.negatives, self.noise.to(device))

    def probabilities(self) -> Tensor:
        """The distribution that the table stands for, float64 (V,)."""
        entries = self.noise.numpy().view(np.uint64)
        own = (entries >> np.uint64(32)).astype(np.float64) / 2.0**32
        others = (entries & np.uint64(0xFFFFFFFF)).astype(np.int64)
        found = own + np.bincount(others, weights=1.0 - own, minlength=len(entries))
        return torch.from_numpy(found / len(entries))


@dataclass(frozen=True)
class HierarchicalSoftmax:
    """A word by the branches of its path from the root of a binary tree (Morin and Bengio 2005).

    The tree is Huffman's over the counts, as Mikolov et al. (2013b, section 2.1) take it: V - 1 inner nodes, each with
    an output vector y; a path goes on to the first child with probability s(x.y), to the second with s(-x.y).

    Attributes:
        path_starts: int64 (V + 1,); the path of word w is entries path_starts[w] to path_starts[w + 1] - 1.
        path_nodes: int32, inner nodes, the root first.
        path_codes: uint8, 1 where the path goes on to the second child.
        longest: nodes of the longest path.
    """

    path_starts: Tensor
    path_nodes: Tensor
    path_codes: Tensor
    longest: int

    @classmethod
    def from_counts(cls, counts: Tensor) -> HierarchicalSoftmax:
        """The tree whose mean path, weighted by `counts`, is the shortest.

        Raises:
            ValueError: no word that occurs.
        """
        parents, codes = huffman_tree(checked_counts(counts))
        starts, nodes, branches = [0], [], []
        words = (len(parents) + 1) // 2
        for word in range(words):
            path, node = [], word
            while node != len(parents) - 1:
                path.append((parents[node] - words, codes[node]))
                node = parents[node]
            for inner, branch in reversed(path):
                nodes.append(inner)
                branches.append(branch)
            starts.append(len(nodes))
        return cls(
            torch.tensor(starts, dtype=torch.int64),
            torch.tensor(nodes, dtype=torch.int32),
            torch.tensor(branches, dtype=torch.uint8),
            max(last - first for first, last in zip(starts[:-1], starts[1:], strict=True)),
        )

    def to(self, device: torch.device | str) -> HierarchicalSoftmax:
        """The same tree on another device."""
        tables = (table.to(device) for table in (self.path_starts, self.path_nodes, self.path_codes))
        return HierarchicalSoftmax(*tables, self.longest)

    def path(self, word: int) -> tuple[Tensor, Tensor]:
        """(inner nodes int32, codes uint8) of a word, the root first."""
        first, last = int(self.path_starts[word]), int(self.path_starts[word + 1])
        return self.path_nodes[first:last], self.path_codes[first:last]

    def log_probabilities(self, hidden: Tensor, outputs: Tensor) -> Tensor:
        """log p of every word, (N, V), for vectors `hidden` (N, D) and the inner nodes' vectors (V - 1, D)."""
        logits = hidden @ outputs.T
        signs = 1.0 - 2.0 * self.path_codes.to(hidden.dtype)
        steps = torch.nn.functional.logsigmoid(logits[:, self.path_nodes.long()] * signs)
        word = torch.repeat_interleave(torch.arange(len(self.path_starts) - 1), self.path_starts.diff())
        return steps.new_zeros(len(hidden), len(self.path_starts) - 1).index_add_(1, word, steps)


Objective = NegativeSampling | HierarchicalSoftmax


def keep_probabilities(counts: Tensor, threshold: float) -> Tensor:
    """Probability that an occurrence of each word stays when frequent words are subsampled, float32 (V,).

    (sqrt(z / t) + 1) t / z for a word whose share of the text is z, at most 1: what the original program does; the
    paper writes sqrt(t / z) (Mikolov et al. 2013b, section 2.3, equation 5).

    Args:
        counts: (V,), how often each word occurs.
        threshold: t, above 0; words that are rarer all stay.

    Raises:
        ValueError: a threshold that is not above 0, or no word that occurs.
    """
    if not threshold > 0:
        raise ValueError(f"threshold: expected above 0, got {threshold}")
    numbers = checked_counts(counts).astype(np.float64)
    share = np.maximum(numbers, 1.0) / numbers.sum() / threshold
    return torch.from_numpy(np.minimum((np.sqrt(share) + 1) / share, 1.0).astype(np.float32))


def checked_counts(counts: Tensor) -> np.ndarray:
    """Counts as an array, one number a word, none below 0, some above."""
    array = counts.detach().cpu().numpy()
    if array.ndim != 1 or len(array) == 0 or (array < 0).any() or array.sum() <= 0:
        raise ValueError(f"counts: expected how often each word occurs, (V,), got shape {tuple(array.shape)}")
    return array


def alias_table(weights: np.ndarray) -> np.ndarray:
    """Walker's table for drawing in proportion to `weights` (Vose 1991), int64 (V,), see `NegativeSampling`."""
    count = len(weights)
    share = (weights * (count / weights.sum())).tolist()
    others = list(range(count))
    small = [i for i in range(count) if share[i] < 1.0]
    large = [i for i in range(count) if share[i] >= 1.0]
    while small and large:
        low, high = small.pop(), large[-1]
        others[low] = high
        share[high] -= 1.0 - share[low]
        if share[high] < 1.0:
            small.append(large.pop())
    for rest in small + large:  # 1 but for rounding; their other word is themselves
        others[rest] = rest
    own = np.minimum(np.array(share) * 2.0**32, 2.0**32 - 1).astype(np.uint64)
    return (own << np.uint64(32) | np.array(others, dtype=np.uint64)).view(np.int64)


def huffman_tree(counts: np.ndarray) -> tuple[list[int], list[int]]:
    """(parent, code) of each node but the root's own: words 0 ... V - 1, then inner nodes in the order they are made.

    Two queues, leaves by rising count and inner nodes as they come: V steps after one sort (van Leeuwen 1976). The
    rarer child has code 0; among equals leaves come before inner nodes, and later words first.
    """
    words = len(counts)
    total = counts.astype(np.int64).tolist() + [0] * (words - 1)
    parents, codes = [0] * (2 * words - 1), [0] * (2 * words - 1)
    leaves = deque(sorted(range(words), key=lambda word: (total[word], -word)))
    inner: deque[int] = deque()

    def rarest() -> int:
        if not inner or (leaves and total[leaves[0]] <= total[inner[0]]):
            return leaves.popleft()
        return inner.popleft()

    for node in range(words, 2 * words - 1):
        first, second = rarest(), rarest()
        total[node] = total[first] + total[second]
        parents[first] = parents[second] = node
        codes[second] = 1
        inner.append(node)
    return parents, codes
