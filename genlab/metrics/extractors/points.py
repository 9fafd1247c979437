"""Points of the plane as their own features, so that 2-D sets go the way of images."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from genlab.errors import MetricError


class PointExtractor:
    """Passes points through; has the attributes of a `FeatureExtractor`.

    Args:
        modes: centres of the mixture that the points come from, shape (num_modes, dim).
        std: standard deviation of each.
        device: named in the protocol; nothing is computed on it.
    """

    num_classes = None
    of_points = True
    resize = "none"

    def __init__(self, modes: Tensor, std: float, *, device: str | torch.device = "cpu") -> None:
        self.modes = modes.detach().cpu()
        self.std = float(std)
        self.dim = modes.shape[1]
        self.name = "points"
        self.hash = hashlib.sha256(b"points" + self.modes.numpy().tobytes()).hexdigest()
        self.device = torch.device(device)

    def __call__(self, points: Tensor, *, logits: bool = True) -> tuple[Tensor, None]:
        """Points (n, dim) as float32 features (n, dim), and no logits.

        Raises:
            MetricError: points of another shape.
        """
        if points.ndim != 2 or points.shape[1] != self.dim:
            raise MetricError(f"points: expected shape (n, {self.dim}), got {tuple(points.shape)}")
        return points.float(), None

    def describe(self) -> dict[str, Any]:
        return {
            "extractor": self.name,
            "extractor_hash": self.hash,
            "dims": self.dim,
            "dtype": "float32 points, float64 statistics",
            "num_modes": len(self.modes),
            "mode_std": self.std,
        }
