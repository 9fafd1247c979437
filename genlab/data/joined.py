"""Several streams of batches as one, for trainings that look at more than one set of samples in a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from genlab.data.base import ImageDataset
from genlab.data.randomness import EpochKey
from genlab.data.stream import Batch, BatchStream
from genlab.errors import UserError


class JoinedStream:
    """Takes one batch of each stream at a time; keys of the joined batch are `<stream>_<key>`.

    Each stream keeps its own epochs, so sets of different length go on side by side.

    Args:
        streams: name -> stream.
    """

    def __init__(self, streams: Mapping[str, BatchStream]) -> None:
        self.streams = dict(streams)

    def __iter__(self) -> JoinedStream:
        return self

    def __next__(self) -> Batch:
        return {f"{name}_{key}": value for name, stream in self.streams.items() for key, value in next(stream).items()}

    def state_dict(self) -> dict[str, Any]:
        """Where all streams stand; they move together, so one number says it."""
        states = {name: stream.state_dict() for name, stream in self.streams.items()}
        return {"batches_consumed": next(iter(states.values()))["batches_consumed"], "streams": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken.

        Raises:
            UserError: the state belongs to other streams.
        """
        saved = state.get("streams", {})
        if saved.keys() != self.streams.keys():
            raise UserError(
                f"data position: expected the state of {', '.join(self.streams)}, got {', '.join(saved) or 'none'}; "
                "resume with the data settings of the run"
            )
        for name, stream in self.streams.items():
            stream.load_state_dict(saved[name])

    def close(self) -> None:
        """Stops the loader processes of all streams."""
        for stream in self.streams.values():
            stream.close()


class Unlabelled(ImageDataset):
    """A set without its labels: samples carry none, so nothing behind it can read one."""

    def __init__(self, dataset: ImageDataset) -> None:
        super().__init__(
            name=dataset.name,
            split=dataset.split,
            image_shape=dataset.image_shape,
            fingerprint=f"{dataset.fingerprint}-unlabelled",
            contents=f"{dataset.contents}-unlabelled",
            notes=dataset.notes,
        )
        self.kind, self.in_memory = dataset.kind, dataset.in_memory
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        return {name: value for name, value in self._dataset.fetch(indices, key).items() if name != "label"}


class Repeated(ImageDataset):
    """A set gone through several times in a row, so that a batch may be larger than the set.

    Args:
        dataset: the set.
        times: how often each sample stands in a pass, at least 1.
    """

    def __init__(self, dataset: ImageDataset, times: int) -> None:
        super().__init__(
            name=dataset.name,
            split=dataset.split,
            image_shape=dataset.image_shape,
            fingerprint=f"{dataset.fingerprint}-x{times}",
            contents=f"{dataset.contents}-x{times}",
            class_names=dataset.class_names,
            notes=dataset.notes,
        )
        self.kind, self.in_memory = dataset.kind, dataset.in_memory
        self._dataset, self._times = dataset, times

    def __len__(self) -> int:
        return len(self._dataset) * self._times

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        return self._dataset.fetch(indices % len(self._dataset), key)
