"""What PyTorch must know of the native norm_conv2d beside its kernels: shapes without data, and gradients.

The first gradient is the op norm_conv2d_backward; the gradient of that is taken by differentiating the definition, made
of torch's arithmetic and the convolutions. `register` runs once, when the library is loaded.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import activation as act
from genlab.ops import conv_native, shapes

# Places of norm_conv2d's differentiable arguments, and how many arguments it and its gradient have.
OPERANDS = (0, 1, 2, 3, 4, 8, 9)
ARGUMENTS, BACKWARD_ARGUMENTS = 19, 23


def register() -> None:
    """Registers the fakes and gradients of norm_conv2d and norm_conv2d_backward with the dispatcher."""
    torch.library.register_fake("genlab::norm_conv2d", _fake)
    torch.library.register_fake("genlab::norm_conv2d_backward", _backward_fake)
    torch.library.register_autograd("genlab::norm_conv2d", _gradient, setup_context=_setup)
    torch.library.register_autograd("genlab::norm_conv2d_backward", _second_gradient, setup_context=_second_setup)


# -- shapes ------------------------------------------------------------------------------------------------------------


def _accumulate(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _fake(
    input, mean, var, norm_weight, norm_bias, eps, norm_activation, norm_slope, weight, bias, stride, padding,
    output_padding, dilation, groups, padding_mode, transposed, native_convolution, statistics,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    op = "norm_conv2d"
    if transposed:
        shapes.check_conv_transpose2d_channels(op, input, weight, bias, groups)
        channels = weight.shape[1] * groups
        size = shapes.conv_transpose2d_output_size(op, input, weight, stride, padding, output_padding, dilation)
    else:
        shapes.check_conv2d_channels(op, input, weight, bias, groups)
        channels = weight.shape[0]
        size = shapes.conv2d_output_size(op, input, weight, stride, padding, (0, 0), dilation, padding_mode)
    found = input.new_empty((channels if statistics else 0,), dtype=_accumulate(input))
    return conv_native.empty_like_layout((input.shape[0], channels, *size), input), found, torch.empty_like(found)


def _backward_fake(
    grad_output, grad_mean, grad_var, output, output_mean, input, mean, var, norm_weight, norm_bias, eps,
    norm_activation, norm_slope, weight, stride, padding, output_padding, dilation, groups, padding_mode, transposed,
    native_convolution, wanted,
) -> tuple[Tensor, ...]:  # fmt: skip
    bias = grad_output.new_empty((grad_output.shape[1],))
    channels_last = conv_native.is_channels_last(input)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    found = []
    for like, needed in zip((input, mean, var, norm_weight, norm_bias, weight, bias), wanted, strict=True):
        if not needed or like is None:
            found.append(input.new_empty((0,)))
        elif like is input:
            found.append(torch.empty_like(input, memory_format=layout))
        elif like is weight:
            own = torch.channels_last if conv_native.is_channels_last(weight) else torch.contiguous_format
            found.append(torch.empty_like(weight, memory_format=own))
        else:
            found.append(torch.empty_like(like, memory_format=torch.contiguous_format))
    return tuple(found)


# -- gradients ---------------------------------------------------------------------------------------------------------


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    input, mean, var, norm_weight, norm_bias, *_ = inputs
    weight, statistics = inputs[8], inputs[18]
    kept = output[:2] if statistics else (None, None)
    ctx.save_for_backward(input, mean, var, norm_weight, norm_bias, weight, *kept)
    ctx.before, ctx.rest = inputs[5:8], inputs[10:18]
    ctx.statistics = statistics
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad_output: Tensor | None, grad_mean: Tensor | None, grad_var: Tensor | None) -> tuple:
    input, mean, var, norm_weight, norm_bias, weight, output, output_mean = ctx.saved_tensors
    gradients: list[Tensor | None] = [None] * ARGUMENTS
    if not ctx.statistics:
        grad_mean = grad_var = None
    if grad_output is None and grad_mean is None and grad_var is None:
        return tuple(gradients)
    if grad_output is None:
        grad_output = torch.zeros_like(output)
    wanted = [ctx.needs_input_grad[place] for place in OPERANDS]
    with torch.autocast(input.device.type, enabled=False):
        found = torch.ops.genlab.norm_conv2d_backward(
            grad_output, grad_mean, grad_var, output, output_mean, input, mean, var, norm_weight, norm_bias,
            *ctx.before, weight, *ctx.rest, wanted,
        )  # fmt: skip
    for place, needed, gradient in zip(OPERANDS, wanted, found, strict=True):
        gradients[place] = gradient if needed else None
    return tuple(gradients)


def _second_setup(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    grad_output, grad_mean, grad_var, _, _, *tensors = inputs[:10]
    ctx.save_for_backward(grad_output, grad_mean, grad_var, *tensors, inputs[13])
    ctx.before, ctx.rest, ctx.wanted = inputs[10:13], inputs[14:22], tuple(inputs[22])
    ctx.set_materialize_grads(False)


def _second_gradient(ctx: Any, *grads: Tensor | None) -> tuple:
    again = torch.is_grad_enabled()
    saved = [_leaf(t, again) for t in ctx.saved_tensors]
    outer, operands = saved[:3], saved[3:]
    gradients: list[Tensor | None] = [None] * BACKWARD_ARGUMENTS
    with torch.enable_grad(), torch.autocast(operands[0].device.type, enabled=False):
        channels = outer[0].shape[1]
        bias = outer[0].new_zeros(channels).requires_grad_()
        output, mean, var = definition(*operands[:5], *ctx.before, operands[5], bias, *ctx.rest)
        given = [(y, g) for y, g in zip((output, mean, var), outer, strict=True) if g is not None]
        pairs = [
            (operand, grad)
            for operand, grad, wanted in zip((*operands, bias), grads, ctx.wanted, strict=True)
            if wanted and grad is not None and operand is not None
        ]
        if not pairs:
            return tuple(gradients)
        first = torch.autograd.grad(
            [y for y, _ in given], [operand for operand, _ in pairs], [g for _, g in given], create_graph=True,
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        places = (0, 1, 2, 5, 6, 7, 8, 9, 13)
        of = [(place, t) for place, t in zip(places, (*outer, *operands), strict=True) if t is not None]
        second = torch.autograd.grad(
            first, [t for _, t in of], [grad for _, grad in pairs], create_graph=again, allow_unused=True
        )
    for (place, _), gradient in zip(of, second, strict=True):
        gradients[place] = gradient
    return tuple(gradients)


def _leaf(tensor: Tensor | None, again: bool) -> Tensor | None:
    """The tensor itself where its graph is wanted (a third derivative), else cut from it."""
    if tensor is None or (again and tensor.requires_grad):
        return tensor
    return tensor.detach().requires_grad_()


def definition(
    input, mean, var, norm_weight, norm_bias, eps, norm_activation, norm_slope, weight, bias, stride, padding,
    output_padding, dilation, groups, padding_mode, transposed, native_convolution,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(output, mean, var) in torch's arithmetic and either convolution, all of which differentiate in any order."""
    dtype, sizes, x = _accumulate(input), (1, -1, 1, 1), input
    if mean is not None:
        scale = torch.rsqrt(var.to(dtype) + eps)
        scale = scale if norm_weight is None else scale * norm_weight.to(dtype)
        x = (input.to(dtype) - mean.to(dtype).reshape(sizes)) * scale.reshape(sizes)
        x = x if norm_bias is None else x + norm_bias.to(dtype).reshape(sizes)
        x = act.apply(x, norm_activation, norm_slope).to(input.dtype)
    if not native_convolution:
        if padding_mode == "reflect":
            x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]), mode="reflect")
            padding = (0, 0)
        output = torch.ops.aten.convolution(
            x, weight, bias, stride, padding, dilation, transposed, output_padding, groups
        )
    elif transposed:
        output = torch.ops.genlab.conv_transpose2d(
            x, weight, bias, stride, padding, output_padding, groups, dilation, None, 0.0
        )
    else:
        output = torch.ops.genlab.conv2d(x, weight, bias, stride, padding, dilation, groups, padding_mode, None, 0.0)
    wide = output.to(dtype)
    mean = wide.mean((0, 2, 3))
    centred = wide - mean.reshape(sizes)
    return output, mean, (centred * centred).mean((0, 2, 3))
