"""Stored images as sources: files of a folder or zip archive, and arrays in an npz."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlab.errors import DataError, MetricError
from genlab.metrics.sources import Batch, ImageSource


class FileSource(ImageSource):
    """Image files of a folder or a zip archive and its sub-folders, at their own sizes, in order of path.

    Pixels are those of Pillow's ``convert("RGB")``, as in pytorch-fid: alpha is dropped and EXIF rotation is not
    applied. Images of 16 bits, which Pillow cuts wrongly, are scaled to 8.

    Raises:
        DataError: nothing at that path, no image in it, or an image that cannot be read (when reached).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from genlab.data.files import open_tree

        self.path = Path(path)
        self._tree = open_tree(self.path)
        self._entries = self._tree.images()
        self.count = len(self._entries)
        digest = hashlib.sha256(b"rgb")
        for entry in self._entries:
            digest.update(f"{entry.path}\0{entry.size}\0{entry.stamp}\n".encode())
        self.fingerprint = digest.hexdigest()

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        entries = self._entries[:limit]
        for start in range(0, len(entries), batch_size):
            images = [self._read(entry) for entry in entries[start : start + batch_size]]
            same = all(image.shape == images[0].shape for image in images)
            yield torch.stack(images) if same else images

    def _read(self, entry: Any) -> Tensor:
        return read_rgb(self._tree.read(entry), self._tree.label(entry))

    def describe(self) -> dict[str, Any]:
        return {"source": self.path.name or str(self.path), "fingerprint": self.fingerprint}


def read_rgb(data: bytes, name: str) -> Tensor:
    """Bytes of an image file as uint8 (3, h, w), by Pillow's ``convert("RGB")`` for 8 bits, scaled for 16.

    Raises:
        DataError: empty, truncated, oversized or no image; names the file.
    """
    from genlab.data.decoding import decode_image, open_header
    from genlab.metrics.extractors.base import with_channels

    if data:
        image = open_header(data, name)
        if image.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
            try:
                pixels = np.array(image.convert("RGB"))
            except Exception as error:  # a decoder fed with broken bytes raises whatever it likes
                detail = " ".join(str(error).split()) or type(error).__name__
                raise DataError(
                    f"{name}: expected a whole image, got one that breaks off or is damaged ({detail}); remove it or "
                    "copy it again; `genlab data check` on the folder or archive lists every such file"
                ) from None
            return torch.from_numpy(pixels).permute(2, 0, 1)
    pixels = decode_image(data, name)
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return with_channels(torch.from_numpy(pixels).permute(2, 0, 1)[None], 3)[0]


class ArraySource(ImageSource):
    """Images in one uint8 array (n, h, w, c) of an npz, read in slices without unpacking the whole.

    Raises:
        MetricError: not uint8, not 4-d, in Fortran order, or not 1 to 4 channels.
    """

    def __init__(self, path: str | os.PathLike[str], member: str) -> None:
        self.path = Path(path)
        self.member = member
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(member) as stream:
                shape, fortran, dtype = _read_array_header(stream)
                checksum = archive.getinfo(member).CRC
        except (ValueError, zipfile.BadZipFile, OSError) as error:
            raise MetricError(f"{self.path}: expected a numpy array in '{member}', got {error}") from None
        if len(shape) != 4 or dtype != np.uint8 or fortran or shape[-1] not in (1, 2, 3, 4) or shape[0] == 0:
            raise MetricError(
                f"{self.path}: expected '{Path(member).stem}' to be uint8 (n, h, w, c) in C order, c = 1 to 4, "
                f"got {dtype} {shape}"
            )
        self.shape = shape
        self.count = shape[0]
        self.fingerprint = hashlib.sha256(f"{member} {shape} {checksum}".encode()).hexdigest()

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        remaining = self.count if limit is None else min(limit, self.count)
        image_bytes = int(np.prod(self.shape[1:]))
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            _read_array_header(stream)
            while remaining > 0:
                size = min(batch_size, remaining)
                content = stream.read(size * image_bytes)
                if len(content) < size * image_bytes:
                    raise MetricError(f"{self.path}: expected {self.count} images, got a file that ends before")
                images = np.frombuffer(content, dtype=np.uint8).reshape(size, *self.shape[1:])
                yield torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
                remaining -= size

    def describe(self) -> dict[str, Any]:
        return {"source": self.path.name, "image_shape": [self.shape[i] for i in (3, 1, 2)]}


def _read_array_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)
