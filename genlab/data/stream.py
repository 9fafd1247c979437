"""Endless batches for training and one ordered pass for evaluation, the same with any number of workers or processes.

The order of an epoch is a function of (seed, epoch); the augmentation of a sample one of (seed, epoch, index). A
position in the stream is therefore one number, and going back to it costs nothing.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from genlab.data.base import ImageDataset
from genlab.data.randomness import EpochKey, permutation
from genlab.errors import DataError, UserError

Batch = dict[str, Tensor]
Request = tuple[np.ndarray, "EpochKey | None"]


class _Failure:
    """A user's error on its way out of a worker: the loader would wrap a raised one into a traceback of text."""

    def __init__(self, error: UserError) -> None:
        self.error = error


class _Batches(Dataset):
    """Adapts `ImageDataset.fetch` to a loader: one item of it is a whole batch."""

    def __init__(self, dataset: ImageDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, request: Request) -> Batch | _Failure:
        try:
            return self._dataset.fetch(*request)
        except UserError as error:
            return _Failure(error)


def _as_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_training(_: int) -> None:
    """Ctrl-C reaches every process of a terminal's group, and some schedulers send SIGTERM to all.

    A loader that died of it would take along the batch that the training needs to finish its step. Loaders end when the
    training does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _load(dataset: ImageDataset, requests: Iterator[Request], workers: int, pin_memory: bool) -> Iterator[Batch]:
    """Batches in the order of the requests, prepared by `workers` processes (0: by this one)."""
    pin_memory = pin_memory and torch.cuda.is_available()
    if workers == 0 or dataset.in_memory:
        for request in requests:
            batch = dataset.fetch(*request)
            yield {name: value.pin_memory() for name, value in batch.items()} if pin_memory else batch
        return
    loader: DataLoader[Any] = DataLoader(
        _Batches(dataset),
        sampler=requests,  # type: ignore[arg-type]  # any iterable serves; len() is never asked
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_is,
        worker_init_fn=_leave_signals_to_the_training,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # a loader draws a seed; it must not come out of the global generator
    )
    for batch in loader:
        if isinstance(batch, _Failure):
            raise batch.error
        yield batch


class BatchStream:
    """An endless iterator of training batches.

    Every process asks for the same global batch and takes its contiguous share, so `world_size` processes together see
    exactly what one sees. With `drop_last` the samples that do not fill a batch at the end of an epoch are left out.

    Args:
        dataset: what to draw from.
        batch_size: samples of one global batch.
        seed: decides order and augmentation.
        rank, world_size: this process among how many.
        workers: loader processes; sets that lie in memory are indexed at once and need none.
        drop_last: leave out the smaller batch at the end of an epoch.
        pin_memory: page-locked tensors, for copies to a GPU that do not wait.

    Raises:
        UserError: batch larger than the set, or not divisible by `world_size`.

    Example:
        >>> from genlab.config import DataConfig
        >>> from genlab.data import build
        >>> stream = BatchStream(build(DataConfig(name="digits")), 64, seed=0)
        >>> next(stream)["image"].shape
        torch.Size([64, 1, 32, 32])
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        drop_last: bool = True,
        pin_memory: bool = False,
    ) -> None:
        length = len(dataset)
        if not 1 <= batch_size <= length:
            raise UserError(
                f"data.batch_size: expected 1 to {length}, the samples of {dataset.name!r} ({dataset.split}), "
                f"got {batch_size}; lower data.batch_size"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"BatchStream: expected rank from 0 to {world_size - 1}, got {rank}")
        rest = 0 if drop_last else length % batch_size
        for size in (batch_size, rest):
            if size % world_size:
                raise UserError(
                    f"data.batch_size: expected batches divisible by {world_size} processes, got {size} "
                    f"of {length} samples; change data.batch_size"
                )
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self._workers, self._pin_memory = workers, pin_memory
        self._rest = rest
        self.batches_per_epoch = length // batch_size + (1 if rest else 0)
        self.batches_consumed = 0
        self._batches: Iterator[Batch] | None = None

    @property
    def epoch(self) -> int:
        """Number of whole passes behind the next batch."""
        return self.batches_consumed // self.batches_per_epoch

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            requests = self._requests(self.batches_consumed)
            self._batches = _load(self.dataset, requests, self._workers, self._pin_memory)
        try:
            batch = next(self._batches)
        except BaseException:
            self._batches = None  # an ended generator; the next call starts again at the batch that failed
            raise
        self.batches_consumed += 1
        return batch

    def _requests(self, start: int) -> Iterator[Request]:
        epoch, position = divmod(start, self.batches_per_epoch)
        while True:
            key = EpochKey(self.seed, epoch)
            order = permutation(key, len(self.dataset))
            for number in range(position, self.batches_per_epoch):
                whole = order[number * self.batch_size : (number + 1) * self.batch_size]
                share = len(whole) // self.world_size
                yield whole[self.rank * share : (self.rank + 1) * share], key
            epoch, position = epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands, and what the position means."""
        return {
            "batches_consumed": self.batches_consumed,
            "batch_size": self.batch_size,
            "dataset_length": len(self.dataset),
            "batches_per_epoch": self.batches_per_epoch,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues where `state_dict` was taken, without reading what came before.

        Raises:
            UserError: the state belongs to another order of samples; names what differs.
        """
        mine = self.state_dict()
        differences = [f"{name} {state.get(name)} -> {mine[name]}" for name in mine if state.get(name) != mine[name]]
        differences = [line for line in differences if not line.startswith("batches_consumed ")]
        position = state.get("batches_consumed")
        if differences or not isinstance(position, int) or position < 0:
            raise UserError(
                f"data position: expected the state of this stream, got another's ({', '.join(differences) or state}); "
                "resume with the data settings of the run"
            )
        self.close()
        self.batches_consumed = position

    def close(self) -> None:
        """Stops the loader processes; the next batch starts them again at the same position."""
        if self._batches is not None:
            self._batches.close()  # type: ignore[attr-defined]  # `_load` is a generator
            self._batches = None


def iterate(dataset: ImageDataset, batch_size: int, limit: int | None = None, workers: int = 0) -> Iterator[Batch]:
    """One pass in order, unvaried, the last batch as small as it comes: for evaluation.

    Args:
        dataset: what to read.
        batch_size: samples of a batch.
        limit: stop after so many samples.
        workers: loader processes, as in `BatchStream`.
    """
    if batch_size < 1:
        raise DataError(f"batch size: expected at least 1, got {batch_size}")
    length = len(dataset) if limit is None else min(limit, len(dataset))
    starts = range(math.ceil(length / batch_size))
    requests = ((np.arange(at * batch_size, min((at + 1) * batch_size, length)), None) for at in starts)
    return _load(dataset, requests, workers, pin_memory=False)
