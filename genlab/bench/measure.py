"""Turns on a clock: variants that alternate, what the rest of the machine did meanwhile, and the machine's ceilings.

Every round visits all variants once in order and once in reverse (A B C C B A), so that a drifting clock or a busy
neighbour meets them all; a variant's first visits against its second ones show what a ratio of 1 looks like here.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

QUIET = 0.06  # share of the processors that others may use in a round that counts
FEWEST_QUIET_ROUNDS = 3
MAX_CALLS = 100_000


@dataclass
class Samples:
    """Seconds per call of one variant, one pair per round: the visit on the way down the list and the one back."""

    down: list[float] = field(default_factory=list)
    up: list[float] = field(default_factory=list)

    def kept(self, rounds: Sequence[int]) -> list[float]:
        """The values of these rounds, both visits of a round next to each other."""
        return [value for index in rounds for value in (self.down[index], self.up[index])]

    def same_against_same(self, rounds: Sequence[int]) -> float:
        """Median of the first visits over that of the second."""
        return statistics.median(self.down[i] for i in rounds) / statistics.median(self.up[i] for i in rounds)


class ForeignLoad:
    """The share of this process's processors that other processes used since the last `take`.

    Read from /proc/stat, whose ticks are 10 ms: meaningful over a tenth of a second and more. None where there is none.
    """

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self.stat = stat
        self.processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self.tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
        self.last = self._read()

    def _read(self) -> tuple[float, float, float] | None:
        try:
            lines = self.stat.read_text().splitlines()
        except OSError:
            return None
        busy = 0.0
        for line in lines:
            name, *fields = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in self.processors:
                user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
                busy += (user + nice + system + irq + softirq + steal) / self.tick
        own = os.times()
        return time.perf_counter(), busy, own.user + own.system + own.children_user + own.children_system

    def take(self) -> float | None:
        """The share, 0 to 1, since the call before (or the construction)."""
        now, before = self._read(), self.last
        self.last = now
        if now is None or before is None or not self.processors or now[0] <= before[0]:
            return None
        foreign = (now[1] - before[1]) - (now[2] - before[2])
        return min(1.0, max(0.0, foreign / ((now[0] - before[0]) * len(self.processors))))


@dataclass
class Measured:
    """What `alternate` found.

    Attributes:
        samples: by variant.
        foreign: share of the processors that others used, by round; None where the machine does not tell.
        rounds: the rounds that count: the quiet ones where there are enough, else all.
        noisy: there were too few quiet rounds.
    """

    samples: dict[str, Samples]
    foreign: list[float | None]
    rounds: list[int]
    noisy: bool


def seconds_of(call: Callable[[], object], count: int, device: str) -> float:
    """Seconds per call over `count` calls: by the clock on the CPU, by events on the current stream of a GPU."""
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / count


def calls_for(call: Callable[[], object], seconds: float, device: str) -> int:
    """How many calls fill `seconds`; calls it a few times, which warms it up as well."""
    seconds_of(call, 1, device)
    count, taken = 1, seconds_of(call, 1, device)
    while taken * count < seconds / 4 and count < MAX_CALLS:
        count *= 4
        taken = seconds_of(call, count, device)
    return max(1, min(MAX_CALLS, math.ceil(seconds / max(taken, 1e-9))))


def alternate(
    calls: dict[str, Callable[[], object]], *, rounds: int, seconds: float, device: str, load: ForeignLoad | None = None
) -> Measured:
    """Times the calls against each other.

    Args:
        calls: by variant; none of them may change what another one reads.
        rounds: each gives two values per variant.
        seconds: length of a visit.
        device: "cpu" or "cuda".
        load: meter of the other processes; on a GPU it is not asked.
    """
    counts = {name: calls_for(call, seconds, device) for name, call in calls.items()}
    samples = {name: Samples() for name in calls}
    foreign: list[float | None] = []
    meter = (load or ForeignLoad()) if device == "cpu" else None
    if meter is not None:
        meter.take()
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name].down.append(seconds_of(call, counts[name], device))
        for name, call in reversed(calls.items()):
            samples[name].up.append(seconds_of(call, counts[name], device))
        foreign.append(None if meter is None else meter.take())
    quiet = [index for index, share in enumerate(foreign) if share is None or share <= QUIET]
    noisy = len(quiet) < min(rounds, FEWEST_QUIET_ROUNDS)
    return Measured(samples, foreign, list(range(rounds)) if noisy else quiet, noisy)


@dataclass(frozen=True)
class Ceilings:
    """What the machine reached in this run: products per dtype (FLOP/s) and a copy (bytes read and written per s)."""

    products: dict[str, float]
    copy: float

    def floor(self, dtype: str, flops: float, moved: float) -> tuple[float, str]:
        """(seconds, "compute" or "memory"): no less is possible for so many FLOPs and bytes."""
        compute = flops / self.products[dtype] if flops else 0.0
        memory = moved / self.copy
        return max(compute, memory), "compute" if compute > memory else "memory"


def measure_ceilings(dtype: str, device: str, *, size: int, copied: int, seconds: float = 0.3) -> Ceilings:
    """The quickest of several turns of torch.mm (size x size) in `dtype` and of a copy of `copied` bytes."""
    kind = TORCH_DTYPES[dtype]
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    source = torch.ones(copied // 4, device=device)
    target = torch.empty_like(source)
    with torch.no_grad():
        product = _quickest(lambda: torch.mm(a, b), seconds, device)
        copy = _quickest(lambda: target.copy_(source), seconds, device)
    return Ceilings({dtype: 2 * size**3 / product}, 2 * source.nbytes / copy)


def better(one: Ceilings, other: Ceilings) -> Ceilings:
    """The higher value of each ceiling: a busy machine hides its own."""
    products = {name: max(value, other.products[name]) for name, value in one.products.items()}
    return Ceilings(products, max(one.copy, other.copy))


def _quickest(call: Callable[[], object], seconds: float, device: str) -> float:
    count = calls_for(call, seconds / 5, device)
    return min(seconds_of(call, count, device) for _ in range(5))


TORCH_DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
