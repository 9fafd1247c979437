"""Mode coverage of generated 2-D points on a mixture of Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.errors import MetricError


def mode_coverage(points: Tensor, modes: Tensor, std: float, *, threshold: float = 3.0) -> dict[str, float]:
    """How many modes of a Gaussian mixture the points reach, and how many points lie near one.

    Srivastava et al. 2017, "VEEGAN", section 4.1: a point is of high quality within `threshold` standard deviations of
    its nearest mode; a mode is covered by at least one such point. `balance` is the entropy of the high-quality points
    over the modes divided by its largest value, log(number of modes): 1 when all modes are hit alike.

    Args:
        points: generated points, shape (n, dim).
        modes: centres of the mixture, shape (num_modes, dim).
        std: standard deviation of one mode, > 0.
        threshold: radius of a mode in standard deviations.

    Returns:
        ``{"modes_covered": int, "num_modes": int, "high_quality": fraction in [0, 1], "balance": in [0, 1]}``.

    Raises:
        MetricError: shapes disagree, no points, values that are not finite, or std <= 0.

    Example:
        >>> mode_coverage(torch.tensor([[0.0, 0.1]]), torch.tensor([[0.0, 0.0], [9.0, 9.0]]), std=0.1)["modes_covered"]
        1
    """
    if points.ndim != 2 or modes.ndim != 2 or points.shape[1] != modes.shape[1] or 0 in (len(points), len(modes)):
        raise MetricError(
            f"mode_coverage: expected points (n, dim) and modes (m, dim), got {tuple(points.shape)} and "
            f"{tuple(modes.shape)}"
        )
    if not std > 0:
        raise MetricError(f"mode_coverage: expected std > 0, got {std}")
    if not torch.isfinite(points).all():
        raise MetricError("mode_coverage: expected finite points, got NaN or Inf")
    distance, nearest = torch.cdist(points.double(), modes.double()).min(dim=1)
    good = distance <= threshold * std
    counts = torch.bincount(nearest[good], minlength=len(modes)).double()
    share = counts / counts.sum().clamp(min=1)
    entropy = -float(torch.special.xlogy(share, share).sum())
    largest = float(torch.tensor(float(len(modes))).log())
    return {
        "modes_covered": int((counts > 0).sum()),
        "num_modes": len(modes),
        "high_quality": float(good.double().mean()),
        "balance": entropy / largest if largest > 0 else float(good.any()),
    }
