"""Convolutions by direction: torch's where oneDNN is at the CPU's peak, native ones where it is not.

Those are images of few channels in the transposed direction (a generator's last layer forward, a discriminator's first
one backward), in float32 also their weight's gradient, and the bfloat16 weight's gradient of small images
(csrc/cpu/few_channels.h, csrc/cpu/conv2d_bf16.h). `auto` takes this where `tuning.mixed_wins` and
`tuning.few_channels_wins` say so.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import activation as act
from genlab.ops import tuning
from genlab.ops.shapes import Pair


class _MixedConvolution(torch.autograd.Function):
    """Made of ops that differentiate again, so its backward does as well."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair,
        transposed: bool, output_padding: Pair, activation: str | None, negative_slope: float,
    ) -> Tensor:  # fmt: skip
        ctx.attributes = (stride, padding, dilation)
        ctx.transposed, ctx.output_padding = transposed, output_padding
        ctx.activation, ctx.negative_slope = activation, negative_slope
        if transposed and tuning.spread_wins(input, weight, dilation, weight.dtype):
            attributes = (stride, padding, output_padding, 1, dilation, None, 0.0)
            output = torch.ops.genlab.conv_transpose2d(input, weight, bias, *attributes)
        elif transposed:
            output = F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, 1, dilation)
        else:
            output = F.conv2d(input, weight, bias, stride, padding, dilation)
        output = act.apply_(output, activation, negative_slope)
        ctx.grid = tuple((input if transposed else output).shape[2:])
        ctx.save_for_backward(input, weight, None if activation is None else output)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple:
        input, weight, output = ctx.saved_tensors
        wants_input, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_input = grad_weight = grad_bias = None
        with torch.autocast(grad_output.device.type, enabled=False):
            spreads = not ctx.transposed and tuning.spread_wins(grad_output, weight, ctx.attributes[2], weight.dtype)
            packs = tuning.weight_gradient_wins(weight, ctx.grid, weight.dtype)
            if weight.dtype == torch.float32:
                packs = packs and wants_bias and output is not None and not ctx.transposed
            if output is not None:
                # Kernels of this library alone: each takes the derivative as it reads the gradient, pixel by pixel.
                by_pixels = output.is_contiguous(memory_format=torch.channels_last)
                if by_pixels and not ctx.transposed and wants_input <= spreads and wants_weight <= packs:
                    wanted = ctx.needs_input_grad[:3]
                    found = torch.ops.genlab.conv2d_act_backward(
                        grad_output, output, input, weight, *ctx.attributes, 1, "zeros", False, ctx.activation,
                        ctx.negative_slope, wanted,
                    )  # fmt: skip
                    return (*(g if w else None for g, w in zip(found, wanted, strict=True)), *(None,) * 7)
                grad_output = act.gradient(grad_output, output, ctx.activation, ctx.negative_slope)
            # The kernels take whole pixels; a gradient that arrives in another order costs a copy.
            pixels = grad_output.contiguous(memory_format=torch.channels_last)
            if wants_input and spreads:
                grad_input = torch.ops.genlab.conv2d_backward_input(
                    pixels, weight, input.shape[2:], *ctx.attributes, 1, "zeros"
                )
            if wants_weight and packs:
                ends = (input, pixels) if ctx.transposed else (pixels, input)
                with_bias = wants_bias and not ctx.transposed
                grad_weight, sums = torch.ops.genlab.conv2d_backward_weight(
                    *ends, weight.shape[2:], *ctx.attributes, 1, "zeros", with_bias
                )
                grad_bias = sums if with_bias else None
            mask = (wants_input and not spreads, wants_weight and not packs, False)
            if any(mask):
                theirs = torch.ops.aten.convolution_backward(
                    grad_output, input, weight, None, *ctx.attributes, ctx.transposed, ctx.output_padding, 1, mask
                )
                grad_input, grad_weight = theirs[0] if mask[0] else grad_input, theirs[1] if mask[1] else grad_weight
            if wants_bias and grad_bias is None:
                grad_bias = grad_output.sum((0, 2, 3))
        return (grad_input, grad_weight, grad_bias, *(None,) * 7)


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    dtype: torch.dtype,
    *,
    transposed: bool = False,
    output_padding: Pair = (0, 0),
    activation: str | None = None,
    negative_slope: float = 0.2,
) -> Tensor:
    """conv2d, or conv_transpose2d where `transposed`, of one group with zero padding, computed in `dtype`."""
    tensors = [None if t is None else t.to(dtype) for t in (input, weight, bias)]
    attributes = (stride, padding, dilation, transposed, output_padding)
    if act.takes_gradient_from_output(activation):
        return _MixedConvolution.apply(*tensors, *attributes, activation, negative_slope)
    output = _MixedConvolution.apply(*tensors, *attributes, None, negative_slope)
    return act.apply_(output, activation, negative_slope)
