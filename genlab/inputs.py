"""Images that a trained model is shown: a split of its own data, a folder, an archive or one file, at its own size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from genlab.config import DataConfig
from genlab.data import DATASETS, ImageDataset, build, evenly_spaced
from genlab.data.base import PictureDataset, View, file_digests
from genlab.data.files import Entry, FileTree
from genlab.data.folders import FilePictures, stamps
from genlab.errors import DataError

if TYPE_CHECKING:
    from genlab.trainers.base import Batch, Trainer


@dataclass(frozen=True)
class Inputs:
    """Images for a model.

    Attributes:
        dataset: of the size and channels that the model was trained on.
        names: of its files, in order; None where the samples are no files.
        source: what messages call it.
    """

    dataset: ImageDataset
    names: list[str] | None
    source: str

    def batch(self, indices: np.ndarray, trainer: Trainer) -> Batch:
        """Samples on the trainer's device, labels in the numbers of the model's own classes.

        Raises:
            DataError: a model that was trained with classes, and images without or of another class.
        """
        batch = self.dataset.fetch(indices)
        if trainer.label_count is not None:
            batch["label"] = self._model_labels(batch.get("label"), trainer)
        return trainer.to_device(batch)

    def evenly(self, count: int) -> np.ndarray:
        """Indices of `count` samples (fewer where there are fewer) spread over the whole."""
        return evenly_spaced(len(self.dataset), count)

    def _model_labels(self, labels: Tensor | None, trainer: Trainer) -> Tensor:
        known, names = list(trainer.data.class_names or ()), self.dataset.class_names
        if labels is None or names is None:
            raise DataError(
                f"{self.source}: expected one subfolder per class, as the model was trained with classes "
                f"({', '.join(known[:10])}), got images without classes"
            )
        strangers = [name for name in names if name not in known]
        if strangers:
            raise DataError(f"{self.source}: expected the model's classes {', '.join(known)}, got {strangers[0]!r}")
        return torch.tensor([known.index(name) for name in names])[labels]


class _OneFile(FileTree):
    """A single image file as a tree."""

    def _list(self) -> Iterable[Entry]:
        status = self.root.stat()
        yield Entry(self.root.name, status.st_size, status.st_mtime_ns, str(self.root))


def moved(config: DataConfig, root: Path | None) -> DataConfig:
    """The run's data with their files at `root`; None: where they were.

    Raises:
        DataError: a set that is not read from files.
    """
    if root is None:
        return config
    if DATASETS.get(config.name).needs == "nothing":
        raise DataError(f"root: expected none, as data set {config.name!r} reads no files, got {root}; leave it out")
    return config.model_copy(update={"root": root})


def open_inputs(
    path: Path | None, trainer: Trainer, *, split: str = "test", every_class: bool = False, root: Path | None = None,
    convert: bool = False,
) -> Inputs:  # fmt: skip
    """Opens images as the model's training data were opened: same size, resizing and channels.

    Args:
        path: an image file, a folder or a zip archive (one subfolder per class gives labels); None: the run's own data.
        trainer: of the model.
        split: part of the run's own data.
        every_class: of the run's own data also the classes that `data.classes` left out.
        root: where the run's own data lie now; default: the run's data.root.
        convert: bring images of other channels to the model's; else they are refused.

    Raises:
        DataError: nothing there, no image, another number of channels than the model's, or a root where the run's
            data read no files.
    """
    config: DataConfig = trainer.config.data
    if path is None:
        changes = {"limit": None, **({"classes": None} if every_class else {})}
        dataset = build(moved(config, root).model_copy(update=changes), split)
        return Inputs(dataset, getattr(dataset, "file_names", None), f"{config.name} ({split})")
    if not path.exists():
        raise DataError(f"{path}: expected an image, a folder or a zip archive of images, got nothing at that path")
    own = config.model_copy(update={"name": "folder", "root": path, "limit": None, "classes": None})
    if convert:
        own = own.model_copy(update={"channels": trainer.data.shape[0]})
    if path.is_file() and path.suffix.lower() != ".zip":
        tree = _OneFile(path)
        pictures = FilePictures(tree, tree.images(), own)
        dataset = PictureDataset(
            pictures, View.of(own), np.arange(1), None, name=path.name, split="all",
            **file_digests(own, "all", stamps(tree.entries)),
        )  # fmt: skip
    else:
        dataset = build(own, "all")
    given, expected = dataset.image_shape[0], trainer.data.shape[0]
    if given != expected:
        raise DataError(
            f"{path}: expected images of {expected} channel(s), as the model was trained on, got {given}; convert "
            f"them, or train with data.channels={given}"
        )
    return Inputs(dataset, dataset.file_names, str(path))
