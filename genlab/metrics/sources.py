"""Where the images of a score come from: data sets, folders, archives, arrays, generators, saved statistics.

Every source streams; none holds more than a batch of images.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlab.errors import MetricError
from genlab.images import to_uint8
from genlab.metrics.statistics import FeatureStatistics

Batch = Tensor | list[Tensor]
# Which image of a sample is judged, by the kind of its data set.
_IMAGE_KEYS = {"images": "image", "paired": "target", "unpaired": "b", "points": "point"}


class ImageSource(ABC):
    """A finite stream of images.

    Attributes:
        count: number of images, or None where only the end of the stream tells.
        fingerprint: hex digest of what the images are, or None where they cannot be known in advance (not cached then).
    """

    count: int | None
    fingerprint: str | None

    @abstractmethod
    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Yields uint8 (n, c, h, w), or lists of uint8 (c, h, w) where sizes differ; at most `limit` images in all."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """For the protocol: "source" and what else identifies the images; JSON values only."""


class DatasetSource(ImageSource):
    """An ImageDataset of genlab.data, in order and without augmentation; points of the plane are passed as they are.

    Args:
        dataset: the data set.
        key: which image of a sample: "image", or "input", "target", "a", "b" of pairs; default by the data set's kind.

    Raises:
        MetricError: the data set's kind holds neither images nor points.
    """

    def __init__(self, dataset: Any, key: str | None = None) -> None:
        if key is None and dataset.kind not in _IMAGE_KEYS:
            raise MetricError(
                f"{dataset.name}: expected a data set of {', '.join(_IMAGE_KEYS)}, got one of {dataset.kind}"
            )
        self.dataset = dataset
        self.key = key or _IMAGE_KEYS[dataset.kind]
        # An unpaired set goes around again in its shorter domain; each picture counts once here.
        self.count = dataset.lengths["ab".index(self.key)] if dataset.kind == "unpaired" else len(dataset)
        self.fingerprint = f"{dataset.fingerprint}-{self.key}"

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        from genlab.data import iterate

        limit = self.count if limit is None else min(limit, self.count)
        for batch in iterate(self.dataset, batch_size, limit=limit):
            yield batch[self.key] if self.key == "point" else to_uint8(batch[self.key])

    def describe(self) -> dict[str, Any]:
        return {
            "source": f"{self.dataset.name}",
            "split": self.dataset.split,
            "image_shape": list(self.dataset.image_shape),
            "fingerprint": self.dataset.fingerprint,
        }


class GeneratorSource(ImageSource):
    """Images drawn from a model.

    Batches have `batch_size` of this source whatever the caller asks, so that the images depend on its arguments alone.

    Args:
        sample: called as sample(n, generator), returns images (n, c, h, w), uint8 or in [-1, 1], or points (n, dim).
        count: how many are drawn.
        batch_size: how many at a time.
        seed: of the torch.Generator (on the CPU) that is handed to `sample`.
        name: what the protocol calls the source.
        facts: further entries of the protocol, such as checkpoint and "best" or "last".
    """

    fingerprint = None

    def __init__(
        self,
        sample: Callable[[int, torch.Generator], Tensor],
        count: int,
        *,
        batch_size: int = 100,
        seed: int = 0,
        name: str = "generator",
        facts: dict[str, Any] | None = None,
    ) -> None:
        if count < 1 or batch_size < 1:
            raise MetricError(f"{name}: expected count and batch size of at least 1, got {count} and {batch_size}")
        self.sample = sample
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.name = name
        self.facts = dict(facts or {})

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        remaining = self.count if limit is None else min(limit, self.count)
        generator = torch.Generator().manual_seed(self.seed)
        while remaining > 0:
            size = min(self.batch_size, remaining)
            with torch.no_grad():
                images = self.sample(size, generator)
            if images.ndim not in (2, 4) or len(images) != size:
                raise MetricError(
                    f"{self.name}: expected {size} images (n, c, h, w) or points (n, dim), got {tuple(images.shape)}"
                )
            if images.dtype.is_floating_point and not torch.isfinite(images).all():
                raise MetricError(f"{self.name}: expected finite samples, got NaN or Inf; the model has diverged")
            yield to_uint8(images) if images.ndim == 4 else images
            remaining -= size

    def describe(self) -> dict[str, Any]:
        return {"source": self.name, "sampling_seed": self.seed, "sampling_batch": self.batch_size, **self.facts}


class IterableSource(ImageSource):
    """Any iterable of batches, uint8 or float in [-1, 1], shape (n, c, h, w). A tensor counts as one batch.

    Args:
        images: the batches; consumed once unless it can be iterated again.
        count: number of images; needed by metrics that fix their splits in advance.
    """

    fingerprint = None

    def __init__(self, images: Iterable[Tensor] | Tensor, count: int | None = None) -> None:
        self._images = images
        self.count = len(images) if isinstance(images, Tensor) else count

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        chunks = self._images.split(batch_size) if isinstance(self._images, Tensor) else self._images
        remaining = limit
        for chunk in chunks:
            if remaining is not None:
                chunk = chunk[:remaining]
                remaining -= len(chunk)
            if len(chunk):
                yield to_uint8(chunk) if not chunk.dtype.is_floating_point else _finite_uint8(chunk)
            if remaining == 0:
                return

    def describe(self) -> dict[str, Any]:
        return {"source": "tensor" if isinstance(self._images, Tensor) else "iterable"}


def _finite_uint8(images: Tensor) -> Tensor:
    if not torch.isfinite(images).all():
        raise MetricError("images: expected finite values in [-1, 1], got NaN or Inf")
    return to_uint8(images)


class StatisticsSource:
    """Saved statistics in place of images: enough for a Frechet distance, not for metrics that need single features."""

    fingerprint = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.statistics = FeatureStatistics.load(path)
        self.count = self.statistics.count

    def describe(self) -> dict[str, Any]:
        return {"source": self.path.name, "statistics": True}


AnySource = ImageSource | StatisticsSource
