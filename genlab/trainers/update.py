"""One optimiser update made of one or several micro-batches, and the log of several updates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class Update:
    """Sums the gradients of micro-batches so that they are those of the whole batch, and averages what is logged.

    The sum is exact for losses that are means over samples. Batch normalisation takes its statistics over a micro-batch
    (and with `train.sync_batch_norm` over the micro-batches of all processes), as anywhere gradients are accumulated.

    Args:
        scaler: multiplies float16 losses so that small gradients survive.
        micro_batch_count: parts that the local batch is cut into.
    """

    def __init__(self, scaler: torch.amp.GradScaler, micro_batch_count: int) -> None:
        self._scaler = scaler
        self._count = micro_batch_count
        self._sums: dict[str, Tensor] = {}

    def micro_batches(self, *values: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """Cuts each tensor along its first dimension into equal parts; yields the parts together. None stays None."""
        parts = [[None] * self._count if value is None else value.chunk(self._count) for value in values]
        yield from zip(*parts, strict=True)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a micro-batch's mean loss, weighted so that the sum is that of the whole batch."""
        self._scaler.scale(loss / self._count if self._count > 1 else loss).backward()

    def record(self, **values: Tensor) -> None:
        """Values to log, averaged over the micro-batches; call once in each."""
        for name, value in values.items():
            share = value.detach().float() / self._count
            self._sums[name] = self._sums[name] + share if name in self._sums else share

    @property
    def metrics(self) -> dict[str, Tensor]:
        """name -> 0-d tensor on the device."""
        return dict(self._sums)


def mean_of_updates(updates: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What the updates of one network within a step logged: of each name the mean over those that gave it.

    A lazy penalty is logged whichever of the updates it was due in. Nothing waits for the device; a single update is
    given back as it is.

    Args:
        updates: `Update.metrics` of each.
    """
    values: dict[str, list[Tensor]] = {}
    for metrics in updates:
        for name, value in metrics.items():
            values.setdefault(name, []).append(value)
    return {name: given[0] if len(given) == 1 else torch.stack(given).mean() for name, given in values.items()}
