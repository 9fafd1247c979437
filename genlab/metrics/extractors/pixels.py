"""Raw pixels as features: no network, for checks of the machinery and for very small sets."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.metrics.extractors.base import FeatureExtractor


class PixelExtractor(FeatureExtractor):
    """Images shrunk by area averaging to size x size grey pixels in [0, 1].

    Args:
        size: side of the shrunk image; the feature has size^2 dimensions.
        device: where the shrinking runs.
    """

    num_classes = None
    channels = 1

    def __init__(self, size: int = 8, *, device: str | torch.device = "cpu") -> None:
        self.size = size
        self.dim = size * size
        self.name = f"pixels{size}"
        self.hash = hashlib.sha256(self.name.encode()).hexdigest()
        self.resize = f"area to {size}x{size}, grey"
        self.device = torch.device(device)

    def prepare(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images.to(torch.float32).div(255), self.size)

    def forward(self, images: Tensor, logits: bool) -> tuple[Tensor, Tensor | None]:
        return images.flatten(1), None
