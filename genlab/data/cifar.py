"""CIFAR-10 and CIFAR-100 in their python version, plain or each file packed with xz, read where they lie.

The batches are pickles. They are read by an unpickler that can build numpy arrays and nothing else, so a file that was
tampered with cannot run code.
"""

from __future__ import annotations

import io
import lzma
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genlab.config import DataConfig
from genlab.data.arrays import ArrayPictures
from genlab.data.base import ImageDataset, PictureDataset, View, file_digests
from genlab.data.catalogue import register, require_root
from genlab.data.fetching import download_with_torchvision, first_folder_with, stamp
from genlab.data.selection import select
from genlab.errors import DataError

MAX_UNPACKED = 1 << 28


@dataclass(frozen=True)
class CifarLayout:
    """File names and keys of one of the two sets."""

    class_name: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    label_key: str
    names_key: str
    num_classes: int

    def files(self, split: str) -> tuple[str, ...]:
        return {"train": self.train, "test": self.test}.get(split, self.train + self.test)


CIFAR10 = CifarLayout(
    "CIFAR10",
    "cifar-10-batches-py",
    tuple(f"data_batch_{number}" for number in range(1, 6)),
    ("test_batch",),
    "batches.meta",
    "labels",
    "label_names",
    10,
)
CIFAR100 = CifarLayout(
    "CIFAR100", "cifar-100-python", ("train",), ("test",), "meta", "fine_labels", "fine_label_names", 100
)


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and plain values; any other name in the file is refused."""

    def find_class(self, module: str, name: str) -> Any:
        # numpy moved its core package in version 2; files keep the name of the version that wrote them.
        if (module, name) in {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}:
            return np.empty(0).__reduce__()[0]
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        raise pickle.UnpicklingError(f"it names {module}.{name}, which a picture batch has no use for")


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes into old pickles."""
    return text.encode("latin1")


def locate(folder: Path, name: str) -> Path | None:
    """The file `name`, as it is or with ".xz"."""
    return next((path for path in (folder / name, folder / f"{name}.xz") if path.is_file()), None)


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in one file.

    Raises:
        DataError: truncated, no pickle, or one that asks for more than arrays.
    """
    try:
        with lzma.open(path, "rb") if path.suffix == ".xz" else open(path, "rb") as stream:
            data = stream.read(MAX_UNPACKED + 1)
        if len(data) > MAX_UNPACKED:
            raise pickle.UnpicklingError(f"more than {MAX_UNPACKED} bytes unpacked")
        content = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a pickle machine fed with broken bytes raises whatever it likes
        raise DataError(
            f"{path}: expected a file of CIFAR's python version, got another ({error}); copy it again"
        ) from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a dictionary, got {type(content).__name__}; copy it again")
    return content


def read_batch(path: Path, layout: CifarLayout) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 32, 32, 3) uint8 and labels (N,) int64 of one file.

    Raises:
        DataError: damaged, or not of the shape of CIFAR.
    """
    content = read_pickle(path)
    data, labels = content.get("data"), content.get(layout.label_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        got = getattr(data, "shape", type(data).__name__)
        raise DataError(f"{path}: expected key 'data' with uint8 (N, 3072), got {got}; copy it again")
    valid = isinstance(labels, list) and len(labels) == len(data) and all(isinstance(label, int) for label in labels)
    if not valid or not all(0 <= label < layout.num_classes for label in labels):
        expected = f"key {layout.label_key!r} with {len(data)} labels below {layout.num_classes}"
        raise DataError(f"{path}: expected {expected}; copy it again")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, dtype=np.int64)


def read_class_names(path: Path, layout: CifarLayout) -> list[str]:
    names = read_pickle(path).get(layout.names_key)
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not valid or len(names) != layout.num_classes:
        raise DataError(f"{path}: expected key {layout.names_key!r} with {layout.num_classes} names; copy it again")
    return names


def _build(config: DataConfig, split: str, layout: CifarLayout) -> ImageDataset:
    wanted = (*layout.files(split), layout.meta)
    expected = f"{layout.folder} with {', '.join(wanted)} (each plain or .xz)"
    root = require_root(config, f"the folder that holds {expected}")
    candidates = [root / layout.folder, root]
    folder = first_folder_with(
        config,
        candidates,
        lambda at: all(locate(at, name) for name in wanted),
        expected,
        lambda: download_with_torchvision(layout.class_name, root),
    )
    paths = [path for path in (locate(folder, name) for name in wanted) if path]
    read = [read_batch(path, layout) for path in paths[:-1]]
    labels = np.concatenate([labels for _, labels in read])
    chosen = select(config, len(labels), labels, read_class_names(paths[-1], layout))
    return PictureDataset(
        ArrayPictures(np.concatenate([pixels for pixels, _ in read]), config),
        View.of(config),
        chosen.picked,
        chosen.labels,
        name=config.name,
        split=split,
        class_names=chosen.class_names,
        **file_digests(config, split, [stamp(path) for path in paths]),
    )


@register(
    "cifar10",
    kind="images",
    summary="small photographs, 32x32 colour, 10 classes, 50,000 + 10,000",
    needs="data.root with cifar-10-batches-py, or data.download=true",
)
def build_cifar10(config: DataConfig, split: str) -> ImageDataset:
    return _build(config, split, CIFAR10)


@register(
    "cifar100",
    kind="images",
    summary="small photographs, 32x32 colour, 100 classes, 50,000 + 10,000",
    needs="data.root with cifar-100-python, or data.download=true",
)
def build_cifar100(config: DataConfig, split: str) -> ImageDataset:
    return _build(config, split, CIFAR100)
