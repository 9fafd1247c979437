"""Whole training steps as CUDA graphs: forward, backward, optimiser and averages of a step launched as one.

A small step spends its time launching kernels; a captured one is launched once. What the host does in a step has to
happen outside the graph, and this is how:

- batches are copied into buffers that the graph reads;
- noise is drawn on the host as ever, in the order in which the step asked for it, into buffers too (the device's own
  generator, dropout's, is registered with the graph by torch and goes on where it stood);
- learning rates and the weights of moving averages are numbers on the device;
- whatever else the host decides is named by `Trainer.graph_key`: a graph for each key. A step that no graph can hold
  has an `Uncaptured` for a key and runs launch by launch, with a reason in the log.

The first steps of every key run as they are, on the stream that is captured later; they are steps of the training like
all others. The numbers are those of a training without graphs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from genlab.errors import RunError

if TYPE_CHECKING:
    from genlab.trainers.base import Batch, Metrics, Trainer

WARMUP_STEPS = 3  # of each key: lazily made state (moments, workspaces) has to exist before a capture
MOST_GRAPHS = 8  # each holds the memory of a step; the one that was not used for longest goes


@dataclass(frozen=True)
class Uncaptured:
    """Why a step is not captured.

    Attributes:
        reason: in words, for the log.
        passing: whether later steps of the same run can be; `train.cuda_graph=on` lets only those pass.
    """

    reason: str
    passing: bool = False


# For recurrent networks over padded sentences.
READS_LENGTHS = Uncaptured("the recurrent network reads the lengths of the sentences on the host")


class Capture(Protocol):
    """A step that can be replayed on what its buffers hold."""

    def replay(self) -> Metrics:
        """Does the step; the result is overwritten by the next replay."""


class Backend(Protocol):
    """What captures: CUDA, or a stand-in of the tests."""

    def warm_up(self, step: Callable[[], Metrics]) -> Metrics:
        """Runs a step as the capture will see it."""

    def capture(self, step: Callable[[], Metrics]) -> Capture:
        """Records what `step` launches, without doing it. Raises RuntimeError where it cannot be recorded."""


class CudaBackend:
    """torch.cuda.CUDAGraph; all graphs of a trainer share one pool of memory, as only one of them runs at a time.

    What a replay leaves in that memory is safe until the next replay, of whichever graph.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def warm_up(self, step: Callable[[], Metrics]) -> Metrics:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = step()
        current.wait_stream(self.stream)
        return result

    def capture(self, step: Callable[[], Metrics]) -> Capture:
        graph = torch.cuda.CUDAGraph()
        # Loader threads may pin memory meanwhile: only this thread's calls count.
        capturing = torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local")
        try:
            # The outer context puts the stream back: torch's own leaves its stream behind where a capture cannot end.
            with torch.cuda.stream(self.stream), capturing:
                result = step()
        except BaseException:
            self._free_generator()
            raise
        return _CudaCapture(graph, result)

    def _free_generator(self) -> None:
        """Takes the device's generator out of a capture that failed.

        torch 2.11 takes it out at the end of those that succeed alone, and until then no number can be drawn outside
        of a capture. A copy of a generator's state is in none.
        """
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())


@dataclass
class _CudaCapture:
    graph: torch.cuda.CUDAGraph
    result: Metrics

    def replay(self) -> Metrics:
        self.graph.replay()
        return self.result


Signature = tuple[tuple[tuple[str, torch.Size, torch.dtype], ...], ...]


@dataclass
class _Variant:
    """The steps of one key: how often it was seen, what it draws, and its graph once there is one."""

    signature: Signature
    seen: int = 0
    draws: list[tuple[Callable[[], Tensor], torch.Size, torch.dtype]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    shares: dict[str, Tensor] = field(default_factory=dict)
    capture: Capture | None = None
    gradient_norms: dict[str, Tensor] = field(default_factory=dict)


class StepGraphs:
    """Does a trainer's steps, captured where they can be.

    Args:
        trainer: whose steps.
        mode: `train.cuda_graph`: "auto", "on" or "off".
        backend: what captures; None: CUDA where the trainer's device is one.

    Attributes:
        replayed: steps that were replays.
    """

    def __init__(self, trainer: Trainer, mode: str, backend: Backend | None = None) -> None:
        self.trainer, self.mode = trainer, mode
        self.replayed = 0
        self._backend = backend
        self._variants: OrderedDict[Hashable, _Variant] = OrderedDict()
        self._news: list[str] = []
        self._told: set[str] = set()
        self._broken: Uncaptured | None = None
        self._ready = False

    # What people are told.

    def refusal(self) -> Uncaptured | None:
        """Why no step of this run is captured; None where steps can be."""
        trainer = self.trainer
        if self.mode == "off":
            return Uncaptured("train.cuda_graph=off")
        if self._backend is None and trainer.device.type != "cuda":
            return Uncaptured(f"the device is {trainer.device.type}")
        if not trainer.distributed.is_alone:
            return Uncaptured(f"{trainer.distributed.world_size} processes exchange gradients on the host's word")
        if any(scaler.is_enabled() for scaler in trainer.scalers.values()):
            return Uncaptured("the gradient scaler of fp16-mixed decides on the host whether a step counts")
        return self._broken

    def describe(self) -> str:
        """One line for the log's first row and the report."""
        refused = self.refusal()
        if refused is not None:
            return f"none ({refused.reason})"
        return f"after {WARMUP_STEPS} steps of each kind (train.cuda_graph={self.mode})"

    def take_news(self) -> list[str]:
        """What happened since the last call, each sentence once in a run."""
        news, self._news = self._news, []
        return news

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._news.append(text)

    # The steps.

    def step(self, batches: Sequence[Batch], shares: dict[str, float]) -> Metrics:
        """One step of the algorithm and of the averages.

        Args:
            batches: local ones, on any device.
            shares: name of an average -> weight of the present parameters in it.

        Raises:
            RunError: with `train.cuda_graph=on`, that no graph can hold this step.
        """
        refused = self.refusal()
        if refused is None and not self._ready:
            refused = self._broken = make_capturable(self.trainer)
            self._ready = True
        key = self.trainer.graph_key if refused is None else refused
        if isinstance(key, Uncaptured):
            return self._uncaptured(key, batches, shares)
        whole_key = (key, self.trainer.watches_gradients)
        signature = signature_of(batches)
        variant = self._variants.get(whole_key)
        if variant is None:
            variant = self._variants[whole_key] = _Variant(signature)
            if len(self._variants) > MOST_GRAPHS:
                self._variants.popitem(last=False)
        self._variants.move_to_end(whole_key)
        if variant.signature != signature:
            return self._uncaptured(Uncaptured("a batch of another shape", passing=True), batches, shares)
        if variant.seen < WARMUP_STEPS:
            return self._warm_up(variant, batches, shares)
        if variant.capture is None:
            return self._captured(variant, batches, shares, key)
        return self._replayed(variant, batches, shares)

    def forget(self) -> None:
        """Drops the graphs, whose tensors a restored state has replaced; the next steps begin anew."""
        self._variants.clear()
        self._ready = False

    def _plain(self, batches: Sequence[Batch], shares: dict[str, float]) -> Metrics:
        weights: dict[str, Any] = dict(shares)
        if self._ready:  # as a replay has them, so that it does not matter to a single bit which steps are replayed
            device = self.trainer.device
            weights = {
                name: torch.full((), share, dtype=torch.float64, device=device) for name, share in shares.items()
            }
        return self.trainer.take_step([self.trainer.to_device(batch) for batch in batches], weights)

    def _uncaptured(self, why: Uncaptured, batches: Sequence[Batch], shares: dict[str, float]) -> Metrics:
        if self.mode == "on" and not why.passing:
            raise RunError(f"train.cuda_graph=on: steps cannot be captured: {why.reason}; use auto or off")
        if self.mode == "auto" and (self._backend is not None or self.trainer.device.type == "cuda"):
            self._tell(f"steps are not captured as CUDA graphs{' for now' if why.passing else ''}: {why.reason}")
        return self._plain(batches, shares)

    def _warm_up(self, variant: _Variant, batches: Sequence[Batch], shares: dict[str, float]) -> Metrics:
        """A step as it is, which notes what noise is drawn."""
        variant.seen += 1
        variant.draws.clear()

        def note(draw: Callable[[], Tensor]) -> Tensor:
            values = draw()
            variant.draws.append((draw, values.shape, values.dtype))
            return values.to(self.trainer.device, non_blocking=True)

        with self.trainer.noise.answered_by(note):
            return self._chosen_backend().warm_up(lambda: self._plain(batches, shares))

    def _captured(
        self, variant: _Variant, batches: Sequence[Batch], shares: dict[str, float], key: Hashable
    ) -> Metrics:
        """Captures the step and does it; where that fails, does it as it is and gives up capturing."""
        trainer, device = self.trainer, self.trainer.device
        variant.batches = [
            {name: value.clone() for name, value in trainer.to_device(batch).items()} for batch in batches
        ]
        variant.noise = [torch.zeros(shape, dtype=dtype, device=device) for _, shape, dtype in variant.draws]
        # In double precision, as the optimiser takes a number: a rounded one would give other bits.
        variant.shares = {name: torch.zeros((), dtype=torch.float64, device=device) for name in shares}
        before = trainer.noise.generator.get_state()
        given = iter(variant.noise)

        def answer(draw: Callable[[], Tensor]) -> Tensor:
            buffer = next(given, None)
            if buffer is None:
                raise RuntimeError("the step draws more noise than the one before")
            return buffer

        def captured_step() -> Metrics:
            nonlocal given
            given = iter(variant.noise)
            with trainer.noise.answered_by(answer):
                return trainer.take_step(variant.batches, variant.shares)

        try:
            variant.capture = self._chosen_backend().capture(captured_step)
        except RuntimeError as error:
            trainer.noise.generator.set_state(before)
            reason = " ".join(str(_cause(error)).split())[:300]
            self._broken = Uncaptured(f"step {trainer.step} could not be captured: {reason}")
            self.forget()
            return self._uncaptured(self._broken, batches, shares)
        variant.gradient_norms = dict(trainer.gradient_norms) if trainer.watches_gradients else {}
        kind = "" if key in ((), None) else f" of kind {key}"
        self._tell(f"steps{kind} are replayed as CUDA graphs from step {trainer.step + 1} on")
        return self._replayed(variant, batches, shares)

    def _replayed(self, variant: _Variant, batches: Sequence[Batch], shares: dict[str, float]) -> Metrics:
        for buffers, batch in zip(variant.batches, batches, strict=True):
            for name, buffer in buffers.items():
                buffer.copy_(batch[name], non_blocking=True)
        for buffer, (draw, _, _) in zip(variant.noise, variant.draws, strict=True):
            buffer.copy_(draw(), non_blocking=True)
        for name, buffer in variant.shares.items():
            buffer.fill_(shares[name])
        assert variant.capture is not None
        result = variant.capture.replay()
        # Copies: graphs share memory, so that a replay of another one may write where these lie.
        self.trainer.gradient_norms.update({name: norm.clone() for name, norm in variant.gradient_norms.items()})
        self.replayed += 1
        return result

    def _chosen_backend(self) -> Backend:
        if self._backend is None:
            self._backend = CudaBackend(self.trainer.device)
        return self._backend


def _cause(error: RuntimeError) -> RuntimeError:
    """The error that spoilt a capture: that its end then fails too is said last and says nothing."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return error


def signature_of(batches: Sequence[Batch]) -> Signature:
    """Names, shapes and dtypes of the batches' tensors."""
    return tuple(tuple((name, value.shape, value.dtype) for name, value in batch.items()) for batch in batches)


def make_capturable(trainer: Trainer) -> Uncaptured | None:
    """Has the optimisers keep their step counts and, where it changes, the learning rate on the device.

    Returns:
        Why an optimiser cannot; None where all can.
    """
    changes = trainer.config.train.schedule.name != "constant" or trainer.config.train.schedule.warmup_steps > 0
    for name, optimizer in trainer.optimizers.items():
        for group in optimizer.param_groups:
            on_device = all(p.device.type == "cuda" for p in group["params"])
            if on_device and group.get("capturable") is False:
                group["capturable"] = True
                _steps_to_device(optimizer, group["params"])
            if on_device and group.get("capturable") is None and not isinstance(optimizer, torch.optim.SGD):
                return Uncaptured(f"optimiser {name!r} ({type(optimizer).__name__}) counts its steps on the host")
            if changes and not isinstance(group["lr"], Tensor):
                if not on_device:
                    return Uncaptured(f"the learning rate of optimiser {name!r} changes and is not a tensor")
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=trainer.device)
    return None


def _steps_to_device(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        count: Any = optimizer.state.get(parameter, {}).get("step")
        if isinstance(count, Tensor):
            optimizer.state[parameter]["step"] = count.to(parameter.device, torch.float32)
