"""Points of the plane as a picture: real and generated ones over one another."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Colours that people with any colour vision tell apart (Okabe and Ito 2008).
REAL_COLOUR, GENERATED_COLOUR = (86, 180, 233), (213, 94, 0)
OVERSAMPLING = 2
MARGIN = 0.15  # of the range of the real points, on each side


def scatter_picture(real: Tensor, generated: Tensor, size: int = 512) -> Tensor:
    """Real points in blue, generated ones in orange on top; the frame is that of the real ones with a margin.

    Generated points outside the frame are drawn at its edge, so that none of them is missed.

    Args:
        real, generated: (N, 2) and (M, 2); points that are not finite are left out.
        size: pixels of a side.

    Returns:
        One image, float32 (1, 3, size, size) in [-1, 1].
    """
    for name, points in (("real", real), ("generated", generated)):
        if points.dim() != 2 or points.shape[1] != 2:
            raise ValueError(f"scatter_picture: expected {name} points of shape (N, 2), got {tuple(points.shape)}")
    from PIL import Image, ImageDraw

    real, generated = (points.detach().cpu().double().numpy() for points in (real, generated))
    low, high = real.min(axis=0), real.max(axis=0)
    centre, half = (low + high) / 2, max(float((high - low).max()) / 2, 1e-6) * (1 + 2 * MARGIN)
    side = size * OVERSAMPLING
    canvas = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(canvas)
    for points, colour, radius in ((real, REAL_COLOUR, 3.0), (generated, GENERATED_COLOUR, 2.0)):
        inside = (points[np.isfinite(points).all(axis=1)] - centre) / half
        x = (inside[:, 0].clip(-1, 1) + 1) / 2 * (side - 1)
        y = (1 - inside[:, 1].clip(-1, 1)) / 2 * (side - 1)
        for left, top in zip(x.tolist(), y.tolist(), strict=True):
            draw.ellipse((left - radius, top - radius, left + radius, top + radius), fill=colour)
    pixels = np.asarray(canvas.resize((size, size), Image.Resampling.BOX))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(127.5).sub(1).unsqueeze(0)
