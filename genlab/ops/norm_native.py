"""What PyTorch must know of the native batch and instance normalisation beside their kernels.

`norm_act` differentiates into `norm_act_backward` in C++ (csrc/ops/norm_act_autograd.cpp); the gradient of that
is here, by differentiating the definition in torch ops. `register` runs once, when the library is loaded.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import activation as act
from genlab.ops import collective, norm_shapes


def register() -> None:
    """Registers the fakes of every op and the gradient of norm_act_backward with the dispatcher."""
    fakes = {
        "norm_statistics": _statistics_fake,
        "norm_act": _norm_act_fake,
        "norm_act_backward": _backward_fake,
        "norm_act_backward_sums": _sums_fake,
        "norm_act_backward_input": _backward_input_fake,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"genlab::{name}", fake)
    torch.library.register_autograd("genlab::norm_act_backward", _second_gradient, setup_context=_second_setup)


# -- shapes ------------------------------------------------------------------------------------------------------------


def _like(input: Tensor, reflect_pad: int = 0) -> Tensor:
    """The layout rule of csrc/ops/norm_act.cpp: channels_last where the input is that and not contiguous as well."""
    chosen = torch.contiguous_format
    if not input.is_contiguous():
        for dim, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if input.dim() == dim and input.is_contiguous(memory_format=layout):
                chosen = layout
    sizes = [size + 2 * reflect_pad if i >= 2 else size for i, size in enumerate(input.shape)]
    return torch.empty(sizes, dtype=input.dtype, device=input.device, memory_format=chosen)


def _accumulate(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _statistics_fake(
    input: Tensor, per_sample: bool, running_mean: Tensor | None, running_var: Tensor | None, momentum: float
) -> tuple[Tensor, Tensor]:
    sizes = input.shape[:2] if per_sample else input.shape[1:2]
    mean = input.new_empty(sizes, dtype=_accumulate(input.dtype))
    return mean, torch.empty_like(mean)


def _norm_act_fake(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: str | None,
    negative_slope: float,
    statistics_of_input: bool,
    reflect_pad: int = 0,
) -> Tensor:
    return _like(input, reflect_pad)


def _backward_fake(
    grad_output: Tensor,
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: str | None,
    negative_slope: float,
    statistics_of_input: bool,
    wanted: list[bool],
    reflect_pad: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    nothing = input.new_empty((0,))
    return (
        _like(input) if wanted[0] else nothing,
        torch.empty_like(weight, memory_format=torch.contiguous_format) if wanted[1] else nothing.clone(),
        torch.empty_like(bias, memory_format=torch.contiguous_format) if wanted[2] else nothing.clone(),
        _like(input) if wanted[3] else nothing.clone(),
    )


def _sums_fake(grad_output: Tensor, input: Tensor, mean: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    sums = input.new_empty(mean.shape, dtype=_accumulate(input.dtype))
    return sums, torch.empty_like(sums)


def _backward_input_fake(
    grad_output: Tensor,
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    sum_grad: Tensor,
    sum_grad_normalised: Tensor,
    inverse_count: float,
    eps: float,
    activation: str | None,
    negative_slope: float,
    want_residual: bool,
    reflect_pad: int = 0,
) -> tuple[Tensor, Tensor]:
    return _like(input), _like(input) if want_residual else input.new_empty((0,))


# -- the gradient of the gradient --------------------------------------------------------------------------------------


def _second_setup(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.attributes = inputs[7:11]
    ctx.wanted, ctx.reflect_pad = tuple(inputs[11]), inputs[12]
    ctx.set_materialize_grads(False)


def _second_gradient(ctx: Any, *grads: Tensor | None) -> tuple:
    again = torch.is_grad_enabled()
    saved = [_leaf(t, again) for t in ctx.saved_tensors]
    grad_output, input, mean, var, weight, bias, residual = saved
    eps, activation, negative_slope, statistics_of_input = ctx.attributes
    with torch.enable_grad():
        statistics = None if statistics_of_input else (mean, var)
        per_sample = mean.dim() == 2
        output = definition(
            input, weight, bias, residual, statistics, per_sample, eps, activation, negative_slope, ctx.reflect_pad
        )
        operands = (input, weight, bias, residual)
        pairs = [
            (operand, grad)
            for operand, grad, wanted in zip(operands, grads, ctx.wanted, strict=True)
            if wanted and grad is not None
        ]
        if not pairs:
            return (None,) * 13
        first = torch.autograd.grad(output, [operand for operand, _ in pairs], grad_output, create_graph=True)
        of = [t for t in (grad_output, *operands) if t is not None]
        second = iter(
            torch.autograd.grad(first, of, [grad for _, grad in pairs], create_graph=again, allow_unused=True)
        )
    found = [None if t is None else next(second) for t in (grad_output, *operands)]
    return (found[0], found[1], None, None, *found[2:], *(None,) * 6)


def _leaf(tensor: Tensor | None, again: bool) -> Tensor | None:
    """The tensor itself where its graph is wanted (a third derivative), else cut from it; either way it can be
    differentiated with respect to."""
    if tensor is None or (again and tensor.requires_grad):
        return tensor
    return tensor.detach().requires_grad_()


def definition(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    statistics: tuple[Tensor, Tensor] | None,
    per_sample: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
    reflect_pad: int = 0,
) -> Tensor:
    """activation(normalised input * weight + bias + residual) in torch ops, computed in float32 or wider, then padded.

    Args:
        statistics: constant (mean, var); None takes them from the input.
        per_sample: statistics of each sample and channel.
    """
    dtype = _accumulate(input.dtype)
    x = input.to(dtype)
    scale, shift = (None if t is None else t.to(dtype) for t in (weight, bias))
    if statistics is not None:
        output = F.batch_norm(x, *(t.detach() for t in statistics), scale, shift, False, 0.0, eps)
    elif per_sample:
        output = norm_shapes.torch_instance_norm(x, None, None, scale, shift, True, 0.0, eps)
    else:
        output = F.batch_norm(x, None, None, scale, shift, True, 0.0, eps)
    output = output if residual is None else output + residual.to(dtype)
    return norm_shapes.pad(act.apply(output, activation, negative_slope), reflect_pad).to(input.dtype)


# -- statistics of a group of processes --------------------------------------------------------------------------------


def merged_statistics(input: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance over the group's processes, and the number of elements of each, a float64 scalar.

    One collective of (count, means, variances) in float64. The variances of the processes and the spread of their means
    are merged apart: E[x^2] - E[x]^2 would lose the digits of a variance that is small beside the mean. Nothing is
    copied to or from the host: a GPU need not wait, and a CUDA graph can hold the call.
    """
    count = input.numel() // input.shape[1]
    if count > 0:
        mean, var = torch.ops.genlab.norm_statistics(input, False, None, None, 0.0)
    else:  # this process has no samples, yet the others wait for its call
        mean = var = input.new_zeros(input.shape[1], dtype=_accumulate(input.dtype))
    mine = torch.cat((torch.full((1,), count, dtype=torch.float64, device=input.device), mean.double(), var.double()))
    everyone = [torch.empty_like(mine) for _ in range(group.size())]
    dist.all_gather(everyone, mine, group=group)
    table = torch.stack(everyone)
    counts, (means, variances) = table[:, :1], table[:, 1:].chunk(2, dim=1)
    total = counts.sum()
    centre = (counts * means).sum(0) / total
    spread = (counts * (variances + (means - centre) ** 2)).sum(0) / total
    return centre.to(mean.dtype), spread.to(var.dtype), total


class SynchronisedNormAct(torch.autograd.Function):
    """norm_act with the statistics of a group; its backward sums over the group too. Every process must call both."""

    @staticmethod
    def forward(
        ctx: Any, input, weight, bias, residual, mean, var, count, eps, activation, negative_slope, reflect_pad, group,
        again,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(input, weight, bias, residual, mean, var, count)
        ctx.attributes = (eps, activation, negative_slope)
        ctx.reflect_pad, ctx.group, ctx.again = reflect_pad, group, again
        return torch.ops.genlab.norm_act(
            input, mean, var, weight, bias, residual, eps, activation, negative_slope, False, reflect_pad
        )

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple:
        input, weight, bias, residual, mean, var, count = ctx.saved_tensors
        operands = (input, weight, bias, residual)
        if torch.is_grad_enabled():  # the gradient will be differentiated: the definition, whose collectives are too
            wanted = [t for t, needed in zip(operands, ctx.needs_input_grad, strict=False) if needed]
            output = ctx.again(*operands)
            found = iter(torch.autograd.grad(output, wanted, grad_output, create_graph=True))
            gradients = [next(found) if needed else None for needed in ctx.needs_input_grad[:4]]
            return (*gradients, *(None,) * 9)
        shared = (grad_output, input, mean, var, weight, bias, residual)
        sums = torch.ops.genlab.norm_act_backward_sums(*shared, *ctx.attributes, ctx.reflect_pad)
        # Means instead of sums and an inverse count of 1: the count stays on the device.
        means = (collective.all_reduce_sum(torch.cat(sums), ctx.group) / count).to(sums[0].dtype)
        grad_input, grad_residual = torch.ops.genlab.norm_act_backward_input(
            *shared, *means.chunk(2), 1.0, *ctx.attributes, ctx.needs_input_grad[3], ctx.reflect_pad
        )
        return (
            grad_input if ctx.needs_input_grad[0] else None,
            sums[1].to(weight.dtype) if ctx.needs_input_grad[1] else None,
            sums[0].to(bias.dtype) if ctx.needs_input_grad[2] else None,
            grad_residual if ctx.needs_input_grad[3] else None,
            *(None,) * 9,
        )
