"""Times a step of the lab against the same networks in plain torch; arms.py says who takes part and what a step is.

Each arm runs in a process of its own, because the lab's allocator settings are of the process: they must help the lab
only. The arms take turns in A B C C B A order, so that a drifting clock or a busy neighbour meets all of them; the
spread between an arm's own turns says how much of a ratio is noise. First all arms take the same steps from the same
weights on the same data, and their losses must agree, or nothing is timed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from genlab.errors import UserError

CHECK_STEPS = 2
PRECISIONS = ("fp32", "bf16-mixed")


@dataclass(frozen=True)
class StepSettings:
    """What is measured.

    Attributes:
        workload: "dcgan", a training step of both networks, "cyclegan_resnet9", forward and backward of that
            generator, or a name of `genlab.bench.workloads.WORKLOADS`, a training step.
        size, channels, base_channels, latent_dim: of the networks; the defaults are DCGAN-64's.
        length, width: tokens of a sequence and the network's width, of models of text.
        batch: pictures or sequences of a step.
        precision: "fp32" or "bf16-mixed".
        rounds: turns of each arm.
        steps: steps timed together in a turn.
        threads: of torch in each arm; None leaves torch's own choice.
        compiled: torch.compile takes part, where its toolchain works.
    """

    workload: str = "dcgan"
    size: int = 64
    channels: int = 3
    base_channels: int = 64
    latent_dim: int = 100
    length: int = 0
    width: int = 0
    batch: int = 64
    precision: str = "fp32"
    rounds: int = 10
    steps: int = 3
    warmup: int = 3
    threads: int | None = None
    device: str = "cpu"
    compiled: bool = True
    seed: int = 0


def serve_arm(arm: str, settings: StepSettings, connection: Connection) -> None:
    """Body of an arm's process: answers each number n with the losses or the seconds of n steps, until None arrives."""
    import torch

    from genlab.allocator import keep_freed_memory
    from genlab.bench.arms import KINDS, make_stepper
    from genlab.bench.peak_memory import PeakMemory

    try:
        if KINDS[arm].kept:
            keep_freed_memory()
        memory = PeakMemory(settings.device)
        step = make_stepper(arm, settings)
        losses = [{name: float(value) for name, value in step().items()} for _ in range(CHECK_STEPS)]
        connection.send((losses, torch.get_num_threads()))
        while (count := connection.recv()) is not None:
            _wait_for_device(settings)
            start = time.perf_counter()
            for _ in range(count):
                step()
            _wait_for_device(settings)
            connection.send((time.perf_counter() - start, memory.bytes()))
    except Exception as error:  # told to the parent, which raises it there
        connection.send(error if isinstance(error, UserError) else RuntimeError(f"{arm}: {error!r}"))


def _wait_for_device(settings: StepSettings) -> None:
    if settings.device != "cpu":
        import torch

        torch.cuda.synchronize()


class Arm:
    """An arm's process, from the parent's side."""

    def __init__(self, name: str, settings: StepSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve_arm, args=(name, settings, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.name = name
        self.seconds: list[float] = []  # per step, one value a turn
        self.peak_bytes: int | None = None
        self.losses, self.threads = self._receive()

    def _receive(self) -> Any:
        try:
            answer = self.connection.recv()
        except EOFError:
            raise RuntimeError(f"bench step: the process of {self.name} ended by itself") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run(self, steps: int) -> float:
        """Seconds per step over `steps` steps."""
        self.connection.send(steps)
        seconds, self.peak_bytes = self._receive()
        return seconds / steps

    def close(self) -> None:
        if self.process.is_alive():
            with contextlib.suppress(OSError):  # it may have gone by itself
                self.connection.send(None)
            self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.terminate()


def check_agreement(
    reference: list[dict[str, float]], other: list[dict[str, float]], tolerances: tuple[float, ...], name: str
) -> float:
    """The largest relative difference between two arms' losses of the first step.

    Args:
        reference, other: losses by name, one mapping a step.
        tolerances: largest relative difference allowed, one a step.

    Raises:
        RuntimeError: a difference exceeds its step's tolerance; the two would not be the same training.
    """
    differences = [
        [abs(b[key] - a[key]) / max(abs(a[key]), 1e-12) for key in a] for a, b in zip(reference, other, strict=True)
    ]
    for step, (found, tolerance) in enumerate(zip(differences, tolerances, strict=True), start=1):
        if not all(difference <= tolerance for difference in found):  # a NaN fails too
            raise RuntimeError(
                f"bench step: losses of {name} differ from the lab's by {max(found):.2g} relative in step {step}, more "
                f"than {tolerance:g}"
            )
    return max(differences[0])


def run_step_bench(settings: StepSettings, progress: Any = None) -> dict[str, Any]:
    """Measures and returns everything that the result file holds.

    Args:
        progress: called with (turns done, turns in all).

    Raises:
        UserError: a precision that the peer does not have.
        RuntimeError: the arms do not compute the same losses.
    """
    if settings.precision not in PRECISIONS:
        raise UserError(f"--precision: expected one of {', '.join(PRECISIONS)}, got {settings.precision!r}")
    from genlab.bench.arms import KINDS, TOLERANCES, arms_of

    arms: list[Arm] = []
    left_out: dict[str, str] = {}
    try:
        for name in arms_of(settings.workload, settings.compiled):
            try:
                arms.append(Arm(name, settings))
            except RuntimeError as error:
                if not KINDS[name].compiled:
                    raise
                left_out[name] = str(error).strip().splitlines()[0][:300]  # a machine without a compiler, say
        limits = TOLERANCES[settings.workload, settings.precision]
        differences = {arm.name: check_agreement(arms[0].losses, arm.losses, limits, arm.name) for arm in arms[1:]}
        for arm in arms:
            arm.run(settings.warmup)
        for index in range(settings.rounds):
            for arm in arms if index % 2 == 0 else arms[::-1]:
                arm.seconds.append(arm.run(settings.steps))
            if progress is not None:
                progress(index + 1, settings.rounds)
        return {**summarize(settings, arms, differences), "left_out": left_out}
    finally:
        for arm in arms:
            arm.close()


def spread(values: list[float]) -> float:
    """Half the distance between the quartiles, relative to the median; 0 for fewer than four values."""
    if len(values) < 4:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / statistics.median(values)


def same_against_same(values: list[float]) -> float:
    """The ratio of an arm to itself, every other turn against the rest: what a ratio of 1 looks like here."""
    return statistics.median(values[0::2]) / statistics.median(values[1::2]) if len(values) >= 2 else 1.0


def summarize(settings: StepSettings, arms: list[Any], differences: dict[str, float]) -> dict[str, Any]:
    """Medians, ratios and what they depend on."""
    from genlab.doctor import describe_machine

    lab = arms[0]
    rows = []
    for arm in arms:
        ratios = [theirs / ours for theirs, ours in zip(arm.seconds, lab.seconds, strict=True)]
        rows.append(
            {
                "arm": arm.name,
                "seconds_per_step": statistics.median(arm.seconds),
                "spread": spread(arm.seconds),
                "samples_per_second": settings.batch / statistics.median(arm.seconds),
                "lab_is_quicker_by": statistics.median(ratios),
                "ratio_spread": spread(ratios),
                "same_against_same": same_against_same(arm.seconds),
                "loss_difference": differences.get(arm.name, 0.0),
                "peak_bytes": arm.peak_bytes,
                "lab_peak_share": lab.peak_bytes / arm.peak_bytes if lab.peak_bytes and arm.peak_bytes else None,
                "turns": arm.seconds,
            }
        )
    return {
        "bench": "step",
        "settings": dataclasses.asdict(settings),
        "machine": {**describe_machine(), "threads": lab.threads},
        "commit": git_commit(),
        "command": " ".join(["genlab", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "arms": rows,
    }


def git_commit() -> str | None:
    """The checkout's commit, with "-dirty" where tracked files were changed; None outside a checkout.

    $GENLAB_COMMIT names it for a copy that came without its history.
    """
    if named := os.environ.get("GENLAB_COMMIT"):
        return named
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
