"""conv2d with bias and activation in one op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import activation as act
from genlab.ops import conv_matmul, conv_mixed, conv_native, implementation, shapes
from genlab.ops.shapes import Pair


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    activation: str | None = None,
    negative_slope: float = 0.2,
    impl: str = "auto",
) -> Tensor:
    """torch.nn.functional.conv2d, then an activation, as one op that is differentiable in any order.

    Args:
        input: (N, C_in, H, W) or (C_in, H, W), contiguous, channels_last or any strides.
        weight: (C_out, C_in / groups, kH, kW).
        bias: (C_out,) or None.
        stride: step of the kernel, an int or (height, width), >= 1.
        padding: an int or (height, width) >= 0, "valid" (none) or "same" (stride 1 only).
        dilation: spacing of the kernel's taps, >= 1.
        groups: number of independent channel groups; divides C_in and C_out.
        padding_mode: "zeros", or "reflect" (padding smaller than the input's sides).
        activation: None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu" (exact, erf) or "silu".
        negative_slope: slope of leaky_relu below zero, >= 0.
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Returns:
        (N, C_out, H_out, W_out) with H_out = (H + 2 padding - dilation (kH - 1) - 1) // stride + 1; without N if the
        input came without. An empty batch gives an empty output.

    Raises:
        ValueError: shapes or values that do not fit.
        TypeError: not floating point, or dtypes that differ outside autocast.
        RuntimeError: tensors on different devices, or impl="native" where the extension is not built.
        NotImplementedError: impl="native" for a device or dtype without kernel.

    Note:
        Native float32 on a CPU with AVX-512 is Winograd's algorithm for 3x3 kernels of stride 1 and 4x4 kernels of
        stride 2, channels in multiples of 16 (csrc/cpu/winograd.h; `auto` takes it where `genlab.ops.tuning` says so).
        Results are within about 2e-6 of the exact ones (relative, Frobenius norm), the same bits for any number of
        threads, and a NaN or an infinity in the input makes NaN of whole 4x4 tiles of the output.
        bfloat16 on a CPU with AVX512_BF16 sums products of pairs in float32 and rounds once (csrc/cpu/conv2d_bf16.h);
        subnormal values count as zero there, as in oneDNN. `auto` may also mix: directions that torch runs at the
        processor's peak are torch's, the others native (`genlab.ops.tuning.mixed_wins`, `few_channels_wins`), and a
        kernel as large as the image is one matrix product.
        Native gradients through relu, leaky_relu, tanh and sigmoid are read from the gradient and the output together,
        with no tensor between; the input's of Winograd's stride 2, bfloat16 products of pixels and torch's own
        convolutions take one pass over the gradient first, which costs them less (csrc/ops/conv2d_act.cpp).

    Example:
        >>> images = torch.randn(8, 3, 64, 64)
        >>> weight = torch.randn(64, 3, 4, 4)
        >>> conv2d(images, weight, stride=2, padding=1, activation="leaky_relu").shape
        torch.Size([8, 64, 32, 32])
    """
    if input.dim() == 3:
        output = conv2d(
            input.unsqueeze(0), weight, bias, stride, padding, dilation, groups, padding_mode=padding_mode,
            activation=activation, negative_slope=negative_slope, impl=impl,
        )  # fmt: skip
        return output.squeeze(0)
    shapes.check_tensors("conv2d", input, weight, bias)
    act.check("conv2d", activation, negative_slope)
    call, extra = shapes.conv2d_call("conv2d", input, weight, bias, stride, padding, dilation, groups, padding_mode)
    stride, before, dilation = call.stride, call.padding, call.dilation

    chosen = implementation.choose("conv2d", impl, input, call)
    if chosen == "native":
        if extra != (0, 0):
            # The kernels pad both sides alike; the one row or column more of padding="same" is laid on beforehand.
            reflects = padding_mode == "reflect"
            input = pad(input, before if reflects else (0, 0), extra, padding_mode)
            before, padding_mode = ((0, 0), "zeros") if reflects else (before, padding_mode)
        attributes = (stride, before, dilation, groups, padding_mode)
        return conv_native.call(torch.ops.genlab.conv2d, (input, weight, bias), attributes, activation, negative_slope)
    if chosen == "matmul":
        return act.apply_(conv_matmul.covering_conv2d(input, weight, bias), activation, negative_slope)
    if padding_mode == "reflect" or extra != (0, 0):
        input, before = pad(input, before, extra, padding_mode), (0, 0)
    if chosen == "mixed":
        dtype = implementation.effective_dtype(input)
        return conv_mixed.convolve(
            input, weight, bias, stride, before, dilation, dtype, activation=activation, negative_slope=negative_slope
        )
    if chosen == "torch":
        output = F.conv2d(input, weight, bias, stride, before, dilation, groups)
        return act.apply_(output, activation, negative_slope)
    output = conv2d_reference(input, weight, bias, stride, before, dilation, groups)
    return act.apply(output, activation, negative_slope)


def pad(input: Tensor, before: Pair, extra: Pair, padding_mode: str) -> Tensor:
    """`input` with `before` rows and columns on the near side and `before + extra` on the far side."""
    sides = (before[1], before[1] + extra[1], before[0], before[0] + extra[0])
    return F.pad(input, sides, mode="reflect" if padding_mode == "reflect" else "constant")


def conv2d_reference(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The definition: one product per tap of the kernel over shifted views of the zero-padded input.

    Written without any convolution of torch's, so that it can judge them all; shapes as in `conv2d`.
    """
    n = input.shape[0]
    c_out, c_in, kh, kw = weight.shape
    padded = F.pad(input, (padding[1], padding[1], padding[0], padding[0]))
    h_out = (padded.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    w_out = (padded.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    padded = padded.reshape(n, groups, c_in, *padded.shape[2:])
    weight = weight.reshape(groups, c_out // groups, c_in, kh, kw)
    output = input.new_zeros(n, groups, c_out // groups, h_out, w_out)
    for i in range(kh):
        rows = slice(i * dilation[0], i * dilation[0] + (h_out - 1) * stride[0] + 1, stride[0])
        for j in range(kw):
            columns = slice(j * dilation[1], j * dilation[1] + (w_out - 1) * stride[1] + 1, stride[1])
            tap = torch.einsum("ngchw,gkc->ngkhw", padded[:, :, :, rows, columns], weight[..., i, j])
            output = output + tap
    output = output.reshape(n, c_out, h_out, w_out)
    return output if bias is None else output + bias.reshape(1, -1, 1, 1)
