"""conv1d with bias and activation in one op: the engine of conv2d on images of height 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from genlab.ops import activation as act
from genlab.ops import implementation, shapes
from genlab.ops.conv2d import conv2d

OP = "conv1d"


def conv1d(
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
    """torch.nn.functional.conv1d, then an activation, as one op that is differentiable in any order.

    Args:
        input: (N, C_in, L) or (C_in, L), any strides.
        weight: (C_out, C_in / groups, k).
        bias: (C_out,) or None.
        stride: step of the kernel, an int or a sequence of one, >= 1.
        padding: an int or a sequence of one, >= 0, "valid" (none) or "same" (stride 1 only).
        dilation: spacing of the kernel's taps, >= 1.
        groups: number of independent channel groups; divides C_in and C_out.
        padding_mode: "zeros", or "reflect" (padding smaller than the input's length).
        activation: None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu" (exact, erf) or "silu".
        negative_slope: slope of leaky_relu below zero, >= 0.
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Returns:
        (N, C_out, L_out) with L_out = (L + 2 padding - dilation (k - 1) - 1) // stride + 1; without N if the input came
        without. An empty batch gives an empty output.

    Raises:
        ValueError: shapes or values that do not fit.
        TypeError: not floating point, or dtypes that differ outside autocast.
        RuntimeError: tensors on different devices, or impl="native" where the extension is not built.
        NotImplementedError: impl="native" for a device or dtype without kernel.

    Example:
        >>> sound = torch.randn(8, 1, 16000)
        >>> conv1d(sound, torch.randn(32, 1, 25), stride=4, padding=12, activation="leaky_relu").shape
        torch.Size([8, 32, 4000])
    """
    if input.dim() == 2:
        output = conv1d(
            input.unsqueeze(0), weight, bias, stride, padding, dilation, groups, padding_mode=padding_mode,
            activation=activation, negative_slope=negative_slope, impl=impl,
        )  # fmt: skip
        return output.squeeze(0)
    if input.dim() != 3:
        raise ValueError(f"{OP}: expected input of shape (N, C, L) or (C, L), got {shapes.shape_text(input)}")
    if weight.dim() != 3:
        raise ValueError(f"{OP}: expected a 3-dimensional weight, got {shapes.shape_text(weight)}")
    image, kernel = input.unsqueeze(2), weight.unsqueeze(2)
    shapes.check_tensors(OP, image, kernel, bias)
    act.check(OP, activation, negative_slope)
    step, spacing = shapes.single(OP, "stride", stride, 1), shapes.single(OP, "dilation", dilation, 1)
    shapes.check_conv2d_channels(OP, input, weight, bias, groups)
    if not isinstance(padding, str):
        padding = (0, shapes.single(OP, "padding", padding, 0))
    before, extra = shapes.resolve_padding(OP, padding, (1, weight.shape[2]), (1, step), (1, spacing))
    shapes.conv1d_output_size(OP, input, weight, step, before[1], extra[1], spacing, padding_mode)

    chosen = implementation.choose(OP, impl, input)
    if chosen == "torch":
        pad = before[1]
        if padding_mode == "reflect" or extra[1]:
            sides = (pad, pad + extra[1])
            input, pad = F.pad(input, sides, mode="reflect" if padding_mode == "reflect" else "constant"), 0
        return act.apply_(F.conv1d(input, weight, bias, step, pad, spacing, groups), activation, negative_slope)
    output = conv2d(
        image, kernel, bias, (1, step), padding, (1, spacing), groups, padding_mode=padding_mode,
        activation=activation, negative_slope=negative_slope, impl=chosen,
    )  # fmt: skip
    return output.squeeze(2)
