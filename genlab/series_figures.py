"""Series as pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SHOWN = 4  # variables


def forecast_picture(past: Tensor, future: Tensor) -> Tensor:
    """A past (T, D) and the forecast that follows it (S, D) as lines; (1, 3, H, W) float32 in [-1, 1]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    before, after = np.arange(len(past)), len(past) - 1 + np.arange(len(future) + 1)
    for column in range(min(SHOWN, past.shape[1])):
        (line,) = axes.plot(before, past[:, column], color=f"C{column}", label="past" if column == 0 else None)
        joined = torch.cat([past[-1:, column], future[:, column]])
        axes.plot(after, joined, "--", color=line.get_color(), label="forecast" if column == 0 else None)
    axes.axvline(len(past) - 1, color="0.6", linewidth=0.8)
    axes.set_xlabel("step")
    axes.legend(loc="upper left", frameon=False)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[:, :, :3].astype(np.float32)
    return torch.from_numpy(pixels / 127.5 - 1.0).permute(2, 0, 1)[None]
