"""RMSprop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from genlab.ops.optimizer_step import rmsprop_step
from genlab.optim.fused import FusedStep, Request


class RMSprop(FusedStep, torch.optim.RMSprop):
    """torch.optim.RMSprop (Hinton 2012, lecture 6e; centered: Graves 2013, equations 38-45) as one kernel.

    Args and errors as of torch.optim.RMSprop and `genlab.optim.FusedStep`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        impl: str = "auto",
    ) -> None:
        super().__init__(
            params, lr, alpha, eps, weight_decay, momentum, centered, capturable, foreach, maximize, differentiable
        )
        self._prepare(impl)

    def _step_group(self, group: dict[str, Any], request: Request) -> None:
        params: list[Tensor] = []
        self._init_group(group, params, [], [], [], [], [])  # creates the state of parameters that have none
        self._place_steps(params)
        states = [self.state[p] for p in params]
        columns = [
            params,
            [p.grad for p in params],
            [state["square_avg"] for state in states],
            [state["grad_avg"] for state in states] if group["centered"] else [],
            [state["momentum_buffer"] for state in states] if group["momentum"] > 0 else [],
            [state["step"] for state in states],
        ]
        for part, extras in request.parts(columns):
            rmsprop_step(
                *part,
                lr=group["lr"],
                alpha=group["alpha"],
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                maximize=group["maximize"],
                extras=extras,
                impl=self.impl,
            )
