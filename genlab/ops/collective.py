"""Sums over the processes of a group that gradients of any order flow through."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class _AllReduceSum(torch.autograd.Function):
    """y = sum over processes of x. The loss of the group is the sum of its processes' losses, each of which reads y, so
    the gradient of x is the sum of the gradients of y: the same function again, which makes it differentiable twice."""

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None]:
        return _AllReduceSum.apply(grad_output, ctx.group), None


def all_reduce_sum(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Sum of `x` over the processes of `group`; same shape. Every process must call it, forward and backward alike."""
    return _AllReduceSum.apply(x, group)
