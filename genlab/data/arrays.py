"""Pictures that lie in memory as one uint8 array, resized once per size asked for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from genlab.config import DataConfig
from genlab.data.pixels import convert_channels, resize_pixels
from genlab.errors import DataError

RESIZED_BYTES = 1 << 29  # a larger resized copy is not kept; its batches are resized when they are asked for


class ArrayPictures:
    """A source over a uint8 array.

    Args:
        pixels: (N, H, W, C), C = 1 to 4.
        config: gives channels, resize and interpolation.
    """

    in_memory = True

    def __init__(self, pixels: np.ndarray, config: DataConfig) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or not 1 <= pixels.shape[3] <= 4:
            raise DataError(
                f"data set {config.name!r}: expected uint8 pixels (N, H, W, 1 to 4), got {pixels.dtype} {pixels.shape}"
            )
        self._pixels = pixels
        self.channels = config.channels or pixels.shape[3]
        self._resize, self._interpolation = config.resize, config.interpolation
        self._at_size: dict[tuple[int, int], Tensor] = {}

    def __len__(self) -> int:
        return len(self._pixels)

    def batch(self, indices: np.ndarray, size: tuple[int, int]) -> Tensor:
        """uint8 (N, channels, *size)."""
        if len(self) * self.channels * size[0] * size[1] > RESIZED_BYTES:
            return self._brought_to(size, indices)
        if size not in self._at_size:
            self._at_size[size] = self._brought_to(size, np.arange(len(self)))
        return self._at_size[size][torch.from_numpy(indices)]

    def _brought_to(self, size: tuple[int, int], indices: np.ndarray) -> Tensor:
        if self._pixels.shape[1:] == (*size, self.channels):  # nothing to do one by one, which takes seconds of 60,000
            return torch.from_numpy(self._pixels[indices]).permute(0, 3, 1, 2).contiguous()
        result = torch.empty((len(indices), self.channels, *size), dtype=torch.uint8)
        for row, index in enumerate(indices):
            pixels = convert_channels(self._pixels[index], self.channels)
            pixels = resize_pixels(pixels, size, self._resize, self._interpolation)
            result[row] = torch.from_numpy(np.array(np.moveaxis(pixels, 2, 0)))
        return result
