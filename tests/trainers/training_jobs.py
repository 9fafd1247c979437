"""Trainings in processes of their own, which tests can kill, signal and run side by side."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from genlab.checkpoint import load_checkpoint
from genlab.config import RunConfig, load_config

# One small training: 28 px digits, a few hundred weights.
TINY = [
    "data.batch_size=8",
    "model.latent_dim=4",
    "model.base_channels=2",
    "train.sample_count=4",
    "train.tensorboard=false",
]


def tiny_config(*overrides: str) -> RunConfig:
    return load_config("dcgan_tiny", [*TINY, *overrides])


def run_training(overrides: list[str], run_dir: str, resume: str | None = None, outcome: Any = None) -> None:
    """Body of a job; `outcome` is a queue that gets ("ok", step) or the error's (type, text)."""
    from genlab.trainers import train

    torch.set_num_threads(1)
    try:
        result = train(tiny_config(*overrides), run_dir, resume=resume, evaluator=None)
    except Exception as error:
        if outcome is None:
            raise
        outcome.put((type(error).__name__, str(error), getattr(error, "signum", None)))
    else:
        if outcome is not None:
            outcome.put(("ok", result.step, None))


def run_training_and_die(overrides: list[str], run_dir: str, resume: str | None, fatal_call: int) -> None:
    """As `run_training`, but SIGKILL strikes right before file operation number `fatal_call` of writing checkpoints."""
    import genlab.checkpoint as checkpoint

    calls = 0

    def deadly(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fatal_call:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **keywords)

        return call

    class DeadlyOs:
        def __getattr__(self, name: str) -> Any:
            operation = getattr(os, name)
            return deadly(operation) if name in {"replace", "fsync", "link"} else operation

    checkpoint.os = DeadlyOs()
    checkpoint.save = deadly(checkpoint.save)
    run_training(overrides, run_dir, resume)


def run_as_rank(rank: int, world_size: int, port: int, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Runs `target(*arguments)` in the environment that torchrun would give."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    target(*arguments)


def processes() -> Any:
    """A context whose processes start in a tenth of a second: a server that has imported the lab forks them."""
    context = multiprocessing.get_context("forkserver")
    # torch._dynamo and scikit-learn are what a first step imports; they take most of a start.
    context.set_forkserver_preload(["torch._dynamo", "sklearn.datasets", "genlab.trainers", "genlab.data"])
    return context


def start(target: Callable[..., None], *arguments: Any) -> Any:
    process = processes().Process(target=target, args=arguments)
    process.start()
    return process


def finish(target: Callable[..., None], *arguments: Any, timeout: float = 120) -> int:
    """Runs a job to its end and returns its exit code."""
    process = start(target, *arguments)
    process.join(timeout)
    assert process.exitcode is not None, "the job did not end"
    return process.exitcode


def run_ranks(world_size: int, target: Callable[..., None], *arguments: Any, timeout: float = 180) -> list[int]:
    """Runs a job as the processes of one run; their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    jobs = [start(run_as_rank, rank, world_size, port, target, arguments) for rank in range(world_size)]
    for job in jobs:
        job.join(timeout)
    return [job.exitcode for job in jobs]


def assert_same_checkpoint(left: Path, right: Path) -> None:
    """Every tensor equal bit for bit, and every other entry but times and paths."""
    a, b = load_checkpoint(left), load_checkpoint(right)
    assert a.tensors.keys() == b.tensors.keys()
    different = [name for name in a.tensors if not torch.equal(a.tensors[name], b.tensors[name])]
    assert different == []
    for key in a.state.keys() - {"progress", "config"}:
        assert a.state[key] == b.state[key], key
