"""Image files in a folder or a zip archive, with or without one subfolder per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from genlab.config import DataConfig
from genlab.data.base import FileFacts, ImageDataset, PictureDataset, View, file_digests
from genlab.data.catalogue import register, require_root
from genlab.data.decoding import decode_image
from genlab.data.files import Entry, FileTree, open_tree
from genlab.data.layout import FILE_SPLITS, groups_of, place, take_split
from genlab.data.pixels import clear_hidden, convert_channels, pixels_to_tensor, resize_pixels
from genlab.data.selection import select
from genlab.errors import DataError


class FilePictures:
    """A source over image files: each is decoded, converted and resized when it is asked for.

    Args:
        tree: where the files lie.
        entries: the files, one picture each.
        config: gives channels (default: those of the first file, which all must then have), resize and interpolation.
    """

    def __init__(self, tree: FileTree, entries: Sequence[Entry], config: DataConfig) -> None:
        self.tree, self.entries = tree, list(entries)
        self._resize, self._interpolation = config.resize, config.interpolation
        self._convert = config.channels is not None
        self.channels = config.channels or self.decode(0).shape[2]

    def __len__(self) -> int:
        return len(self.entries)

    def decode(self, index: int) -> np.ndarray:
        """Pixels of one file as stored, (H, W, C)."""
        entry = self.entries[index]
        return decode_image(self.tree.read(entry), self.tree.label(entry))

    def finish(self, pixels: np.ndarray, index: int, size: tuple[int, int]) -> Tensor:
        """Pixels as stored to float32 (channels, *size) in [-1, 1].

        Raises:
            DataError: another number of channels than the set has.
        """
        if pixels.shape[2] != self.channels and not self._convert:
            raise DataError(
                f"{self.tree.label(self.entries[index])}: expected {self.channels} channels as in "
                f"{self.tree.label(self.entries[0])}, got {pixels.shape[2]}; set data.channels to convert every file"
            )
        pixels = clear_hidden(convert_channels(pixels, self.channels))
        return pixels_to_tensor(resize_pixels(pixels, size, self._resize, self._interpolation))

    def batch(self, indices: np.ndarray, size: tuple[int, int]) -> Tensor:
        """float32 in [-1, 1], (N, channels, *size)."""
        return torch.stack([self.finish(self.decode(int(index)), int(index), size) for index in indices])


def stamps(entries: Sequence[Entry]) -> list[FileFacts]:
    """What a data set's digests hold of a list of files."""
    return [(entry.path, entry.size, entry.stamp) for entry in entries]


@register(
    "folder",
    kind="images",
    summary="images in a folder; one subfolder per class gives labels; train/, val/, test/ are splits",
    needs="data.root: a folder (or zip) of images",
    splits=FILE_SPLITS,
)
@register(
    "zip",
    kind="images",
    summary="images in a zip archive, read in place; folders inside mean what they mean in `folder`",
    needs="data.root: a zip archive of images",
    splits=FILE_SPLITS,
)
def build_folder(config: DataConfig, split: str) -> ImageDataset:
    """Two or more subfolders are classes; one subfolder, or none, is a set without labels."""
    root = require_root(config, "a folder or a zip archive of images")
    tree = open_tree(root)
    placed = place(tree.images())
    groups = groups_of(tree, placed)
    taken, notes = take_split(
        placed,
        [item.split for item in placed],
        [f"{item.group or ''}/{item.key}" for item in placed],
        split,
        config.holdout,
        str(root),
    )
    numbers = {group: number for number, group in enumerate(groups)}
    labels = np.array([numbers[item.group] for item in taken]) if len(groups) > 1 else None
    chosen = select(config, len(taken), labels, groups if len(groups) > 1 else None)
    entries = [taken[row].entry for row in chosen.picked]
    return PictureDataset(
        FilePictures(tree, entries, config),
        View.of(config),
        np.arange(len(entries)),
        chosen.labels,
        name=config.name,
        split=split,
        class_names=chosen.class_names,
        notes=notes,
        **file_digests(config, split, stamps(entries)),
    )
