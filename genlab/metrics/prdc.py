"""Precision, recall, density and coverage from k-nearest-neighbour balls."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.errors import MetricError


def prdc(real: Tensor, fake: Tensor, *, k: int = 5, chunk: int = 1024) -> dict[str, float]:
    """Fidelity and diversity as four numbers.

    Precision and recall: Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative
    Models", eq. 1-2 (their k is 3). Density and coverage: Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics
    for Generative Models", eq. 3-4 (their k is 5). A ball has its centre's k-th nearest neighbour, itself not counted,
    on its edge, and contains its edge.

    Args:
        real: features, shape (m, dim), m > k.
        fake: features, shape (n, dim), n > k.
        k: which neighbour sets a ball's radius.
        chunk: rows of the distance matrix held at once.

    Returns:
        ``{"precision", "recall", "density", "coverage"}``; density may exceed 1, the others lie in [0, 1].

    Raises:
        MetricError: dimensions differ, or a side has k samples or fewer.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise MetricError(
            f"prdc: expected features (m, dim) and (n, dim), got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    if k < 1 or min(len(real), len(fake)) <= k:
        raise MetricError(f"prdc: expected more than k = {k} images on each side, got {len(real)} and {len(fake)}")
    real, fake = real.to(torch.float64), fake.to(torch.float64)
    real_radius = _radii(real, k, chunk)
    fake_radius = _radii(fake, k, chunk)
    in_any_real_ball, in_real_balls = 0, 0
    recalled = torch.zeros(len(real), dtype=torch.bool)
    nearest_fake = torch.full((len(real),), torch.inf, dtype=torch.float64)
    for start in range(0, len(fake), chunk):
        distance = _distances(fake[start : start + chunk], real)
        inside = distance <= real_radius
        in_any_real_ball += int(inside.any(dim=1).sum())
        in_real_balls += int(inside.sum())
        recalled |= (distance <= fake_radius[start : start + chunk, None]).any(dim=0)
        nearest_fake = torch.minimum(nearest_fake, distance.min(dim=0).values)
    return {
        "precision": in_any_real_ball / len(fake),
        "recall": float(recalled.double().mean()),
        "density": in_real_balls / (k * len(fake)),
        "coverage": float((nearest_fake <= real_radius).double().mean()),
    }


def _radii(features: Tensor, k: int, chunk: int) -> Tensor:
    """Distance to the k-th nearest neighbour; the point itself is the first of k + 1 smallest."""
    radii = [
        _distances(features[start : start + chunk], features).topk(k + 1, dim=1, largest=False).values[:, -1]
        for start in range(0, len(features), chunk)
    ]
    return torch.cat(radii)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # The matrix-product form loses the digits that decide whether a point lies on the edge of its neighbour's ball.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
