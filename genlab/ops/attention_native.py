"""What PyTorch must know of the native attention beside its kernels: shapes without data, and gradients.

The gradient is an op of its own; it has none in turn, and says so.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

OP = "scaled_dot_product_attention"

# Largest head and value dims of the kernels, as in csrc/cpu/attention.h and csrc/kernels/attention.h.
LARGEST_DIM = {"cpu": 256, "cuda": 128}


def register() -> None:
    """Registers fakes and gradients of the op and of its backward pass with the dispatcher."""
    torch.library.register_fake(f"genlab::{OP}", _fake)
    torch.library.register_fake(f"genlab::{OP}_backward", _backward_fake)
    torch.library.register_autograd(f"genlab::{OP}", _gradient, setup_context=_setup)
    torch.library.register_autograd(f"genlab::{OP}_backward", _second_gradient)


def dims_fit(query: Tensor, value: Tensor) -> bool:
    """Whether the kernels cover these head and value dims on the query's device."""
    largest = LARGEST_DIM.get(query.device.type, LARGEST_DIM["cpu"])
    return 1 <= query.shape[-1] <= largest and 1 <= value.shape[-1] <= largest


def require_dims(query: Tensor, value: Tensor) -> None:
    """Raises NotImplementedError where the kernels do not cover the dims."""
    if not dims_fit(query, value):
        largest = LARGEST_DIM.get(query.device.type, LARGEST_DIM["cpu"])
        raise NotImplementedError(
            f'{OP}: impl="native" cannot run: expected head and value dims from 1 to {largest} on '
            f'{query.device.type}, got {query.shape[-1]} and {value.shape[-1]}; use impl="torch"'
        )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _empty_rows(like: Tensor, columns: int) -> Tensor:
    """The layout rule of csrc/ops/attention.cpp: heads inside rows in memory where they lie so in `like`."""
    n, h, rows = like.shape[:3]
    if like.stride(1) < like.stride(2):
        return like.new_empty((n, rows, h, columns)).transpose(1, 2)
    return like.new_empty((n, h, rows, columns))


def _fake(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _empty_rows(query, value.shape[3]), query.new_empty(query.shape[:3], dtype=_wide(query.dtype))


def _backward_fake(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    attn_mask: Tensor | None,
    dropout_seed: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
    deterministic: bool,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = [
        _empty_rows(tensor, tensor.shape[3]) if asked else query.new_empty((0,))
        for tensor, asked in zip((query, key, value), wanted[:3], strict=True)
    ]
    mask = attn_mask.new_empty(attn_mask.shape) if wanted[3] else query.new_empty((0,))
    return grads[0], grads[1], grads[2], mask


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    query, key, value, attn_mask, dropout_seed, *attributes = inputs
    ctx.save_for_backward(query, key, value, *output, attn_mask, dropout_seed)
    ctx.mark_non_differentiable(output[1])
    ctx.attributes = attributes


def _gradient(ctx: Any, grad_output: Tensor, *_: Any) -> tuple:
    wanted = list(ctx.needs_input_grad[:4])
    found = torch.ops.genlab.scaled_dot_product_attention_backward(
        grad_output, *ctx.saved_tensors, *ctx.attributes, wanted
    )
    given = [gradient if asked else None for gradient, asked in zip(found, wanted, strict=True)]
    return (*given, None, None, None, None, None)


def _second_gradient(ctx: Any, *_: Any) -> NoReturn:
    raise NotImplementedError(
        f"{OP}: the native kernels have no second derivative; use "
        'impl="reference", or impl="torch" under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)'
    )
