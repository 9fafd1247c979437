"""What every data set is to the rest of the lab: samples by index, whole batches by indices, and an identity.

Augmentation is a function of (seed, epoch, index), never of a generator's state: see `genlab.data.randomness`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from genlab.config import DataConfig
from genlab.data.randomness import FLIP, LEFT, PARTNER, SECOND_DOMAIN, TOP, EpochKey, uniform
from genlab.errors import DataError
from genlab.images import to_float

FORMAT_VERSION = 1  # part of every fingerprint; raised when the same files would give other samples
FileFacts = tuple[str, int, int]  # name, size, and a stamp that changes when the content does


class PictureSource(Protocol):
    """Pictures of one domain by index, already at the size asked for."""

    channels: int

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, size: tuple[int, int]) -> Tensor:
        """uint8 or float32 in [-1, 1], (N, channels, *size)."""
        ...


@dataclass(frozen=True)
class View:
    """The size of the samples and how training varies them.

    `jitter` is pix2pix's (Isola et al. 2017, section 3.3): resize so that the shorter side of the sample would have
    `jitter` pixels, then cut the sample's size out at a random place.
    """

    size: tuple[int, int]
    flip: bool = False
    jitter: int | None = None

    @classmethod
    def of(cls, config: DataConfig) -> View:
        size = config.height_width
        if config.jitter is not None and config.jitter < min(size):
            raise DataError(
                f"data.jitter: expected at least {min(size)}, the shorter side of data.image_size, got {config.jitter}"
            )
        return cls(size, config.flip, config.jitter)

    @property
    def load_size(self) -> tuple[int, int]:
        """(height, width) before the random cut."""
        if self.jitter is None:
            return self.size
        scale = self.jitter / min(self.size)
        return (round(self.size[0] * scale), round(self.size[1] * scale))

    def read(self, source: PictureSource, picked: np.ndarray) -> Tensor:
        """Pictures as evaluation sees them: at size, unvaried, float32 in [-1, 1]."""
        return to_float(source.batch(picked, self.size))

    def read_varied(self, source: PictureSource, picked: np.ndarray, moves: Moves) -> Tensor:
        """Pictures as training sees them."""
        return to_float(self.vary(source.batch(picked, self.load_size), moves))

    def vary(self, images: Tensor, moves: Moves) -> Tensor:
        """Cuts and mirrors (N, C, *load_size) into (N, C, *size)."""
        height, width = self.size
        if self.load_size != self.size:
            tops = (moves.top * (self.load_size[0] - height + 1)).astype(int)
            lefts = (moves.left * (self.load_size[1] - width + 1)).astype(int)
            cuts = [image[:, t : t + height, x : x + width] for image, t, x in zip(images, tops, lefts, strict=True)]
            images = torch.stack(cuts)
        if self.flip:
            mirrored = torch.from_numpy(moves.flip < 0.5)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return images


@dataclass(frozen=True)
class Moves:
    """Uniform numbers, float64 (N,), that decide how each sample of a batch is varied."""

    flip: np.ndarray
    top: np.ndarray
    left: np.ndarray

    @classmethod
    def draw(cls, key: EpochKey, indices: np.ndarray, domain: int = 0) -> Moves:
        return cls(*(uniform(key.seed, key.epoch, draw + domain, indices) for draw in (FLIP, TOP, LEFT)))


class ImageDataset(Dataset):
    """Base of all data sets.

    Attributes:
        kind: "images", "paired", "unpaired", "captioned", "points", or of text "sentences", "text", "documents",
            "sentence_pairs", "tagged", "series".
        name, split: as built.
        image_shape: (C, H, W), (2,) for points, () for text, (D,) for series of D values.
        num_classes: number of labels, None without labels.
        class_names: their names in order of label, or None.
        fingerprint: hex digest of what the unvaried samples are, times of change of their files included; a key for
            caches of statistics.
        contents: hex digest without those times, so that a copy of the files has it too; what a resumed run compares.
        notes: what the builder decided for the user, such as which files are held out for testing.
        in_memory: whole batches are indexed at once, so loader processes would only cost time.
    """

    kind = "images"
    in_memory = False

    def __init__(
        self,
        *,
        name: str,
        split: str,
        image_shape: tuple[int, ...],
        fingerprint: str,
        contents: str,
        class_names: list[str] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.split = split
        self.image_shape = image_shape
        self.fingerprint = fingerprint
        self.contents = contents
        self.class_names = class_names
        self.num_classes = None if class_names is None else len(class_names)
        self.notes = notes

    def __len__(self) -> int:
        raise NotImplementedError

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        """A batch of samples.

        Args:
            indices: int64 (N,).
            key: the pass that decides the augmentation; None gives the samples unvaried.

        Returns:
            Tensors whose first dimension is N, under the keys of the kind: "image" and (with classes) "label" int64;
            "input" and "target"; "a" and "b"; "point".
        """
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: expected an index below {len(self)}, got {index}")
        batch = self.fetch(np.array([index % len(self)], dtype=np.int64))
        return {name: int(value[0]) if name == "label" else value[0] for name, value in batch.items()}


class PictureDataset(ImageDataset):
    """Pictures, with or without labels. `picked` maps a sample's index to the source's."""

    kind = "images"

    def __init__(
        self, source: PictureSource, view: View, picked: np.ndarray, labels: np.ndarray | None, **facts: Any
    ) -> None:
        super().__init__(image_shape=(source.channels, *view.size), **facts)
        self.in_memory = getattr(source, "in_memory", False)
        self._source, self._view, self._picked = source, view, picked
        self.labels = None if labels is None else torch.from_numpy(labels.astype(np.int64))

    @property
    def file_names(self) -> list[str] | None:
        """Path of each sample's file inside its folder or archive; None where the samples are no files."""
        entries = getattr(self._source, "entries", None)
        return None if entries is None else [entries[row].path for row in self._picked]

    def __len__(self) -> int:
        return len(self._picked)

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        picked = self._picked[indices]
        if key is None:
            batch = {"image": self._view.read(self._source, picked)}
        else:
            batch = {"image": self._view.read_varied(self._source, picked, Moves.draw(key, indices))}
        if self.labels is not None:
            batch["label"] = self.labels[torch.from_numpy(indices)]
        return batch


class PairedDataset(ImageDataset):
    """Aligned pictures: both are varied by the same moves, so that they stay aligned.

    `pairs.batch(indices, size)` gives two tensors, (input, target).
    """

    kind = "paired"

    def __init__(self, pairs: Any, view: View, picked: np.ndarray, **facts: Any) -> None:
        super().__init__(image_shape=(pairs.channels, *view.size), **facts)
        self.in_memory = getattr(pairs, "in_memory", False)
        self._pairs, self._view, self._picked = pairs, view, picked

    def __len__(self) -> int:
        return len(self._picked)

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        view = self._view
        first, second = self._pairs.batch(self._picked[indices], view.size if key is None else view.load_size)
        if key is not None:
            moves = Moves.draw(key, indices)
            first, second = view.vary(first, moves), view.vary(second, moves)
        return {"input": to_float(first), "target": to_float(second)}


class UnpairedDataset(ImageDataset):
    """Two domains without correspondence, as long as the larger one.

    Sample i shows picture i of domain a (around again in the shorter domain); its partner in b is drawn anew in every
    epoch (Zhu et al. 2017), and is picture i of b in an unvaried pass.

    Attributes:
        lengths: number of pictures in (a, b).
    """

    kind = "unpaired"

    def __init__(self, a: PictureSource, b: PictureSource, view: View, limit: int | None = None, **facts: Any) -> None:
        super().__init__(image_shape=(a.channels, *view.size), **facts)
        self.in_memory = getattr(a, "in_memory", False)
        self._a, self._b, self._view = a, b, view
        self._picked = tuple(evenly_spaced(len(source), limit) for source in (a, b))
        self.lengths = (len(self._picked[0]), len(self._picked[1]))

    def __len__(self) -> int:
        return max(self.lengths)

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        at_a = self._picked[0][indices % self.lengths[0]]
        if key is None:
            at_b = self._picked[1][indices % self.lengths[1]]
            return {"a": self._view.read(self._a, at_a), "b": self._view.read(self._b, at_b)}
        partners = (uniform(key.seed, key.epoch, PARTNER, indices) * self.lengths[1]).astype(np.int64)
        return {
            "a": self._view.read_varied(self._a, at_a, Moves.draw(key, indices)),
            "b": self._view.read_varied(self._b, self._picked[1][partners], Moves.draw(key, indices, SECOND_DOMAIN)),
        }


def evenly_spaced(length: int, limit: int | None) -> np.ndarray:
    """Indices of `limit` samples spread over `length`, so that a sorted set keeps all of its classes."""
    if limit is None or limit >= length:
        return np.arange(length)
    return np.arange(limit) * length // limit


def require_labels(dataset: ImageDataset, why: str) -> int:
    """The number of classes of a set that must have them.

    Args:
        dataset: any data set.
        why: who needs the labels, such as "model.conditional=true".

    Raises:
        DataError: the set has no labels.
    """
    if dataset.num_classes is None:
        raise DataError(
            f"data set {dataset.name!r}: expected labels, which {why} needs, got a set without classes; "
            "choose a labelled set (`genlab list datasets`) or one subfolder per class"
        )
    return dataset.num_classes


def digests(config: DataConfig, split: str, content: Mapping[str, Any], stamps: Sequence[Any] = ()) -> dict[str, str]:
    """`fingerprint` and `contents` of the unvaried samples: what they are made of, and how they are brought to size.

    Args:
        config, split: what `build` was asked for.
        content: what the samples are made of: names and sizes of files, or what they are drawn with.
        stamps: what else changes when a file does, but not in a copy of it everywhere; in the fingerprint only.
    """
    facts = {
        "format": FORMAT_VERSION,
        "name": config.name,
        "split": split,
        "size": config.height_width,
        "channels": config.channels,
        "resize": config.resize,
        "interpolation": config.interpolation,
        "limit": config.limit,
        "classes": config.classes,
        "direction": config.direction,
        **content,
    }
    contents = _hash(facts)
    return {"fingerprint": _hash({**facts, "stamps": stamps}) if stamps else contents, "contents": contents}


def file_digests(config: DataConfig, split: str, files: Sequence[FileFacts]) -> dict[str, str]:
    """`digests` of samples that are read from files."""
    return digests(config, split, {"files": [file[:2] for file in files]}, [file[2] for file in files])


def _hash(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
