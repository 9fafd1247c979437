"""Kernel Inception Distance: the unbiased squared MMD with a cubic polynomial kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.errors import MetricError


def polynomial_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with k(x, y) = (x . y / dim + 1)^3.

    Binkowski et al. 2018, "Demystifying MMD GANs", section 4 and eq. 3 of its appendix; the estimator is Gretton et al.
    2012, lemma 6. Its expectation is zero for equal distributions, so single values may be negative.

    Args:
        x: features, shape (m, dim), m >= 2.
        y: features, shape (n, dim), n >= 2.
    """
    x, y = x.to(torch.float64), y.to(torch.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise MetricError(f"kid: expected features (m, dim) and (n, dim), got {tuple(x.shape)} and {tuple(y.shape)}")
    m, n, dim = len(x), len(y), x.shape[1]
    if min(m, n) < 2:
        raise MetricError(f"kid: expected at least 2 images on each side, got {m} and {n}")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / dim + 1) ** 3

    xx, yy = kernel(x, x), kernel(y, y)
    within_x = (xx.sum() - xx.trace()) / (m * (m - 1))
    within_y = (yy.sum() - yy.trace()) / (n * (n - 1))
    return float(within_x + within_y - 2 * kernel(x, y).mean())


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel Inception Distance as mean and standard deviation over random subsets (Binkowski et al. 2018, section 4).

    Args:
        real: features, shape (m, dim).
        fake: features, shape (n, dim).
        subsets: how many pairs of subsets are drawn.
        subset_size: samples per subset, drawn without replacement; cut to min(m, n).
        seed: seed of the subsets.

    Returns:
        Mean and standard deviation (divided by subsets) of the unbiased squared MMD.

    Raises:
        MetricError: fewer than 2 samples on a side, or dimensions that differ.
    """
    size = min(subset_size, len(real), len(fake))
    if size < 2 or subsets < 1:
        raise MetricError(
            f"kid: expected at least 2 images on each side and 1 subset, got {len(real)} real, {len(fake)} fake, "
            f"{subsets} subsets"
        )
    generator = torch.Generator().manual_seed(seed)
    if size == len(real) == len(fake):
        subsets = 1  # every subset is the whole set: one evaluation says it all
    values = torch.tensor(
        [
            polynomial_mmd(
                real[torch.randperm(len(real), generator=generator)[:size]],
                fake[torch.randperm(len(fake), generator=generator)[:size]],
            )
            for _ in range(subsets)
        ],
        dtype=torch.float64,
    )
    return float(values.mean()), float(values.std(correction=0))
