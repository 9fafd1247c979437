"""What PyTorch must know of the native convolutions beside their kernels: shapes without data, and gradients.

conv2d, its input gradient and its weight gradient are one bilinear form seen from three sides, so the gradient of each
is made of the other two and any order of differentiation works. `register` runs once, when the library is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genlab.ops import activation as act
from genlab.ops import shapes
from genlab.ops.shapes import Pair

OPS = ("conv2d", "conv2d_backward_input", "conv2d_backward_weight", "conv_transpose2d")


def register() -> None:
    """Registers fakes and gradients of every op in `OPS` with the dispatcher."""
    fakes = (_conv2d_fake, _backward_input_fake, _backward_weight_fake, _conv_transpose2d_fake)
    gradients = (
        (_conv2d_setup, _conv2d_gradient),
        (_backward_input_setup, _backward_input_gradient),
        (_backward_weight_setup, _backward_weight_gradient),
        (_conv_transpose2d_setup, _conv_transpose2d_gradient),
    )
    for name, fake, (setup, gradient) in zip(OPS, fakes, gradients, strict=True):
        torch.library.register_fake(f"genlab::{name}", fake)
        torch.library.register_autograd(f"genlab::{name}", gradient, setup_context=setup)


def call(
    op: Callable[..., Tensor],
    tensors: tuple[Tensor, Tensor, Tensor | None],
    attributes: tuple,
    activation: str | None,
    negative_slope: float,
) -> Tensor:
    """`op` of input, weight, bias and its attributes, with the activation inside it where that costs no more.

    A gradient of gelu and silu needs the value before the activation: fused, it would be convolved a second time.
    """
    needs_gradient = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if needs_gradient and not act.takes_gradient_from_output(activation):
        return act.apply(op(*tensors, *attributes, None, negative_slope), activation, negative_slope)
    return op(*tensors, *attributes, activation, negative_slope)


# -- shapes ------------------------------------------------------------------------------------------------------------


def empty_like_layout(sizes: Sequence[int], like: Tensor) -> Tensor:
    """The layout rule of csrc/ops/conv2d.cpp: channels_last where `like` is that and not contiguous as well."""
    return _empty_in(is_channels_last(like), sizes, like)


def _empty_in(channels_last: bool, sizes: Sequence[int], like: Tensor) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(sizes, dtype=like.dtype, device=like.device, memory_format=memory_format)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether the channels of a pixel lie together and those of a plane do not."""
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _check(op: str, first_name: str, first: Tensor, second_name: str, second: Tensor) -> None:
    for name, tensor in ((first_name, first), (second_name, second)):
        if tensor.dim() != 4:
            raise ValueError(f"{op}: expected a 4-dimensional {name}, got {shapes.shape_text(tensor)}")
    if first.dtype != second.dtype:
        raise TypeError(f"{op}: expected {second_name} of the dtype of {first_name} {first.dtype}, got {second.dtype}")


def _conv2d_fake(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    padding_mode: str,
    activation: str | None,
    negative_slope: float,
) -> Tensor:
    _check("conv2d", "input", input, "weight", weight)
    shapes.check_conv2d_channels("conv2d", input, weight, bias, groups)
    size = shapes.conv2d_output_size("conv2d", input, weight, stride, padding, (0, 0), dilation, padding_mode)
    return empty_like_layout((input.shape[0], weight.shape[0], *size), input)


def _backward_input_fake(
    grad_output: Tensor,
    weight: Tensor,
    input_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    padding_mode: str,
) -> Tensor:
    _check("conv2d_backward_input", "grad_output", grad_output, "weight", weight)
    return empty_like_layout((grad_output.shape[0], weight.shape[1] * groups, *input_size), grad_output)


def _backward_weight_fake(
    grad_output: Tensor,
    input: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    padding_mode: str,
    with_bias: bool,
    channels_last: bool | None = None,
) -> tuple[Tensor, Tensor]:
    _check("conv2d_backward_weight", "grad_output", grad_output, "input", input)
    c_out = grad_output.shape[1]
    layout = is_channels_last(input) if channels_last is None else channels_last
    grad_weight = _empty_in(layout, (c_out, input.shape[1] // groups, *kernel_size), input)
    return grad_weight, input.new_empty((c_out if with_bias else 0,))


def _conv_transpose2d_fake(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    groups: int,
    dilation: Pair,
    activation: str | None,
    negative_slope: float,
) -> Tensor:
    op = "conv_transpose2d"
    _check(op, "input", input, "weight", weight)
    shapes.check_conv_transpose2d_channels(op, input, weight, bias, groups)
    size = shapes.conv_transpose2d_output_size(op, input, weight, stride, padding, output_padding, dilation)
    return empty_like_layout((input.shape[0], weight.shape[1] * groups, *size), input)


# -- gradients ---------------------------------------------------------------------------------------------------------
# Inside a gradient all tensors have one dtype already; autocast would cast some of them a second time.


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, size: Sequence[int], attributes: tuple) -> Tensor:
    """conv2d without activation, cropped to `size` (height, width).

    The crop matters for a transposed convolution whose output_padding reaches past a stride (dilation allows it): its
    input is then smaller than the convolution of its output.
    """
    output = torch.ops.genlab.conv2d(input, weight, bias, *attributes, None, 0.0)
    if output.shape[2] != size[0] or output.shape[3] != size[1]:
        output = output[:, :, : size[0], : size[1]]
    return output


def _conv2d_setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    input, weight, bias, stride, padding, dilation, groups, padding_mode, activation, negative_slope = inputs
    kept = output if activation is not None and act.takes_gradient_from_output(activation) else None
    ctx.save_for_backward(input, weight, bias, kept)
    ctx.attributes = (stride, padding, dilation, groups, padding_mode)
    ctx.activation, ctx.negative_slope = activation, negative_slope


def _conv2d_gradient(ctx: Any, grad_output: Tensor) -> tuple:
    input, weight, bias, kept = ctx.saved_tensors
    nothing = (None,) * 7
    with torch.autocast(grad_output.device.type, enabled=False):
        if kept is not None:
            return (*_act_gradients(ctx, grad_output, kept, input, weight, transposed=False), *nothing)
        if ctx.activation is not None:
            before = torch.ops.genlab.conv2d(input, weight, bias, *ctx.attributes, None, 0.0)
            grad_output = act.gradient(grad_output, before, ctx.activation, ctx.negative_slope)
        return (*_conv2d_gradients(ctx, grad_output, input, weight), *nothing)


def _act_gradients(
    ctx: Any, grad_output: Tensor, output: Tensor, input: Tensor, weight: Tensor, *, transposed: bool
) -> tuple:
    """Gradients of input, weight and bias through an activation whose derivative follows from its output."""
    wanted = ctx.needs_input_grad[:3]
    found = torch.ops.genlab.conv2d_act_backward(
        grad_output, output, input, weight, *ctx.attributes, transposed, ctx.activation, ctx.negative_slope, wanted
    )
    return tuple(gradient if needed else None for gradient, needed in zip(found, wanted, strict=True))


def _conv2d_gradients(ctx: Any, grad_output: Tensor, input: Tensor, weight: Tensor) -> tuple:
    """Gradients of input, weight and bias: only those that are asked for are computed."""
    wants_input, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    grad_input = grad_weight = grad_bias = None
    if wants_input:
        size = input.shape[2:]
        grad_input = torch.ops.genlab.conv2d_backward_input(grad_output, weight, size, *ctx.attributes)
    if wants_weight:
        kernel = weight.shape[2:]
        grad_weight, grad_bias = torch.ops.genlab.conv2d_backward_weight(
            grad_output, input, kernel, *ctx.attributes, wants_bias, is_channels_last(weight)
        )
    elif wants_bias:
        grad_bias = grad_output.sum((0, 2, 3))
    return grad_input, grad_weight, grad_bias if wants_bias else None


def _backward_input_setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    grad_output, weight, _, *attributes = inputs
    ctx.save_for_backward(grad_output, weight)
    ctx.attributes = tuple(attributes)


def _backward_input_gradient(ctx: Any, grad: Tensor) -> tuple:
    grad_output, weight = ctx.saved_tensors
    for_grad_output = for_weight = None
    with torch.autocast(grad.device.type, enabled=False):
        if ctx.needs_input_grad[0]:
            for_grad_output = forward(grad, weight, None, grad_output.shape[2:], ctx.attributes)
        if ctx.needs_input_grad[1]:
            kernel = weight.shape[2:]
            for_weight, _ = torch.ops.genlab.conv2d_backward_weight(
                grad_output, grad, kernel, *ctx.attributes, False, is_channels_last(weight)
            )
    return (for_grad_output, for_weight, *(None,) * 6)


def _backward_weight_setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    grad_output, input, _, *attributes, with_bias, _ = inputs
    ctx.save_for_backward(grad_output, input)
    ctx.attributes, ctx.with_bias = tuple(attributes), with_bias
    ctx.set_materialize_grads(False)


def _backward_weight_gradient(ctx: Any, grad_weight: Tensor | None, grad_bias: Tensor | None) -> tuple:
    grad_output, input = ctx.saved_tensors
    bias = grad_bias if ctx.with_bias else None
    for_grad_output = for_input = None
    with torch.autocast(input.device.type, enabled=False):
        if grad_weight is not None:
            if ctx.needs_input_grad[0]:
                for_grad_output = forward(input, grad_weight, bias, grad_output.shape[2:], ctx.attributes)
            if ctx.needs_input_grad[1]:
                size = input.shape[2:]
                for_input = torch.ops.genlab.conv2d_backward_input(grad_output, grad_weight, size, *ctx.attributes)
        elif bias is not None and ctx.needs_input_grad[0]:
            for_grad_output = bias.reshape(1, -1, 1, 1).expand_as(grad_output)
    return (for_grad_output, for_input, *(None,) * 8)


def _conv_transpose2d_setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    input, weight, bias, stride, padding, output_padding, groups, dilation, activation, negative_slope = inputs
    kept = output if activation is not None and act.takes_gradient_from_output(activation) else None
    ctx.save_for_backward(input, weight, bias, kept)
    ctx.attributes = (stride, padding, dilation, groups, "zeros")
    ctx.output_padding = output_padding
    ctx.activation, ctx.negative_slope = activation, negative_slope


def _conv_transpose2d_gradient(ctx: Any, grad_output: Tensor) -> tuple:
    input, weight, bias, kept = ctx.saved_tensors
    grad_input = grad_weight = grad_bias = None
    with torch.autocast(grad_output.device.type, enabled=False):
        if kept is not None:
            return (*_act_gradients(ctx, grad_output, kept, input, weight, transposed=True), *(None,) * 7)
        if ctx.activation is not None:
            stride, padding, dilation, groups, _ = ctx.attributes
            before = torch.ops.genlab.conv_transpose2d(
                input, weight, bias, stride, padding, ctx.output_padding, groups, dilation, None, 0.0
            )
            grad_output = act.gradient(grad_output, before, ctx.activation, ctx.negative_slope)
        if ctx.needs_input_grad[0]:
            grad_input = forward(grad_output, weight, None, input.shape[2:], ctx.attributes)
        if ctx.needs_input_grad[1]:
            kernel = weight.shape[2:]
            grad_weight, _ = torch.ops.genlab.conv2d_backward_weight(
                input, grad_output, kernel, *ctx.attributes, False, is_channels_last(weight)
            )
        if ctx.needs_input_grad[2]:
            grad_bias = grad_output.sum((0, 2, 3))
    return (grad_input, grad_weight, grad_bias, *(None,) * 7)
