"""Text for word2vec: lines of words without what the vocabulary does not know, in blocks of equal work.

Words outside of the vocabulary are taken out before any context is looked at, as the original program deletes rare
words. A line is a sentence; words of different lines are never each other's context.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlab.data.randomness import EpochKey, hash64
from genlab.data.stream import BatchStream, Request
from genlab.data.text_base import SentenceDataset, StreamDataset, TokenDataset
from genlab.data.text_vocabulary import END, TextCodec
from genlab.errors import DataError

LONGEST_SENTENCE = 1000  # words; longer lines are cut, as the original program cuts them
DRAWS = 128  # names word2vec's draws, apart from those of other data


def first_word(codec: TextCodec) -> int:
    """Number of the first token that is a word: the special ones come before."""
    return len(codec.specials)


class WordBlocks:
    """The lines of a text in blocks; sample i is block i. Made for `BlockStream`.

    A block holds "words" int32 (L,), numbers of words from 0 on; "starts" int64 (S + 1,), where its sentences begin;
    "position" int64 (), the place of its first word in the text; and in a training pass "key" int64 (), of the draws.

    Args:
        dataset: a text, or sentences, in words.
        block_words: words of a block, but for the last lines' lengths.

    Attributes:
        words, starts: of the whole text.
        counts: int64 (V,), how often each word of the vocabulary occurs.

    Raises:
        DataError: nothing is left of the text.
    """

    in_memory = True

    def __init__(self, dataset: TokenDataset, block_words: int) -> None:
        self.name, self.split = dataset.name, dataset.split
        codec = dataset.codecs["tokens"]
        words, lines = _known_words(dataset, codec)
        if len(words) == 0:
            raise DataError(
                f"data set {self.name!r} ({self.split}): expected words that the vocabulary has, got none; lower "
                "data.min_count"
            )
        self.counts = torch.from_numpy(np.bincount(words, minlength=len(codec) - first_word(codec)))
        self.words = words.astype(np.int32)
        self.starts = _sentence_starts(lines)
        ends = np.searchsorted(self.starts, np.arange(block_words, len(words) + block_words, block_words))
        self._bounds = np.unique(np.concatenate([[0], np.minimum(ends, len(self.starts) - 1)]))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        """Block `indices[0]`."""
        first, last = self._bounds[int(indices[0])], self._bounds[int(indices[0]) + 1]
        starts = self.starts[first : last + 1]
        block = {
            "words": torch.from_numpy(self.words[starts[0] : starts[-1]].copy()),
            "starts": torch.from_numpy(starts - starts[0]),
            "position": torch.tensor(int(starts[0])),
        }
        if key is not None:
            block["key"] = torch.from_numpy(hash64(key.seed, key.epoch, DRAWS).view(np.int64))[0]
        return block


def _known_words(dataset: TokenDataset, codec: TextCodec) -> tuple[np.ndarray, np.ndarray]:
    """(words, number of the line of each), unknown ones left out."""
    if isinstance(dataset, StreamDataset):
        tokens = dataset.stream.numpy()
        lines = np.cumsum(tokens == codec.special(END))
    elif isinstance(dataset, SentenceDataset):
        rows = dataset.rows
        tokens, lines = rows.flat, np.repeat(np.arange(len(rows)), rows.lengths)
    else:
        raise DataError(f"data set {dataset.name!r}: expected a text or sentences, got {dataset.kind}")
    known = tokens >= first_word(codec)
    return tokens[known] - first_word(codec), lines[known]


def _sentence_starts(lines: np.ndarray) -> np.ndarray:
    """Where sentences begin, int64 (S + 1,): with each line, and after every `LONGEST_SENTENCE` words of one."""
    begins = np.flatnonzero(np.diff(lines, prepend=lines[0] - 1))
    lengths = np.diff(begins, append=len(lines))
    pieces = [begins] + [
        np.arange(start + LONGEST_SENTENCE, start + length, LONGEST_SENTENCE)
        for start, length in zip(begins, lengths, strict=True)
        if length > LONGEST_SENTENCE
    ]
    return np.sort(np.concatenate([*pieces, [len(lines)]])).astype(np.int64)


def join_blocks(blocks: WordBlocks, key: EpochKey) -> dict[str, Tensor]:
    """The whole text as one block."""
    whole = {"words": torch.from_numpy(blocks.words), "starts": torch.from_numpy(blocks.starts)}
    return {**blocks.fetch(np.array([0]), key), **whole}


class BlockStream(BatchStream):
    """The blocks of a text in their order, pass after pass, the same to every process.

    Args:
        blocks: of the text.
        **settings: of `BatchStream`.
    """

    def __init__(self, blocks: WordBlocks, **settings: Any) -> None:
        super().__init__(blocks, 1, **{**settings, "rank": 0, "world_size": 1})  # type: ignore[arg-type]

    def _requests(self, start: int) -> Iterator[Request]:
        epoch, position = divmod(start, self.batches_per_epoch)
        while True:
            for block in range(position, self.batches_per_epoch):
                yield np.array([block]), EpochKey(self.seed, epoch)
            epoch, position = epoch + 1, 0
