"""What PyTorch must know of the native recurrences beside their kernels: shapes without data, and gradients.

The gradient of a layer is an op of its own; the gradient of that differentiates the definition in torch ops.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genlab.ops.recurrence_reference import GATES, Layer, Weights, run_layer

Tensors = tuple[Tensor | None, ...]
OPERANDS = 11  # input, h0, c0, then weight_ih, weight_hh, bias_ih, bias_hh of each direction


def register() -> None:
    """Registers fakes and gradients of recurrence and recurrence_backward with the dispatcher."""
    torch.library.register_fake("genlab::recurrence", _fake)
    torch.library.register_fake("genlab::recurrence_backward", _backward_fake)
    torch.library.register_autograd("genlab::recurrence", _gradient, setup_context=_setup)
    torch.library.register_autograd("genlab::recurrence_backward", _second_gradient, setup_context=_second_setup)


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    input, h0, weight_hh, reverse = arguments[0], arguments[1], arguments[4], arguments[8]
    batch_sizes, cell, keep = arguments[11], arguments[13], arguments[14]
    hidden, directions = weight_hh.shape[1], 1 if reverse is None else 2
    rows = input.shape[0] if batch_sizes is not None else input.shape[0] * input.shape[1]
    batch = h0.shape[1] if batch_sizes is not None else input.shape[1]
    kept = keep and GATES[cell] > 1
    states = input.new_empty((directions, batch, hidden))
    return (
        input.new_empty((*input.shape[:-1], directions * hidden)),
        states,
        torch.empty_like(states) if cell == "lstm" else input.new_empty((0,)),
        input.new_empty((rows, directions * GATES[cell] * hidden) if kept else (0,)),
        input.new_empty((rows, directions * hidden) if kept else (0,)),
    )


def _backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    operands, wanted = arguments[3 : 3 + OPERANDS], arguments[-1]
    input, weight_hh, reverse = operands[0], operands[4], operands[8]
    batch_sizes = arguments[3 + OPERANDS]
    batch = operands[1].shape[1] if batch_sizes is not None else input.shape[1]
    states = (1 if reverse is None else 2, batch, weight_hh.shape[1])
    shapes = [input.shape, states, states, *(None if t is None else t.shape for t in operands[3:])]
    return tuple(input.new_empty(shape if asked else (0,)) for shape, asked in zip(shapes, wanted, strict=True))


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    *operands, batch_sizes, mask, cell, keep = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[3], output[4])
    if keep:
        ctx.save_for_backward(*operands, batch_sizes, mask, output[0], output[3], output[4])
    ctx.cell, ctx.keep = cell, keep


def _gradient(ctx: Any, *grads: Tensor | None) -> Tensors:
    if not ctx.keep:
        raise RuntimeError("genlab::recurrence: expected keep=True where a gradient is wanted, got keep=False")
    wanted = [bool(needed) for needed in ctx.needs_input_grad[:OPERANDS]]
    found = torch.ops.genlab.recurrence_backward(*grads[:3], *ctx.saved_tensors, ctx.cell, wanted)
    given = [gradient if asked else None for gradient, asked in zip(found, wanted, strict=True)]
    return (*given, None, None, None, None)


def _second_setup(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    *tensors, _, _, _, cell, wanted = inputs
    ctx.save_for_backward(*tensors)
    ctx.cell, ctx.wanted = cell, tuple(wanted)
    ctx.set_materialize_grads(False)


def _second_gradient(ctx: Any, *grads: Tensor | None) -> Tensors:
    again = torch.is_grad_enabled()
    *saved, batch_sizes, mask = ctx.saved_tensors
    leaves = [_leaf(tensor, again) for tensor in saved]
    given, operands = leaves[:3], leaves[3:]
    pairs = [
        (operand, grad)
        for operand, grad, wanted in zip(operands, grads, ctx.wanted, strict=True)
        if wanted and grad is not None
    ]
    nothing = (None,) * (len(saved) + 7)
    if not pairs:
        return nothing
    with torch.enable_grad():
        results = _definition(ctx.cell, operands, batch_sizes, mask)
        used = [(result, grad) for result, grad in zip(results, given, strict=True) if grad is not None]
        if not used:
            return nothing
        first = torch.autograd.grad(
            [result for result, _ in used], [operand for operand, _ in pairs], [grad for _, grad in used],
            create_graph=True, allow_unused=True,
        )  # fmt: skip
        kept = [(gradient, grad) for gradient, (_, grad) in zip(first, pairs, strict=True) if gradient is not None]
        of = [tensor for tensor in leaves if tensor is not None]
        found = torch.autograd.grad(
            [gradient for gradient, _ in kept], of, [grad for _, grad in kept], create_graph=again, allow_unused=True
        )
    second = iter(found)
    return (*(None if tensor is None else next(second) for tensor in leaves), *(None,) * 7)


def _definition(cell: str, operands: list[Tensor | None], batch_sizes: Tensor | None, mask: Tensor | None) -> Tensors:
    """(output, h_n, c_n) of the layer in torch ops."""
    input, h0, c0, *weights = operands
    directions = (Weights(*weights[:4]), *(() if weights[4] is None else (Weights(*weights[4:]),)))
    return run_layer(Layer(cell, input, batch_sizes, h0, c0, directions, mask))


def _leaf(tensor: Tensor | None, again: bool) -> Tensor | None:
    """The tensor itself where its graph is wanted (a third derivative), else cut from it."""
    if tensor is None or (again and tensor.requires_grad):
        return tensor
    return tensor.detach().requires_grad_()
