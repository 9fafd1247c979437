"""Gaussian mixtures in the plane, whose modes are known: the usual test of mode coverage."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from genlab.config import DataConfig
from genlab.data.base import ImageDataset, digests
from genlab.data.catalogue import register
from genlab.data.randomness import EpochKey, normal, uniform
from genlab.data.selection import select

TRAIN_COUNT, TEST_COUNT = 50_000, 10_000
_SEED = 1


class PointDataset(ImageDataset):
    """Samples of a mixture of equal, round Gaussians, made in memory from their index.

    Attributes:
        modes: float32 (K, 2), the centres.
        std: standard deviation of each.
        points: float32 (N, 2), all samples.
        mode_of: int64 (N,), the centre each sample was drawn around.
    """

    kind = "points"
    in_memory = True

    def __init__(self, modes: np.ndarray, std: float, indices: np.ndarray, **facts: object) -> None:
        super().__init__(image_shape=(2,), **facts)
        self.modes = torch.from_numpy(modes.astype(np.float32))
        self.std = std
        mode_of = (uniform(_SEED, 0, indices) * len(modes)).astype(np.int64)
        noise = np.stack([normal(_SEED, axis, indices) for axis in (1, 2)], axis=1)
        self.points = torch.from_numpy((modes[mode_of] + std * noise).astype(np.float32))
        self.mode_of = torch.from_numpy(mode_of)

    def __len__(self) -> int:
        return len(self.points)

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        return {"point": self.points[torch.from_numpy(indices)]}


def split_indices(split: str, train_count: int, test_count: int) -> np.ndarray:
    """Sample numbers of a made set: train comes first, test follows, all is both."""
    bounds = {"train": (0, train_count), "test": (train_count, train_count + test_count)}
    return np.arange(*bounds.get(split, (0, train_count + test_count)))


def _mixture(config: DataConfig, split: str, modes: np.ndarray, std: float) -> PointDataset:
    indices = split_indices(split, TRAIN_COUNT, TEST_COUNT)
    picked = select(config, len(indices)).picked
    content = {"modes": modes.tolist(), "std": std, "seed": _SEED, "counts": (TRAIN_COUNT, TEST_COUNT)}
    facts = {"name": config.name, "split": split, **digests(config, split, content)}
    return PointDataset(modes, std, indices[picked], **facts)


@register("ring", kind="points", summary="8 Gaussians on a circle of radius 2, std 0.02 (mode coverage)")
def build_ring(config: DataConfig, split: str) -> ImageDataset:
    """Metz et al. 2017, "Unrolled generative adversarial networks", section 3.1."""
    angles = np.arange(8) * (2 * math.pi / 8)
    return _mixture(config, split, 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1), 0.02)


@register("grid", kind="points", summary="25 Gaussians on a 5 x 5 grid from -4 to 4, std 0.05 (mode coverage)")
def build_grid(config: DataConfig, split: str) -> ImageDataset:
    """Srivastava et al. 2017, "VEEGAN", section 4.1, with the means of Lin et al. 2018, "PacGAN", section 4.1."""
    ticks = np.arange(-4.0, 5.0, 2.0)
    return _mixture(config, split, np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2), 0.05)
