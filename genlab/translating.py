"""Pictures from files through a picture-to-picture model: everything is checked before the first file is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from genlab.config import DataConfig
from genlab.data.decoding import (
    IMAGE_SUFFIXES,
    BombError,
    EmptyFileError,
    NotAnImageError,
    TruncatedImageError,
    decode_image,
)
from genlab.data.files import Entry, FileTree, open_tree
from genlab.data.pixels import clear_hidden, convert_channels, pixels_to_tensor, resize_pixels
from genlab.errors import DataError, UserError
from genlab.images import save_image
from genlab.outputs import check_place

if TYPE_CHECKING:
    from genlab.trainers.translation import Direction, TranslationTrainer

Half = Literal["left", "right"]
BATCH = 16
_KINDS = {
    EmptyFileError: "zero bytes",
    TruncatedImageError: "breaks off or is damaged",
    NotAnImageError: "no image",
    BombError: "too many pixels",
}


class _OneFile(FileTree):
    """A single file as a tree."""

    def _list(self) -> Sequence[Entry]:
        status = self.root.stat()
        return [Entry(self.root.name, status.st_size, status.st_mtime_ns, str(self.root))]


@dataclass(frozen=True)
class PictureFiles:
    """Image files that a model is shown.

    Args:
        path: a folder (its subfolders too), a zip archive, or one image file.
        shape: (C, H, W) that the model takes.
        data: the run's data settings: how pictures are resized, and whether channels are converted.
        resize: bring pictures of another size to the model's.
        half: of pictures that are two side by side, the one to take.
    """

    tree: FileTree
    entries: list[Entry]
    shape: tuple[int, int, int]
    data: DataConfig
    resize: bool = False
    half: Half | None = None

    @classmethod
    def open(cls, path: Path, *arguments: object, **settings: object) -> PictureFiles:
        """Opens the files without reading one.

        Raises:
            DataError: nothing there, or nothing with an image's suffix.
        """
        path = path.expanduser()
        alone = path.is_file() and path.suffix.lower() != ".zip"
        tree = _OneFile(path) if alone else open_tree(path)
        entries = tree.entries if alone else [entry for entry in tree.entries if entry.is_image]
        if not entries:
            raise DataError(
                f"{path}: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}), got "
                f"{f'{len(tree.entries)} files of other kinds' if tree.entries else 'an empty folder or archive'}"
            )
        return cls(tree, entries, *arguments, **settings)

    def __len__(self) -> int:
        return len(self.entries)

    def check(self) -> None:
        """Reads every file once.

        Raises:
            DataError: files that cannot be read (all are named), of another size or of another number of channels.
        """
        unreadable, sizes, channels = [], [], []
        for entry in self.entries:
            try:
                pixels = self._pixels(entry)
            except DataError as error:
                unreadable.append(f"{self.tree.label(entry)} ({_KINDS.get(type(error), 'cannot be read')})")
                continue
            if pixels.shape[:2] != self.shape[1:]:
                sizes.append((entry, pixels.shape))
            if pixels.shape[2] != self.shape[0] and self.data.channels is None:
                channels.append((entry, pixels.shape))
        if unreadable:
            raise DataError(
                f"expected images, got {len(unreadable)} of {len(self)} that cannot be read: {', '.join(unreadable)}; "
                "remove them or copy them again"
            )
        if channels:
            self._refuse(channels, f"{self.shape[0]} channels", lambda shape: str(shape[2]), "convert the files")
        if sizes and not self.resize:
            height, width = self.shape[1:]
            pairs = self.half is None and all(shape[1] * height == 2 * width * shape[0] for _, shape in sizes)
            remedy = "give --resize to bring them to size"
            if pairs:  # twice as wide as the model's pictures
                remedy = (
                    f"give --half left or right if they are pairs side by side, else {remedy.removeprefix('give ')}"
                )
            self._refuse(
                sizes, f"{height}x{width} pixels (height x width)", lambda shape: f"{shape[0]}x{shape[1]}", remedy
            )

    def _refuse(self, found: list, expected: str, describe: Callable[[tuple[int, ...]], str], remedy: str) -> None:
        entry, shape = found[0]
        more = f" ({len(found)} of {len(self)} files differ)" if len(found) > 1 else ""
        raise DataError(
            f"{self.tree.label(entry)}: expected {expected}, which the model takes, got {describe(shape)}{more}; "
            f"{remedy}"
        )

    def _pixels(self, entry: Entry) -> np.ndarray:
        pixels = decode_image(self.tree.read(entry), self.tree.label(entry))
        if self.half is None:
            return pixels
        middle = pixels.shape[1] // 2
        return pixels[:, :middle] if self.half == "left" else pixels[:, middle:]

    def batches(self, size: int = BATCH) -> Iterator[tuple[list[Entry], Tensor]]:
        """(files, (N, C, H, W) float32 in [-1, 1]), at most `size` at a time; of files that `check` accepts."""
        for start in range(0, len(self), size):
            entries = self.entries[start : start + size]
            yield entries, torch.stack([self._tensor(self._pixels(entry)) for entry in entries])

    def _tensor(self, pixels: np.ndarray) -> Tensor:
        pixels = clear_hidden(convert_channels(pixels, self.shape[0]))
        return pixels_to_tensor(resize_pixels(pixels, self.shape[1:], self.data.resize, self.data.interpolation))

    def output_names(self) -> dict[str, str]:
        """Entry's path -> name of its output: the same with .png, and both suffixes where two would be one."""
        stems = [PurePosixPath(entry.path).with_suffix("").as_posix() for entry in self.entries]
        return {
            entry.path: f"{entry.path if stems.count(stem) > 1 else stem}.png"
            for entry, stem in zip(self.entries, stems, strict=True)
        }


def check_output(output: Path, single: bool) -> bool:
    """Whether the output is one file rather than a folder.

    Args:
        output: a new or empty folder; for a single input also a new picture file.

    Raises:
        UserError: something is there that would be mixed with or written over, a place that cannot be written to, or
            for a single input a suffix of no picture.
    """
    check_place(output)
    if output.is_dir():
        if any(output.iterdir()):
            raise UserError(f"{output}: expected an empty or new folder, got one that holds files; choose another")
        return False
    if output.exists():
        raise UserError(f"{output}: expected a new name, got a file that exists; choose another or remove it")
    as_file = output.suffix.lower() in IMAGE_SUFFIXES
    if as_file and not single:
        raise UserError(f"{output}: expected a folder for the pictures of a folder, got a picture file")
    if single and output.suffix and not as_file:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"{output}: expected a picture file ({known}) or a folder, got the suffix {output.suffix!r}")
    return as_file


def translate_files(
    trainer: TranslationTrainer,
    files: PictureFiles,
    output: Path,
    *,
    direction: Direction | None = None,
    seed: int = 0,
    as_file: bool = False,
) -> int:
    """Writes a picture for each file; the caller has checked `files` and `output`.

    Args:
        trainer: rebuilt from a checkpoint.
        files: what to translate.
        output: a folder, or with `as_file` a picture file.
        direction: one of the trainer's.
        seed: of the model's noise.

    Returns:
        Number of pictures written.
    """
    generator = torch.Generator().manual_seed(seed)
    names = files.output_names()
    done = 0
    for entries, images in files.batches():
        translated = trainer.translate(trainer.to_device({"image": images})["image"], generator, direction).cpu()
        for entry, picture in zip(entries, translated, strict=True):
            save_image(picture, output if as_file else output / names[entry.path])
            done += 1
    return done
