"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from genlab.ops.optimizer_step import sgd_step
from genlab.optim.fused import FusedStep, Request


class SGD(FusedStep, torch.optim.SGD):
    """torch.optim.SGD (momentum in its form; nesterov: Sutskever et al. 2013) as one kernel.

    Args and errors as of torch.optim.SGD and `genlab.optim.FusedStep`; sparse gradients are refused.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        impl: str = "auto",
    ) -> None:
        super().__init__(
            params, lr, momentum, dampening, weight_decay, nesterov, maximize=maximize, foreach=foreach,
            differentiable=differentiable, fused=fused,
        )  # fmt: skip
        self._prepare(impl)

    def _step_group(self, group: dict[str, Any], request: Request) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if any(p.grad.is_sparse for p in params):
            raise RuntimeError("SGD does not support sparse gradients, please consider torch.optim.SGD instead")
        buffers: list[Tensor] = []
        is_first: list[bool] = []
        if group["momentum"] != 0:
            found = [self.state[p].get("momentum_buffer") for p in params]
            is_first = [buffer is None for buffer in found]
            buffers = [torch.zeros_like(p) if b is None else b for p, b in zip(params, found, strict=True)]
        columns = [params, [p.grad for p in params], buffers, is_first]
        for part, extras in request.parts(columns):
            sgd_step(
                *part,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                dampening=group["dampening"],
                nesterov=group["nesterov"],
                maximize=group["maximize"],
                extras=extras,
                impl=self.impl,
            )
        if any(is_first) and not request.skips():  # a skipped step leaves no momentum behind
            for parameter, buffer in zip(params, buffers, strict=True):
                self.state[parameter]["momentum_buffer"] = buffer
