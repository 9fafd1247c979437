"""Shape classes for which `impl="auto"` takes a native kernel, with what was measured there.

The Winograd convolutions (csrc/cpu/winograd.h) save 2.5 to 4 times the multiplications and pay for it with transforms.
A row of `WINOGRAD` says from where on they win in all of forward, input gradient and weight gradient, since autograd
takes the three together; its ratios are the least and the greatest of torch's time over ours at the shapes measured.

Images of few channels, a discriminator's first layer and a generator's last, have gradients and a transposed direction
of their own in float32 as well (`few_channels_wins`).

In bfloat16 oneDNN's forward pass and input gradient are at the processor's peak: 3x3 kernels beat it through the fp32
Winograd kernels (`widened_wins`), the others stay torch's but for what `mixed_wins` names.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genlab.ops.shapes import ConvCall, Pair

MACHINE = "AMD EPYC Zen 4, AVX-512, torch 2.14, one thread and two"

# The engine works in tiles of 4x4 outputs and whole vectors of 16 channels. Below so many tiles the transform of the
# weights is not paid back; below so many products (of the direct algorithm) the start of the threads is not.
TILE = 4
CHANNEL_STEP = 16
LEAST_TILES = 16
LEAST_PRODUCTS = 1 << 27
# Products of the direct algorithm over those of the tiles, of which some overhang the image.
LEAST_SAVING = 1.9

# Asked once: torch.compile cannot trace the question.
_HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
# The processors that the bfloat16 kernels were timed on: with AMX oneDNN has another engine altogether.
_HAS_BF16_PRODUCTS = torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


@dataclass(frozen=True)
class WinogradRow:
    """One class: square kernel and stride, memory order of the images, least channels in and out, measured ratios."""

    kernel: int
    stride: int
    channels_last: bool
    least_channels: int
    ratios: tuple[float, float]

    @property
    def points(self) -> int:
        """Products per tile and channel pair."""
        return 36 if self.stride == 1 else 4 * 25


# Other layouts are copied to channels_last and back, which few channels do not pay for.
WINOGRAD = (
    WinogradRow(3, 1, True, 32, (1.6, 3.6)),
    WinogradRow(3, 1, False, 64, (1.3, 2.5)),
    WinogradRow(4, 2, True, 32, (1.2, 2.8)),
    WinogradRow(4, 2, False, 128, (1.1, 1.9)),
)


def winograd_wins(input: Tensor, call: ConvCall) -> bool:
    """Whether the Winograd kernels are quicker than torch at this float32 convolution on the CPU.

    Args:
        input: (N, C, H, W), the image or, for the transposed convolution, what it spreads.
        call: the rest of it.
    """
    first, second, kernel, kernel_w = call.weight.shape
    if kernel != kernel_w or kernel not in (3, 4) or call.groups != 1 or call.dilation != (1, 1):
        return False
    if call.stride != ((1, 1) if kernel == 3 else (2, 2)) or (kernel == 4 and call.padding_mode != "zeros"):
        return False
    if first % CHANNEL_STEP or second % CHANNEL_STEP or call.padding[0] >= kernel or call.padding[1] >= kernel:
        return False
    row = WINOGRAD[(0 if kernel == 3 else 2) + (0 if input.stride(1) == 1 else 1)]
    tiles = _tiles(call.grid)
    direct = call.grid[0] * call.grid[1] * kernel * kernel
    return (
        min(first, second) >= row.least_channels
        and direct >= LEAST_SAVING * tiles * row.points
        and input.shape[0] * tiles >= LEAST_TILES
        and input.shape[0] * direct * first * second >= LEAST_PRODUCTS
        and _HAS_AVX512
    )


def _tiles(grid: Pair) -> int:
    return -(-grid[0] // TILE) * -(-grid[1] // TILE)


# Where a bfloat16 3x3 convolution gains from the fp32 Winograd kernels, conversions included.
WIDENED_LEAST_CHANNELS = 64
WIDENED_LEAST_TILES = 64
WIDENED_RATIOS = (1.2, 1.5)


def widened_wins(input: Tensor, call: ConvCall) -> bool:
    """Whether this bfloat16 convolution is quicker as fp32 Winograd: a quarter of the products at half the rate.

    Args as of `winograd_wins`.
    """
    return (
        call.weight.shape[2] == 3
        and input.stride(1) == 1
        and min(call.weight.shape[0], call.weight.shape[1]) >= WIDENED_LEAST_CHANNELS
        and input.shape[0] * _tiles(call.grid) >= WIDENED_LEAST_TILES
        and not torch.cpu._is_amx_tile_supported()
        and winograd_wins(input, call)
    )


def widened_summary() -> str:
    """The class in words, for `genlab list ops` and `genlab doctor`."""
    return (
        f"3x3 stride 1 channels_last from {WIDENED_LEAST_CHANNELS} channels by the fp32 Winograd kernels, rounded "
        f"once: {WIDENED_RATIOS[0]:g}-{WIDENED_RATIOS[1]:g}x of oneDNN's (AMD EPYC Zen 4, AVX512_BF16 without AMX, "
        "two threads)"
    )


def winograd_summary() -> str:
    """The classes in words, for `genlab list ops` and `genlab doctor`."""
    parts = []
    for row in WINOGRAD:
        layout = "channels_last" if row.channels_last else "contiguous"
        parts.append(
            f"{row.kernel}x{row.kernel} stride {row.stride} {layout} from {row.least_channels} channels "
            f"{row.ratios[0]:g}-{row.ratios[1]:g}x"
        )
    return f"Winograd for {', '.join(parts)} of oneDNN ({MACHINE})"


# Below so many input channels the vectors of the native weight gradient are not filled. oneDNN's sums along rows of the
# output and loses its speed where they are short; at 16 columns and more the two are equal.
MIXED_LEAST_CHANNELS = 32
MIXED_WIDEST = 8
MIXED_LEAST_PRODUCTS = 1 << 27
WEIGHT_GRADIENT_RATIOS = (1.1, 1.9)
# An image of few channels, with many on the other side: oneDNN fills a vector's lanes with the few.
SPREAD_MOST_CHANNELS = 4
SPREAD_LEAST_CHANNELS = 32
SPREAD_LEAST_PRODUCTS = 1 << 22
SPREAD_RATIOS = (2.6, 6.8)


def mixed_wins(input: Tensor, call: ConvCall) -> bool:
    """Whether a direction of this bfloat16 convolution that may be asked for is quicker native than as torch's.

    Args as of `winograd_wins`.
    """
    if torch.compiler.is_compiling() or call.groups != 1 or not _HAS_BF16_PRODUCTS:
        return False
    if input.stride(1) != 1 and input.shape[1] != 1:
        return False
    products = _products(input, call)
    learns = torch.is_grad_enabled() and call.weight.requires_grad and products >= MIXED_LEAST_PRODUCTS
    if learns and weight_gradient_wins(call.weight, call.grid, torch.bfloat16):
        return True
    return products >= SPREAD_LEAST_PRODUCTS and _spread_is_asked_and_wins(input, call, torch.bfloat16)


def _products(input: Tensor, call: ConvCall) -> int:
    first, second, kernel_h, kernel_w = call.weight.shape
    return input.shape[0] * call.grid[0] * call.grid[1] * kernel_h * kernel_w * first * second


def _spread_is_asked_and_wins(input: Tensor, call: ConvCall, dtype: torch.dtype) -> bool:
    # A transposed convolution has its few channels after it, a convolution before it.
    asked = input.shape[1] == call.weight.shape[0] or (torch.is_grad_enabled() and input.requires_grad)
    return asked and spread_wins(input, call.weight, call.dilation, dtype)


def weight_gradient_wins(weight: Tensor, grid: Pair, dtype: torch.dtype) -> bool:
    """Whether the native weight gradient is quicker: bfloat16 of at least so many channels each way, float32 of few.

    In float32 only with the bias's and through an activation: one reading instead of torch's three. `dtype` is that of
    the products, which autocast may set apart from the weight's.
    """
    if dtype == torch.float32:
        return _is_many_to_few(weight, dtype) and weight.shape[2] * weight.shape[3] <= FEW_MOST_TAPS
    return min(weight.shape[0], weight.shape[1]) >= MIXED_LEAST_CHANNELS and grid[1] <= MIXED_WIDEST


def spread_wins(input: Tensor, weight: Tensor, dilation: Pair, dtype: torch.dtype) -> bool:
    """Whether the native transposed direction is quicker: to an image of few channels, several images, no dilation.

    Args:
        input: what has the batch.
        weight: (many, few, kernel height, kernel width), input channels (few) next to each other.
        dtype: of the products.
    """
    return (
        _is_many_to_few(weight, dtype)
        and weight.is_contiguous(memory_format=torch.channels_last)
        and dilation == (1, 1)
        and input.shape[0] >= 4
    )


def _is_many_to_few(weight: Tensor, dtype: torch.dtype) -> bool:
    many, few = weight.shape[:2]
    step = CHANNEL_STEP if dtype == torch.float32 else 2
    return few <= SPREAD_MOST_CHANNELS and many >= SPREAD_LEAST_CHANNELS and many % step == 0


FEW_MOST_TAPS = 16
# Of the weight's gradient with the bias's through an activation, and of the transposed direction.
FEW_CHANNELS_RATIOS = ((1.04, 1.3), (2.4, 9.0))


def few_channels_wins(input: Tensor, call: ConvCall) -> bool:
    """Whether a direction of this float32 convolution of few channels that may be asked for is quicker native.

    Args as of `winograd_wins`.
    """
    if torch.compiler.is_compiling() or call.groups != 1 or call.dilation != (1, 1) or not _HAS_AVX512:
        return False
    # Of one channel torch takes the order of memory for contiguous, and gives its output in that.
    if input.stride(1) != 1 or not _is_many_to_few(call.weight, torch.float32):
        return False
    if _products(input, call) < SPREAD_LEAST_PRODUCTS:
        return False
    learns = torch.is_grad_enabled() and call.weight.requires_grad
    if learns and weight_gradient_wins(call.weight, call.grid, torch.float32):
        return True
    return _spread_is_asked_and_wins(input, call, torch.float32)


def few_channels_summary() -> str:
    """The class in words, for `genlab list ops` and `genlab doctor`."""
    wgrad, spread = FEW_CHANNELS_RATIOS
    return (
        f"by direction, channels_last, images of up to {SPREAD_MOST_CHANNELS} channels: torch's but for the native "
        f"weight gradient with bias and activation {wgrad[0]:g}-{wgrad[1]:g}x and the native transposed direction "
        f"{spread[0]:g}-{spread[1]:g}x of oneDNN's ({MACHINE})"
    )


def mixed_summary() -> str:
    """The classes in words, for `genlab list ops` and `genlab doctor`."""
    wgrad, spread = WEIGHT_GRADIENT_RATIOS, SPREAD_RATIOS
    return (
        "by direction, channels_last: torch's but for the native weight gradient "
        f"from {MIXED_LEAST_CHANNELS} channels and up to {MIXED_WIDEST} columns of output "
        f"{wgrad[0]:g}-{wgrad[1]:g}x, and the native transposed direction to images of up to {SPREAD_MOST_CHANNELS} "
        f"channels {spread[0]:g}-{spread[1]:g}x of oneDNN's (AMD EPYC Zen 4, AVX512_BF16 without AMX, one thread)"
    )
