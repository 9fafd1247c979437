"""SVHN, CelebA and LSUN in torchvision's layout, read where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genlab.config import DataConfig
from genlab.data.arrays import ArrayPictures
from genlab.data.base import ImageDataset, PictureDataset, View, file_digests
from genlab.data.catalogue import register, require_root
from genlab.data.fetching import download_with_torchvision, first_folder_with, stamp
from genlab.data.files import Entry, FileTree, open_tree
from genlab.data.folders import FilePictures, stamps
from genlab.data.selection import select
from genlab.errors import DataError

CELEBA_PARTS = {"0": "train", "1": "val", "2": "test"}
CELEBA_PICTURES = ("img_align_celeba", "img_align_celeba.zip")


@register(
    "svhn",
    kind="images",
    summary="house numbers, 32x32 colour, 10 classes, 73,257 + 26,032",
    needs="data.root with train_32x32.mat and test_32x32.mat, or data.download=true",
)
def build_svhn(config: DataConfig, split: str) -> ImageDataset:
    """Netzer et al. 2011; the files give digit 0 the label 10."""
    parts = ("train", "test") if split == "all" else (split,)
    wanted = [f"{part}_32x32.mat" for part in parts]
    root = require_root(config, f"the folder that holds {', '.join(wanted)}")
    folder = first_folder_with(
        config,
        [root, root / "SVHN"],
        lambda at: all((at / name).is_file() for name in wanted),
        ", ".join(wanted),
        lambda: [download_with_torchvision("SVHN", root, split=part) for part in parts],
    )
    read = [_read_svhn(folder / name) for name in wanted]
    labels = np.concatenate([labels for _, labels in read])
    chosen = select(config, len(labels), labels, [str(digit) for digit in range(10)])
    return PictureDataset(
        ArrayPictures(np.concatenate([pixels for pixels, _ in read]), config),
        View.of(config),
        chosen.picked,
        chosen.labels,
        name=config.name,
        split=split,
        class_names=chosen.class_names,
        **file_digests(config, split, [stamp(folder / name) for name in wanted]),
    )


def _read_svhn(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["X", "y"])
        pixels, labels = np.asarray(content["X"]), np.asarray(content["y"]).reshape(-1).astype(np.int64)
    except Exception as error:  # scipy raises many kinds on a damaged file
        raise DataError(f"{path}: expected SVHN's variables X and y ({error}); copy it again") from None
    expected = (32, 32, 3, len(labels))
    if pixels.dtype != np.uint8 or pixels.shape != expected:
        raise DataError(f"{path}: expected X of uint8 {expected}, got {pixels.dtype} {pixels.shape}; copy it again")
    if len(labels) and not (labels.min() >= 0 and labels.max() <= 10):
        raise DataError(f"{path}: expected labels from 1 to 10, got {labels.min()} to {labels.max()}; copy it again")
    return np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), labels % 10


@register(
    "celeba",
    kind="images",
    summary="faces, 178x218 colour, no labels, 162,770 + 19,867 + 19,962",
    needs="data.root with celeba/img_align_celeba (folder or zip) and list_eval_partition.txt, or data.download=true",
    splits=("train", "val", "test", "all"),
)
def build_celeba(config: DataConfig, split: str) -> ImageDataset:
    """Liu et al. 2015, aligned and cropped version, split by its own partition file."""
    expected = "celeba/ with list_eval_partition.txt and img_align_celeba (folder or .zip)"
    root = require_root(config, f"the folder that holds {expected}")
    folder = first_folder_with(
        config, [root / "celeba", root], _has_celeba, expected, lambda: download_with_torchvision("CelebA", root)
    )
    partition = folder / "list_eval_partition.txt"
    pictures = next(folder / name for name in CELEBA_PICTURES if (folder / name).exists())
    tree = open_tree(pictures)
    entries = _celeba_part(tree, partition, split)
    picked = select(config, len(entries)).picked
    return PictureDataset(
        FilePictures(tree, [entries[row] for row in picked], config),
        View.of(config),
        np.arange(len(picked)),
        None,
        name=config.name,
        split=split,
        **file_digests(config, split, [stamp(partition), *stamps(entries)]),
    )


def _has_celeba(folder: Path) -> bool:
    return (folder / "list_eval_partition.txt").is_file() and any((folder / name).exists() for name in CELEBA_PICTURES)


def _celeba_part(tree: FileTree, partition: Path, split: str) -> list[Entry]:
    by_name = {entry.parts[-1]: entry for entry in tree.images()}
    entries = []
    for number, line in enumerate(partition.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in CELEBA_PARTS:
            raise DataError(f"{partition}:{number}: expected `file.jpg 0|1|2`, got {line[:60]!r}; copy the file again")
        if split not in ("all", CELEBA_PARTS[fields[1]]):
            continue
        if fields[0] not in by_name:
            raise DataError(f"{tree.root}: expected {fields[0]}, listed in {partition.name}, got no such file; copy it")
        entries.append(by_name[fields[0]])
    if not entries:
        raise DataError(f"{partition}: expected files of split {split}, got none; use another split")
    return entries


class LmdbTree(FileTree):
    """The values of one or more LMDB databases, read in place.

    LMDB allows a database to be open once in a process, and not across a fork; it is therefore opened for each read,
    which costs 0.06 ms, little beside the decoding of a picture.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = {folder.name: folder for folder in folders}
        super().__init__(folders[0].parent)

    def _environment(self, name: str) -> Any:
        lmdb, path = _import_lmdb(), self._folders[name]
        try:
            return lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise DataError(f"{path}: expected an LMDB database, got one that cannot be opened ({error})") from None

    def _list(self) -> list[Entry]:
        entries = []
        for name in self._folders:
            with self._environment(name) as environment, environment.begin() as transaction:
                for key, value in transaction.cursor():
                    entries.append(Entry(f"{name}/{key.hex()}", len(value), 0, name))
        return entries

    def read(self, entry: Entry) -> bytes:
        with self._environment(entry.stored) as environment, environment.begin() as transaction:
            value = transaction.get(bytes.fromhex(entry.parts[-1]))
        if value is None:
            raise DataError(f"{self.label(entry)}: cannot be read; copy the database again")
        return bytes(value)

    def label(self, entry: Entry) -> str:
        return f"{self.root}/{entry.path}"


def _import_lmdb() -> Any:
    try:
        import lmdb
    except ImportError:
        raise DataError("data set 'lsun': expected the package lmdb, got none; pip install lmdb") from None
    return lmdb


@register(
    "lsun",
    kind="images",
    summary="scenes by category (bedroom, church_outdoor, ...), colour; choose with data.classes",
    needs="data.root with <category>_train_lmdb folders, and pip install lmdb",
    splits=("train", "val", "all"),
)
def build_lsun(config: DataConfig, split: str) -> ImageDataset:
    """Yu et al. 2015. Two or more categories give labels. torchvision has no download for it."""
    _import_lmdb()
    expected = f"folders such as bedroom_{'train' if split == 'all' else split}_lmdb"
    root = require_root(config, f"the folder that holds {expected}")
    parts = ("train", "val") if split == "all" else (split,)
    first_folder_with(config, [root], lambda at: any(at.glob(f"*_{parts[0]}_lmdb")), expected)
    folders = {(path.name.rsplit("_", 2)[0], part): path for part in parts for path in root.glob(f"*_{part}_lmdb")}
    found = sorted({category for category, _ in folders})
    names = found if config.classes is None else [_category(wanted, found) for wanted in config.classes]
    tree = LmdbTree([path for (category, _), path in sorted(folders.items()) if category in names])
    labels = np.array([names.index(entry.stored.rsplit("_", 2)[0]) for entry in tree.entries])
    labelled = len(names) > 1
    # The categories are chosen already: only data.limit is left to apply.
    chosen = select(config.model_copy(update={"classes": None}), len(labels), labels, names)
    return PictureDataset(
        FilePictures(tree, [tree.entries[row] for row in chosen.picked], config),
        View.of(config),
        np.arange(len(chosen.picked)),
        chosen.labels if labelled else None,
        name=config.name,
        split=split,
        class_names=names if labelled else None,
        **file_digests(config, split, [stamp(path / "data.mdb") for path in sorted(folders.values())]),
    )


def _category(wanted: int | str, found: list[str]) -> str:
    if wanted not in found:
        raise DataError(f"data.classes: expected categories among {', '.join(found)}, got {wanted!r}")
    return str(wanted)
