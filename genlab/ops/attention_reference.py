"""Scaled dot-product attention written out in plain torch, with the native kernels' dropout."""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
) -> Tensor:
    """dropout(softmax(query key^T * scale + mask)) value, in float32 or wider; rows without a key give zeros.

    Args:
        query, key, value, mask: as `attention_shapes.four_dimensional` returns them.
        seed: (2,) int64 of the dropout; None without.
        dropout_p, is_causal, scale: as of the op.

    Returns:
        (N, H, L, Ev) of the query's dtype.
    """
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    group = query.shape[1] // max(1, key.shape[1])
    keys, values = (t.to(wide).repeat_interleave(group, 1) for t in (key, value))
    scores = torch.matmul(query.to(wide), keys.transpose(-2, -1)) * scale
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.to(wide)
    alone = (scores == -torch.inf).all(-1, keepdim=True)  # also where there are no keys at all
    weights = torch.softmax(scores.masked_fill(alone, 0.0), -1).masked_fill(alone, 0.0)
    if seed is not None:
        kept = keep_mask(seed, weights.shape, dropout_p)
        weights = weights * kept * (1.0 / (1.0 - dropout_p) if dropout_p < 1.0 else 0.0)
    return torch.matmul(weights, values).to(query.dtype)


def keep_mask(seed: Tensor, shape: torch.Size | tuple[int, ...], dropout_p: float) -> Tensor:
    """Which weights dropout keeps, (N, H, L, S) of bool: the numbers of csrc/kernels/attention_dropout.h.

    Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") of the key seed[0] and the counter
    (group of the column, row, seed[1]); a word below dropout_p * 2^32 drops its weight.
    """
    *rows, columns = shape
    device = seed.device
    row = torch.arange(rows[0] * rows[1] * rows[2], dtype=torch.int64, device=device).unsqueeze(1)
    group = torch.arange((columns + 15) // 16 * 4, dtype=torch.int64, device=device).unsqueeze(0)
    zero = torch.zeros_like(row + group)
    counter = (zero + group, zero + (row & _WORD), zero + (row >> 32), zero + (seed[1] & _WORD))
    words = torch.stack(_philox(counter, seed[0] & _WORD, (seed[0] >> 32) & _WORD), -1)
    # (rows, blocks of 16 columns, t, half, parity): column 16 block + 8 half + 2 t + parity
    words = words.reshape(row.shape[0], -1, 4, 2, 2).transpose(2, 3).reshape(row.shape[0], -1)
    threshold = int(dropout_p * 4294967296.0 + 0.5)
    return (words[:, :columns] >= threshold).reshape(shape)


def _philox(counter: tuple[Tensor, ...], key_low: Tensor, key_high: Tensor) -> tuple[Tensor, ...]:
    """Ten rounds on words of 32 bits held in int64."""
    a, b, c, d = counter
    for _ in range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57  # wrap around at 64 bits: the unsigned product's bits
        a, b = ((second >> 32) & _WORD) ^ b ^ key_low, second & _WORD
        c, d = ((first >> 32) & _WORD) ^ d ^ key_high, first & _WORD
        key_low, key_high = (key_low + 0x9E3779B9) & _WORD, (key_high + 0xBB67AE85) & _WORD
    return a, b, c, d
