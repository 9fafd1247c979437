"""Calls for which `impl="auto"` takes the native recurrences on the CPU, with what was measured there.

Ratios are torch's time (the best of float32 or bfloat16 weights and autocast) over the native one, forward and
backward, on AMD Zen 4 with AVX-512 and AVX512_BF16, torch 2.14, processor time of one thread on a machine that other
work shared; 64 to 512 units, 1 to 32 sequences. torch runs GRU and RNN as a loop of small ops, an LSTM in oneDNN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.ops import shapes

GRU_SUMMARY = "one scan for all steps: 1.3-5.1x of torch in float32, 1.4-10.8x in bfloat16, with gradients (Zen 4)"
RNN_SUMMARY = "one scan for all steps: 1.3-3.9x of torch in float32, 1.4-9.9x in bfloat16, with gradients (Zen 4)"
LSTM_SUMMARY = "with gradients and from 256 units on 1.17-2.5x of oneDNN in bfloat16 (Zen 4)"
MASKED_SUMMARY = "masks on the recurrent connections, for which torch has only a loop over steps"
TORCH_SUMMARY = "torch's own network: oneDNN's LSTM, and where AVX-512 is missing or the dtype is float64"
CUDA_SUMMARY = "the native CUDA kernels have not been timed on a GPU; cuDNN, and a loop over steps for masks"

# The LSTM below: 128 units 0.98 in bfloat16, 64 units 0.88; without gradients 0.83-1.04. In float32 oneDNN's is as
# quick on one thread (1.02-1.12) and quicker on two (0.97).
LEAST_LSTM_UNITS = 256

# Asked once: torch.compile cannot trace the question.
_HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
# With AMX oneDNN has another engine for bfloat16, which was not at hand.
_HAS_BF16_PRODUCTS = torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


def native_wins(input: Tensor, hidden: int, masked: bool, differentiated: bool) -> bool:
    """Whether the native GRU or RNN is the quicker one."""
    bfloat16 = _kernel_dtype(input) == torch.bfloat16
    return _HAS_AVX512 and (_HAS_BF16_PRODUCTS or not bfloat16)


def native_lstm_wins(input: Tensor, hidden: int, masked: bool, differentiated: bool) -> bool:
    """Whether the native LSTM is the quicker one."""
    if not (differentiated and native_wins(input, hidden, masked, differentiated)):
        return False
    # torch.compile cannot trace the gradient of oneDNN's LSTM (torch 2.14: an assertion about what it saves).
    return torch.compiler.is_compiling() or (hidden >= LEAST_LSTM_UNITS and _kernel_dtype(input) == torch.bfloat16)


def is_masked(input: Tensor, hidden: int, masked: bool, differentiated: bool) -> bool:
    """Whether the hidden state is masked where weight_hh multiplies it."""
    return masked


def _kernel_dtype(input: Tensor) -> torch.dtype:
    """The dtype that a kernel sees: autocast's where it is on."""
    low = None if input.dtype == torch.float64 else shapes.autocast_dtype(input)
    return input.dtype if low is None else low
