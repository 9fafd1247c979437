"""conv_transpose2d with bias and activation in one op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import activation as act
from genlab.ops import conv_matmul, conv_mixed, conv_native, implementation, shapes
from genlab.ops.shapes import Pair


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    activation: str | None = None,
    negative_slope: float = 0.2,
    impl: str = "auto",
) -> Tensor:
    """torch.nn.functional.conv_transpose2d, then an activation, as one op that is differentiable in any order.

    Args:
        input: (N, C_in, H, W) or (C_in, H, W), contiguous, channels_last or any strides.
        weight: (C_in, C_out / groups, kH, kW).
        bias: (C_out,) or None.
        stride: step in the output per step in the input, an int or (height, width), >= 1.
        padding: rows and columns taken off each side of the output, >= 0.
        output_padding: rows and columns added to the far side; smaller than stride or dilation.
        groups: number of independent channel groups; divides C_in.
        dilation: spacing of the kernel's taps, >= 1.
        activation: None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu" (exact, erf) or "silu".
        negative_slope: slope of leaky_relu below zero, >= 0.
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Returns:
        (N, C_out, H_out, W_out) with H_out = (H - 1) stride - 2 padding + dilation (kH - 1) + output_padding + 1;
        without N if the input came without. An empty batch gives an empty output.

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

    Example:
        >>> z = torch.randn(8, 100, 1, 1)
        >>> weight = torch.randn(100, 512, 4, 4)
        >>> conv_transpose2d(z, weight, activation="relu").shape
        torch.Size([8, 512, 4, 4])
    """
    if input.dim() == 3:
        output = conv_transpose2d(
            input.unsqueeze(0), weight, bias, stride, padding, output_padding, groups, dilation,
            activation=activation, negative_slope=negative_slope, impl=impl,
        )  # fmt: skip
        return output.squeeze(0)
    shapes.check_tensors("conv_transpose2d", input, weight, bias)
    act.check("conv_transpose2d", activation, negative_slope)
    call, output_padding, size = shapes.conv_transpose2d_call(
        "conv_transpose2d", input, weight, bias, stride, padding, output_padding, groups, dilation
    )
    stride, padding, dilation = call.stride, call.padding, call.dilation

    chosen = implementation.choose("conv_transpose2d", impl, input, call)
    if chosen == "native":
        attributes = (stride, padding, output_padding, groups, dilation)
        return conv_native.call(
            torch.ops.genlab.conv_transpose2d, (input, weight, bias), attributes, activation, negative_slope
        )
    if chosen == "matmul" and output_padding == (0, 0):
        return act.apply_(conv_matmul.spreading_conv2d(input, weight, bias), activation, negative_slope)
    if chosen == "mixed":
        return conv_mixed.convolve(
            input, weight, bias, stride, padding, dilation, implementation.effective_dtype(input), transposed=True,
            output_padding=output_padding, activation=activation, negative_slope=negative_slope,
        )  # fmt: skip
    if chosen in ("torch", "matmul"):
        output = F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
        return act.apply_(output, activation, negative_slope)
    output = conv_transpose2d_reference(input, weight, bias, stride, padding, size, groups, dilation)
    return act.apply(output, activation, negative_slope)


def conv_transpose2d_reference(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    output_size: Pair,
    groups: int,
    dilation: Pair,
) -> Tensor:
    """The definition: every input value spreads weight-many products over the output, which is then cropped.

    Written without any convolution of torch's; `output_size` is (H_out, W_out) with the output padding in it.
    """
    n, _, h, w = input.shape
    c_in, c_out, kh, kw = weight.shape
    # Uncropped height of all the taps; output_padding can reach past it by less than a stride.
    full_h = max((h - 1) * stride[0] + dilation[0] * (kh - 1) + 1, output_size[0] + padding[0])
    full_w = max((w - 1) * stride[1] + dilation[1] * (kw - 1) + 1, output_size[1] + padding[1])
    grouped = input.reshape(n, groups, c_in // groups, h, w)
    weight = weight.reshape(groups, c_in // groups, c_out, kh, kw)
    full = input.new_zeros(n, groups, c_out, full_h, full_w)
    for i in range(kh):
        rows = slice(i * dilation[0], i * dilation[0] + (h - 1) * stride[0] + 1, stride[0])
        for j in range(kw):
            columns = slice(j * dilation[1], j * dilation[1] + (w - 1) * stride[1] + 1, stride[1])
            full[:, :, :, rows, columns] += torch.einsum("ngchw,gck->ngkhw", grouped, weight[..., i, j])
    full = full.reshape(n, groups * c_out, full_h, full_w)
    output = full[:, :, padding[0] : padding[0] + output_size[0], padding[1] : padding[1] + output_size[1]]
    return output if bias is None else output + bias.reshape(1, -1, 1, 1)
