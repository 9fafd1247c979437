"""Several processes as one: torchrun's environment, gradient averaging, and noise that does not depend on their number.

Gradients are averaged explicitly after backward, in flat buckets, instead of through DistributedDataParallel. DDP
reduces inside backward and expects one forward and one backward of one wrapped module per step; a GAN step runs the
discriminator two or three times per backward, takes gradients of gradients, and freezes networks by turns, each of
which DDP answers with errors or needs a flag for. An explicit average is exact in all of these, for unused and frozen
parameters too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from genlab.errors import RunError, UserError

T = TypeVar("T")
_BUCKET_BYTES = 32 * 2**20  # one collective per bucket: few calls, bounded extra memory


def resolve_device(name: str | torch.device = "cpu", local_rank: int = 0) -> torch.device:
    """The device that `cpu`, `cuda` or `cuda:N` means; plain `cuda` under torchrun is the process's own GPU.

    Raises:
        RunError: another name, CUDA where there is none, or a GPU number that does not exist.
    """
    text = str(name)
    kind, _, index = text.partition(":")
    if kind not in {"cpu", "cuda"} or (":" in text and not (kind == "cuda" and index.isdigit())):
        raise RunError(f"device: expected cpu, cuda or cuda:N, got {text!r}")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise RunError(f"device: {text!r} asked for, but torch {torch.__version__} ({built}) finds no GPU; use cpu")
    number, count = int(index) if index else local_rank, torch.cuda.device_count()
    if number >= count:
        raise RunError(f"device: expected cuda:0 to cuda:{count - 1}, got cuda:{number}")
    return torch.device("cuda", number)


@dataclass(frozen=True)
class Distributed:
    """This process among those of the run.

    Attributes:
        rank: 0 to world_size - 1; rank 0 alone writes files.
        world_size: number of processes.
        local_rank: number of the process on its machine.
        control: a gloo group on the CPU for host-side agreements, so that they never wait for a GPU; None when alone.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    control: Any | None = None

    @classmethod
    def from_environment(cls, device: str | torch.device = "cpu") -> Distributed:
        """Joins the process group that torchrun describes; alone without torchrun.

        The backend is nccl for CUDA devices and gloo for the CPU.
        """
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return cls()
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        if world_size == 1:
            return cls()
        target = resolve_device(device, local_rank)
        if target.type == "cuda":
            torch.cuda.set_device(target)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if target.type == "cuda" else "gloo", rank=rank, world_size=world_size)
        # The others wait here while rank 0 evaluates, which may take longer than the default half hour.
        return cls(rank, world_size, local_rank, dist.new_group(backend="gloo", timeout=timedelta(hours=12)))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.world_size == 1

    def barrier(self) -> None:
        if not self.is_alone:
            dist.barrier(group=self.control)

    def close(self) -> None:
        """Leaves the process group."""
        if not self.is_alone and dist.is_initialized():
            dist.destroy_process_group()

    def maximum(self, value: int) -> int:
        """The largest of the processes' numbers; every process gets the same answer."""
        if self.is_alone:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.control)
        return int(tensor.item())

    def gather(self, value: T) -> list[T]:
        """Every process's value, in order of rank, on every process."""
        if self.is_alone:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def on_main(self, function: Callable[[], T]) -> T:
        """Runs `function` on rank 0 and gives its result to all; a user's error there is raised on every process."""
        if self.is_alone:
            return function()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = function()
            except UserError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, group=self.control)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """The mean of `value` over the processes, as a new tensor."""
        if self.is_alone:
            return value
        result = value.detach().clone()
        dist.all_reduce(result)
        return result.div_(self.world_size)

    def all_gather(self, value: Tensor) -> Tensor:
        """The processes' tensors, of one shape, one behind the other along the first dimension, in order of rank."""
        if self.is_alone:
            return value
        parts = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(self.world_size)]
        dist.all_gather(parts, value.detach().contiguous())
        return torch.cat(parts)

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces every gradient by its mean over the processes.

        A loss that is a mean over the local samples then has the gradient of the mean over the global batch. A
        parameter without a gradient is left out: the processes run the same graph, so it has none on any of them.
        """
        if self.is_alone:
            return
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            flat.div_(self.world_size)
            offset = 0
            for gradient in bucket:
                gradient.copy_(flat[offset : offset + gradient.numel()].view(gradient.shape))
                offset += gradient.numel()

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites the tensors with those of rank 0."""
        if not self.is_alone:
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)


def _buckets(gradients: list[Tensor]) -> list[list[Tensor]]:
    """Groups of one dtype, each at most about _BUCKET_BYTES, in the given order."""
    buckets: list[list[Tensor]] = []
    size = 0
    for gradient in gradients:
        size += gradient.numel() * gradient.element_size()
        if not buckets or size > _BUCKET_BYTES or buckets[-1][-1].dtype != gradient.dtype:
            buckets.append([])
            size = gradient.numel() * gradient.element_size()
        buckets[-1].append(gradient)
    return buckets


class ShardedNoise:
    """Random tensors for the local part of a global batch.

    The whole global batch is drawn from one CPU generator on every process, and each takes the rows of its rank: the
    noise that a sample gets depends neither on the number of processes nor on the device.

    Args:
        generator: CPU generator, in the same state on every process.
        device: where the tensors go.
    """

    def __init__(self, generator: torch.Generator, distributed: Distributed, device: torch.device) -> None:
        self.generator = generator
        self.distributed = distributed
        self.device = device
        self._answer: Callable[[Callable[[], Tensor]], Tensor] | None = None

    def normal(self, count: int, *shape: int) -> Tensor:
        """(count, *shape) standard normal; `count` is the local number of samples."""
        return self._draw(torch.randn, count, shape)

    def uniform(self, count: int, *shape: int) -> Tensor:
        """(count, *shape) uniform on [0, 1)."""
        return self._draw(torch.rand, count, shape)

    @contextmanager
    def answered_by(self, answer: Callable[[Callable[[], Tensor]], Tensor]) -> Iterator[None]:
        """Inside, `answer` gives the tensor for every request; its argument draws the numbers, on the CPU."""
        before, self._answer = self._answer, answer
        try:
            yield
        finally:
            self._answer = before

    def _draw(self, kind: Callable[..., Tensor], count: int, shape: tuple[int, ...]) -> Tensor:
        def draw() -> Tensor:
            whole = kind(count * self.distributed.world_size, *shape, generator=self.generator)
            return whole[self.distributed.rank * count : (self.distributed.rank + 1) * count]

        return draw().to(self.device, non_blocking=True) if self._answer is None else self._answer(draw)
