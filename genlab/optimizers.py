"""Optimisers from their configuration, and the one call by which a trainer steps them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import Parameter

from genlab import optim
from genlab.config import OptimizerConfig
from genlab.ops import get_default_impl
from genlab.optim import FusedStep, WeightAverage


def build_optimizer(
    config: OptimizerConfig, parameters: Iterable[Parameter], *, without_decay: Iterable[Parameter] = ()
) -> torch.optim.Optimizer:
    """The optimiser that `config` describes over `parameters`, frozen ones included (they are skipped while frozen).

    The classes of `genlab.optim`; with kernels.impl=torch (`genlab.ops.set_default_impl`) those of torch.optim, fused
    where torch has that. State of the one loads into the other. AdaGrad is torch's in either case.

    Args:
        config: of the optimiser.
        parameters: that it steps.
        without_decay: those among them that weight decay leaves alone; they make a second group.
    """
    plain = get_default_impl() == "torch"
    family = torch.optim if plain else optim
    spared = set(without_decay)
    decayed, rest = [], []
    for parameter in parameters:
        (rest if parameter in spared else decayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed, "max_grad_norm": config.max_grad_norm}]
    if rest:
        groups.append({"params": rest, "max_grad_norm": config.max_grad_norm, "weight_decay": 0.0})
    common = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name in {"adam", "adamw"}:
        kind = family.Adam if config.name == "adam" else family.AdamW
        return kind(groups, betas=config.betas, eps=config.eps, fused=plain or None, **common)
    if config.name == "rmsprop":
        return family.RMSprop(groups, alpha=config.alpha, eps=config.eps, momentum=config.momentum, **common)
    if config.name == "adagrad":
        return torch.optim.Adagrad(groups, eps=config.eps, fused=True, **common)
    return family.SGD(groups, momentum=config.momentum, nesterov=config.nesterov, fused=plain or None, **common)


def take_step(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    bound: float | None = None,
    average: WeightAverage | None = None,
) -> None:
    """Unscales and clips the gradients, steps, bounds the weights and carries their average on.

    One pass over memory with `genlab.optim`, one after the other with torch's optimisers. Where the scaler finds an
    infinity, the weights stay, and are averaged once more.

    Args:
        optimizer: of `build_optimizer`; its groups' "max_grad_norm" clips their common norm.
        scaler: that the loss was scaled by.
        bound: every weight is clipped to [-bound, bound].
        average: of some or all of the weights.
    """
    max_norm = optimizer.param_groups[0].get("max_grad_norm")
    if isinstance(optimizer, FusedStep):
        scaler.step(optimizer, max_norm=max_norm, bound=bound, average=average)
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if max_norm is not None:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    scaler.step(optimizer)
    with torch.no_grad():
        if bound is not None:
            torch._foreach_clamp_min_(parameters, -bound)
            torch._foreach_clamp_max_(parameters, bound)
        if average is not None:
            average.advance()
