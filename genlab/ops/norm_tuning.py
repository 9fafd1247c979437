"""Shape classes in which `impl="auto"` leaves a normalisation on the CPU to torch, with what was measured there.

Ratios are torch's time over the native one, forward and backward, on AMD Zen 4 with AVX-512, torch 2.14, processor time
of one thread on a machine that other work shared. Where none of the rules below holds: 1.2-5.9 with relu, leaky_relu or
no activation; with tanh, sigmoid and silu 1.6-3.9 forward and 0.8-1.05 backward, 1.1 and more in their sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Channels of a whole vector: in channels_last memory the rest of a row goes element by element. 3 channels 0.6 and 0.3,
# 100 channels 0.90 and 0.92.
CHANNEL_STEP = 16

# Positions of one channel in contiguous memory, below which the work between channels shows: 4 x 4 positions 1.45 and
# 0.57, 7 x 7 positions 2.5 and 0.89.
LEAST_POSITIONS = 64

# The error function of 16 values at once costs more than torch's in bfloat16: 1.26 and 0.71; float32 1.40 and 0.88.
LOSING_ACTIVATIONS = ("gelu",)


def torch_wins(input: Tensor, activation: str | None) -> bool:
    """Whether torch's batch or instance normalisation of `input`, (N, C, ...), is the quicker one."""
    if activation in LOSING_ACTIVATIONS:
        return True
    channels, positions = input.shape[1], 1
    for size in input.shape[2:]:
        positions = positions * size
    rows = input.dim() == 4 and not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)
    if rows or positions == 1:
        return channels % CHANNEL_STEP != 0
    return positions < LEAST_POSITIONS


# Layer normalisation, ratios likewise, (32, 128, 512) and (128, 197, 384): with a residual or relu 1.2-1.9 forward and
# 1.0-1.5 forward and backward; in bfloat16 1.1-1.9 and 1.3-1.7, also without them. Alone in float32 0.6-1.0 and 0.9;
# with silu 0.9-1.1 and with gelu less, forward and backward. Of few values the gradient's formula in Python shows: with
# 2^18 values 0.8-0.96 in float32, 1.1-1.2 in bfloat16, forward and backward.
LAYER_NORM_ACTIVATIONS = (None, "relu", "leaky_relu")
LEAST_LAYER_NORM_VALUES = {torch.float32: 1 << 21, torch.bfloat16: 1 << 18}

# Asked once: torch.compile cannot trace the question.
_HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"


def native_layer_norm_wins(input: Tensor, activation: str | None, with_residual: bool) -> bool:
    """Whether the native layer normalisation of `input` is quicker than torch's with the rest after it."""
    alone = activation is None and not with_residual
    return (
        _HAS_AVX512
        and activation in LAYER_NORM_ACTIVATIONS
        and input.numel() >= LEAST_LAYER_NORM_VALUES[input.dtype]
        and not (alone and input.dtype == torch.float32)
    )
