"""Pictures with captions: what every such set is, and how it is divided into parts.

A picture may have several captions; a sample is a picture with one of them. Parts are divided by picture, so that no
picture is trained on and tested by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlab.caption_config import CaptionDataConfig
from genlab.data.base import ImageDataset, Moves, PictureSource, View
from genlab.data.randomness import EpochKey
from genlab.data.selection import held_out
from genlab.data.text_base import encode_rows
from genlab.data.text_files import limited
from genlab.data.text_vocabulary import BEGIN, END, PAD, UNKNOWN, TextCodec, build_codec
from genlab.errors import DataError

PARTS = ("train", "val", "test")
CAPTION_SPLITS = (*PARTS, "all")
SHAPING = (
    "lowercase", "min_count", "vocabulary_size", "max_length", "captions_per_image", "holdout", "styles", "tested_by"
)  # fmt: skip


@dataclass(frozen=True)
class Captioned:
    """A picture and what is said of it.

    Attributes:
        row: of the picture in its source.
        captions: at least one.
    """

    row: int
    captions: tuple[str, ...]


class CaptionDataset(ImageDataset):
    """Batches: "image" (N, C, H, W), "caption" (N, T) int64 with the end token behind it, filled up to the longest.

    Args:
        source: all pictures.
        view: their size, and how training varies them.
        pictures: those of this part.
        codec: of the captions.
        max_length: of a caption in tokens, the end token counted; None: none is cut.

    Attributes:
        codecs: {"caption": codec}.
        references: captions of each picture, as they were read.
        picture_of: int64 (len,), the picture of each sample, an index into `references`.
        longest: tokens of the longest caption.
    """

    kind = "captioned"

    def __init__(
        self, source: PictureSource, view: View, pictures: Sequence[Captioned], codec: TextCodec,
        max_length: int | None = None, **facts: Any,
    ) -> None:  # fmt: skip
        texts = [text for picture in pictures for text in picture.captions]
        where = f"data set {facts['name']!r} ({facts['split']}): caption {{}}"
        self._rows, cut = encode_rows(texts, codec, max_length, where, end=True)
        if cut:
            note = f"{cut} of {len(texts)} captions were cut to data.max_length={max_length} tokens"
            facts["notes"] = (*facts.get("notes", ()), note)
        super().__init__(image_shape=(source.channels, *view.size), **facts)
        self.in_memory = getattr(source, "in_memory", False)
        self.codecs = {"caption": codec}
        self.references = [list(picture.captions) for picture in pictures]
        self.picture_of = np.repeat(np.arange(len(pictures)), [len(picture.captions) for picture in pictures])
        self._source, self._view = source, view
        self._picked = np.array([picture.row for picture in pictures], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.picture_of)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each caption, the end token counted."""
        return self._rows.lengths

    @property
    def longest(self) -> int:
        return int(self._rows.lengths.max())

    @property
    def file_names(self) -> list[str] | None:
        """Path of each picture inside its folder or archive; None where the pictures are no files."""
        entries = getattr(self._source, "entries", None)
        return None if entries is None else [entries[row].path for row in self._picked]

    def pictures(self, indices: np.ndarray) -> Tensor:
        """Pictures by their index into `references`, unvaried, float32 (N, C, H, W) in [-1, 1]."""
        return self._view.read(self._source, self._picked[indices])

    def captions(self, indices: np.ndarray) -> Tensor:
        """Tokens (N, T) of the captions of samples."""
        return self._rows.padded(indices, self.codecs["caption"].special(PAD))[0]

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        picked = self._picked[self.picture_of[indices]]
        if key is None:
            images = self._view.read(self._source, picked)
        else:
            images = self._view.read_varied(self._source, picked, Moves.draw(key, indices))
        return {"image": images, "caption": self.captions(indices)}


class KeptPictures:
    """The pictures of a small set of files, each decoded once and kept.

    Args:
        source: of files.
        most_bytes: what is kept at most; pictures beyond it are decoded whenever they are asked for.
    """

    def __init__(self, source: PictureSource, most_bytes: int = 1 << 28) -> None:
        self._source, self._most = source, most_bytes
        self.channels = source.channels
        self.entries = getattr(source, "entries", None)
        self._kept: dict[tuple[int, tuple[int, int]], Tensor] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, indices: np.ndarray, size: tuple[int, int]) -> Tensor:
        """float32 in [-1, 1], (N, channels, *size)."""
        missing = [index for index in dict.fromkeys(indices.tolist()) if (index, size) not in self._kept]
        fresh: dict[int, Tensor] = {}
        if missing:
            fresh = dict(zip(missing, self._source.batch(np.array(missing), size), strict=True))
            for index, picture in fresh.items():
                weight = picture.numel() * picture.element_size()
                if self._bytes + weight <= self._most:
                    self._kept[index, size] = picture.clone()  # not a view, which would hold the whole batch
                    self._bytes += weight
        found = [fresh[index] if index in fresh else self._kept[index, size] for index in indices.tolist()]
        return torch.stack(found)


def divide(names: Sequence[str], folders: Sequence[str | None], holdout: float) -> dict[str, list[int]]:
    """Rows of train, val and test: by folder where there is one, else held out of train by the names alone.

    Args:
        names: of the pictures.
        folders: "train", "val", "test" or None of each.
        holdout: share of the pictures without a folder of its own that goes to each missing part.
    """
    parts: dict[str, list[int]] = {}
    for row, folder in enumerate(folders):
        parts.setdefault(folder or "train", []).append(row)
    whole = parts.get("train", [])
    wanted = holdout * len(whole)
    for missing in ("test", "val"):
        train = parts.get("train", [])
        if missing not in parts and len(train) > 1 and holdout > 0:
            out = held_out([f"{missing}/{names[row]}" for row in train], wanted / len(train))
            parts[missing] = [row for row, chosen in zip(train, out, strict=True) if chosen]
            parts["train"] = [row for row, chosen in zip(train, out, strict=True) if not chosen]
    return {part: rows for part, rows in parts.items() if rows}


def caption_codec(config: CaptionDataConfig, pictures: Sequence[Captioned]) -> TextCodec:
    """The vocabulary of the training part."""
    texts = (text for picture in pictures for text in picture.captions)
    return build_codec(
        texts, unit="word", roles=(PAD, UNKNOWN, BEGIN, END), lowercase=config.lowercase, min_count=config.min_count,
        size=config.vocabulary_size, what=f"data set {config.name!r}",
    )  # fmt: skip


def build_captioned(
    config: CaptionDataConfig, split: str, source: PictureSource, parts: dict[str, list[Captioned]], **facts: Any
) -> CaptionDataset:
    """One part of a set, with the vocabulary of its training part.

    Args:
        config: the `data` section.
        split: "train", "val", "test" or "all".
        source: all pictures.
        parts: pictures of each part; empty ones are left out.
        **facts: of `ImageDataset`.

    Raises:
        DataError: no such part, or no training part to take the vocabulary from.
    """
    for part in ("train", *([split] if split != "all" else ())):
        if not parts.get(part):
            raise DataError(
                f"data set {config.name!r}: expected pictures in the {part} part, got none; set data.holdout above 0, "
                f"or add a folder {part}"
            )
    most = config.captions_per_image
    parts = {
        part: [Captioned(picture.row, picture.captions[:most]) for picture in pictures]
        for part, pictures in parts.items()
    }
    codec = caption_codec(config, parts["train"])
    pictures = [picture for part in PARTS for picture in parts.get(part, [])] if split == "all" else parts[split]
    pictures = [pictures[row] for row in limited(len(pictures), config)]
    return CaptionDataset(
        source, View.of(config), pictures, codec, config.max_length, name=config.name, split=split, **facts
    )


def shaping(config: CaptionDataConfig) -> dict[str, Any]:
    """What of the configuration decides the samples, beside what `digests` takes of any."""
    return {name: getattr(config, name) for name in SHAPING}
