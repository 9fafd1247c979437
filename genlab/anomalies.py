"""Anomalies by reconstruction error: a model that was trained on normal images gives others back worse.

The threshold is a quantile of the training images' own errors; where labels tell what is normal, the ranking is judged
by the area under its ROC curve (the probability that an anomaly has a larger error than a normal image).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.data import evenly_spaced
from genlab.errors import UserError
from genlab.reconstruction import reconstruct, squared_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genlab.inputs import Inputs
    from genlab.trainers.base import Trainer

MEASURES = ("relative", "mse")
BATCH = 250
_EPSILON = 1e-6  # of a squared intensity: an empty image has a finite relative error

Progress = Callable[[str, int, "int | None"], None]


@dataclass(frozen=True)
class Measure:
    """How far a reconstruction is from its image.

    "mse" is the mean squared difference of the intensities. It grows with the amount of ink, whatever the image shows:
    a thin stroke is always reproduced well. "relative" divides the sum of squared differences by the sums of squares
    of the image and of its reconstruction: 0 where they agree, 1 where they have nothing in common. Smoothing both
    first makes a stroke that is a pixel off its place count little.

    Attributes:
        name: "relative" or "mse".
        blur: standard deviation in pixels of the Gaussian that smooths image and reconstruction first; 0: none.
    """

    name: str = "relative"
    blur: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in MEASURES:
            raise UserError(f"measure: expected one of {', '.join(MEASURES)}, got {self.name!r}")
        if not 0 <= self.blur <= 64:
            raise UserError(f"blur: expected 0 to 64 pixels, got {self.blur}")

    def __call__(self, images: Tensor, again: Tensor) -> Tensor:
        """Errors (N,) of reconstructions; both (N, C, H, W) in [-1, 1] on one device."""
        if self.blur:
            images, again = smooth(images, self.blur), smooth(again, self.blur)
        errors = squared_errors(images, again)
        if self.name == "mse":
            return errors
        black = torch.full_like(images, -1.0)
        return errors / (squared_errors(images, black) + squared_errors(again, black) + _EPSILON)


def smooth(images: Tensor, sigma: float) -> Tensor:
    """Images (N, C, H, W) under a Gaussian of `sigma` pixels; the border is repeated."""
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=images.device)
    weights = torch.exp(-0.5 * (offsets / sigma).square())
    weights = weights / weights.sum()
    channels = images.shape[1]
    padded = F.pad(images.float(), (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, weights.reshape(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)
    return F.conv2d(rows, weights.reshape(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)


@dataclass(frozen=True)
class Anomalies:
    """What was found.

    Attributes:
        errors: float64 (N,) of the images looked at.
        training_errors: float64 (M,) of the training images that the threshold comes from.
        threshold: the quantile of those.
        quantile: which.
        outlier: bool (N,), whether the label of an image says that it is none of the normal classes; None without.
        auc: area under the ROC curve; None where labels do not tell or tell only one kind.
    """

    errors: np.ndarray
    training_errors: np.ndarray
    threshold: float
    quantile: float
    outlier: np.ndarray | None = None
    auc: float | None = None

    @property
    def order(self) -> np.ndarray:
        """Indices of the images, the most anomalous first."""
        return np.argsort(-self.errors, kind="stable")

    @property
    def found(self) -> np.ndarray:
        """bool (N,): errors above the threshold."""
        return self.errors > self.threshold


def reconstruction_errors(
    trainer: Trainer,
    inputs: Inputs,
    measure: Measure,
    indices: np.ndarray | None = None,
    progress: Progress | None = None,
    what: str = "images",
) -> np.ndarray:
    """Errors, float64 (N,), of the images at `indices` (default: of all) in order."""
    indices = np.arange(len(inputs.dataset)) if indices is None else indices
    errors = []
    for start in range(0, len(indices), BATCH):
        batch = inputs.batch(indices[start : start + BATCH], trainer)
        errors.append(measure(batch["image"], reconstruct(trainer, batch)).double().cpu().numpy())
        if progress is not None:
            progress(what, min(start + BATCH, len(indices)), len(indices))
    return np.concatenate(errors)


def find_anomalies(
    trainer: Trainer,
    inputs: Inputs,
    training: Inputs,
    *,
    measure: Measure | None = None,
    quantile: float = 0.95,
    training_samples: int = 10_000,
    normal: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Anomalies:
    """Errors of images against a threshold from the training images.

    Args:
        trainer: has `reconstruct`.
        inputs: images to look at.
        training: the model's training images.
        measure: default: `Measure()`.
        quantile: share of training images below the threshold, in (0, 1).
        training_samples: evenly spaced training images that are used.
        normal: names of the normal classes; default: those that the model was trained on.
        progress: called with (what, done, total).

    Raises:
        UserError: a quantile out of range, or normal classes that the images do not have.
    """
    if not 0 < quantile < 1:
        raise UserError(f"quantile: expected a number between 0 and 1, got {quantile}")
    measure = measure or Measure()
    outlier = outliers(inputs, normal if normal is not None else trainer.data.class_names, named=normal is not None)
    rows = evenly_spaced(len(training.dataset), training_samples)
    reference = reconstruction_errors(trainer, training, measure, rows, progress, "training images")
    errors = reconstruction_errors(trainer, inputs, measure, None, progress)
    return Anomalies(
        errors, reference, float(np.quantile(reference, quantile)), quantile, outlier, auc(errors, outlier)
    )


def outliers(inputs: Inputs, normal: Sequence[str] | None, *, named: bool = False) -> np.ndarray | None:
    """bool (N,): whether an image's class is none of `normal`; None where images or model have no classes.

    Raises:
        UserError: with `named`, images without classes or a class that they do not have.
    """
    names, labels = inputs.dataset.class_names, getattr(inputs.dataset, "labels", None)
    if names is None or labels is None:
        if named:
            raise UserError(
                f"--normal: expected images with classes, got none in {inputs.source}; use one subfolder each"
            )
        return None
    if normal is None:
        return None
    strangers = [name for name in normal if name not in names]
    if named and strangers:
        raise UserError(f"--normal: expected some of {', '.join(names)}, got {strangers[0]!r}")
    return ~np.isin(labels.numpy(), [names.index(name) for name in normal if name in names])


def auc(errors: np.ndarray, outlier: np.ndarray | None) -> float | None:
    """Area under the ROC curve of errors; None without labels of both kinds."""
    if outlier is None or outlier.all() or not outlier.any():
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(outlier, errors))


def anomaly_figure(found: Anomalies) -> Figure:
    """Histograms of the errors with the threshold and, where labels tell, the ROC curve beside them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10 if found.auc is not None else 6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if found.auc is not None else 1, squeeze=False)[0]
    groups = {"training images": found.training_errors}
    if found.auc is None or found.outlier is None:
        groups["images"] = found.errors
    else:
        groups["normal images"], groups["outliers"] = found.errors[~found.outlier], found.errors[found.outlier]
    top = float(np.quantile(np.concatenate(list(groups.values())), 0.995))
    edges = np.linspace(0, max(top, found.threshold * 1.1), 60)
    for colour, (name, errors) in zip(("#8a8f98", "#3b6ea5", "#b5483a"), groups.items(), strict=False):
        axes[0].hist(errors.clip(max=edges[-1]), edges, density=True, histtype="step", label=name, color=colour)
    axes[0].axvline(found.threshold, color="black", linewidth=0.8, linestyle="--")
    axes[0].set_xlabel(f"reconstruction error (dashed: quantile {found.quantile:g} of the training images)")
    axes[0].set_yticks([])
    axes[0].legend(fontsize=8)
    if found.auc is not None:
        from sklearn.metrics import roc_curve

        false_positives, true_positives, _ = roc_curve(found.outlier, found.errors)
        axes[1].plot(false_positives, true_positives, color="#b5483a")
        axes[1].plot([0, 1], [0, 1], color="#8a8f98", linewidth=0.8)
        axes[1].set(xlabel="normal images taken for anomalies", ylabel="outliers found", aspect="equal")
        axes[1].set_title(f"area under the curve {found.auc:.3f}", fontsize=10)
    return figure
