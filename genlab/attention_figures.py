"""Attention as a picture: which source words a word of a translation looked at, which places a word of a caption."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.images import to_uint8

DARKEST = 0.15  # brightness that is left where no word looks


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


def places_picture(image: Tensor, words: Sequence[str], maps: Tensor) -> Tensor:
    """A picture, then beside it for every word the picture with the places that the word looked at left bright.

    Args:
        image: (C, H, W) in [-1, 1].
        words: T of them.
        maps: (T, rows, columns), weights that sum to one over a word's places; drawn smoothly, each up to its largest.

    Returns:
        (1, 3, H', W') float32 in [-1, 1].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = to_uint8(image)
    shown = (shown[:1].expand(3, -1, -1) if len(shown) < 3 else shown[:3]).permute(1, 2, 0).float() / 255
    columns = min(len(words) + 1, 6)
    rows = -(-(len(words) + 1) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.72 * rows), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    tiles = [("", shown)]
    for word, map_ in zip(words, maps, strict=True):
        light = F.interpolate(map_[None, None].float(), size=shown.shape[:2], mode="bicubic", align_corners=False)[0, 0]
        light = (light / light.amax().clamp_min(1e-12)).clamp(0, 1)[:, :, None]
        tiles.append((word, shown * (DARKEST + (1 - DARKEST) * light)))
    for place, (title, tile) in zip(axes, tiles, strict=False):
        place.imshow(tile.numpy(), vmin=0, vmax=1, interpolation="nearest")
        place.set_title(title, fontsize=10, wrap=True)
    for place in figure.axes:
        place.axis("off")
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[:, :, :3].astype(np.float32)
    return torch.from_numpy(pixels / 127.5 - 1.0).permute(2, 0, 1)[None]
