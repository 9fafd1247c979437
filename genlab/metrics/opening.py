"""From a path, a data set or a tensor to the source of images that it means."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlab.errors import DataError, MetricError
from genlab.metrics.sources import (
    AnySource,
    DatasetSource,
    GeneratorSource,
    ImageSource,
    IterableSource,
    StatisticsSource,
)
from genlab.metrics.stored import ArraySource, FileSource


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
