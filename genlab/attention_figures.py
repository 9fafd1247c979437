"""Attention as a picture: which source words each word of a translation looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def attention_picture(source: Sequence[str], target: Sequence[str], weights: Tensor) -> Tensor:
    """A grid of squares, the darker the larger the weight, with the words at its sides.

    Args:
        source: S words, above.
        target: T words, on the left.
        weights: (T, S), rows that sum to one.

    Returns:
        (1, 3, H, W) float32 in [-1, 1].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 0.36 * len(source), 1.2 + 0.36 * len(target)), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(weights.numpy(), cmap="Blues", vmin=0.0, vmax=1.0, aspect="equal")
    axes.set_xticks(range(len(source)), source, rotation=60, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(target)), target)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[:, :, :3].astype(np.float32)
    return torch.from_numpy(pixels / 127.5 - 1.0).permute(2, 0, 1)[None]
