"""Data sets of tokens: sentences with a class, streams, pairs of sentences, tagged sentences; and series of numbers.

A batch is padded to its longest sentence; "length" says where each ends. What a model makes of a sentence must not
depend on the padding (tested for every network).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlab.data.base import ImageDataset
from genlab.data.randomness import EpochKey, uniform
from genlab.data.text_vocabulary import END, PAD, TextCodec
from genlab.errors import DataError

SHIFT = 32  # names the draw that moves a stream's windows, apart from those of pictures


class Ragged:
    """Rows of numbers of unequal length, in one array.

    Args:
        rows: each a sequence of integers.
    """

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.lengths = np.array([len(row) for row in rows], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]) if len(rows) else np.zeros(0, np.int64)
        self.flat = np.fromiter((number for row in rows for number in row), np.int64, int(self.lengths.sum()))

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, index: int) -> np.ndarray:
        return self.flat[self.starts[index] : self.starts[index] + self.lengths[index]]

    def padded(self, indices: np.ndarray, fill: int) -> tuple[Tensor, Tensor]:
        """(rows (N, T) int64 filled up with `fill`, lengths (N,) int64); T is the longest row's length."""
        lengths = self.lengths[indices]
        grid = np.arange(max(int(lengths.max(initial=1)), 1))[None]
        inside = grid < lengths[:, None]
        rows = np.full(inside.shape, fill, dtype=np.int64)
        rows[inside] = self.flat[(self.starts[indices][:, None] + grid)[inside]]
        return torch.from_numpy(rows), torch.from_numpy(lengths)


def lengths_to_mask(lengths: Tensor, width: int) -> Tensor:
    """Bool (N, width): whether a position holds a token."""
    return torch.arange(width, device=lengths.device)[None] < lengths[:, None]


class TokenDataset(ImageDataset):
    """Base of the sets of text.

    Attributes:
        codecs: the codec of each tensor of tokens in a batch, by its key.
    """

    in_memory = True

    def __init__(self, codecs: dict[str, TextCodec], **facts: Any) -> None:
        super().__init__(image_shape=(), **facts)
        self.codecs = codecs

    @property
    def lengths(self) -> np.ndarray | None:
        """What sentences are sorted by before they are batched, int64 (N,); None where all are equally long."""
        return None

    @property
    def longest(self) -> int:
        """Tokens of the longest sentence; only of sets of sentences."""
        return int(self.lengths.max())


class SentenceDataset(TokenDataset):
    """Sentences, each with a class. Batches: "tokens" (N, T), "length" (N,), "label" (N,), all int64.

    Attributes:
        texts: the sentences as they were read.
        labels: int64 (N,).
    """

    kind = "sentences"

    def __init__(self, rows: Ragged, labels: np.ndarray, texts: list[str], codec: TextCodec, **facts: Any) -> None:
        super().__init__({"tokens": codec}, **facts)
        self._rows, self.texts = rows, texts
        self.labels = torch.from_numpy(labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Ragged:
        """The tokens of the sentences."""
        return self._rows

    @property
    def lengths(self) -> np.ndarray:
        return self._rows.lengths

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        tokens, lengths = self._rows.padded(indices, self.codecs["tokens"].special(PAD))
        return {"tokens": tokens, "length": lengths, "label": self.labels[torch.from_numpy(indices)]}


class StreamDataset(TokenDataset):
    """One long text, cut into windows that follow one another.

    Sample i holds the tokens from i * `sequence_length` on, one more than that many: the last is only a target. In a
    training pass all windows are moved on by the same number of tokens, drawn anew for each epoch.

    Attributes:
        stream: int64 (L,), all tokens.
        sequence_length: T.
    """

    kind = "text"

    def __init__(self, stream: np.ndarray, sequence_length: int, codec: TextCodec, **facts: Any) -> None:
        super().__init__({"tokens": codec}, **facts)
        self.stream, self.sequence_length = torch.from_numpy(stream.astype(np.int64)), sequence_length
        if len(self) < 1:
            raise DataError(
                f"data set {self.name!r} ({self.split}): expected at least {sequence_length + 1} tokens, got "
                f"{len(stream)}; lower data.sequence_length"
            )

    def __len__(self) -> int:
        return (len(self.stream) - 1) // self.sequence_length

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        spare = (len(self.stream) - 1) % self.sequence_length
        shift = 0 if key is None else int(uniform(key.seed, key.epoch, SHIFT)[0] * (spare + 1))
        return {"tokens": self.windows(torch.from_numpy(indices) * self.sequence_length + shift)}

    def windows(self, starts: Tensor) -> Tensor:
        """The tokens from `starts` (N,) on, (N, T + 1)."""
        return self.stream[starts[:, None] + torch.arange(self.sequence_length + 1)]


class PairDataset(TokenDataset):
    """Sentences and their translations. Batches: "source", "target" (N, T), "source_length", "target_length" (N,).

    Both end with the end token; the target is given to the decoder with the begin token before it.

    Attributes:
        texts: (source, target) as they were read.
    """

    kind = "sentence_pairs"

    def __init__(
        self, rows: tuple[Ragged, Ragged], texts: list[tuple[str, str]], codecs: dict[str, TextCodec], **facts: Any
    ) -> None:
        super().__init__(codecs, **facts)
        self._rows, self.texts = rows, texts

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def lengths(self) -> np.ndarray:
        # The longer side first: it decides how wide the batch gets on that side.
        source, target = (rows.lengths for rows in self._rows)
        return np.maximum(source, target) * 4096 + np.minimum(source, target)

    @property
    def longest(self) -> int:
        """Tokens of the longest sentence of either side, its end counted."""
        return max(int(rows.lengths.max()) for rows in self._rows)

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        batch = {}
        for name, rows in zip(("source", "target"), self._rows, strict=True):
            batch[name], batch[f"{name}_length"] = rows.padded(indices, self.codecs[name].special(PAD))
        return batch


class TaggedDataset(TokenDataset):
    """Sentences with a class for every word. Batches: "tokens", "tags" (N, T), "length" (N,); tags are padded by -100.

    `class_names` are the tags.
    """

    kind = "tagged"

    def __init__(self, rows: Ragged, tags: Ragged, codec: TextCodec, **facts: Any) -> None:
        super().__init__({"tokens": codec}, **facts)
        self._rows, self._tags = rows, tags

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def lengths(self) -> np.ndarray:
        return self._rows.lengths

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        tokens, lengths = self._rows.padded(indices, self.codecs["tokens"].special(PAD))
        return {"tokens": tokens, "tags": self._tags.padded(indices, IGNORED)[0], "length": lengths}


IGNORED = -100  # torch's own mark of targets that do not count


class SeriesDataset(ImageDataset):
    """Windows of a series: `sequence_length` past values, and the value that follows.

    Batches: "past" (N, T, D) and "next" (N, D), float32, standardised with the training part's mean and deviation.

    Attributes:
        values: float32 (L, D), standardised.
        mean, std: float32 (D,), of the training part.
    """

    kind = "series"
    in_memory = True

    def __init__(self, values: np.ndarray, mean: np.ndarray, std: np.ndarray, length: int, **facts: Any) -> None:
        super().__init__(image_shape=(values.shape[1],), **facts)
        self.values = torch.from_numpy(((values - mean) / std).astype(np.float32))
        self.mean, self.std = (torch.from_numpy(value.astype(np.float32)) for value in (mean, std))
        self.sequence_length = length
        if len(self) < 1:
            raise DataError(
                f"data set {self.name!r} ({self.split}): expected at least {length + 1} steps, got {len(values)}; "
                "lower data.sequence_length"
            )

    def __len__(self) -> int:
        return len(self.values) - self.sequence_length

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        starts = torch.from_numpy(indices)
        past = self.values[starts[:, None] + torch.arange(self.sequence_length)]
        return {"past": past, "next": self.values[starts + self.sequence_length]}


def encode_rows(
    texts: Sequence[str], codec: TextCodec, max_length: int | None, what: str, end: bool = False
) -> tuple[Ragged, int]:
    """Tokens of sentences, and how many sentences were cut to `max_length`.

    Args:
        texts: sentences.
        codec: splits them.
        max_length: of a sentence in tokens; None: none is cut.
        what: where sentence i stands, as `what.format(i + 1)`.
        end: whether the end token closes each; it counts.

    Raises:
        DataError: a sentence without a token.
    """
    rows, cut = [], 0
    room = None if max_length is None else max_length - end
    for number, text in enumerate(texts):
        row = codec.encode(text)
        if not row:
            raise DataError(
                f"{what.format(number + 1)}: expected a sentence, got nothing but {text!r}; remove the line"
            )
        if room is not None and len(row) > room:
            row, cut = row[:room], cut + 1
        rows.append([*row, codec.special(END)] if end else row)
    return Ragged(rows), cut
