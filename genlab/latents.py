"""Codes of images as points of a plane, beside the first two principal components of the images themselves.

As figure 3 of Hinton and Salakhutdinov 2006: what a code of two numbers keeps apart that a linear one does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genlab.trainers.base import Trainer

BATCH = 250  # images encoded at a time
MOST_NAMED_CLASSES = 20  # more have no telling colours; they are coloured by number


def encode_in_batches(trainer: Trainer, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """Codes (N, D) float32 on the CPU of images (N, C, H, W) in [-1, 1]; a code that is a map is flattened.

    Args:
        labels: int64 (N,); used only by a model that was trained with conditions.
    """
    given = labels if trainer.label_count is not None else None
    parts = []
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        code = trainer.encode(images[part]) if given is None else trainer.encode(images[part], given[part])
        parts.append(code.flatten(1).cpu())
    return torch.cat(parts)


def principal_plane(points: Tensor) -> tuple[np.ndarray, float]:
    """Coordinates of points on their first two principal components.

    Args:
        points: (N, D), N of at least 2.

    Returns:
        ((N, 2) float64, share of the variance that the two explain). The sign of each axis is such that its largest
        loading is positive, so that the same points give the same picture.
    """
    values = points.double().numpy()
    values = values - values.mean(axis=0)
    _, singular, axes = np.linalg.svd(values, full_matrices=False)
    variance = float((singular**2).sum())
    axes = axes[:2] * np.sign(axes[np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    plane = values @ axes.T
    if plane.shape[1] < 2:
        plane = np.concatenate([plane, np.zeros((len(plane), 1))], axis=1)
    return plane, float((singular[:2] ** 2).sum() / variance) if variance > 0 else 1.0


def latent_figure(
    images: Tensor, codes: Tensor, labels: Tensor | None = None, class_names: Sequence[str] | None = None
) -> Figure:
    """Two scatter plots: the images' principal components, and their codes.

    A code of one or two numbers is drawn as it is; of a longer one its first two principal components.

    Args:
        images: (N, C, H, W) in [-1, 1].
        codes: (N, D) of the same images.
        labels: int64 (N,), which colour the points; None: one colour.
        class_names: names of the labels, for the legend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if len(images) != len(codes) or len(codes) < 2:
        raise ValueError(f"latent_figure: expected at least 2 images, a code each, got {len(images)} and {len(codes)}")
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    pixels, share = principal_plane(images.flatten(1).cpu())
    scatter_classes(left, pixels, labels, class_names)
    left.set_title(f"pixels: two principal components ({share:.0%} of the variance)", fontsize=10)
    if codes.shape[1] <= 2:
        plane = np.zeros((len(codes), 2))
        plane[:, : codes.shape[1]] = codes.double().numpy()
        title = "code of 2 numbers" if codes.shape[1] == 2 else "code of one number"
    else:
        plane, share = principal_plane(codes)
        title = f"code of {codes.shape[1]} numbers: two principal components ({share:.0%} of the variance)"
    scatter_classes(right, plane, labels, class_names)
    right.set_title(title, fontsize=10)
    if labels is not None and class_names and len(class_names) <= MOST_NAMED_CLASSES:
        handles, names = right.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", fontsize=8, markerscale=3, frameon=False)
    return figure


def scatter_classes(axes: Axes, points: np.ndarray, labels: Tensor | None, names: Sequence[str] | None) -> None:
    """Points of a plane (N, 2), coloured by class where there are labels; few classes go into the legend."""
    style = {"s": 6, "linewidths": 0, "alpha": 0.8}
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], color="#3b6ea5", **style)
    elif not names or len(names) > MOST_NAMED_CLASSES:
        axes.scatter(points[:, 0], points[:, 1], c=labels.cpu().numpy(), cmap="viridis", **style)
    else:
        from matplotlib import colormaps

        colours = colormaps["tab10" if len(names) <= 10 else "tab20"].colors
        chosen = labels.cpu().numpy()
        for number, name in enumerate(names):
            rows = chosen == number
            axes.scatter(points[rows, 0], points[rows, 1], color=colours[number], label=name, **style)
    axes.set_xticks([])
    axes.set_yticks([])


def figure_image(figure: Figure, dpi: int = 100) -> Tensor:
    """A figure as a picture, uint8 (3, H, W)."""
    figure.set_dpi(dpi)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def kl_picture(kl: Tensor, silent: float) -> Tensor:
    """The KL of each latent as a bar, the largest first, as one image, (1, 3, H, W) float32 in [-1, 1].

    Args:
        kl: nats, (d,).
        silent: below it a latent says nothing; drawn as a line.
    """
    from genlab.classification_figures import new_figure
    from genlab.images import to_float

    ordered = kl.detach().double().cpu().sort(descending=True).values.numpy()
    figure, axes = new_figure(6.4, 3.2)
    axes.bar(np.arange(1, len(ordered) + 1), ordered, width=0.8, color="#3b6ea5")
    axes.axhline(silent, color="#b04a3a", linewidth=1)
    told = int((ordered > silent).sum())
    axes.set_title(f"KL of each latent, {ordered.sum():.3g} nats; {told} of {len(ordered)} above {silent}", fontsize=10)
    axes.set_xlabel("latents, the largest KL first")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("nats")
    return to_float(figure_image(figure))[None]


def latent_picture(trainer: Trainer, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """`latent_figure` of a trainer's codes as one image, (1, 3, H, W) float32 in [-1, 1], as a run's pictures are."""
    from genlab.images import to_float

    codes = encode_in_batches(trainer, images, labels)
    return to_float(figure_image(latent_figure(images, codes, labels, trainer.data.class_names)))[None]
