"""Documents, sentence by sentence, and the pairs of segments that BERT is trained on (Devlin et al. 2019, section 3.1).

A pair is two segments that fill a sequence: half of the time they follow one another, half of the time the second one
comes from another document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlab.data.randomness import EpochKey, uniform_rows
from genlab.data.text_base import Ragged, TokenDataset
from genlab.data.text_vocabulary import BEGIN, END, PAD, TextCodec
from genlab.errors import DataError

PAIR = 48  # names the draws of a pair, apart from those of other sets
FIXED = EpochKey(0, 0)  # the draws of an unvaried pass
SPECIALS = 3  # [CLS] first [SEP] second [SEP]


class DocumentDataset(TokenDataset):
    """Documents, drawn from as pairs of segments.

    Batches: "tokens", "segment" (N, T) int64, "length" (N,), "random_next" (N,) int64, 1 where the second segment comes
    from another document. T is `sequence_length`; what a pair does not fill is padding.

    Sample i begins at the i-th of the places at which sequences begin when they are laid side by side. In a training
    pass it begins somewhere between there and the next, and where the first segment ends, what follows it, and (with
    probability `short_share`) a shorter length are drawn anew.

    Args:
        rows: tokens of every sentence, document after document.
        counts: sentences of each document, at least 2.
        sequence_length: T.
        codec: has [CLS], [SEP], [MASK] and padding.
        short_share: of the pairs of a training pass that are shorter, as sentences are that a model is fine-tuned on.

    Raises:
        DataError: fewer than two documents, or no room for a token of either segment.
    """

    kind = "documents"

    def __init__(
        self,
        rows: Ragged,
        counts: Sequence[int],
        sequence_length: int,
        codec: TextCodec,
        short_share: float = 0.1,
        **facts: Any,
    ) -> None:
        super().__init__({"tokens": codec}, **facts)
        what = f"data set {self.name!r} ({self.split})"
        if len(counts) < 2:
            raise DataError(
                f"{what}: expected at least 2 documents of 2 sentences, as a segment may be followed by another "
                f"document's, got {len(counts)}; give more text, or change data.holdout"
            )
        if sequence_length < SPECIALS + 2:
            raise DataError(f"{what}: data.sequence_length: expected at least {SPECIALS + 2}, got {sequence_length}")
        self.sequence_length, self.short_share = sequence_length, short_share
        self._flat = rows.flat
        self._offsets = np.concatenate([[0], np.cumsum(rows.lengths)])  # each sentence's first token; one more
        self._bounds = np.concatenate([[0], np.cumsum(counts)])  # each document's first sentence; one more
        self._begins = self._lay_out(sequence_length - SPECIALS)

    def _lay_out(self, room: int) -> np.ndarray:
        """(document, first sentence, sentences until the next) of every sample, int64 (M, 3)."""
        begins = []
        for document, (first, last) in enumerate(zip(self._bounds[:-1], self._bounds[1:], strict=True)):
            at = int(first)
            while at < last:
                end = self._end_of(at, int(last), room)
                begins.append((document, at, end - at))
                at = end
        return np.array(begins, dtype=np.int64)

    def _end_of(self, first: int, last: int, room: int) -> int:
        """The sentence behind those that fill `room` tokens from sentence `first` on, `last` at most."""
        end = int(np.searchsorted(self._offsets, self._offsets[first] + room))
        return min(max(end, first + 1), last)

    def __len__(self) -> int:
        return len(self._begins)

    @property
    def documents(self) -> int:
        return len(self._bounds) - 1

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        codec, length = self.codecs["tokens"], self.sequence_length
        draws = uniform_rows(*(key or FIXED), PAIR, indices, count=9).astype(np.float64)
        tokens = np.full((len(indices), length), codec.special(PAD), dtype=np.int64)
        segment, sizes = np.zeros_like(tokens), np.zeros(len(indices), dtype=np.int64)
        random_next = draws[:, 0] < 0.5
        begin, end = ([codec.special(role)] for role in (BEGIN, END))
        for row, index in enumerate(indices):
            first, second = self._pair(index, bool(random_next[row]), draws[row], varied=key is not None)
            both = np.concatenate([begin, first, end, second, end])
            tokens[row, : len(both)] = both
            segment[row, len(first) + 2 : len(both)] = 1
            sizes[row] = len(both)
        whole = {"tokens": tokens, "segment": segment, "length": sizes, "random_next": random_next.astype(np.int64)}
        return {name: torch.from_numpy(value) for name, value in whole.items()}

    def _pair(self, index: int, random_next: bool, draws: np.ndarray, varied: bool) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the two segments of sample `index`.

        Args:
            draws: nine numbers in [0, 1).
            varied: whether it may begin later, or be shorter.
        """
        document, at, sentences = (int(value) for value in self._begins[index])
        last, room = int(self._bounds[document + 1]), self.sequence_length - SPECIALS
        if varied:
            at += int(draws[1] * sentences)
            if draws[2] < self.short_share:
                room = 2 + int(draws[3] * (room - 1))
        at = min(at, last - 2)
        end = max(self._end_of(at, last, room), at + 2)
        cut = at + 1 + int(draws[4] * (end - at - 1))
        first, second = self._tokens(at, cut), self._tokens(cut, end)
        if random_next:
            other = int(draws[5] * (self.documents - 1))
            other += other >= document
            start, stop = int(self._bounds[other]), int(self._bounds[other + 1])
            start += int(draws[6] * (stop - start))
            second = self._tokens(start, self._end_of(start, stop, max(1, room - len(first))))
        return _shortened(first, second, room, draws[7:9])

    def _tokens(self, first: int, end: int) -> np.ndarray:
        return self._flat[self._offsets[first] : self._offsets[end]]


def _shortened(first: np.ndarray, second: np.ndarray, room: int, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Takes from the longer segment until both fit; how much off its front and how much off its end is drawn."""
    keep_first = max(room - len(second), (room + 1) // 2)
    keep_second = max(room - len(first), room // 2)
    cut = []
    for tokens, keep, draw in ((first, keep_first, draws[0]), (second, keep_second, draws[1])):
        off = int(draw * (max(0, len(tokens) - keep) + 1))
        cut.append(tokens[off : off + keep])
    return cut[0], cut[1]
