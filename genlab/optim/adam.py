"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from genlab.ops.optimizer_step import adam_step
from genlab.optim.fused import FusedStep, Request


class _AdamStep(FusedStep):
    """The step of torch.optim.Adam and its subclasses."""

    def _step_group(self, group: dict[str, Any], request: Request) -> None:
        params: list[Tensor] = []
        self._init_group(group, params, [], [], [], [], [])  # creates the state of parameters that have none
        self._place_steps(params)
        states = [self.state[p] for p in params]
        names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else []), "step"]
        columns = [params, [p.grad for p in params], *([state[name] for state in states] for name in names)]
        if not group["amsgrad"]:
            columns.insert(4, [])
        beta1, beta2 = group["betas"]
        for part, extras in request.parts(columns):
            adam_step(
                *part,
                lr=group["lr"],
                beta1=float(beta1),
                beta2=float(beta2),
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                decoupled=group["decoupled_weight_decay"],
                maximize=group["maximize"],
                extras=extras,
                impl=self.impl,
            )


class Adam(_AdamStep, torch.optim.Adam):
    """torch.optim.Adam (Kingma and Ba 2015, algorithm 1; amsgrad: Reddi et al. 2018, algorithm 2) as one kernel.

    Args and errors as of torch.optim.Adam and `genlab.optim.FusedStep`.

    Example:
        >>> optimizer = Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
        >>> loss.backward()
        >>> optimizer.step(max_norm=1.0)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        impl: str = "auto",
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize, capturable=capturable,
            differentiable=differentiable, fused=fused, decoupled_weight_decay=decoupled_weight_decay,
        )  # fmt: skip
        self._prepare(impl)


class AdamW(_AdamStep, torch.optim.AdamW):
    """torch.optim.AdamW (Loshchilov and Hutter 2019, algorithm 2) as one kernel.

    Args and errors as of torch.optim.AdamW and `genlab.optim.FusedStep`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        impl: str = "auto",
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, foreach=foreach, capturable=capturable,
            differentiable=differentiable, fused=fused,
        )  # fmt: skip
        self._prepare(impl)
