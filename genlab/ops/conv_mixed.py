"""Convolutions by direction: torch forward and for the input's gradient, native for the weight's gradient.

oneDNN runs the first two near the CPU's peak in bfloat16; its weight gradient, where few images have many channels, at
half of it (csrc/cpu/conv2d_bf16.h is what runs instead). `auto` takes this where `tuning.mixed_wins` says so.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops.shapes import Pair


class _MixedConvolution(torch.autograd.Function):
    """Made of ops that differentiate again, so its backward does as well."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair,
        transposed: bool, output_padding: Pair,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(input, weight)
        ctx.attributes = (stride, padding, dilation)
        ctx.transposed, ctx.output_padding = transposed, output_padding
        if transposed:
            return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, 1, dilation)
        return F.conv2d(input, weight, bias, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple:
        input, weight = ctx.saved_tensors
        wants_input, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_input = grad_weight = grad_bias = None
        with torch.autocast(grad_output.device.type, enabled=False):
            if wants_input:
                grad_input = torch.ops.aten.convolution_backward(
                    grad_output, input, weight, None, *ctx.attributes, ctx.transposed, ctx.output_padding, 1,
                    (True, False, False),
                )[0]  # fmt: skip
            if wants_weight:
                # The kernel takes whole pixels; a gradient that arrives in another order costs a copy.
                grad_output = grad_output.contiguous(memory_format=torch.channels_last)
                ends = (input, grad_output) if ctx.transposed else (grad_output, input)
                with_bias = wants_bias and not ctx.transposed
                grad_weight, grad_bias = torch.ops.genlab.conv2d_backward_weight(
                    *ends, weight.shape[2:], *ctx.attributes, 1, "zeros", with_bias
                )
            if wants_bias and (ctx.transposed or not wants_weight):
                grad_bias = grad_output.sum((0, 2, 3))
        return (grad_input, grad_weight, grad_bias if wants_bias else None, *(None,) * 5)


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
) -> Tensor:
    """conv2d, or conv_transpose2d where `transposed`, of one group with zero padding, computed in `dtype`."""
    tensors = [None if t is None else t.to(dtype) for t in (input, weight, bias)]
    return _MixedConvolution.apply(*tensors, stride, padding, dilation, transposed, output_padding)
