"""Streams of batches for text: sentences of like length together, and rows of a text that go on in the next batch.

Like `BatchStream`, the position is one number and the order a function of (seed, epoch).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from genlab.data.randomness import ORDER, EpochKey, hash64, permutation
from genlab.data.stream import Batch, BatchStream, Request
from genlab.data.text_base import StreamDataset, TokenDataset
from genlab.errors import UserError


class LengthStream(BatchStream):
    """Batches of sentences of like length: little padding, and still another composition in every epoch.

    The shuffled sentences of `bucket_batches` batches are sorted by length, cut into batches, and the batches shuffled.

    Args:
        dataset: of sentences.
        batch_size: sentences of one global batch.
        bucket_batches: batches that are sorted together.
        **settings: of `BatchStream`.
    """

    dataset: TokenDataset

    def __init__(self, dataset: TokenDataset, batch_size: int, *, bucket_batches: int = 50, **settings: Any) -> None:
        super().__init__(dataset, batch_size, **settings)
        self._bucket = bucket_batches * batch_size

    def _requests(self, start: int) -> Iterator[Request]:
        epoch, position = divmod(start, self.batches_per_epoch)
        while True:
            key = EpochKey(self.seed, epoch)
            batches = self._batches_of(key)
            for batch in batches[position:]:
                share = len(batch) // self.world_size
                yield batch[self.rank * share : (self.rank + 1) * share], key
            epoch, position = epoch + 1, 0

    def _batches_of(self, key: EpochKey) -> list[np.ndarray]:
        order, lengths = permutation(key, len(self.dataset)), self.dataset.lengths
        assert lengths is not None
        pools = (order[at : at + self._bucket] for at in range(0, len(order), self._bucket))
        ordered = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
        count = len(ordered) // self.batch_size
        whole = [ordered[n * self.batch_size : (n + 1) * self.batch_size] for n in range(count)]
        if self._rest:
            whole.append(ordered[count * self.batch_size :])
        # The rest, when it is kept, comes last: it is smaller, and its place must not depend on the shuffle.
        places = np.argsort(hash64(key.seed, key.epoch, ORDER + 64, np.arange(count)), kind="stable")
        return [whole[place] for place in places] + whole[count:]


class ContiguousStream(BatchStream):
    """Rows that go on where they were: row r of a batch continues row r of the batch before (truncated BPTT).

    The text is cut into `batch_size` equal parts, one a row. Beside "tokens" a batch holds "fresh" (N,) bool: whether
    the row begins anew, so that what a model remembers of it must be forgotten.

    Args:
        dataset: one long text.
        batch_size: rows of one global batch.
        **settings: of `BatchStream`.

    Raises:
        UserError: fewer windows than rows.
    """

    dataset: StreamDataset

    def __init__(self, dataset: StreamDataset, batch_size: int, **settings: Any) -> None:
        if len(dataset) < batch_size:
            raise UserError(
                f"data.batch_size: expected at most {len(dataset)}, the windows of {dataset.sequence_length} tokens in "
                f"{dataset.name!r} ({dataset.split}), got {batch_size}; lower data.batch_size or data.sequence_length"
            )
        super().__init__(dataset, batch_size, **settings)
        self.batches_per_epoch = len(dataset) // batch_size

    def __next__(self) -> Batch:
        fresh = self.batches_consumed % self.batches_per_epoch == 0
        batch = super().__next__()
        return {**batch, "fresh": torch.full((len(batch["tokens"]),), fresh)}

    def _requests(self, start: int) -> Iterator[Request]:
        epoch, position = divmod(start, self.batches_per_epoch)
        share = self.batch_size // self.world_size
        rows = np.arange(self.rank * share, (self.rank + 1) * share) * self.batches_per_epoch
        while True:
            key = EpochKey(self.seed, epoch)
            for window in range(position, self.batches_per_epoch):
                yield rows + window, key
            epoch, position = epoch + 1, 0
