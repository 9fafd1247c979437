"""What PyTorch must know of the native layer normalisation beside its kernels: shapes without data, and gradients.

The gradient of layer_norm_act is an op of its own; the gradient of that differentiates the definition in torch ops.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import activation as act


def register() -> None:
    """Registers fakes and gradients of layer_norm_act and layer_norm_act_backward with the dispatcher."""
    torch.library.register_fake("genlab::layer_norm_act", _fake)
    torch.library.register_fake("genlab::layer_norm_act_backward", _backward_fake)
    torch.library.register_autograd("genlab::layer_norm_act", _gradient, setup_context=_setup)
    torch.library.register_autograd("genlab::layer_norm_act_backward", _second_gradient, setup_context=_second_setup)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _fake(input: Tensor, normalized_dims: int, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows = 1
    for size in input.shape[: input.dim() - normalized_dims]:
        rows = rows * size
    statistics = input.new_empty((rows,), dtype=_wide(input.dtype))
    return input.new_empty(input.shape), statistics, torch.empty_like(statistics)


def _backward_fake(
    grad_output: Tensor,
    input: Tensor,
    normalized_dims: int,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: str | None,
    negative_slope: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = input.shape
    parameter = shape[input.dim() - normalized_dims :]
    return (
        input.new_empty(shape if wanted[0] else (0,)),
        weight.new_empty(parameter) if wanted[1] else input.new_empty((0,)),
        bias.new_empty(parameter) if wanted[2] else input.new_empty((0,)),
        input.new_empty(shape if wanted[3] else (0,)),
    )


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    input, normalized_dims, weight, bias, residual, *attributes = inputs
    ctx.save_for_backward(input, output[1], output[2], weight, bias, residual)
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.normalized_dims, ctx.attributes = normalized_dims, attributes


def _gradient(ctx: Any, grad_output: Tensor, *_: Any) -> tuple:
    input, mean, rstd, weight, bias, residual = ctx.saved_tensors
    needed = ctx.needs_input_grad
    wanted = [needed[0], needed[2], needed[3], needed[4]]
    found = torch.ops.genlab.layer_norm_act_backward(
        grad_output, input, ctx.normalized_dims, mean, rstd, weight, bias, residual, *ctx.attributes, wanted
    )
    given = [gradient if asked else None for gradient, asked in zip(found, wanted, strict=True)]
    return (given[0], None, *given[1:], None, None, None)


def _second_setup(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    grad_output, input, normalized_dims, _, _, weight, bias, residual, *attributes, wanted = inputs
    ctx.save_for_backward(grad_output, input, weight, bias, residual)
    ctx.normalized_dims, ctx.attributes, ctx.wanted = normalized_dims, attributes, tuple(wanted)
    ctx.set_materialize_grads(False)


def _second_gradient(ctx: Any, *grads: Tensor | None) -> tuple:
    again = torch.is_grad_enabled()
    grad_output, *operands = (_leaf(tensor, again) for tensor in ctx.saved_tensors)
    eps, activation, negative_slope = ctx.attributes
    with torch.enable_grad():
        input, weight, bias, residual = operands
        dtype = _wide(input.dtype)
        scale, shift = (None if t is None else t.to(dtype) for t in (weight, bias))
        output = F.layer_norm(input.to(dtype), input.shape[input.dim() - ctx.normalized_dims :], scale, shift, eps)
        output = output if residual is None else output + residual.to(dtype)
        output = act.apply(output, activation, negative_slope).to(input.dtype)
        pairs = [
            (operand, grad)
            for operand, grad, wanted in zip(operands, grads, ctx.wanted, strict=True)
            if wanted and grad is not None
        ]
        if not pairs:
            return (None,) * 12
        first = torch.autograd.grad(output, [operand for operand, _ in pairs], grad_output, create_graph=True)
        of = [t for t in (grad_output, *operands) if t is not None]
        found = torch.autograd.grad(first, of, [grad for _, grad in pairs], create_graph=again, allow_unused=True)
    second = iter(found)
    given = [None if t is None else next(second) for t in (grad_output, *operands)]
    return (given[0], given[1], None, None, None, *given[2:], None, None, None, None)


def _leaf(tensor: Tensor | None, again: bool) -> Tensor | None:
    """The tensor itself where its graph is wanted (a third derivative), else cut from it."""
    if tensor is None or (again and tensor.requires_grad):
        return tensor
    return tensor.detach().requires_grad_()
