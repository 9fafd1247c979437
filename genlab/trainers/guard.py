"""Averages of what a step returns, and a watch for values that are not finite, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genlab.distributed import Distributed

_NEVER = 2**62


class MetricWindow:
    """Sums 0-d tensors on the device over the steps of a log interval.

    For each metric the number of the first step whose value was not finite is kept, on the device too; `first_fault`
    reads it. The batches of the steps since the last check are remembered so that the fault can name them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._faults: dict[str, Tensor] = {}
        self._batches: dict[int, Sequence[int]] = {}

    @torch.no_grad()
    def add(self, step: int, metrics: dict[str, Tensor], batches: Sequence[int]) -> None:
        """Takes in what step number `step` returned after training on the batches with these numbers."""
        self._batches[step] = batches
        for name, value in metrics.items():
            value = value.detach().double()
            if name not in self._sums:
                self._sums[name] = torch.zeros((), dtype=torch.float64, device=self._device)
                self._counts[name] = 0
            if name not in self._faults:
                self._faults[name] = torch.full((), _NEVER, dtype=torch.int64, device=self._device)
            self._sums[name] += value
            self._counts[name] += 1
            first = self._faults[name]
            self._faults[name] = torch.where(torch.isfinite(value), first, first.clamp(max=step))

    def first_fault(self, distributed: Distributed) -> tuple[int, Sequence[int], list[str]] | None:
        """(step, numbers of its batches, names of the metrics) of the first value that was not finite, on any process.

        Reads the device; every process must call it. A clean answer forgets the batches up to here.
        """
        found = {name: int(value) for name, value in self._faults.items()}
        everywhere = distributed.gather(found)
        step = min((value for faults in everywhere for value in faults.values()), default=_NEVER)
        if step == _NEVER:
            self._batches.clear()
            self._faults.clear()
            return None
        names = sorted({name for faults in everywhere for name, value in faults.items() if value == step})
        return step, self._batches[step], names

    def averages(self, distributed: Distributed) -> dict[str, float]:
        """Means over the steps since the last call and over the processes; reads the device and starts a new window.

        A metric that only some steps return (a lazy penalty) is averaged over those.
        """
        names = list(self._sums)
        if not names:
            return {}
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        values = distributed.all_reduce_mean(means).tolist()
        self._sums.clear()
        self._counts.clear()
        return dict(zip(names, values, strict=True))

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """(sums, counts) of an unfinished interval."""
        return dict(self._sums), dict(self._counts)

    def load_state_dict(self, sums: dict[str, Tensor], counts: dict[str, int]) -> None:
        self._sums = {name: value.to(self._device).clone() for name, value in sums.items()}
        self._counts = {name: int(value) for name, value in counts.items()}
        self._faults.clear()
        self._batches.clear()
