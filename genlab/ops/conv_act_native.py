"""What PyTorch must know of conv2d_act_backward, the gradients of a convolution that ends in an activation.

The op reads the gradient times the activation's derivative as it loads (csrc/ops/conv2d_act.cpp). With m that product,
its results are bilinear in m and the input, or m and the weight; the gradients of such a pair are again what the op
computes, from the cotangents in the places of input and weight. `register` runs once, when the library is loaded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genlab.ops import activation as act
from genlab.ops import conv_native, shapes

OP = "conv2d_act_backward"


def register() -> None:
    """Registers the op's fake and gradient with the dispatcher."""
    torch.library.register_fake(f"genlab::{OP}", _fake)
    torch.library.register_autograd(f"genlab::{OP}", _gradient, setup_context=_setup)


def _fake(
    grad_output, output, input, weight, stride, padding, dilation, groups, padding_mode, transposed, activation,
    negative_slope, wanted,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    if grad_output.shape != output.shape:
        raise ValueError(
            f"{OP}: expected grad_output of the output's shape {shapes.shape_text(output)}, "
            f"got {shapes.shape_text(grad_output)}"
        )
    found = [input.new_empty((0,)) for _ in wanted]
    for place, like in ((0, input), (1, weight)):
        if wanted[place]:
            found[place] = conv_native.empty_like_layout(like.shape, like)
    if wanted[2]:
        found[2] = input.new_empty((output.shape[1],))
    return tuple(found)


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    grad_output, kept, input, weight, *attributes, transposed, activation, negative_slope, wanted = inputs
    ctx.save_for_backward(grad_output, kept, input, weight)
    ctx.attributes, ctx.transposed = tuple(attributes), transposed
    ctx.activation, ctx.negative_slope, ctx.wanted = activation, negative_slope, tuple(wanted)
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, for_input: Tensor | None, for_weight: Tensor | None, for_bias: Tensor | None) -> tuple:
    grad_output, kept, input, weight = ctx.saved_tensors
    cotangents = (for_input, for_weight, for_bias)
    for_input, for_weight, for_bias = (c if w else None for c, w in zip(cotangents, ctx.wanted, strict=True))
    needs = ctx.needs_input_grad
    gradients: list[Tensor | None] = [None] * 13
    with torch.autocast(grad_output.device.type, enabled=False):
        if needs[0] or needs[1]:
            inner = _of_product(ctx, grad_output, input, weight, for_input, for_weight, for_bias)
            if inner is not None and needs[0]:
                gradients[0] = act.gradient(inner, kept, ctx.activation, ctx.negative_slope)
            if inner is not None and needs[1]:
                gradients[1] = act.gradient_of_output(inner * grad_output, kept, ctx.activation)
        wanted = [needs[2] and for_weight is not None, needs[3] and for_input is not None, False]
        if any(wanted):
            places = (input if for_input is None else for_input, weight if for_weight is None else for_weight)
            pair = torch.ops.genlab.conv2d_act_backward(
                grad_output, kept, *places, *ctx.attributes, ctx.transposed, ctx.activation, ctx.negative_slope, wanted
            )
            gradients[2] = pair[0] if wanted[0] else None
            gradients[3] = pair[1] if wanted[1] else None
    return tuple(gradients)


def _of_product(
    ctx: Any,
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    for_input: Tensor | None,
    for_weight: Tensor | None,
    for_bias: Tensor | None,
) -> Tensor | None:
    """The gradient of m, of grad_output's shape: where input and weight meet the cotangents, the convolution itself."""
    total = None
    for x, w in ((for_input, weight), (input, for_weight)):
        if x is None or w is None:
            continue
        if ctx.transposed:
            term = torch.ops.genlab.conv2d_backward_input(x, w, grad_output.shape[2:], *ctx.attributes)
        else:
            term = conv_native.forward(x, w, None, grad_output.shape[2:], ctx.attributes)
        total = term if total is None else total + term
    if for_bias is not None:
        term = for_bias.reshape(1, -1, 1, 1).expand_as(grad_output)
        total = term if total is None else total + term
    return total
