"""Averages of what a step returns, and a watch for values that are not finite, without waiting for the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from genlab.distributed import Distributed

_NEVER = 2**62
Names = tuple[str, ...]


@torch.no_grad()
def non_finite_networks(networks: Mapping[str, nn.Module]) -> list[str]:
    """Names of the networks with a NaN or an infinity among their weights; reads the device once for each."""
    broken = []
    for name, network in networks.items():
        weights = [p.abs().max() for p in network.parameters() if p.numel()]  # max passes a NaN on
        if weights and not bool(torch.isfinite(torch.stack([w.float() for w in weights])).all()):
            broken.append(name)
    return broken


class MetricWindow:
    """Sums 0-d tensors on the device over the steps of a log interval.

    Metrics that come together are kept as one vector, so that a step costs a few small operations. For each metric
    the number of the first step whose value was not finite is kept, on the device too; `first_fault` reads it. The
    batches of the steps since the last check are remembered so that the fault can name them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[Names, Tensor] = {}
        self._counts: dict[Names, int] = {}
        self._faults: dict[Names, Tensor] = {}
        self._batches: dict[int, Sequence[int]] = {}

    @torch.no_grad()
    def add(self, step: int, metrics: dict[str, Tensor], batches: Sequence[int]) -> None:
        """Takes in what step number `step` returned after training on the batches with these numbers."""
        self._batches[step] = batches
        names = tuple(metrics)
        values = torch.stack([value.detach() for value in metrics.values()]).double()
        if names not in self._sums:
            self._sums[names] = torch.zeros_like(values)
            self._counts[names] = 0
        if names not in self._faults:
            self._faults[names] = torch.full_like(values, _NEVER, dtype=torch.int64)
        self._sums[names] += values
        self._counts[names] += 1
        first = self._faults[names]
        self._faults[names] = torch.where(torch.isfinite(values), first, first.clamp(max=step))

    def first_fault(self, distributed: Distributed) -> tuple[int, Sequence[int], list[str]] | None:
        """(step, numbers of its batches, names of the metrics) of the first value that was not finite, on any process.

        Reads the device; every process must call it. A clean answer forgets the batches up to here.
        """
        found = [
            (step, name)
            for names, steps in self._faults.items()
            for name, step in zip(names, steps.tolist(), strict=True)
            if step != _NEVER
        ]
        step = -distributed.maximum(-min((step for step, _ in found), default=_NEVER))
        if step == _NEVER:
            self._batches.clear()
            self._faults.clear()
            return None
        everywhere = distributed.gather([name for at, name in found if at == step])
        return step, self._batches[step], sorted({name for names in everywhere for name in names})

    def averages(self, distributed: Distributed) -> dict[str, float]:
        """Means over the steps since the last call and over the processes; reads the device and starts a new window.

        A metric that only some steps return (a lazy penalty) is averaged over those.
        """
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, values in self._sums.items():
            for name, value in zip(names, distributed.all_reduce_mean(values).tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + self._counts[names]
        self._sums.clear()
        self._counts.clear()
        return {name: value / counts[name] for name, value in sums.items()}

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """(sums, counts) of an unfinished interval; names that come together are joined by "+"."""
        sums = {"+".join(names): value for names, value in self._sums.items()}
        return sums, {"+".join(names): count for names, count in self._counts.items()}

    def load_state_dict(self, sums: dict[str, Tensor], counts: dict[str, int]) -> None:
        self._sums = {tuple(names.split("+")): value.to(self._device).clone() for names, value in sums.items()}
        self._counts = {tuple(names.split("+")): int(counts[names]) for names in sums}
        self._faults.clear()
        self._batches.clear()
