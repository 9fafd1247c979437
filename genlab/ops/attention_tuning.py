"""Calls of scaled_dot_product_attention that `impl="auto"` gives to the native CPU kernels, with what was measured there.

Ratios are torch's time (its flash kernel, its math path where that serves the call) over the native one, AMD Zen 4 with
AVX-512, torch 2.14, processor time of one thread on a machine that other work shared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.ops import attention_native

# Asked once: torch.compile cannot trace the question.
_HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"

# Multiply-adds of the scores, below which the checks and the gradient's node in Python outweigh the kernels.
LEAST_PRODUCTS = 1 << 20


def native_wins(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: float, is_causal: bool
) -> bool:
    """Whether the native kernels are the quicker ones; arguments as of the op."""
    if not _HAS_AVX512 or not attention_native.dims_fit(query, value):
        return False
    return query.numel() * key.shape[-2] >= LEAST_PRODUCTS
