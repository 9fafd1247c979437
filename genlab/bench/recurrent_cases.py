"""The recurrent networks of `genlab bench op`: one layer over whole sequences, forward and with all gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from genlab import ops

OPS = ("gru", "lstm", "rnn")
GATES = {"gru": 3, "lstm": 4, "rnn": 1}
TORCH = {"gru": torch.gru, "lstm": torch.lstm, "rnn": torch.rnn_tanh}
SLACK = 5.0  # torch rounds its states at every step in low precision, and the steps' errors add up: 2e-2 and more
QUICK_LABELS = ("H256",)


@dataclass(frozen=True)
class Recurrence:
    """One layer: `steps` steps of `batch` sequences of `inputs` features to `hidden` units."""

    label: str
    op: str
    steps: int
    batch: int
    inputs: int
    hidden: int

    @property
    def shape(self) -> str:
        return f"T{self.steps} B{self.batch} I{self.inputs} H{self.hidden}"

    @property
    def flops(self) -> float:
        """Of the forward pass; a training step takes three times as many."""
        return 2.0 * self.steps * self.batch * GATES[self.op] * self.hidden * (self.inputs + self.hidden)

    @property
    def values(self) -> float:
        weights = GATES[self.op] * self.hidden * (self.inputs + self.hidden + 2)
        return float(self.steps * self.batch * (self.inputs + self.hidden) + weights)


class Part(NamedTuple):
    """One direction of a layer's bench, see `genlab.bench.cases.Case`."""

    direction: str
    ours: Callable[..., Tensor]
    peer: Callable[..., Tensor]
    flops: float
    values: float


def layers(shapes: str) -> tuple[Recurrence, ...]:
    """The layers of "quick", "full" or "tiny" (a check of the bench itself)."""
    if shapes == "tiny":
        return tuple(Recurrence("tiny", op, 3, 2, 4, 5) for op in OPS)
    sizes = (
        ("H128", 128, 32, 128),
        ("H256", 128, 32, 256),
        ("H512", 128, 32, 512),
        ("H256, one sequence", 128, 1, 256),
    )
    found = (Recurrence(label, op, t, b, h, h) for op in OPS for label, t, b, h in sizes)
    return tuple(layer for layer in found if shapes == "full" or layer.label in QUICK_LABELS)


def make(layer: Recurrence, generator: torch.Generator) -> tuple[Tensor, ...]:
    """(input, gradient of the output, then weights and biases as torch.nn initialises them)."""
    height, bound = GATES[layer.op] * layer.hidden, layer.hidden**-0.5
    sizes = (height, layer.inputs), (height, layer.hidden), (height,), (height,)
    params = [(torch.rand(size, generator=generator) * 2 - 1) * bound for size in sizes]
    draw = lambda width: torch.randn((layer.steps, layer.batch, width), generator=generator)  # noqa: E731
    return draw(layer.inputs), draw(layer.hidden), *params


def parts(layer: Recurrence) -> list[Part]:
    """The directions: forward without a gradient; forward and every gradient as in a training step."""
    found = []
    for direction, gradients, times in (("forward", False, 1), ("forward and backward", True, 3)):
        ours = functools.partial(_with_gradients if gradients else _forward, functools.partial(_ours, layer))
        peer = functools.partial(_with_gradients if gradients else _forward, functools.partial(_torch, layer))
        found.append(Part(direction, ours, peer, times * layer.flops, times * layer.values))
    return found


def _ours(layer: Recurrence, input: Tensor, *params: Tensor, impl: str) -> Tensor:
    return getattr(ops, layer.op)(input, None, params, impl=impl)[0]


def _torch(layer: Recurrence, input: Tensor, *params: Tensor) -> Tensor:
    zeros = input.new_zeros(1, layer.batch, layer.hidden)
    hx = (zeros, zeros) if layer.op == "lstm" else zeros
    return TORCH[layer.op](input, hx, params, True, 1, 0.0, True, False, False)[0]


def _forward(run: Callable[..., Tensor], input: Tensor, _: Tensor, *params: Tensor, **options: str) -> Tensor:
    return run(input, *params, **options)


def _with_gradients(run: Callable[..., Tensor], input: Tensor, grad: Tensor, *params: Tensor, **options: str) -> Tensor:
    """All gradients are taken; that of weight_hh, which depends on every step, is what the check looks at."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in (input, *params)]
        output = run(*leaves, **options)
        return torch.autograd.grad(output, leaves, grad.to(output.dtype))[2]
