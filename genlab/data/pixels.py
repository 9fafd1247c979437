"""Arrays of pixels: channel conversion and resizing, for 8 and 16 bits and 1 to 4 channels.

A picture is a numpy array (H, W, C), uint8 or uint16; C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


def has_alpha(channels: int) -> bool:
    return channels in (2, 4)


def convert_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """The same picture in another number of channels.

    Colour becomes grey by the luma of ITU-R BT.601 (in Pillow's integer form), grey becomes colour by repeating it. A
    dropped alpha channel is composited over white; an added one is opaque.

    Args:
        pixels: (H, W, C), uint8 or uint16, C = 1 to 4.
        channels: wanted C, 1 to 4.
    """
    have = pixels.shape[2]
    if have == channels:
        return pixels
    top = np.iinfo(pixels.dtype).max
    alpha = pixels[:, :, -1:] if has_alpha(have) else None
    colour = pixels[:, :, : have - 1] if has_alpha(have) else pixels
    if alpha is not None and not has_alpha(channels):
        weight = alpha.astype(np.uint64)
        colour = ((colour * weight + top * (top - weight) + top // 2) // top).astype(pixels.dtype)
    wanted = channels - 1 if has_alpha(channels) else channels
    if wanted == 1 and colour.shape[2] == 3:
        luma = (colour.astype(np.uint64) @ np.array([19595, 38470, 7471], dtype=np.uint64) + 0x8000) >> np.uint64(16)
        colour = luma.astype(pixels.dtype)[:, :, None]
    elif wanted == 3 and colour.shape[2] == 1:
        colour = np.repeat(colour, 3, axis=2)
    if not has_alpha(channels):
        return np.ascontiguousarray(colour)
    if alpha is None:
        alpha = np.full_like(colour[:, :, :1], top)
    return np.concatenate([colour, alpha], axis=2)


def clear_hidden(pixels: np.ndarray) -> np.ndarray:
    """The same picture with its colour set to 0 where alpha is 0: files hold arbitrary colours there, unseen."""
    if not has_alpha(pixels.shape[2]):
        return pixels
    return np.where(pixels[:, :, -1:] == 0, 0, pixels).astype(pixels.dtype)


def resize_pixels(pixels: np.ndarray, size: tuple[int, int], resize: str, interpolation: str) -> np.ndarray:
    """Brings a picture to a size, with Pillow's antialiasing filters.

    Args:
        pixels: (H, W, C), uint8 or uint16.
        size: wanted (height, width).
        resize: "stretch" ignores the aspect ratio; "crop" covers the size and cuts the overhang off evenly; "pad" fits
            inside the size and fills the rest with black (transparent black where there is alpha).
        interpolation: a key of `FILTERS`.

    Returns:
        (height, width, C) of the same dtype.
    """
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    if resize == "stretch":
        return _resample(pixels, size, interpolation, (0.0, 0.0, width, height))
    if resize == "crop":
        scale = min(width / size[1], height / size[0])
        kept_width, kept_height = size[1] * scale, size[0] * scale
        left, top = (width - kept_width) / 2, (height - kept_height) / 2
        box = (left, top, min(left + kept_width, width), min(top + kept_height, height))
        return _resample(pixels, size, interpolation, box)
    if resize != "pad":
        raise ValueError(f"resize_pixels: expected resize stretch, crop or pad, got {resize!r}")
    scale = max(width / size[1], height / size[0])
    inner = (min(size[0], max(1, round(height / scale))), min(size[1], max(1, round(width / scale))))
    result = np.zeros((*size, pixels.shape[2]), dtype=pixels.dtype)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    fitted = _resample(pixels, inner, interpolation, (0.0, 0.0, width, height))
    result[top : top + inner[0], left : left + inner[1]] = fitted
    return result


def _resample(
    pixels: np.ndarray, size: tuple[int, int], interpolation: str, box: tuple[float, float, float, float]
) -> np.ndarray:
    extent, method = (size[1], size[0]), FILTERS[interpolation]
    if pixels.dtype == np.uint8:
        # Pillow premultiplies by alpha itself for LA and RGBA.
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        return np.asarray(image.resize(extent, method, box=box)).reshape(*size, pixels.shape[2])
    planes = pixels.astype(np.float32)
    alpha_last = has_alpha(pixels.shape[2]) and interpolation != "nearest"
    if alpha_last:
        planes[:, :, :-1] *= planes[:, :, -1:] / 65535.0
    resized = np.stack(
        [np.asarray(Image.fromarray(plane).resize(extent, method, box=box)) for plane in np.moveaxis(planes, 2, 0)],
        axis=2,
    )
    if alpha_last:
        resized[:, :, :-1] *= 65535.0 / np.maximum(resized[:, :, -1:], 1.0)
    return np.clip(np.rint(resized), 0, 65535).astype(np.uint16)


def pixels_to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, C) uint8 or uint16 to float32 (C, H, W) in [-1, 1]; 16-bit pictures keep their depth."""
    planes = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
    half = np.float32(np.iinfo(pixels.dtype).max / 2)
    return torch.from_numpy(planes.astype(np.float32)).div_(float(half)).sub_(1.0)
