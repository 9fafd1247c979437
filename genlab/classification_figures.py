"""Pictures of a classifier's evaluation: confusion matrix, ROC and precision-recall curves, reliability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from genlab.latents import figure_image
from genlab.metrics.labelled import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_WRITTEN = 20  # classes whose counts are written into the cells, and whose curves are drawn one by one


def evaluation_pictures(predictions: Predictions, bins: int = 15) -> dict[str, Tensor]:
    """name -> picture, uint8 (3, H, W): "confusion", "roc", "precision_recall" and "reliability"."""
    figures = {
        "confusion": confusion_figure(predictions),
        "roc": roc_figure(predictions),
        "precision_recall": precision_recall_figure(predictions),
        "reliability": reliability_figure(predictions, bins),
    }
    return {name: figure_image(figure, dpi=110) for name, figure in figures.items()}


def new_figure(width: float = 6.4, height: float = 5.4) -> tuple[Figure, Axes]:
    """A figure that needs no display, with one pair of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def confusion_figure(predictions: Predictions) -> Figure:
    """Share of each label's samples (a row) that were taken for each class; the counts stand in the cells."""
    counts = predictions.confusion()
    names = predictions.class_names
    side = max(5.4, 0.42 * min(len(names), 40) + 2.4)
    figure, axes = new_figure(side + 1, side)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the label's samples", shrink=0.8)
    axes.set(xlabel="taken for", ylabel="label", title=f"{predictions.accuracy():.2%} of {counts.sum():,} right")
    if len(names) <= 40:
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(len(names)), names)
    if len(names) <= MOST_WRITTEN:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=8, color=colour)
    return figure


def roc_figure(predictions: Predictions) -> Figure:
    """True against false positive rate of each class against the rest."""
    from sklearn.metrics import roc_curve

    figure, axes = new_figure()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    areas = predictions.auc()
    for number, positive, style in _curves(predictions):
        rate_false, rate_true, _ = roc_curve(positive, predictions.probabilities[:, number])
        axes.plot(rate_false, rate_true, label=f"{predictions.class_names[number]} {areas[number]:.4f}", **style)
    axes.set(
        xlabel="false positive rate (1 - specificity)",
        ylabel="true positive rate (sensitivity)",
        title=f"each class against the rest; mean area {predictions.macro_auc():.4f}",
    )
    _legend(axes, "area")
    return figure


def precision_recall_figure(predictions: Predictions) -> Figure:
    """Precision against recall of each class against the rest."""
    from sklearn.metrics import precision_recall_curve

    figure, axes = new_figure()
    averages = predictions.average_precision()
    for number, positive, style in _curves(predictions):
        precision, recall, _ = precision_recall_curve(positive, predictions.probabilities[:, number])
        axes.plot(recall, precision, label=f"{predictions.class_names[number]} {averages[number]:.4f}", **style)
    mean = float(np.nanmean(averages)) if np.isfinite(averages).any() else float("nan")
    axes.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02), title=f"mean average precision {mean:.4f}")
    _legend(axes, "average precision")
    return figure


def reliability_figure(predictions: Predictions, bins: int = 15) -> Figure:
    """Accuracy against confidence in bins, with the share of samples in each below."""
    rows = predictions.reliability(bins)
    figure, axes = new_figure(5.6, 5.4)
    filled = rows[:, 2] > 0
    edges = (np.arange(bins) + 0.5) / bins
    axes.bar(edges[filled], rows[filled, 1], width=0.94 / bins, color="#2a6fd6", label="accuracy")
    axes.bar(
        edges, rows[:, 2] / rows[:, 2].sum(), width=0.3 / bins, color="#d9622b", label="share of the samples", zorder=3
    )
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--", label="confidence that is right")
    axes.set(
        xlabel="confidence (probability of the class named)", xlim=(0, 1), ylim=(0, 1),
        title=f"expected calibration error {predictions.calibration_error(bins):.4f}, {bins} bins",
    )  # fmt: skip
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def _curves(predictions: Predictions):
    """(class, whether each sample is of it, line style) of the classes that both occur and do not; few or the first."""
    from matplotlib import colormaps

    colours = colormaps["tab20" if len(predictions.class_names) > 10 else "tab10"].colors
    for number in predictions.present[:MOST_WRITTEN]:
        positive = predictions.labels == number
        if not positive.all():
            yield int(number), positive, {"color": colours[number % len(colours)], "linewidth": 1.3}


def _legend(axes: Axes, what: str) -> None:
    handles, names = axes.get_legend_handles_labels()
    if names:
        axes.legend(handles, names, title=what, fontsize=8, title_fontsize=8, frameon=False, loc="lower right")
