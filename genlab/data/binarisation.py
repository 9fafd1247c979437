"""Grey pictures as black and white ones, for likelihoods over bits.

A pixel of grey value p (0 black, 1 white) becomes 1 where p exceeds a threshold: one half ("threshold"), or a uniform
number that is drawn once for each pixel of each sample ("static", as Larochelle and Murray 2011 made their binarised
MNIST; their file is another draw of the same distribution) or anew in every epoch ("dynamic", as Salakhutdinov and
Murray 2008). The numbers are a function of (seed, epoch, index, pixel): workers, processes and resuming change nothing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from genlab.data.base import ImageDataset
from genlab.data.randomness import EpochKey, uniform_rows

Binarisation = Literal["none", "threshold", "static", "dynamic"]
_STATIC_EPOCH = 1 << 40  # no pass over the data has this number
_PIXELS = 8  # name of the draw, beside those of `genlab.data.randomness`


def threshold(images: Tensor) -> Tensor:
    """Pictures in [-1, 1] with every pixel at -1 or 1, by whether it is brighter than middle grey."""
    return torch.where(images > 0, 1.0, -1.0)


class BinarisedDataset(ImageDataset):
    """The pictures of another data set in black (-1) and white (1).

    Args:
        dataset: pictures, with or without labels.
        mode: "threshold", "static" or "dynamic".
        seed: of the static draw, and of the dynamic one where there is no epoch (evaluation).

    Example:
        >>> from genlab.config import DataConfig
        >>> from genlab.data import build
        >>> bits = BinarisedDataset(build(DataConfig(name="digits")), "static", seed=0)
        >>> bits.fetch(np.arange(4))["image"].unique()
        tensor([-1.,  1.])
    """

    kind = "images"

    def __init__(self, dataset: ImageDataset, mode: Literal["threshold", "static", "dynamic"], seed: int = 0) -> None:
        if dataset.kind != "images":
            raise ValueError(f"BinarisedDataset: expected a data set of images, got {dataset.kind}")
        if mode not in ("threshold", "static", "dynamic"):
            raise ValueError(f"BinarisedDataset: expected mode threshold, static or dynamic, got {mode!r}")
        super().__init__(
            name=dataset.name,
            split=dataset.split,
            image_shape=dataset.image_shape,
            fingerprint=_extend(dataset.fingerprint, mode, seed),
            contents=_extend(dataset.contents, mode, seed),
            class_names=dataset.class_names,
            notes=dataset.notes,
        )
        self.in_memory = dataset.in_memory
        self._dataset, self._mode, self._seed = dataset, mode, seed

    def __len__(self) -> int:
        return len(self._dataset)

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        batch = self._dataset.fetch(indices, key)
        images = batch["image"]
        if self._mode == "threshold":
            return {**batch, "image": threshold(images)}
        draws = torch.from_numpy(self._draws(indices, key, images[0].numel())).view_as(images)
        return {**batch, "image": torch.where(draws < images * 0.5 + 0.5, 1.0, -1.0)}

    def _draws(self, indices: np.ndarray, key: EpochKey | None, pixels: int) -> np.ndarray:
        """Uniform numbers in [0, 1), float32 (N, pixels)."""
        if self._mode == "static" or key is None:
            # The parts of a set are numbered from 0 each; their draws must not be the same.
            part = int.from_bytes(hashlib.sha256(self.split.encode()).digest()[:6], "little")
            return uniform_rows(self._seed, _STATIC_EPOCH, _PIXELS, part, indices, count=pixels)
        return uniform_rows(key.seed, key.epoch, _PIXELS, 0, indices, count=pixels)


def _extend(digest: str, mode: str, seed: int) -> str:
    return hashlib.sha256(json.dumps([digest, "binarised", mode, seed]).encode()).hexdigest()
