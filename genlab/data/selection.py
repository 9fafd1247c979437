"""Which samples of a set are used: classes kept, samples held out, a limit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genlab.config import DataConfig
from genlab.data.base import evenly_spaced
from genlab.data.randomness import hash64
from genlab.errors import DataError
from genlab.registry import nearest

_HOLDOUT_SALT = 0x686F6C64  # keeps this hash apart from every augmentation's


@dataclass(frozen=True)
class Selection:
    """Samples that stay: `picked` int64 indices into the source, `labels` int64 of the same length or None."""

    picked: np.ndarray
    labels: np.ndarray | None
    class_names: list[str] | None


def select(
    config: DataConfig, length: int, labels: np.ndarray | None = None, class_names: Sequence[str] | None = None
) -> Selection:
    """Applies `data.classes`, then `data.limit`.

    Kept classes are renumbered 0, 1, ... in the order in which `data.classes` names them.

    Raises:
        DataError: classes asked of a set without labels, an unknown class or one named twice, nothing left.
    """
    picked = np.arange(length)
    names = None if class_names is None else list(class_names)
    if config.classes is not None:
        if labels is None or names is None:
            raise DataError(
                f"data.classes: expected a set with labels, got {config.name!r} without; leave data.classes out"
            )
        kept = [_class_number(wanted, names) for wanted in config.classes]
        if not kept or len(set(kept)) != len(kept):
            raise DataError(f"data.classes: expected at least one class, each once, got {config.classes}")
        renumber = np.full(len(names), -1, dtype=np.int64)
        renumber[kept] = np.arange(len(kept))
        picked = np.flatnonzero(renumber[labels] >= 0)
        labels, names = renumber[labels[picked]], [names[number] for number in kept]
    chosen = evenly_spaced(len(picked), config.limit)
    if len(chosen) == 0:
        raise DataError(f"data set {config.name!r}: expected samples, got none after data.classes={config.classes}")
    return Selection(picked[chosen], None if labels is None else labels[chosen], names)


def _class_number(wanted: int | str, names: list[str]) -> int:
    if isinstance(wanted, str):
        if wanted in names:
            return names.index(wanted)
        guess = nearest(wanted, names)
        hint = f"; did you mean {guess!r}?" if guess else ""
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise DataError(f"data.classes: expected some of {shown}, got {wanted!r}{hint}")
    if not 0 <= wanted < len(names):
        raise DataError(f"data.classes: expected numbers from 0 to {len(names) - 1}, got {wanted}")
    return wanted


def held_out(names: Sequence[str], fraction: float) -> np.ndarray:
    """Which of the named samples are kept for testing, bool (len(names),).

    Exactly round(fraction * n) of them (at least one when fraction > 0 and n > 1): those whose names hash lowest, so
    that the choice depends on the names alone.
    """
    count = len(names)
    if fraction == 0 or count < 2:
        return np.zeros(count, dtype=bool)
    wanted = max(1, round(fraction * count))
    codes = np.array([int.from_bytes(_fold(name), "little") for name in names], dtype=np.uint64)
    order = np.argsort(hash64(_HOLDOUT_SALT, codes), kind="stable")
    result = np.zeros(count, dtype=bool)
    result[order[:wanted]] = True
    return result


def _fold(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def stratified(labels: np.ndarray, test_count: int, seed: int) -> np.ndarray:
    """Which samples are for testing, bool, so that each class gives its share to within one sample."""
    order = np.lexsort((hash64(seed, np.arange(len(labels))), labels))
    # Evenly spaced along the samples sorted by class (and shuffled within one): every class is met in proportion.
    result = np.zeros(len(labels), dtype=bool)
    result[order[evenly_spaced(len(labels), test_count)]] = True
    return result
