"""Calls of the convolutions that between them reach every branch: block edges, layouts, groups, phases, reflection."""

from __future__ import annotations

from typing import Any

import torch
from helpers import Sample
from torch import Tensor


def tensor(shape: tuple[int, ...], dtype: torch.dtype, device: str, layout: str, seed: int) -> Tensor:
    """Standard normal values, the same in every dtype; layout contiguous, channels_last, transposed or sliced."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return values.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "sliced":
        wide = torch.full((*shape[:3], 2 * shape[3] + 1), float("nan"), dtype=dtype, device=device)
        wide[..., 1::2] = values
        return wide[..., 1::2]
    return values


def conv2d_sample(
    name: str,
    input: tuple[int, int, int, int],
    c_out: int,
    kernel: int | tuple[int, int],
    *,
    layout: str = "contiguous",
    bias: bool = True,
    small: bool = False,
    **arguments: Any,
) -> Sample:
    groups = arguments.get("groups", 1)
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel

    def make(dtype: torch.dtype, device: str) -> tuple[Tensor | None, ...]:
        weight = (c_out, input[1] // groups, *kernel)
        weight_layout = layout if layout == "channels_last" else "contiguous"
        return (
            tensor(input, dtype, device, layout, 1),
            tensor(weight, dtype, device, weight_layout, 2),
            tensor((c_out,), dtype, device, "contiguous", 3) if bias else None,
        )

    terms = input[1] // groups * kernel[0] * kernel[1]
    return Sample(name, make, arguments, terms, small)


def transpose_sample(
    name: str,
    input: tuple[int, int, int, int],
    c_out: int,
    kernel: int | tuple[int, int],
    *,
    layout: str = "contiguous",
    bias: bool = True,
    small: bool = False,
    **arguments: Any,
) -> Sample:
    groups = arguments.get("groups", 1)
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel

    def make(dtype: torch.dtype, device: str) -> tuple[Tensor | None, ...]:
        weight = (input[1], c_out // groups, *kernel)
        weight_layout = layout if layout == "channels_last" else "contiguous"
        return (
            tensor(input, dtype, device, layout, 1),
            tensor(weight, dtype, device, weight_layout, 2),
            tensor((c_out,), dtype, device, "contiguous", 3) if bias else None,
        )

    terms = input[1] // groups * kernel[0] * kernel[1]
    return Sample(name, make, arguments, terms, small)


CONV2D = [
    conv2d_sample("one_pixel", (1, 1, 1, 1), 1, 1, small=True),
    conv2d_sample("empty_batch", (0, 3, 8, 8), 5, 3, padding=1),
    conv2d_sample("batch_one_kernel_3", (1, 3, 7, 5), 5, 3, padding=1, small=True),
    conv2d_sample("dcgan_4x4_stride_2", (2, 3, 16, 16), 7, 4, stride=2, padding=1, activation="leaky_relu"),
    conv2d_sample("kernel_5_stride_2", (2, 3, 9, 10), 4, 5, stride=2, padding=2, activation="relu", small=True),
    conv2d_sample("last_layer_4x4_to_1x1", (3, 11, 4, 4), 1, 4, bias=False),
    conv2d_sample("kernel_1_stride_2", (2, 5, 7, 7), 3, 1, stride=2, small=True),
    conv2d_sample("uneven", (2, 4, 9, 7), 6, (3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 3), small=True),
    conv2d_sample("dilation_2", (2, 3, 9, 9), 4, 3, padding=2, dilation=2, activation="tanh", small=True),
    conv2d_sample("stride_3_dilation_2", (1, 2, 11, 12), 3, 3, stride=3, dilation=2, padding=1),
    conv2d_sample("stride_and_dilation_share_2", (1, 2, 12, 12), 3, 3, stride=4, dilation=2, padding=3, small=True),
    conv2d_sample("stride_beyond_kernel", (2, 2, 10, 10), 3, 2, stride=5, small=True),
    conv2d_sample("groups_2", (2, 6, 6, 5), 4, 3, padding=1, groups=2, activation="sigmoid", small=True),
    conv2d_sample("depthwise", (2, 5, 6, 6), 5, 3, padding=1, groups=5, stride=2),
    conv2d_sample("depthwise_multiplied", (1, 3, 5, 5), 6, 3, groups=3, activation="silu", small=True),
    conv2d_sample("same_odd", (2, 3, 6, 7), 4, 3, padding="same", small=True),
    conv2d_sample("same_even", (2, 3, 6, 7), 4, (4, 2), padding="same", dilation=(1, 3), small=True),
    conv2d_sample("same_even_reflect", (2, 3, 6, 7), 4, 4, padding="same", padding_mode="reflect", small=True),
    conv2d_sample("valid", (2, 3, 6, 7), 4, 3, padding="valid"),
    conv2d_sample("reflect", (2, 3, 5, 6), 4, 3, padding=(4, 2), padding_mode="reflect", activation="gelu", small=True),
    conv2d_sample("reflect_2x2", (2, 3, 2, 2), 4, 3, padding=1, padding_mode="reflect", small=True),
    conv2d_sample("reflect_stride_2", (1, 2, 7, 8), 3, 4, padding=3, stride=2, padding_mode="reflect", small=True),
    conv2d_sample("padding_beyond_kernel", (1, 2, 3, 3), 2, 2, padding=4, small=True),
    conv2d_sample("channels_last", (2, 8, 9, 9), 5, 3, padding=1, layout="channels_last", activation="relu"),
    conv2d_sample(
        "channels_last_reflect", (2, 3, 6, 6), 5, 4, stride=2, padding=1, padding_mode="reflect", layout="channels_last"
    ),  # fmt: skip
    conv2d_sample("transposed", (2, 3, 8, 6), 5, 3, stride=2, padding=1, layout="transposed"),
    conv2d_sample("sliced", (2, 3, 6, 6), 5, 3, padding=1, groups=1, layout="sliced"),
    # Edges of the CPU kernel's blocks: 64 pixels, 128 rows of 8, 256 of depth, and 64 x 64 of a weight gradient.
    conv2d_sample("pixels_63", (1, 2, 7, 9), 9, 1),
    conv2d_sample("pixels_64", (1, 2, 8, 8), 8, 1),
    conv2d_sample("pixels_65", (1, 2, 5, 13), 7, 1),
    conv2d_sample("rows_127_depth_255", (2, 255, 2, 3), 127, 1),
    conv2d_sample("rows_128_depth_256", (2, 256, 2, 3), 128, 1),
    conv2d_sample("rows_129_depth_257", (2, 257, 2, 3), 129, 1),
    conv2d_sample("pixels_257_weights_65", (1, 13, 1, 257), 65, (1, 5), padding=(0, 2)),
]

TRANSPOSE = [
    transpose_sample("one_pixel", (1, 1, 1, 1), 1, 1, small=True),
    transpose_sample("empty_batch", (0, 3, 4, 4), 5, 4, stride=2, padding=1),
    transpose_sample("dcgan_first_1x1_to_4x4", (3, 13, 1, 1), 7, 4, activation="relu", bias=False),
    transpose_sample("dcgan_4x4_stride_2", (2, 5, 4, 4), 3, 4, stride=2, padding=1, activation="tanh", small=True),
    transpose_sample("kernel_3", (2, 3, 5, 4), 4, 3, padding=1, small=True),
    transpose_sample(
        "kernel_3_stride_2_output_padding",
        (1, 3, 5, 4),
        4,
        3,
        stride=2,
        padding=1,
        output_padding=1,
        activation="leaky_relu",
        small=True,
    ),  # fmt: skip
    transpose_sample("kernel_5_stride_2", (2, 2, 5, 5), 3, 5, stride=2, padding=2, output_padding=(1, 0), small=True),
    transpose_sample(
        "kernel_1_stride_3", (2, 3, 4, 4), 2, 1, stride=3, output_padding=2, activation="gelu", small=True
    ),
    transpose_sample("uneven", (2, 4, 5, 3), 6, (2, 3), stride=(3, 1), padding=(0, 1), dilation=(1, 2), small=True),
    transpose_sample("output_padding_beyond_stride", (1, 2, 4, 3), 3, 3, dilation=3, output_padding=2, small=True),
    transpose_sample(
        "stride_and_dilation_share_2", (1, 2, 4, 4), 3, 3, stride=4, dilation=2, output_padding=3, small=True
    ),  # fmt: skip
    transpose_sample("groups_2", (2, 6, 3, 4), 4, 3, stride=2, groups=2, activation="sigmoid", small=True),
    transpose_sample("depthwise", (2, 5, 4, 4), 5, 4, stride=2, padding=1, groups=5),
    transpose_sample("padding_beyond_kernel", (1, 2, 6, 6), 3, 2, padding=3, stride=2, activation="silu", small=True),
    transpose_sample("channels_last", (2, 8, 5, 5), 3, 4, stride=2, padding=1, layout="channels_last"),
    transpose_sample("transposed", (2, 3, 4, 6), 5, 3, stride=2, padding=1, layout="transposed"),
    transpose_sample("sliced", (2, 3, 4, 4), 5, 3, layout="sliced"),
    transpose_sample("pixels_65_rows_9", (1, 3, 5, 13), 9, 1),
    transpose_sample("rows_129_depth_257", (1, 257, 1, 2), 129, 1),
]
