"""The contenders of a row of `genlab bench op`: the lab's implementations and what stock PyTorch offers.

A variant is prepared once (tensors in its layout and dtype, the graph of a gradient built) and is then a call without
arguments, so that nothing but the op is on the clock.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genlab.bench.cases import Case
from genlab.bench.measure import TORCH_DTYPES

# Relative Frobenius norm of the difference to the float64 reference.
TOLERANCE = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2, "fp16": 2e-3}
CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"


@dataclass(frozen=True)
class Variant:
    """How one contender runs.

    Attributes:
        name: in tables and files.
        impl: the lab's implementation; None for torch's own functions.
        layout: of the 4-dimensional tensors.
        autocast: float32 tensors under torch.autocast, the casts on the clock.
        compiled: through torch.compile.
        peer: which of the case's `peers`; None for its `peer`.
    """

    name: str
    impl: str | None
    layout: str = CONTIGUOUS
    autocast: bool = False
    compiled: bool = False
    peer: str | None = None

    @property
    def ours(self) -> bool:
        return self.impl is not None


def variants_of(case: Case, masters: Sequence[Tensor], dtype: str, compiled: bool) -> list[Variant]:
    """The contenders of a case: ours first, in either layout where images are involved."""
    layouts = (CONTIGUOUS, CHANNELS_LAST) if masters[0].dim() == 4 and case.images else (CONTIGUOUS,)
    found = [Variant(f"genlab {impl} {layout}", impl, layout) for impl in ("auto", "native") for layout in layouts]
    found += [Variant(f"torch eager {layout}", None, layout) for layout in layouts]
    found += [Variant(f"torch {name}", None, peer=name) for name in case.peers]
    if dtype in {"bf16", "fp16"}:
        found += [Variant(f"torch autocast {layout}", None, layout, autocast=True) for layout in layouts]
    if compiled:
        found += [Variant(f"torch.compile {layout}", None, layout, compiled=True) for layout in layouts]
    return found


def make_masters(case: Case, dtype: str, seed: int) -> list[Tensor]:
    """The case's tensors in float32 on the CPU, holding values that `dtype` can hold: every variant sees the same."""
    kind = TORCH_DTYPES[dtype]
    tensors = case.make(torch.Generator().manual_seed(seed))
    return [t if i in case.wide else t.to(kind).float() for i, t in enumerate(tensors)]


def make_grad_output(shape: Sequence[int], dtype: str, seed: int) -> Tensor:
    """The gradient that every variant's backward starts from, float32 on the CPU with values of `dtype`."""
    values = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed + 1))
    return values.to(TORCH_DTYPES[dtype]).float()


def reference(case: Case, masters: Sequence[Tensor], dtype: str, seed: int, device: str) -> list[Tensor]:
    """The case's results in float64 by torch's functions."""
    tensors = [t.to(device, torch.float64) for t in masters]
    for index in case.wanted:
        tensors[index].requires_grad_()
    with torch.set_grad_enabled(bool(case.wanted)):
        output = case.peer(*tensors)
    if not case.wanted:
        return results_of(output)
    if case.whole:
        return _gradients_from_one(output, [tensors[i] for i in case.wanted])
    grad_output = make_grad_output(output.shape, dtype, seed).to(device, torch.float64)
    return list(torch.autograd.grad(output, [tensors[i] for i in case.wanted], grad_output))


def results_of(output: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    """What an op returned, as a list."""
    return list(output) if isinstance(output, tuple) else [output]


def _gradients_from_one(output: Tensor | tuple[Tensor, ...], wanted: list[Tensor]) -> list[Tensor]:
    outputs = results_of(output)
    return list(torch.autograd.grad(outputs, wanted, [torch.ones_like(each) for each in outputs]))


def error_of(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest relative Frobenius norm of a difference; infinite where shapes differ or a value is not finite."""
    worst = 0.0
    for ours, exact in zip(found, expected, strict=True):
        if ours.shape != exact.shape:
            return float("inf")
        difference = (torch.linalg.vector_norm(ours.double() - exact) / torch.linalg.vector_norm(exact)).item()
        if difference != difference:
            return float("inf")
        worst = max(worst, difference)
    return worst


class Rotation:
    """Calls that work on different copies of the tensors in turn, so that a GPU's cache does not hold them."""

    def __init__(self, calls: Sequence[Callable[[], list[Tensor]]]) -> None:
        self.calls = list(calls)
        self._next: Iterator[Callable[[], list[Tensor]]] = itertools.cycle(self.calls)

    def __call__(self) -> list[Tensor]:
        return next(self._next)()


def prepare(
    case: Case, variant: Variant, masters: Sequence[Tensor], dtype: str, device: str, seed: int, copies: int = 1
) -> Rotation:
    """The variant as calls that return the case's results.

    Raises:
        whatever the op raises where the variant cannot run here.
    """
    run = case.peer if variant.peer is None else case.peers[variant.peer]
    if variant.ours:
        run = lambda *tensors: case.ours(*tensors, impl=variant.impl)  # noqa: E731
    elif variant.compiled:
        torch._dynamo.reset()
        run = torch.compile(run, dynamic=False)
    return Rotation([_bind(run, case, variant, masters, dtype, device, seed) for _ in range(copies)])


def place(case: Case, variant: Variant, masters: Sequence[Tensor], dtype: str, device: str) -> list[Tensor]:
    """Copies of the case's tensors as the variant takes them: on the device, in its dtypes and its layout."""
    tensors = []
    for index, master in enumerate(masters):
        wide = index in case.wide or variant.autocast
        tensor = master.to(device, torch.float32 if wide else TORCH_DTYPES[dtype], copy=True)
        if tensor.dim() == 4 and variant.layout == CHANNELS_LAST:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        tensors.append(tensor)
    return tensors


def _bind(
    run: Callable[..., Tensor], case: Case, variant: Variant, masters: Sequence[Tensor], dtype: str, device: str,
    seed: int,
) -> Callable[[], list[Tensor]]:  # fmt: skip
    tensors = place(case, variant, masters, dtype, device)
    for index in case.wanted:
        tensors[index].requires_grad_()
    kind = TORCH_DTYPES[dtype]

    def casting() -> contextlib.AbstractContextManager:
        return torch.autocast(device, dtype=kind) if variant.autocast else contextlib.nullcontext()

    if not case.wanted:
        if not variant.autocast:
            return lambda: results_of(run(*tensors))

        def forward() -> list[Tensor]:
            with casting():
                return results_of(run(*tensors))

        return forward
    if case.whole:
        wanted = [tensors[index] for index in case.wanted]

        def forward_and_backward() -> list[Tensor]:
            with torch.enable_grad(), casting():
                output = run(*tensors)
            return _gradients_from_one(output, wanted)

        return forward_and_backward
    with torch.enable_grad(), casting():
        output = run(*tensors)
    grad_output = torch.empty_like(output).copy_(make_grad_output(output.shape, dtype, seed))  # the output's layout
    wanted = [tensors[index] for index in case.wanted]
    return lambda: list(torch.autograd.grad(output, wanted, grad_output, retain_graph=True))


def capture(rotation: Rotation) -> Callable[[], None]:
    """The calls of a rotation as one CUDA graph on the current stream; the result replays all of them."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        for call in rotation.calls:
            call()
    return graph.replay
