"""Multi-head attention on the lab's op."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.ops import implementation, scaled_dot_product_attention
from genlab.ops.shapes import shape_text

OP = "MultiheadAttention"


class MultiheadAttention(nn.MultiheadAttention):
    """torch.nn.MultiheadAttention on genlab.ops.scaled_dot_product_attention; loads its state_dict.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2. Same arguments, outputs and initial weights as
    torch's. Two things are wider: `is_causal=True` needs no attn_mask beside it, and a query whose keys are all masked
    gives zeros (then the output projection's bias) where torch gives NaN with need_weights=True.

    Args:
        *args, **kwargs: torch.nn.MultiheadAttention's (embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn,
            kdim, vdim, batch_first, device, dtype).
        impl: "auto", "native", "torch" or "reference", of the attention; need_weights=True is plain torch always.

    Example:
        >>> layer = MultiheadAttention(64, 4, batch_first=True)
        >>> tokens = torch.randn(2, 16, 64)
        >>> layer(tokens, tokens, tokens, need_weights=False)[0].shape
        torch.Size([2, 16, 64])
    """

    def __init__(self, *args: Any, impl: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        implementation.check_impl(OP, impl)
        self.impl = impl

    def extra_repr(self) -> str:
        return "" if self.impl == "auto" else f"impl={self.impl}"

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention of `query` over `key` and `value`.

        Args:
            query: (N, L, embed_dim) with batch_first, else (L, N, embed_dim); (L, embed_dim) without a batch.
            key, value: (N, S, kdim) and (N, S, vdim), or as above.
            key_padding_mask: (N, S), (S,) without a batch; True (or -inf) takes a key out.
            need_weights: whether to return the weights, after dropout; without them memory does not grow with L * S.
            attn_mask: (L, S) or (N * num_heads, L, S); True takes a pair out, numbers are added to the scores.
            average_attn_weights: the mean of the weights over the heads.
            is_causal: query i sees keys 0 to i. An attn_mask beside it is taken to say just that, as in torch.

        Returns:
            The output in the query's layout, and the weights (N, L, S), (N, num_heads, L, S) where not averaged, None
            where not needed; without a batch both lack N.

        Raises:
            AssertionError: columns, lengths, ranks or a key_padding_mask that do not fit.
            RuntimeError: batches that differ, or an attn_mask of another shape.
        """
        batched = query.dim() == 3
        _check_inputs(self, query, key, value)
        q, k, v = self._project(query, key, value, batched)
        padding = key_padding_mask if batched or key_padding_mask is None else key_padding_mask.unsqueeze(0)
        causal = is_causal and padding is None and not (need_weights or self.add_zero_attn or self.bias_k is not None)
        mask = None
        if not causal:
            order = _causal_mask(q, k) if is_causal and attn_mask is None else attn_mask
            mask = _merged_mask(padding, order, q, k)
        k, v, mask = self._append(k, v, mask)
        dropout_p, weights = self.dropout if self.training else 0.0, None
        if need_weights:
            output, weights = _attention_with_weights(q, k, v, mask, dropout_p)
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            output = scaled_dot_product_attention(q, k, v, mask, dropout_p, causal, impl=self.impl)
        output = self.out_proj(output.transpose(1, 2).flatten(2))
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor, batched: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of every head, (N, heads, length, head_dim): views of the projections, not copies."""

        def heads(projected: Tensor, parts: int) -> tuple[Tensor, ...]:
            if not batched:
                projected = projected.unsqueeze(0)
            elif not self.batch_first:
                projected = projected.transpose(0, 1)
            split = projected.unflatten(-1, (parts, self.num_heads, self.head_dim))
            return tuple(part.transpose(1, 2) for part in split.unbind(2))

        size, bias = self.embed_dim, self.in_proj_bias
        if not self._qkv_same_embed_dim:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            biases = (None, None, None) if bias is None else bias.chunk(3)
            projected = map(F.linear, (query, key, value), weights, biases)
            q, k, v = (heads(tensor, 1)[0] for tensor in projected)
            return q, k, v
        if query is key and key is value:
            q, k, v = heads(F.linear(query, self.in_proj_weight, bias), 3)
            return q, k, v

        def rows(begin: int, end: int) -> tuple[Tensor, Tensor | None]:
            part = slice(begin * size, end * size)
            return self.in_proj_weight[part], None if bias is None else bias[part]

        (q,) = heads(F.linear(query, *rows(0, 1)), 1)
        if key is value:
            k, v = heads(F.linear(key, *rows(1, 3)), 2)
        else:
            (k,), (v,) = heads(F.linear(key, *rows(1, 2)), 1), heads(F.linear(value, *rows(2, 3)), 1)
        return q, k, v

    def _append(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The learned key and value, then the one of zeros, behind the others; every query sees them."""
        more = []
        if self.bias_k is not None:
            shape = (1, self.num_heads, 1, self.head_dim)
            more.append((self.bias_k.view(shape), self.bias_v.view(shape)))
        if self.add_zero_attn:
            zeros = k.new_zeros((1, 1, 1, 1))
            more.append((zeros, zeros))
        for key, value in more:
            tail = (*k.shape[:2], 1, self.head_dim)
            k, v = torch.cat([k, key.to(k.dtype).expand(tail)], 2), torch.cat([v, value.to(v.dtype).expand(tail)], 2)
        if more and mask is not None:
            mask = F.pad(mask, (0, len(more)), value=True if mask.dtype == torch.bool else 0.0)
        return k, v, mask


def _check_inputs(layer: MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> None:
    if any(tensor.is_nested for tensor in (query, key, value)):
        raise AssertionError(f"{OP}: expected padded tensors with key_padding_mask, got a nested tensor")
    expected = (layer.embed_dim, layer.kdim, layer.vdim)
    for name, tensor, columns in zip(("query", "key", "value"), (query, key, value), expected, strict=True):
        if tensor.dim() not in (2, 3) or tensor.dim() != query.dim():
            raise AssertionError(
                f"{OP}: expected query, key and value of two or three dimensions each, got {name} {shape_text(tensor)}"
            )
        if tensor.shape[-1] != columns:
            raise AssertionError(f"{OP}: expected {name} with {columns} columns, got {shape_text(tensor)}")
    texts = ", ".join(shape_text(tensor) for tensor in (query, key, value))
    if key.shape[:-1] != value.shape[:-1]:
        raise AssertionError(f"{OP}: expected key and value of one length and batch, got {texts}")
    batch = 0 if layer.batch_first else 1
    if query.dim() == 3 and key.shape[batch] != query.shape[batch]:
        raise RuntimeError(f"{OP}: expected key and value of the query's batch, got {texts}")


def _causal_mask(q: Tensor, k: Tensor) -> Tensor:
    return torch.ones((q.shape[2], k.shape[2]), dtype=torch.bool, device=q.device).triu(1)


def _merged_mask(padding: Tensor | None, order: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """torch.nn's two masks (True takes out) as one of torch.nn.functional's (True takes part), or as numbers to add."""
    batch, heads, length, keys = *q.shape[:3], k.shape[2]
    masks = []
    if padding is not None:
        _check_mask_dtype("key_padding_mask", padding)
        if padding.shape != (batch, keys):
            raise AssertionError(
                f"{OP}: expected key_padding_mask of shape ({batch}, {keys}), got {shape_text(padding)}"
            )
        masks.append(padding.view(batch, 1, 1, keys))
    if order is not None:
        _check_mask_dtype("attn_mask", order)
        if order.dim() not in (2, 3):
            raise AssertionError(f"{OP}: expected attn_mask of two or three dimensions, got {shape_text(order)}")
        if order.shape == (length, keys):
            order = order.view(1, 1, length, keys)
        elif order.shape == (batch * heads, length, keys):
            order = order.view(batch, heads, length, keys)
        else:
            raise RuntimeError(
                f"{OP}: expected attn_mask of shape ({length}, {keys}) or ({batch * heads}, {length}, {keys}), got "
                f"{shape_text(order)}"
            )
        masks.append(order)
    if not masks:
        return None
    if all(mask.dtype == torch.bool for mask in masks):
        return masks[0].logical_not() if len(masks) == 1 else torch.logical_or(*masks).logical_not()
    return sum(_as_numbers(mask, q.dtype) for mask in masks)


def _check_mask_dtype(name: str, mask: Tensor) -> None:
    if mask.dtype != torch.bool and not mask.dtype.is_floating_point:
        raise AssertionError(f"{OP}: expected {name} of dtype torch.bool or floating point, got {mask.dtype}")


def _as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -torch.inf)


def _attention_with_weights(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float
) -> tuple[Tensor, Tensor]:
    scores = torch.matmul(q * (1.0 / math.sqrt(q.shape[-1])), k.transpose(-2, -1))
    if mask is not None:
        scores = scores.masked_fill(mask.logical_not(), -torch.inf) if mask.dtype == torch.bool else scores + mask
        alone = (scores == -torch.inf).all(-1, keepdim=True)
        weights = torch.softmax(scores.masked_fill(alone, 0.0), -1).masked_fill(alone, 0.0)
    else:
        weights = torch.softmax(scores, -1)
    weights = F.dropout(weights, dropout_p) if dropout_p > 0.0 else weights
    return torch.matmul(weights, v), weights
