"""What scaled_dot_product_attention accepts, what it says otherwise, and its arguments as the kernels take them.

The kernels see four dimensions, (batch, heads, length, columns); everything else is a view of that where strides allow.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from genlab.ops import shapes

OP = "scaled_dot_product_attention"


class Layout(NamedTuple):
    """Sizes of one call.

    Attributes:
        batch: leading sizes of the output, before heads, length and columns; () below four dimensions.
        heads, kv_heads: of the queries, and those of key and value that each serve heads / kv_heads of them.
        rank: dimensions of the output.
    """

    batch: tuple[int, ...]
    heads: int
    kv_heads: int
    rank: int


def check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Layout:
    """The call's sizes; raises what torch raises where arguments do not fit."""
    _check_types(query, key, value, attn_mask, dropout_p, scale)
    for name, tensor in (("key", key), ("value", value)):
        if tensor.device != query.device:
            raise RuntimeError(f"{OP}: expected {name} on the query's device {query.device}, got {tensor.device}")
        if tensor.dtype != query.dtype and shapes.autocast_dtype(query) is None:
            raise RuntimeError(
                f"{OP}: expected {name} of the query's dtype {query.dtype}, got {tensor.dtype}; convert one of them or "
                "run under torch.autocast"
            )
    if not query.dtype.is_floating_point:
        raise RuntimeError(f"{OP}: expected a floating point query, got {query.dtype}; call query.float() first")
    if key.shape[-1] != query.shape[-1]:
        raise RuntimeError(
            f"{OP}: expected key with the query's {query.shape[-1]} columns, got {shapes.shape_text(key)}"
        )
    if value.shape[-2] != key.shape[-2]:
        raise RuntimeError(f"{OP}: expected value with the key's {key.shape[-2]} rows, got {shapes.shape_text(value)}")
    layout = _layout(query, key, value, enable_gqa)
    if attn_mask is not None:
        _check_mask(attn_mask, query, key, layout, is_causal)
    return layout


def _check_types(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: float, scale: float | None
) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value), ("attn_mask", attn_mask)):
        if not isinstance(tensor, Tensor) and not (name == "attn_mask" and tensor is None):
            raise TypeError(f"{OP}: expected {name} to be a tensor, got {type(tensor).__name__}")
        if name != "attn_mask" and tensor.dim() < 2:
            raise RuntimeError(
                f"{OP}: expected {name} of shape (..., length, columns), got {shapes.shape_text(tensor)}"
            )
    for name, number in (("dropout_p", dropout_p), ("scale", scale)):
        if isinstance(number, bool) or not (isinstance(number, int | float) or (name == "scale" and number is None)):
            raise TypeError(f"{OP}: expected {name} to be a number, got {number!r}")
    if not 0.0 <= dropout_p <= 1.0:
        raise RuntimeError(f"{OP}: expected dropout_p between 0 and 1, got {dropout_p}")


def _layout(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> Layout:
    heads, key_heads, value_heads = (t.shape[-3] if t.dim() > 2 else 1 for t in (query, key, value))
    if enable_gqa:
        for name, count in (("key", key_heads), ("value", value_heads)):
            if count < 1 or heads % count != 0:
                raise RuntimeError(
                    f"{OP}: expected the heads of {name} to divide the query's with enable_gqa, got {count} and {heads}"
                )
        kv_heads = key_heads if key_heads == value_heads else heads
    else:
        heads = kv_heads = _broadcast("heads", ((heads,), (key_heads,), (value_heads,)), (query, key, value))[0]
    batch = _broadcast("batch sizes", [tuple(t.shape[:-3]) for t in (query, key, value)], (query, key, value))
    return Layout(batch, heads, kv_heads, max(query.dim(), key.dim(), value.dim()))


def _broadcast(what: str, sizes: list | tuple, tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    try:
        return tuple(torch.broadcast_shapes(*sizes))
    except RuntimeError:
        texts = ", ".join(shapes.shape_text(tensor) for tensor in tensors)
        remedy = "; enable_gqa=True lets a head of key and value serve several queries" if what == "heads" else ""
        raise RuntimeError(
            f"{OP}: expected query, key and value whose {what} fit each other, got {texts}{remedy}"
        ) from None


def _check_mask(mask: Tensor, query: Tensor, key: Tensor, layout: Layout, is_causal: bool) -> None:
    if is_causal:
        raise RuntimeError(f"{OP}: expected attn_mask or is_causal=True, got both; put the causal order into the mask")
    if mask.dtype not in (torch.bool, torch.float32, query.dtype) and shapes.autocast_dtype(query) is None:
        raise RuntimeError(
            f"{OP}: expected attn_mask of dtype torch.bool (True takes part) or of the query's dtype {query.dtype}, "
            f"got {mask.dtype}"
        )
    if mask.dtype != torch.bool and not mask.dtype.is_floating_point:
        raise RuntimeError(f"{OP}: expected attn_mask of dtype torch.bool or floating point, got {mask.dtype}")
    if mask.device != query.device:
        raise RuntimeError(f"{OP}: expected attn_mask on the query's device {query.device}, got {mask.device}")
    if mask.dim() < 2:
        raise IndexError(
            f"{OP}: expected attn_mask of two or more dimensions (..., queries, keys), got {shapes.shape_text(mask)}"
        )
    scores = (*layout.batch, layout.heads, query.shape[-2], key.shape[-2])[-max(layout.rank, 2) :]
    given = tuple(mask.shape)
    fits = len(given) <= len(scores) and all(
        a == 1 or a == b for a, b in zip(given, scores[len(scores) - len(given) :], strict=True)
    )
    if not fits:
        text = ", ".join(map(str, scores))
        raise RuntimeError(f"{OP}: expected attn_mask that broadcasts to ({text}), got {shapes.shape_text(mask)}")


def default_scale(query: Tensor, scale: float | None) -> float:
    """`scale`, or 1 / sqrt(columns of the query)."""
    return 1.0 / math.sqrt(query.shape[-1]) if scale is None else float(scale)


def four_dimensional(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, layout: Layout
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Query (N, H, L, E), key (N, G, S, E), value (N, G, S, Ev), mask (N, H, L, S), broadcast by strides of 0."""
    batch = math.prod(layout.batch)

    def fold(tensor: Tensor, heads: int) -> Tensor:
        tensor = tensor.unsqueeze(0) if tensor.dim() == 2 else tensor
        if tensor.shape[-3] != heads and tensor.shape[-3] != 1:
            tensor = tensor.repeat_interleave(heads // tensor.shape[-3], -3)  # key and value of unlike head counts
        tail = (heads, *tensor.shape[-2:])
        return tensor.expand(*layout.batch, *tail).reshape(batch, *tail)

    queries = fold(query, layout.heads)
    keys, values = fold(key, layout.kv_heads), fold(value, layout.kv_heads)
    if attn_mask is None:
        return queries, keys, values, None
    tail = (layout.heads, query.shape[-2], key.shape[-2])
    return queries, keys, values, attn_mask.expand(*layout.batch, *tail).reshape(batch, *tail)


def unfold(output: Tensor, layout: Layout) -> Tensor:
    """(N, H, L, Ev) in the dimensions of the call."""
    if layout.rank == 4:
        return output
    if layout.rank < 4:
        return output.reshape(output.shape[4 - layout.rank :])
    return output.reshape(*layout.batch, *output.shape[1:])
