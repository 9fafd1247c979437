"""Argument and shape rules of the convolutions: one place for what they accept and what they say otherwise.

The public functions, the fake implementations (torch.compile, export) and the tests all call these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PADDING_MODES = ("zeros", "reflect")
Pair = tuple[int, int]


class ConvCall(NamedTuple):
    """A convolution beside its input, as the rules of `auto` see it.

    Attributes:
        weight: 4-dimensional, in either direction's order of channels.
        stride, padding, dilation: (height, width).
        groups: of channels.
        padding_mode: one of `PADDING_MODES`.
        grid: (height, width) of the convolution's output, which is the transposed convolution's input.
    """

    weight: Tensor
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    padding_mode: str
    grid: Pair


def conv2d_call(
    op: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | str,
    dilation: int | Sequence[int],
    groups: int,
    padding_mode: str,
) -> tuple[ConvCall, Pair]:
    """What is asked of conv2d, checked, and the `extra` of `resolve_padding`; the tensors are checked before."""
    step, spacing = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    check_conv2d_channels(op, input, weight, bias, groups)
    before, extra = resolve_padding(op, padding, (weight.shape[2], weight.shape[3]), step, spacing)
    size = conv2d_output_size(op, input, weight, step, before, extra, spacing, padding_mode)
    return ConvCall(weight, step, before, spacing, groups, padding_mode, size), extra


def conv_transpose2d_call(
    op: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    output_padding: int | Sequence[int],
    groups: int,
    dilation: int | Sequence[int],
) -> tuple[ConvCall, Pair, Pair]:
    """What is asked of conv_transpose2d, its output padding and its output's size, likewise."""
    step, cropped = pair(op, "stride", stride, 1), pair(op, "padding", padding, 0)
    added, spacing = pair(op, "output_padding", output_padding, 0), pair(op, "dilation", dilation, 1)
    check_conv_transpose2d_channels(op, input, weight, bias, groups)
    size = conv_transpose2d_output_size(op, input, weight, step, cropped, added, spacing)
    grid = (input.shape[2], input.shape[3])
    return ConvCall(weight, step, cropped, spacing, groups, "zeros", grid), added, size


def pair(op: str, name: str, value: int | Sequence[int], minimum: int) -> Pair:
    """`value` as (height, width). Raises TypeError or ValueError naming the argument."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int and min(value) >= minimum:
        return value  # what modules pass: this runs in front of every kernel
    items = _numbers(op, name, value, minimum, "a pair of ints")
    if len(items) == 1:
        items = items * 2
    if len(items) != 2:
        raise ValueError(f"{op}: expected {name} to be an int or a pair of ints, got {value!r}")
    return items


def single(op: str, name: str, value: int | Sequence[int], minimum: int) -> int:
    """`value` as an int, taken out of a sequence of one. Raises TypeError or ValueError naming the argument."""
    items = _numbers(op, name, value, minimum, "a sequence of one int")
    if len(items) != 1:
        raise ValueError(f"{op}: expected {name} to be an int or a sequence of one int, got {value!r}")
    return items[0]


def _numbers(op: str, name: str, value: int | Sequence[int], minimum: int, several: str) -> tuple[int, ...]:
    items = (value,) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else None
    if items is None or isinstance(value, str) or any(isinstance(v, bool) or not isinstance(v, int) for v in items):
        raise TypeError(f"{op}: expected {name} to be an int or {several}, got {value!r}")
    if any(v < minimum for v in items):
        raise ValueError(f"{op}: expected {name} >= {minimum}, got {value!r}")
    return items


def shape_text(tensor: Tensor) -> str:
    """The shape as `(2, 3, 8, 8)`."""
    return "(" + ", ".join(str(size) for size in tensor.shape) + ")"


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype that torch.autocast gives ops on the tensor's device here; None where it is off."""
    device = tensor.device.type
    # torch.amp.is_autocast_available would ask more widely, but Dynamo of torch 2.11 cannot trace it.
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def check_tensors(op: str, input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Rank, dtype and device of the three tensors of a convolution."""
    if input.dim() != 4:
        raise ValueError(f"{op}: expected input of shape (N, C, H, W) or (C, H, W), got {shape_text(input)}")
    if weight.dim() != 4:
        raise ValueError(f"{op}: expected a 4-dimensional weight, got {shape_text(weight)}")
    if not input.dtype.is_floating_point:
        raise TypeError(f"{op}: expected a floating point input, got {input.dtype}; call input.float() first")
    device, dtype = input.device, input.dtype
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.device != device:
            raise RuntimeError(f"{op}: expected {name} on the input's device {device}, got {tensor.device}")
        if tensor.dtype != dtype and autocast_dtype(input) is None:
            raise TypeError(
                f"{op}: expected {name} of the input's dtype {input.dtype}, got {tensor.dtype}; "
                "convert one of them or run under torch.autocast"
            )


def check_groups(op: str, groups: int, channels: dict[str, int]) -> None:
    """`groups` must be positive and divide every named channel count."""
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise TypeError(f"{op}: expected groups to be an int, got {groups!r}")
    if groups < 1:
        raise ValueError(f"{op}: expected groups >= 1, got {groups}")
    for name, count in channels.items():
        if count % groups != 0:
            raise ValueError(f"{op}: expected {name} to be divisible by groups, got {count} {name} and groups {groups}")


def check_bias(op: str, bias: Tensor | None, out_channels: int) -> None:
    """The bias has one value per output channel."""
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != out_channels):
        raise ValueError(f"{op}: expected bias of shape ({out_channels},), got {shape_text(bias)}")


def resolve_padding(
    op: str, padding: int | Sequence[int] | str, kernel: Pair, stride: Pair, dilation: Pair
) -> tuple[Pair, Pair]:
    """Padding as (before, extra after), each (height, width): the far side gets before + extra.

    `extra` is non-zero only for padding="same" and an even reach, where torch too pads the far side by one more.
    """
    if not isinstance(padding, str):
        return pair(op, "padding", padding, 0), (0, 0)
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        raise ValueError(f'{op}: expected padding to be an int, a pair of ints, "same" or "valid", got {padding!r}')
    if stride != (1, 1):
        raise ValueError(f'{op}: padding "same" expects stride 1, got stride {stride}; give the padding as numbers')
    total = [dilation[i] * (kernel[i] - 1) for i in (0, 1)]
    return (total[0] // 2, total[1] // 2), (total[0] % 2, total[1] % 2)


def conv2d_output_size(
    op: str, input: Tensor, weight: Tensor, stride: Pair, padding: Pair, extra: Pair, dilation: Pair, padding_mode: str
) -> Pair:
    """(height, width) of conv2d's output. Raises ValueError where the kernel or the reflection does not fit."""
    rest = (stride, padding, extra, dilation, padding_mode)
    height, width = _conv_output_size(op, ("height", "width"), input, weight, *rest)
    return height, width


def conv1d_output_size(
    op: str, input: Tensor, weight: Tensor, stride: int, padding: int, extra: int, dilation: int, padding_mode: str
) -> int:
    """Length of conv1d's output, likewise."""
    rest = ((stride,), (padding,), (extra,), (dilation,), padding_mode)
    return _conv_output_size(op, ("length",), input, weight, *rest)[0]


def _conv_output_size(
    op: str,
    axes: Sequence[str],
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    extra: Sequence[int],
    dilation: Sequence[int],
    padding_mode: str,
) -> list[int]:
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"{op}: expected padding_mode to be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
    output = []
    sizes, kernels = input.shape[2:], weight.shape[2:]
    for axis, name in enumerate(axes):
        size, kernel = sizes[axis], kernels[axis]
        far = padding[axis] + extra[axis]
        if size < 1 or kernel < 1:
            raise ValueError(
                f"{op}: expected input and weight with {name} >= 1, got input {shape_text(input)} and weight "
                f"{shape_text(weight)}"
            )
        if padding_mode == "reflect" and far >= size:
            raise ValueError(
                f"{op}: reflect padding must be smaller than the input's {name}, got padding {far} and {name} {size}"
            )
        reach = dilation[axis] * (kernel - 1) + 1
        padded = size + padding[axis] + far
        if padded < reach:
            raise ValueError(
                f"{op}: expected an input whose padded {name} covers the kernel, got padded {name} {padded} and kernel "
                f"{reach} (with dilation); add padding or use a smaller kernel"
            )
        output.append((padded - reach) // stride[axis] + 1)
    return output


def check_conv2d_channels(op: str, input: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    """Channels of conv2d: input (N, C_in, H, W), weight (C_out, C_in / groups, kH, kW), bias (C_out,)."""
    check_groups(op, groups, {"input channels": input.shape[1], "output channels": weight.shape[0]})
    if weight.shape[0] < 1 or weight.shape[1] < 1:
        raise ValueError(f"{op}: expected weight with at least one channel, got {shape_text(weight)}")
    if input.shape[1] != weight.shape[1] * groups:
        raise ValueError(
            f"{op}: expected input with {weight.shape[1] * groups} channels for weight {shape_text(weight)} and groups "
            f"{groups}, got input {shape_text(input)}"
        )
    check_bias(op, bias, weight.shape[0])


def check_conv_transpose2d_channels(op: str, input: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    """Channels of conv_transpose2d: input (N, C_in, H, W), weight (C_in, C_out / groups, kH, kW), bias (C_out,)."""
    check_groups(op, groups, {"input channels": input.shape[1]})
    if weight.shape[0] < 1 or weight.shape[1] < 1:
        raise ValueError(f"{op}: expected weight with at least one channel, got {shape_text(weight)}")
    if input.shape[1] != weight.shape[0]:
        raise ValueError(
            f"{op}: expected input with {weight.shape[0]} channels for weight {shape_text(weight)}, got input "
            f"{shape_text(input)}"
        )
    check_bias(op, bias, weight.shape[1] * groups)


def conv_transpose2d_output_size(
    op: str, input: Tensor, weight: Tensor, stride: Pair, padding: Pair, output_padding: Pair, dilation: Pair
) -> Pair:
    """(height, width) of conv_transpose2d's output. Raises ValueError where there would be none."""
    output = []
    sizes, kernels = input.shape[2:], weight.shape[2:]
    for axis, name in ((0, "height"), (1, "width")):
        size, kernel = sizes[axis], kernels[axis]
        if size < 1 or kernel < 1:
            raise ValueError(
                f"{op}: expected input and weight with {name} >= 1, got input {shape_text(input)} and weight "
                f"{shape_text(weight)}"
            )
        if output_padding[axis] >= max(stride[axis], dilation[axis]):
            raise ValueError(
                f"{op}: expected output_padding smaller than stride or dilation, got output_padding {output_padding}, "
                f"stride {stride}, dilation {dilation}"
            )
        reach = dilation[axis] * (kernel - 1) + 1
        length = (size - 1) * stride[axis] - 2 * padding[axis] + reach + output_padding[axis]
        if length < 1:
            raise ValueError(f"{op}: expected an output {name} >= 1, got {length}; reduce the padding")
        output.append(length)
    return output[0], output[1]
