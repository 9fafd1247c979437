"""Few labels: a stratified choice of the samples whose labels a training may read, and the set of only those."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from genlab.data.base import ImageDataset
from genlab.data.randomness import EpochKey, hash64
from genlab.errors import DataError

_BUDGET_SALT = 0x6C616273  # keeps this hash apart from every other draw


def label_budget(labels: np.ndarray, num_classes: int, count: int, seed: int, key: str = "labels") -> np.ndarray:
    """Indices of `count` samples, as many of each class as of any other, rising.

    What does not divide evenly goes to classes that `seed` picks; a class that has fewer samples than its share gives
    all of them and the others more. The choice is a function of (labels, count, seed) alone, the same on every machine.

    Args:
        labels: int (N,) in [0, num_classes).
        count: samples chosen.
        seed: of the choice.
        key: configuration key that messages name.

    Raises:
        DataError: fewer labels than classes, or more than samples; a class without any sample.
    """
    available = np.bincount(labels, minlength=num_classes)
    if (absent := np.flatnonzero(available == 0)).size:
        raise DataError(
            f"{key}: expected a training set with samples of all {num_classes} classes, got {len(labels)} samples with "
            f"none of class {', '.join(map(str, absent))}; raise data.limit, or leave those classes out (data.classes)"
        )
    if count < num_classes:
        raise DataError(f"{key}: expected at least {num_classes}, one label for each class, got {count}")
    if count > len(labels):
        raise DataError(f"{key}: expected at most {len(labels)}, the samples of the training set, got {count}")
    order = np.lexsort((hash64(_BUDGET_SALT, seed, np.arange(len(labels))), labels))
    chances = hash64(_BUDGET_SALT, seed, len(labels), np.arange(num_classes))
    starts = np.concatenate([[0], np.cumsum(available)[:-1]])
    shares = _even_shares(available, count, chances)
    picked = [order[start : start + share] for start, share in zip(starts, shares, strict=True)]
    return np.sort(np.concatenate(picked))


def _even_shares(available: np.ndarray, count: int, chances: np.ndarray) -> np.ndarray:
    """How many of each class: equal where they can be, `count` in all, none above what is available."""
    shares = np.zeros_like(available)
    while (missing := count - shares.sum()) > 0:
        room = np.flatnonzero(shares < available)
        each = missing // len(room)
        if each:
            shares[room] = np.minimum(available[room], shares[room] + each)
        else:
            shares[room[np.argsort(chances[room], kind="stable")[:missing]]] += 1
    return shares


class ChosenSamples(ImageDataset):
    """The samples of a set at given indices, and nothing else of it.

    Args:
        dataset: the whole set.
        indices: int64 (N,) into it.
        note: what messages call the choice, such as "100 labels".
    """

    def __init__(self, dataset: ImageDataset, indices: np.ndarray, note: str) -> None:
        super().__init__(
            name=f"{dataset.name}, {note}",
            split=dataset.split,
            image_shape=dataset.image_shape,
            fingerprint=f"{dataset.fingerprint}-{note}",
            contents=f"{dataset.contents}-{note}",
            class_names=dataset.class_names,
            notes=dataset.notes,
        )
        self.kind, self.in_memory = dataset.kind, dataset.in_memory
        self._dataset, self.indices = dataset, np.asarray(indices, dtype=np.int64)
        labels = getattr(dataset, "labels", None)
        self.labels: Tensor | None = None if labels is None else labels[torch.from_numpy(self.indices)]

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        return self._dataset.fetch(self.indices[indices], key)
