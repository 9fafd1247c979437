"""Labels of pixels: colours to classes and back, and the scores of a segmentation from its confusion counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genlab.errors import MetricError
from genlab.images import to_uint8


@dataclass(frozen=True)
class Palette:
    """Classes of pixels and the colours that label maps have for them.

    Attributes:
        names: of the classes.
        colours: (r, g, b) in 0 to 255 of each.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]

    def labels(self, images: Tensor) -> Tensor:
        """The class of least Euclidean distance in RGB of every pixel, int64 (N, H, W).

        Args:
            images: label maps (N, 3, H, W) in [-1, 1] or uint8.
        """
        return self._distances(images).argmin(dim=1)

    def distance(self, images: Tensor) -> float:
        """Mean distance of the pixels to their nearest colour, in units of 255: near 0 for label maps alone."""
        return float(self._distances(images).amin(dim=1).sqrt().mean())

    def _distances(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or images.shape[1] != 3:
            raise MetricError(f"label maps: expected RGB pictures (N, 3, H, W), got {tuple(images.shape)}")
        pixels = to_uint8(images).float().div(255)
        colours = torch.tensor(self.colours, dtype=torch.float32, device=images.device).div(255)
        return torch.stack([(pixels - colour[:, None, None]).square().sum(1) for colour in colours], dim=1)

    def paint(self, labels: Tensor) -> Tensor:
        """Label maps uint8 (N, 3, H, W) of classes int64 (N, H, W)."""
        colours = torch.tensor(self.colours, dtype=torch.uint8, device=labels.device)
        return colours[labels].permute(0, 3, 1, 2).contiguous()


# The CMP facades as prepared for pix2pix: the classes of the data base in its order, and the colours that flat areas
# of the label maps have (every flat pixel of 67 of them lies within 4 of one of these).
FACADES = Palette(
    ("background", "facade", "window", "door", "cornice", "sill", "balcony", "blind", "deco", "molding", "pillar",
     "shop"),
    ((0, 0, 222), (0, 48, 255), (0, 128, 255), (0, 207, 255), (32, 255, 224), (112, 254, 142), (192, 255, 63),
     (255, 240, 1), (255, 159, 0), (255, 80, 0), (254, 0, 0), (174, 0, 1)),
)  # fmt: skip
# What `outline_pairs` fills its shapes with, in 255ths.
OUTLINES = Palette(
    ("ground", "edge", "circle", "square", "triangle", "star", "cross"),
    ((255, 255, 255), (31, 31, 31), (219, 61, 56), (51, 107, 217), (56, 166, 82), (242, 196, 46), (148, 77, 189)),
)
PALETTES = {"facades": FACADES, "outlines": OUTLINES}


def pixel_confusion(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Counts int64 (K, K) of pixels, row = label, column = prediction; both int64 of one shape."""
    if labels.shape != predicted.shape:
        raise MetricError(
            f"segmentation: expected predictions of shape {tuple(labels.shape)}, got {tuple(predicted.shape)}"
        )
    places = labels.flatten() * num_classes + predicted.flatten()
    return torch.bincount(places, minlength=num_classes**2).view(num_classes, num_classes).cpu()


def agreement(confusion: Tensor) -> dict[str, float]:
    """Scores of Long et al. 2015, section 5, from counts (K, K), row = label.

    Returns:
        "pixel_accuracy"; "class_accuracy", the mean recall of the classes that occur; "mean_iou", the mean over them of
        intersection / union with what was predicted.

    Raises:
        MetricError: no pixels.
    """
    counts = confusion.double()
    if not counts.sum() > 0:
        raise MetricError("segmentation: expected labelled pixels, got none")
    right, of_label, taken = counts.diagonal(), counts.sum(1), counts.sum(0)
    occurs = of_label > 0
    return {
        "pixel_accuracy": float(right.sum() / counts.sum()),
        "class_accuracy": float((right / of_label)[occurs].mean()),
        "mean_iou": float((right / (of_label + taken - right))[occurs].mean()),
    }


def class_ious(confusion: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Intersection over union of each class; NaN where it neither occurs nor is predicted."""
    counts = confusion.double()
    right = counts.diagonal()
    unions = counts.sum(1) + counts.sum(0) - right
    return {name: float(right[i] / unions[i]) if unions[i] > 0 else math.nan for i, name in enumerate(names)}
