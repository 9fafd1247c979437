"""The CUDA kernels of lstm, gru and rnn: the CPU's values, other streams, captured graphs, bits that repeat."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from cuda_calls import (
    CudaCall,
    check_a_captured_graph_computes_with_fresh_inputs,
    check_agrees_with_the_cpu,
    check_repeats_bit_for_bit,
    check_runs_on_the_current_stream,
)
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from genlab import ops

pytestmark = pytest.mark.cuda

CELLS = {"lstm": (ops.lstm, 4), "gru": (ops.gru, 3), "rnn": (ops.rnn, 1)}
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 3e-2, torch.float16: 5e-3}  # relative norm
REPEATS = 20


@dataclass(frozen=True)
class Call(CudaCall):
    """One layer of two directions. The hidden size picks the kernels: persistent, or one launch per step."""

    cell: str
    hidden: int
    steps: int = 9
    batch: int = 19
    inputs: int = 24
    batch_sizes: tuple[int, ...] | None = None

    def make(self, device: str, dtype: torch.dtype = torch.float32, seed: int = 3) -> list[Tensor]:
        """Input, states, then the parameters of both directions."""
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *size: torch.randn(size, generator=generator, dtype=torch.float64)  # noqa: E731
        h, gates = self.hidden, CELLS[self.cell][1] * self.hidden
        rows = (self.steps, self.batch) if self.batch_sizes is None else (sum(self.batch_sizes),)
        batch = self.batch if self.batch_sizes is None else self.batch_sizes[0]
        made = [draw(*rows, self.inputs), *(draw(2, batch, h) for _ in range(2 if self.cell == "lstm" else 1))]
        for _ in range(2):
            made += [draw(gates, self.inputs) * self.inputs**-0.5, draw(gates, h) * h**-0.5, draw(gates), draw(gates)]
        return [tensor.to(device, dtype).requires_grad_() for tensor in made]

    def run(self, tensors: list[Tensor], impl: str = "native") -> Tensor:
        op = CELLS[self.cell][0]
        states = 2 if self.cell == "lstm" else 1
        input = tensors[0]
        if self.batch_sizes is not None:
            input = PackedSequence(input, torch.tensor(self.batch_sizes))
        hx = tuple(tensors[1:3]) if states == 2 else tensors[1]
        found = op(input, hx, tensors[1 + states :], bidirectional=True, impl=impl)
        output = found[0].data if self.batch_sizes is not None else found[0]
        return torch.cat([output.flatten(), *(state.flatten() for state in found[1:])])


# Sizes of persistent kernels with and without whole chunks, of the largest, and beyond them.
CALLS = [Call(cell, hidden) for cell in CELLS for hidden in (17, 64, 128, 256)]
CALLS += [replace(call, batch_sizes=(19, 19, 17, 8, 8, 3, 1, 1)) for call in CALLS if call.hidden in (17, 256)]


@pytest.fixture(params=CALLS, ids=lambda call: f"{call.cell}-{call.hidden}{'-packed' if call.batch_sizes else ''}")
def call(request: pytest.FixtureRequest) -> Call:
    return request.param


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_agrees_with_the_cpu(call: Call, dtype: torch.dtype) -> None:
    check_agrees_with_the_cpu(call, dtype, TOLERANCE[dtype])


def test_runs_on_the_current_stream(call: Call) -> None:
    check_runs_on_the_current_stream(call)


def test_a_captured_graph_computes_with_fresh_inputs(call: Call) -> None:
    if call.batch_sizes is not None:
        pytest.skip("batch_sizes go to the device in a copy that waits, which no graph can hold")
    check_a_captured_graph_computes_with_fresh_inputs(call, torch.bfloat16)


def test_waits_for_nothing(call: Call) -> None:
    tensors = call.make("cuda")
    call.results(tensors)  # the first loads of kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        call.results(tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_repeats_bit_for_bit(call: Call, dtype: torch.dtype) -> None:
    check_repeats_bit_for_bit(call, dtype, REPEATS)


def test_a_long_sequence_and_a_large_batch(call: Call) -> None:
    """More blocks than any GPU runs at once, and steps enough for every buffer and stage to come round many times."""
    if call.batch_sizes is not None:
        pytest.skip("equal lengths fill the blocks")
    large = replace(call, steps=200, batch=2500 if call.hidden <= 128 else 300, inputs=4)
    tensors = large.make("cuda", torch.bfloat16)
    with torch.no_grad():
        found, expected = large.run(tensors, "native"), large.run(tensors, "torch")
    error = torch.linalg.vector_norm((found - expected).double()) / torch.linalg.vector_norm(expected.double())
    assert error <= TOLERANCE[torch.bfloat16]
