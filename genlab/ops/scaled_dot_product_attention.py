"""scaled_dot_product_attention: torch.nn.functional's, with the choice of implementation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import attention_native, attention_reference, attention_shapes, implementation

OP = attention_shapes.OP


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    enable_gqa: bool = False,
    deterministic: bool | None = None,
    impl: str = "auto",
) -> Tensor:
    """dropout(softmax(query key^T * scale + mask)) value, with torch.nn.functional's arguments of that name.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1. A query without a key (its row of the mask takes
    every key out, or there are none) gives zeros and zero gradients. The native kernels never hold the matrix of
    scores: memory grows with the lengths, not with their product (Dao 2023, "FlashAttention-2").

    Args:
        query: (..., H, L, E), any strides; (L, E) and (H, L, E) as well.
        key: (..., H, S, E). Leading sizes broadcast, as in torch.
        value: (..., H, S, Ev).
        attn_mask: broadcasts to (..., H, L, S). Boolean, True takes part; or of the query's dtype (or float32), added
            to the scaled scores. None for all pairs.
        dropout_p: probability that a weight is dropped, 0 to 1; the others are divided by 1 - dropout_p. Whoever calls
            this decides about training. The native kernels and the reference draw one seed from torch's generator of
            the query's device and drop the same weights; torch drops others.
        is_causal: query i sees keys 0 to i, whatever L and S are (aligned at the top left); not with attn_mask.
        scale: 1 / sqrt(E) where None.
        enable_gqa: key and value may have fewer heads, each serving H / heads consecutive heads of the query
            (Ainslie et al. 2023, "GQA").
        deterministic: the same bits every time in the gradient on CUDA, at some cost in time; None follows
            torch.use_deterministic_algorithms. The CPU's kernels always are.
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Returns:
        (..., H, L, Ev) of the query's dtype. Where heads lie inside rows in the query's memory, (..., L, H, E), they do
        in the output of the native kernels too.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit, dropout_p outside [0, 1], attn_mask together with
            is_causal, or impl="native" where the extension is not built.
        IndexError: an attn_mask of fewer than two dimensions.
        TypeError: arguments that are no tensors or numbers.
        NotImplementedError: impl="native" for a device, dtype, E or Ev without kernel; a second derivative of the
            native kernels (use impl="reference").

    Example:
        >>> q, k, v = (torch.randn(2, 8, 128, 64) for _ in range(3))
        >>> scaled_dot_product_attention(q, k, v, is_causal=True).shape
        torch.Size([2, 8, 128, 64])
    """
    layout = attention_shapes.check(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    chosen = implementation.choose(OP, impl, query, key, value, attn_mask, dropout_p, is_causal)
    if chosen == "torch":
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if chosen == "native":
        attention_native.require_dims(query, value)
    factor = attention_shapes.default_scale(query, scale)
    queries, keys, values, mask = attention_shapes.four_dimensional(query, key, value, attn_mask, layout)
    seed = torch.randint(2**62, (2,), dtype=torch.int64, device=query.device) if dropout_p > 0 else None
    if chosen == "native":
        if deterministic is None:
            deterministic = torch.are_deterministic_algorithms_enabled()
        arguments = (dropout_p, is_causal, factor, deterministic)
        output, _ = torch.ops.genlab.scaled_dot_product_attention(queries, keys, values, mask, seed, *arguments)
    else:
        output = attention_reference.attention(queries, keys, values, mask, seed, dropout_p, is_causal, factor)
    return attention_shapes.unfold(output, layout)
