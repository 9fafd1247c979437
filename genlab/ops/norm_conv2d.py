"""Convolution with a normalisation and activation before it, and the statistics of its output beside it, as one op.

conv -> norm -> act -> conv then has no pass of its own for the normalisation: the first convolution hands on its
output's mean and variance, the second normalises and activates as it loads. Both keep the convolutions' outputs alone
for the backward pass, not the normalised tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import activation as act
from genlab.ops import implementation, norm_shapes, shapes
from genlab.ops.conv2d import conv2d_reference, pad
from genlab.ops.conv_transpose2d import conv_transpose2d_reference


class InputNorm(NamedTuple):
    """What is applied to a convolution's input: activation((x - mean) / sqrt(var + eps) * weight + bias) per channel.

    Attributes:
        mean, var: (C_in,), float32 (float64 beside float64); differentiated like any tensor.
        weight, bias: (C_in,) or None for 1 and 0.
        eps: added to the variance, >= 0.
        activation: None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu" (exact, erf) or "silu".
        negative_slope: slope of leaky_relu below zero, >= 0.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5
    activation: str | None = None
    negative_slope: float = 0.2


class ConvResult(NamedTuple):
    """A convolution's output with the mean and the biased variance of its channels, None where not asked for."""

    output: Tensor
    mean: Tensor | None
    var: Tensor | None


def norm_conv2d(
    input: Tensor,
    norm: InputNorm | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    statistics: bool = False,
    impl: str = "auto",
) -> ConvResult:
    """conv2d of the normalised and activated input; the padding stays 0, whatever the normalisation makes of 0.

    Differentiable in any order, through the statistics as well.

    Args:
        input: (N, C_in, H, W), any strides.
        norm: what stands before the convolution; None for nothing.
        weight, bias, stride, padding, dilation, groups, padding_mode: as of `conv2d`; "same" only where it pads alike.
        statistics: also return the mean and variance of the output's channels.
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Returns:
        `ConvResult` with output (N, C_out, H_out, W_out) and, where asked for, mean and var (C_out,) in float32 or
        wider.

    Raises:
        ValueError: shapes or values that do not fit; statistics of an empty output.
        TypeError: not floating point, or dtypes that differ outside autocast.
        RuntimeError: tensors on different devices, or impl="native" where the extension is not built.
        NotImplementedError: impl="native" for a device or dtype without kernel.

    Example:
        >>> first = norm_conv2d(torch.randn(8, 3, 32, 32), None, torch.randn(16, 3, 3, 3), statistics=True)
        >>> norm = InputNorm(first.mean, first.var, activation="relu")
        >>> norm_conv2d(first.output, norm, torch.randn(32, 16, 3, 3)).output.shape
        torch.Size([8, 32, 28, 28])
    """
    op = "norm_conv2d"
    _check(op, input, norm, weight, bias)
    call, extra = shapes.conv2d_call(op, input, weight, bias, stride, padding, dilation, groups, padding_mode)
    stride, before, dilation = call.stride, call.padding, call.dilation
    if extra != (0, 0):
        raise ValueError(f'{op}: padding "same" expects a kernel that pads both sides alike; pad the input beforehand')
    _check_statistics(op, statistics, input, call.grid)

    chosen = implementation.choose(op, impl, input, call)
    if chosen == "native":
        own = implementation.choose("conv2d", impl, input, call)
        rest = (stride, before, (0, 0), dilation, groups, padding_mode, False, own == "native")
        return _native(input, norm, weight, bias, rest, statistics)
    input = normalise(input, norm)
    if padding_mode == "reflect":
        input, before = pad(input, before, extra, padding_mode), (0, 0)
    if chosen == "torch":
        return _with_statistics(F.conv2d(input, weight, bias, stride, before, dilation, groups), statistics)
    return _with_statistics(conv2d_reference(input, weight, bias, stride, before, dilation, groups), statistics)


def norm_conv_transpose2d(
    input: Tensor,
    norm: InputNorm | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    statistics: bool = False,
    impl: str = "auto",
) -> ConvResult:
    """conv_transpose2d of the normalised and activated input, likewise; arguments as of `conv_transpose2d`.

    Example:
        >>> x, weight = torch.randn(8, 64, 4, 4), torch.randn(64, 32, 4, 4)
        >>> norm = InputNorm(x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False), activation="relu")
        >>> norm_conv_transpose2d(x, norm, weight, stride=2, padding=1, statistics=True).output.shape
        torch.Size([8, 32, 8, 8])
    """
    op = "norm_conv_transpose2d"
    _check(op, input, norm, weight, bias)
    call, output_padding, size = shapes.conv_transpose2d_call(
        op, input, weight, bias, stride, padding, output_padding, groups, dilation
    )
    stride, padding, dilation = call.stride, call.padding, call.dilation
    _check_statistics(op, statistics, input, size)

    chosen = implementation.choose(op, impl, input, call)
    if chosen == "native":
        own = implementation.choose("conv_transpose2d", impl, input, call)
        rest = (stride, padding, output_padding, dilation, groups, "zeros", True, own == "native")
        return _native(input, norm, weight, bias, rest, statistics)
    input = normalise(input, norm)
    if chosen == "torch":
        output = F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
        return _with_statistics(output, statistics)
    output = conv_transpose2d_reference(input, weight, bias, stride, padding, size, groups, dilation)
    return _with_statistics(output, statistics)


def normalise(input: Tensor, norm: InputNorm | None) -> Tensor:
    """The definition of what stands before the convolution, in float32 or wider, in the input's dtype."""
    if norm is None:
        return input
    x = input if input.dtype == torch.float64 else input.float()
    sizes = (1, -1, 1, 1)
    scale = torch.rsqrt(norm.var.to(x.dtype) + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.to(x.dtype)
    x = (x - norm.mean.to(x.dtype).reshape(sizes)) * scale.reshape(sizes)
    if norm.bias is not None:
        x = x + norm.bias.to(x.dtype).reshape(sizes)
    return act.apply(x, norm.activation, norm.negative_slope).to(input.dtype)


def _with_statistics(output: Tensor, statistics: bool) -> ConvResult:
    """Mean first, then squares about it: E[x^2] - E[x]^2 would lose a variance that is small beside the mean."""
    if not statistics:
        return ConvResult(output, None, None)
    x = output if output.dtype == torch.float64 else output.float()
    mean = x.mean((0, 2, 3))
    centred = x - mean.reshape(1, -1, 1, 1)
    return ConvResult(output, mean, (centred * centred).mean((0, 2, 3)))


def _native(
    input: Tensor, norm: InputNorm | None, weight: Tensor, bias: Tensor | None, rest: tuple, statistics: bool
) -> ConvResult:
    before = (None, None, None, None, 0.0, None, 0.0) if norm is None else tuple(norm)
    output, mean, var = torch.ops.genlab.norm_conv2d(input, *before, weight, bias, *rest, statistics)
    return ConvResult(output, mean, var) if statistics else ConvResult(output, None, None)


def _check(op: str, input: Tensor, norm: InputNorm | None, weight: Tensor, bias: Tensor | None) -> None:
    shapes.check_tensors(op, input, weight, bias)
    if norm is None:
        return
    norm_shapes.check_input(op, input, norm.eps)
    for name in ("mean", "var", "weight", "bias"):
        norm_shapes.check_parameter(op, f"norm.{name}", getattr(norm, name), input, (input.shape[1],))
    act.check(op, norm.activation, norm.negative_slope)


def _check_statistics(op: str, statistics: bool, input: Tensor, size: shapes.Pair) -> None:
    if statistics and input.shape[0] * size[0] * size[1] == 0:
        raise ValueError(
            f"{op}: expected values to take statistics of, got input {shapes.shape_text(input)}; give a batch of at "
            "least one sample"
        )
