"""MNIST and FashionMNIST: idx files, packed or not, read where they lie.

torchvision's classes unpack into the root, so that a read-only copy cannot be used; it is asked only to download.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from genlab.config import DataConfig
from genlab.data.arrays import ArrayPictures
from genlab.data.base import ImageDataset, PictureDataset, View, file_digests
from genlab.data.catalogue import register, require_root
from genlab.data.fetching import download_with_torchvision, first_folder_with, stamp
from genlab.data.selection import select
from genlab.errors import DataError

PREFIXES = {"train": "train", "test": "t10k"}
MAX_UNPACKED = 16 + 28 * 28 * 100_000
DIGIT_NAMES = [str(digit) for digit in range(10)]
FASHION_NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
FASHION_NAMES += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def idx_files(part: str) -> tuple[str, str]:
    """Names of the image and the label file of "train" or "test", without ".gz"."""
    return f"{PREFIXES[part]}-images-idx3-ubyte", f"{PREFIXES[part]}-labels-idx1-ubyte"


def locate(folder: Path, name: str) -> Path | None:
    """The file `name`, as it is or with ".gz"."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads one idx file of unsigned bytes (LeCun's format: two zero bytes, type 8, rank, big-endian sizes, data).

    Raises:
        DataError: truncated, of another type or rank, or holding more or fewer bytes than its header says.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
            data = stream.read(MAX_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a whole idx file, got a damaged one ({error}); copy it again") from None
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(
            f"{path}: expected an idx file of unsigned bytes with {dimensions} dimensions, "
            f"got header {data[:4].hex() or 'nothing'}; copy it again"
        )
    shape = tuple(int.from_bytes(data[at : at + 4], "big") for at in range(4, header, 4))
    expected = int(np.prod(shape, dtype=np.int64))
    if len(data) - header != expected:
        got = "more" if len(data) - header > expected else f"{len(data) - header}"
        raise DataError(f"{path}: expected {expected} bytes of data for shape {shape}, got {got}; copy it again")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def read_part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W) uint8 and labels (N,) int64 of "train" or "test".

    Raises:
        DataError: a file is missing or damaged, counts differ, a label is not in 0..9.
    """
    arrays = []
    for name, rank in zip(idx_files(part), (3, 1), strict=True):
        path = locate(folder, name)
        if path is None:
            raise DataError(f"{folder}: expected {name} or {name}.gz, got neither; set data.download=true or copy it")
        arrays.append(read_idx(path, rank))
    images, labels = arrays
    if len(images) != len(labels):
        raise DataError(
            f"{folder}: expected as many {part} labels as images ({len(images)}), got {len(labels)}; copy both"
        )
    if len(labels) and labels.max() > 9:
        file = idx_files(part)[1]
        raise DataError(f"{folder}: expected labels from 0 to 9 in {file}, got {labels.max()}; copy it again")
    return images, labels.astype(np.int64)


def _build(config: DataConfig, split: str, class_name: str, names: list[str]) -> ImageDataset:
    parts = ("train", "test") if split == "all" else (split,)
    wanted = [name for part in parts for name in idx_files(part)]
    expected = f"{class_name}/raw with {', '.join(wanted)} (each plain or .gz)"
    root = require_root(config, f"the folder that holds {expected}")
    candidates = [root / class_name / "raw", root / "raw", root]
    folder = first_folder_with(
        config,
        candidates,
        lambda at: all(locate(at, name) for name in wanted),
        expected,
        lambda: download_with_torchvision(class_name, root),
    )
    read = [read_part(folder, part) for part in parts]
    pixels = np.concatenate([images for images, _ in read])[:, :, :, None]
    labels = np.concatenate([labels for _, labels in read])
    chosen = select(config, len(pixels), labels, names)
    files = [stamp(path) for path in (locate(folder, name) for name in wanted) if path]
    return PictureDataset(
        ArrayPictures(pixels, config),
        View.of(config),
        chosen.picked,
        chosen.labels,
        name=config.name,
        split=split,
        class_names=chosen.class_names,
        **file_digests(config, split, files),
    )


@register(
    "mnist",
    kind="images",
    summary="handwritten digits, 28x28 grey, 10 classes, 60,000 + 10,000",
    needs="data.root with MNIST/raw, or data.download=true",
)
def build_mnist(config: DataConfig, split: str) -> ImageDataset:
    return _build(config, split, "MNIST", DIGIT_NAMES)


@register(
    "fashion_mnist",
    kind="images",
    summary="pictures of clothes, 28x28 grey, 10 classes, 60,000 + 10,000",
    needs="data.root with FashionMNIST/raw, or data.download=true",
)
def build_fashion_mnist(config: DataConfig, split: str) -> ImageDataset:
    return _build(config, split, "FashionMNIST", FASHION_NAMES)
