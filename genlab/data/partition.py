"""Parts of a labelled set: training, validation and test by shares (60/20/20), or the folds of a cross-validation.

Every part holds each class in proportion, to within one sample, and is a function of (labels, settings) alone: the same
on every machine and in every later command.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from genlab.config import Section
from genlab.data.base import ImageDataset, evenly_spaced
from genlab.data.budget import ChosenSamples
from genlab.data.randomness import hash64
from genlab.errors import DataError

Part = Literal["train", "validation", "test"]
_PART_SALT = 0x70617274  # keeps this hash apart from every other draw


class PartitionConfig(Section):
    """What of `data.split` is trained on, and what it is judged by."""

    validation: float = Field(0.1, ge=0, lt=1, description="share kept for choosing the best checkpoint")
    test: float = Field(0.0, ge=0, lt=1, description="share kept for testing; 0: the set's own test split")
    folds: int | None = Field(None, ge=2, le=100, description="k-fold: as many parts, one of them for validation")
    fold: int = Field(0, ge=0, description="which of the folds that is")
    seed: int = Field(0, ge=0, description="which samples go where")

    @model_validator(mode="after")
    def _shares_and_folds(self) -> PartitionConfig:
        if self.validation + self.test >= 1:
            raise ValueError(f"expected validation and test below 1 together, got {self.validation} and {self.test}")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold: expected 0 to {self.folds - 1}, got {self.fold}")
        return self

    @property
    def has_validation(self) -> bool:
        return self.folds is not None or self.validation > 0


def partition(labels: np.ndarray, config: PartitionConfig) -> dict[Part, np.ndarray]:
    """Rising indices of each part; the parts are disjoint and together the whole.

    The test share is taken first, then the validation share (or the fold) of what is left, so that the folds of one
    seed share their test part.

    Args:
        labels: int (N,).
        config: shares, or folds.
    """
    order = np.lexsort((hash64(_PART_SALT, config.seed, np.arange(len(labels))), labels))
    # Evenly spaced along the samples sorted by class (and shuffled within one): every class is met in proportion.
    testing = evenly_spaced(len(order), round(config.test * len(order)))
    rest = np.delete(order, testing)
    if config.folds is not None:
        judging = np.arange(config.fold, len(rest), config.folds)
    else:
        judging = evenly_spaced(len(rest), round(config.validation * len(labels)))
    return {
        "train": np.sort(np.delete(rest, judging)),
        "validation": np.sort(rest[judging]),
        "test": np.sort(order[testing]),
    }


def part_of(dataset: ImageDataset, config: PartitionConfig, part: Part) -> ImageDataset:
    """One part of a labelled set.

    Raises:
        DataError: the set has no labels, or a class of it has no sample in the part; names both.
    """
    labels = getattr(dataset, "labels", None)
    if labels is None:
        raise DataError(
            f"data set {dataset.name!r}: expected labels, which a classifier learns from, got a set without classes; "
            "choose a labelled set (`genlab list datasets`) or one subfolder per class"
        )
    numbers = labels.numpy()
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < dataset.num_classes:
        raise DataError(
            f"data set {dataset.name!r}: expected labels from 0 to {dataset.num_classes - 1}, got "
            f"{numbers.min()} to {numbers.max()}; correct the labels"
        )
    chosen = ChosenSamples(dataset, partition(numbers, config)[part], f"{part} part")
    require_every_class(chosen, f"the {part} part")
    return chosen


def require_every_class(dataset: ImageDataset, what: str) -> None:
    """Raises DataError where a class of the set has no sample, which could be neither learnt nor judged."""
    counts = np.bincount(dataset.labels.numpy(), minlength=dataset.num_classes)
    missing = [dataset.class_names[number] for number in np.flatnonzero(counts == 0)]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise DataError(
            f"data set {dataset.name!r}: expected samples of every class in {what}, got none of {shown}; take more "
            "samples, change the shares of `split`, or leave the class out with data.classes"
        )
