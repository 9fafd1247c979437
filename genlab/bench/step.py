"""Times a training step of the lab against the same networks in plain torch.

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

LAB, PLAIN, PLAIN_KEPT = "genlab", "plain torch", "plain torch, memory kept"
ARMS = (LAB, PLAIN, PLAIN_KEPT)
CHECK_STEPS = 2
# Relative, of the losses of the first and the second step. From the second on rounding is magnified: it turns some
# values over the kink of LeakyReLU, whose gradients Adam's first update divides by their own size. torch's two memory
# orders differ from each other just so.
TOLERANCE = {"fp32": (1e-4, 1e-2), "bf16-mixed": (5e-2, 5e-2)}


@dataclass(frozen=True)
class StepSettings:
    """What is measured.

    Attributes:
        size, channels, base_channels, latent_dim: of the networks; the defaults are DCGAN-64's.
        batch: images of a step.
        precision: "fp32" or "bf16-mixed".
        rounds: turns of each arm.
        steps: steps timed together in a turn.
        threads: of torch in each arm; None leaves torch's own choice.
    """

    size: int = 64
    channels: int = 3
    base_channels: int = 64
    latent_dim: int = 100
    batch: int = 64
    precision: str = "fp32"
    rounds: int = 10
    steps: int = 3
    warmup: int = 3
    threads: int | None = None
    device: str = "cpu"
    seed: int = 0


def make_data(settings: StepSettings) -> Any:
    """The batch that every step of every arm sees: (N, C, H, W) in [-1, 1]. What is in it does not change the time."""
    import torch

    generator = torch.Generator().manual_seed(settings.seed)
    shape = (settings.batch, settings.channels, settings.size, settings.size)
    return torch.rand(shape, generator=generator) * 2 - 1


def make_lab(settings: StepSettings) -> Any:
    """The lab's trainer with the average of the generator switched off: the plain peer has none."""
    from genlab.config import parse_config
    from genlab.trainers.data_spec import DataSpec
    from genlab.trainers.dcgan import DcganTrainer

    tree = {
        "algorithm": "dcgan",
        "seed": settings.seed,
        "data": {"name": "shapes", "image_size": settings.size, "batch_size": settings.batch},
        "model": {"latent_dim": settings.latent_dim, "base_channels": settings.base_channels},
        "gan": {"ema": None},
        "train": {"precision": settings.precision, "deterministic": False},
    }
    spec = DataSpec("shapes", "images", (settings.channels, settings.size, settings.size))
    return DcganTrainer(parse_config(tree, "bench step"), spec, device=settings.device)


def make_stepper(arm: str, settings: StepSettings) -> Any:
    """A function without arguments that takes one step and returns its losses, 0-d tensors."""
    import torch

    from genlab.bench.plain_dcgan import PlainDcgan, copy_in_order
    from genlab.distributed import Distributed, ShardedNoise
    from genlab.seeding import generator

    if settings.threads:
        torch.set_num_threads(settings.threads)
    trainer = make_lab(settings)
    real = make_data(settings).to(settings.device)
    if arm == LAB:
        return lambda: trainer.advance({"image": real})
    optimizer = trainer.config.generator_optimizer
    plain = PlainDcgan(
        settings.size, settings.channels, settings.latent_dim, settings.base_channels, lr=optimizer.lr,
        betas=optimizer.betas, precision=settings.precision, device=torch.device(settings.device),
    )  # fmt: skip
    copy_in_order(trainer.networks["generator"], plain.generator)
    copy_in_order(trainer.networks["discriminator"], plain.discriminator)
    # The very noise that the lab's trainer draws.
    noise = ShardedNoise(generator(settings.seed, "noise"), Distributed(), torch.device(settings.device))
    return lambda: plain.step(real, noise.normal(settings.batch, settings.latent_dim))


def serve_arm(arm: str, settings: StepSettings, connection: Connection) -> None:
    """Body of an arm's process: answers each number n with the losses or the seconds of n steps, until None arrives."""
    import torch

    from genlab.allocator import keep_freed_memory

    try:
        if arm in {LAB, PLAIN_KEPT}:
            keep_freed_memory()
        step = make_stepper(arm, settings)
        losses = []
        for _ in range(CHECK_STEPS):
            taken = step()
            losses.append({name: float(taken[name]) for name in ("loss_d", "loss_g")})
        connection.send((losses, torch.get_num_threads()))
        while (count := connection.recv()) is not None:
            _wait_for_device(settings)
            start = time.perf_counter()
            for _ in range(count):
                step()
            _wait_for_device(settings)
            connection.send(time.perf_counter() - start)
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
        return self._receive() / steps

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
    if settings.precision not in TOLERANCE:
        raise UserError(f"--precision: expected one of {', '.join(TOLERANCE)}, got {settings.precision!r}")
    arms: list[Arm] = []
    try:
        arms.extend(Arm(name, settings) for name in ARMS)
        limit = TOLERANCE[settings.precision]
        differences = {arm.name: check_agreement(arms[0].losses, arm.losses, limit, arm.name) for arm in arms[1:]}
        for arm in arms:
            arm.run(settings.warmup)
        for index in range(settings.rounds):
            for arm in arms if index % 2 == 0 else arms[::-1]:
                arm.seconds.append(arm.run(settings.steps))
            if progress is not None:
                progress(index + 1, settings.rounds)
        return summarize(settings, arms, differences)
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
                "images_per_second": settings.batch / statistics.median(arm.seconds),
                "lab_is_quicker_by": statistics.median(ratios),
                "ratio_spread": spread(ratios),
                "same_against_same": same_against_same(arm.seconds),
                "loss_difference": differences.get(arm.name, 0.0),
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
