"""What stands for CUDA graphs on the CPU: the tensor operations of a step, recorded and done again without its Python.

As in a graph, numbers of the host are those of the capture for good, tensors are those that the capture saw, and a step
that reads a value of the device cannot be captured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from genlab.data import build
from genlab.trainers import ALGORITHMS
from genlab.trainers.data_spec import DataSpec
from genlab.trainers.graphs import StepGraphs

HOST_READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)


class Tape(TorchDispatchMode):
    """Records the operations below autograd that are called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, list[torch.Tensor]]] = []
        self.may_read = False

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in HOST_READS and not self.may_read:
            raise RuntimeError(f"{function}: operation not permitted when stream is capturing")
        result = function(*args, **(kwargs or {}))
        returned = [returned.alias_info for returned in function._schema.returns]
        if not any(
            alias is not None and not alias.is_write for alias in returned
        ):  # a view shows what changed as it is
            fresh = [] if any(returned) else [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            self.calls.append((function, args, kwargs or {}, fresh))
        return result

    @torch.no_grad()
    def play(self) -> None:
        """Does all of it again, on what the tensors hold now."""
        for function, args, kwargs, fresh in self.calls:
            found = [leaf for leaf in tree_leaves(function(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
            for old, new in zip(fresh, found, strict=False):
                old.copy_(new)


class ChecksOfTheCpu(TorchFunctionMode):
    """Lets one_hot look at its numbers, as it does on the CPU alone."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.tape.may_read = function is F.one_hot
        try:
            return function(*args, **(kwargs or {}))
        finally:
            self.tape.may_read = False


class RecordingBackend:
    """Records a step by doing it and undoing it; replays what was recorded."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.warmed, self.captures, self.replays = trainer, 0, 0, 0
        self.fail = False

    def warm_up(self, step: Callable[[], Any]) -> Any:
        self.warmed += 1
        return step()

    def capture(self, step: Callable[[], Any]) -> Recorded:
        self.captures += 1
        found = tensors_of(self.trainer)
        saved, rng, tape = [t.detach().clone() for t in found], torch.get_rng_state(), Tape()
        try:
            with tape, ChecksOfTheCpu(tape):
                metrics = step()
            if self.fail:
                raise RuntimeError("operation not permitted\nwhen stream is capturing")
        finally:
            with torch.no_grad():
                for tensor, before in zip(found, saved, strict=True):
                    tensor.copy_(before)
            torch.set_rng_state(rng)
        return Recorded(self, tape, metrics)


class Recorded:
    """A step on tape."""

    def __init__(self, backend: RecordingBackend, tape: Tape, metrics: dict[str, torch.Tensor]) -> None:
        self.backend, self.tape, self.metrics = backend, tape, metrics

    def replay(self) -> dict[str, torch.Tensor]:
        self.backend.replays += 1
        self.tape.play()
        return self.metrics


def tensors_of(trainer: Any) -> list[torch.Tensor]:
    """Weights, buffers, averages, optimisers' state, and what the algorithm adds to a checkpoint."""
    modules = [*trainer.networks.values(), *(ema.module for ema in trainer.ema.values())]
    found = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    for optimizer in trainer.optimizers.values():
        found += [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    return found + list(trainer.extra_state()[0].values())


def make_trainer(config, recorded=True):
    dataset = build(config.data, split=config.data.split)
    trainer = ALGORITHMS.get(config.algorithm)(config, DataSpec.of(dataset))
    backend = RecordingBackend(trainer)
    if recorded:
        trainer.graphs = StepGraphs(trainer, config.train.cuda_graph, backend)
    return trainer, backend, trainer.open_stream(dataset, seed=1)


def steps(trainer, stream, count):
    rows = []
    for _ in range(count):
        batches = [next(stream) for _ in range(trainer.batches_per_step)]
        trainer.watches_gradients = trainer.step % 5 == 4
        rows.append({name: value.clone() for name, value in trainer.advance(*batches).items()})
    return rows


def assert_same_rows(left, right):
    for step, (a, b) in enumerate(zip(left, right, strict=True)):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a), step
