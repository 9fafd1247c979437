"""Image tensors in and out of the lab: value ranges, grids and PNG files.

Inside the lab an image is float32 in [-1, 1], (C, H, W). On disk and in front of a metric it is uint8.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from torch import Tensor

from genlab.outputs import writing


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [-1, 1] to uint8 in [0, 255], rounding to nearest; uint8 passes through unchanged."""
    if images.dtype == torch.uint8:
        return images
    return images.float().mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]; floats pass through as float32."""
    if images.dtype != torch.uint8:
        return images.float()
    return images.float().div(127.5).sub(1.0)


def sigmoid_pixels(logits: Tensor) -> Tensor:
    """2 sigmoid(logits) - 1, float32: pixels in [0, 1] brought to [-1, 1], where bfloat16 has few greys by black."""
    return torch.tanh(logits.float() / 2)


def make_grid(images: Tensor, columns: int | None = None, padding: int = 2, scale: int = 1) -> Tensor:
    """Tiles images into one picture.

    Args:
        images: (N, C, H, W), floats in [-1, 1] or uint8; C = 1 to 4 (2 channels are shown as grey, the second dropped).
        columns: pictures in a row; default: the square-most grid.
        padding: pixels of white between pictures.
        scale: integer factor by which each picture is enlarged (nearest neighbour), so that 28 px digits can be read.

    Returns:
        uint8 (C', H', W') with C' = 1, 3 or 4.
    """
    if images.dim() != 4 or images.shape[0] == 0:
        raise ValueError(f"make_grid: expected images of shape (N >= 1, C, H, W), got {tuple(images.shape)}")
    pictures = to_uint8(images.detach().cpu())
    if pictures.shape[1] == 2:
        pictures = pictures[:, :1]
    if scale > 1:
        pictures = pictures.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    n, c, h, w = pictures.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    grid = torch.full((c, rows * (h + padding) + padding, columns * (w + padding) + padding), 255, dtype=torch.uint8)
    for index, picture in enumerate(pictures):
        top = padding + (index // columns) * (h + padding)
        left = padding + (index % columns) * (w + padding)
        grid[:, top : top + h, left : left + w] = picture
    return grid


def to_pil(image: Tensor):
    """A (C, H, W) image (uint8 or [-1, 1]) as a PIL image in mode L, RGB or RGBA."""
    from PIL import Image

    array = to_uint8(image.detach().cpu()).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def save_image(image: Tensor, path: str | os.PathLike[str]) -> Path:
    """Writes one (C, H, W) image as a file whose format follows the suffix, through a temporary name.

    A reader (or a kill) never meets half a picture.

    Raises:
        UserError: a path that cannot be made.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.partial{target.suffix}")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        to_pil(image).save(temporary)
        os.replace(temporary, target)
    return target


def save_grid(
    images: Tensor, path: str | os.PathLike[str], columns: int | None = None, scale: int | None = None
) -> Path:
    """Writes `make_grid(images)`; small pictures are enlarged so that a tile is at least 64 px high by default."""
    if scale is None:
        scale = max(1, 64 // images.shape[-2])
    return save_image(make_grid(images, columns=columns, scale=scale), path)
