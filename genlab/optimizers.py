"""Optimisers from their configuration."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import Parameter

from genlab.config import OptimizerConfig


def build_optimizer(config: OptimizerConfig, parameters: Iterable[Parameter]) -> torch.optim.Optimizer:
    """The optimiser that `config` describes over `parameters`, frozen ones included (they are skipped while frozen).

    Adam, AdamW, AdaGrad and SGD run as one fused kernel per step, on the CPU too.
    """
    parameters = list(parameters)
    common = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name in {"adam", "adamw"}:
        kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
        return kind(parameters, betas=config.betas, eps=config.eps, fused=True, **common)
    if config.name == "rmsprop":
        return torch.optim.RMSprop(parameters, alpha=config.alpha, eps=config.eps, momentum=config.momentum, **common)
    if config.name == "adagrad":
        return torch.optim.Adagrad(parameters, eps=config.eps, fused=True, **common)
    return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=config.nesterov, fused=True, **common)
