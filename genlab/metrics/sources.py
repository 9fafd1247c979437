"""Where the images of a score come from: data sets, folders, archives, arrays, generators, saved statistics.

Every source streams; none holds more than a batch of images.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlab.errors import DataError, MetricError
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


def as_source(images: Any) -> AnySource:
    """Wraps what `evaluate` accepts: a source, an ImageDataset, a tensor, an iterable of batches, or a path."""
    if isinstance(images, (ImageSource, StatisticsSource)):
        return images
    if isinstance(images, (str, os.PathLike)):
        return open_source(images)
    if hasattr(images, "fingerprint") and hasattr(images, "kind"):
        return DatasetSource(images)
    if isinstance(images, Tensor) or hasattr(images, "__iter__"):
        return IterableSource(images)
    raise MetricError(f"evaluate: expected a source, data set, tensor, iterable or path, got {type(images).__name__}")


def open_source(
    path: str | os.PathLike[str],
    *,
    samples: int = 50_000,
    batch_size: int = 100,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> AnySource:
    """Opens a folder or zip of images, an npz of statistics or images, or a run directory or checkpoint.

    Args:
        path: what to open.
        samples: images drawn where it is a run or a checkpoint.
        batch_size: of those draws.
        seed: of those draws.
        device: where the generator runs.

    Raises:
        DataError: nothing there, or a folder without images.
        MetricError: an npz with neither statistics nor images.
        CheckpointError: a run without a usable checkpoint.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path}: expected a folder, zip, npz or run, got nothing at that path")
    if path.suffix == ".npz":
        return _open_npz(path)
    if is_run(path):
        return run_source(path, samples=samples, batch_size=batch_size, seed=seed, device=device)
    return FileSource(path)


def is_run(path: Path) -> bool:
    """Whether a path is a run directory or a checkpoint rather than a folder of images."""
    if path.is_dir():
        return (path / "config.yaml").is_file() and (path / "checkpoints").is_dir() or path.parent.name == "checkpoints"
    return path.suffix in (".safetensors", ".ckpt", ".pt", ".pth")


def run_source(
    path: str | os.PathLike[str],
    *,
    samples: int,
    batch_size: int = 100,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> GeneratorSource:
    """Images drawn from a run's or a checkpoint's generator."""
    from genlab.checkpoint import load_bundle

    bundle = load_bundle(path, device=device)
    facts = {"checkpoint": bundle.path.name, "step": bundle.step, "weights": bundle.weights}
    return GeneratorSource(
        bundle.trainer.sample, samples, batch_size=batch_size, seed=seed, name=Path(path).name, facts=facts
    )


def _open_npz(path: Path) -> AnySource:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {Path(name).stem: name for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError) as error:
        raise MetricError(f"{path}: expected an npz of statistics or images, got {error}") from None
    for key in ("images", "arr_0"):
        if key in members and "mu" not in members:
            return ArraySource(path, members[key])
    return StatisticsSource(path)
