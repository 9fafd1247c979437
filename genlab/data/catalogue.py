"""The table of data sets by name, and the one way to build them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from genlab.config import DataConfig
from genlab.data.base import ImageDataset
from genlab.errors import DataError
from genlab.registry import Registry

Builder = Callable[[DataConfig, str], ImageDataset]


@dataclass(frozen=True)
class DatasetEntry:
    """One row of `genlab list datasets` and the function behind it."""

    build: Builder
    kind: str
    summary: str
    needs: str
    splits: tuple[str, ...]


DATASETS: Registry[DatasetEntry] = Registry("data set")


def register(
    name: str, *, kind: str, summary: str, needs: str = "nothing", splits: tuple[str, ...] = ("train", "test", "all")
) -> Callable[[Builder], Builder]:
    """Decorator that files a builder `(config, split) -> ImageDataset` under a name.

    Args:
        name: value of `data.name`.
        kind: as `ImageDataset.kind`.
        summary: what it is, for `genlab list datasets`.
        needs: what must be there before it can be built.
        splits: the parts it can be asked for.
    """

    def add(builder: Builder) -> Builder:
        DATASETS.register(name)(DatasetEntry(builder, kind, summary, needs, splits))
        return builder

    return add


class DatasetRow(NamedTuple):
    name: str
    kind: str
    summary: str
    needs: str


def describe() -> list[DatasetRow]:
    """What `genlab list datasets` prints, sorted by name."""
    entries = ((name, DATASETS.get(name)) for name in DATASETS.names())
    return [DatasetRow(name, entry.kind, entry.summary, entry.needs) for name, entry in entries]


def build(config: DataConfig, split: str | None = None) -> ImageDataset:
    """Builds the data set that a configuration describes.

    Args:
        config: the `data` section; `config.name` is a row of `describe()`.
        split: "train", "test", "val" or "all"; default: `config.split`.

    Raises:
        UserError: unknown name (the nearest is named).
        DataError: unknown split, files missing or unreadable, nothing left to train on.

    Example:
        >>> from genlab.config import DataConfig
        >>> build(DataConfig(name="digits", image_size=16)).image_shape
        (1, 16, 16)
    """
    entry = DATASETS.get(config.name)
    wanted = config.split if split is None else split
    if wanted not in entry.splits:
        raise DataError(f"data set {config.name!r}: expected split {', '.join(entry.splits)}, got {wanted!r}")
    return entry.build(config, wanted)


def require_root(config: DataConfig, contents: str) -> Path:
    """`data.root` of a set that is read from files.

    Raises:
        DataError: not given.
    """
    if config.root is None:
        raise DataError(f"data set {config.name!r}: data.root: expected {contents}, got nothing; set data.root=PATH")
    return config.root.expanduser()
