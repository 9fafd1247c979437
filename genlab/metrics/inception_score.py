"""Inception Score of a stream of class probabilities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from genlab.errors import MetricError


class InceptionScore:
    """exp E_x KL(p(y|x) || p(y)), over splits, from sums alone.

    Salimans et al. 2016, "Improved Techniques for Training GANs", section 4. Per split only sum p, sum p log p and a
    count are kept, so memory depends on classes and splits. Split i holds samples i*n//splits to (i+1)*n//splits of the
    order used, as in the authors' code. That order is the stream's (`permutation_seed=None`) or a seeded permutation,
    which matters for folders sorted by class: there a split in file order would hold one class and score 1.

    Args:
        total: number of samples that will be streamed, which fixes the splits.
        splits: number of splits; mean and standard deviation (divided by splits, as numpy.std) are over them.
        permutation_seed: seed of the permutation that deals samples to splits, or None for the stream's order.

    Raises:
        MetricError: fewer samples than splits.

    Example:
        >>> score = InceptionScore(total=4, splits=1)
        >>> score.update(torch.eye(4) * 1e3)
        >>> round(score.compute()[0], 6)
        4.0
    """

    def __init__(self, total: int, splits: int = 10, permutation_seed: int | None = None) -> None:
        if splits < 1 or total < splits:
            raise MetricError(f"inception score: expected at least one image per split ({splits}), got {total} images")
        self.total = total
        self.splits = splits
        self.permutation_seed = permutation_seed
        edges = [i * total // splits for i in range(splits + 1)]
        split_of = np.repeat(np.arange(splits, dtype=np.uint16), np.diff(edges))
        if permutation_seed is not None:
            np.random.default_rng(permutation_seed).shuffle(split_of)
        self._split_of = split_of
        self._seen = 0
        self._sum: Tensor | None = None
        self._negative_entropy = torch.zeros(splits, dtype=torch.float64)

    def update(self, logits: Tensor) -> None:
        """Adds a batch of class logits (before the softmax), shape (n, num_classes).

        Raises:
            MetricError: wrong shape, more samples than announced, or values that are not finite.
        """
        if logits.ndim != 2 or (self._sum is not None and logits.shape[1] != self._sum.shape[1]):
            raise MetricError(f"inception score: expected logits of shape (n, num_classes), got {tuple(logits.shape)}")
        if self._seen + logits.shape[0] > self.total:
            raise MetricError(f"inception score: expected {self.total} images, got more")
        logits = logits.detach().to("cpu", torch.float64)
        if not torch.isfinite(logits).all():
            raise MetricError("inception score: expected finite logits, got NaN or Inf; check the images")
        log_p = torch.log_softmax(logits, dim=1)
        p = log_p.exp()
        if self._sum is None:
            self._sum = torch.zeros(self.splits, logits.shape[1], dtype=torch.float64)
        split = torch.from_numpy(self._split_of[self._seen : self._seen + logits.shape[0]].astype(np.int64))
        self._sum.index_add_(0, split, p)
        # p log p is 0 at p = 0; log_softmax stays finite for finite logits, so the product is too.
        self._negative_entropy.index_add_(0, split, (p * log_p).sum(dim=1))
        self._seen += logits.shape[0]

    def compute(self) -> tuple[float, float]:
        """Mean and standard deviation over the splits.

        Raises:
            MetricError: fewer samples were streamed than announced.
        """
        if self._seen != self.total or self._sum is None:
            raise MetricError(f"inception score: expected {self.total} images, got {self._seen}")
        counts = torch.bincount(torch.from_numpy(self._split_of.astype(np.int64)), minlength=self.splits)
        marginal = self._sum / counts[:, None]
        # KL averaged over x: E[sum p log p] - sum p(y) log p(y).
        divergence = self._negative_entropy / counts - torch.special.xlogy(marginal, marginal).sum(dim=1)
        scores = divergence.exp()
        return float(scores.mean()), float(scores.std(correction=0))
