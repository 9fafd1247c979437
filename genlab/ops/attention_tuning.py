"""Calls of scaled_dot_product_attention that `impl="auto"` gives to the native CPU kernels, and what was measured.

Ratios are torch's time (its flash kernel; its math path where that serves the call) over the native one, forward and
with gradients, AMD Zen 4 with AVX-512, torch 2.14, processor time of one thread on a machine that other work shared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.ops import attention_native

# Asked once: torch.compile cannot trace the question.
_HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"

# Multiply-adds of query key^T, below which checks and the gradient's node in Python show. float32: 64 x 64 scores of 32
# heads 0.98 and 0.82, 50 x 50 of 48 heads 0.80 and 0.89, 128 x 128 causal of 32 heads 1.4 and 1.4. The 16-bit types
# have 1.7-1.8 and 4.1-8.9 at these sizes, and 0.9-1.1 forward with 16 x 16 scores of 32 heads.
LEAST_PRODUCTS = {torch.float32: 1 << 24, torch.bfloat16: 1 << 20, torch.float16: 1 << 20}

# float32, one query over 512 keys: 0.55 and 0.55; of 16 bits 1.8-2.6 and 1.6-2.1.
LEAST_QUERIES = {torch.float32: 64, torch.bfloat16: 1, torch.float16: 1}

# float32, 256 columns: 0.96 and 1.03; 128 columns 1.20 and 1.17.
LARGEST_DIM = {torch.float32: 128, torch.bfloat16: 256, torch.float16: 256}


def native_wins(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: float, is_causal: bool
) -> bool:
    """Whether the native kernels are the quicker ones; arguments as of the op."""
    if not _HAS_AVX512 or not attention_native.dims_fit(query, value):
        return False
    # bfloat16 with values of another dim than keys is summed in float32, by torch as well.
    kind = query.dtype if query.shape[-1] == value.shape[-1] and query.dtype in LEAST_PRODUCTS else torch.float32
    return (
        query.numel() * key.shape[-2] >= LEAST_PRODUCTS[kind]
        and query.shape[-2] >= LEAST_QUERIES[kind]
        and max(query.shape[-1], value.shape[-1]) <= LARGEST_DIM[kind]
    )
