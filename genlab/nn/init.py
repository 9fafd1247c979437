"""Initial values that papers prescribe."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd


def normal_init(module: nn.Module, std: float = 0.02, generator: torch.Generator | None = None) -> nn.Module:
    """DCGAN's initial values (Radford et al. 2015, section 4), over every submodule.

    Convolution and linear weights are drawn from N(0, std), normalisation scales from N(1, std); every bias is 0.

    Args:
        module: changed in place and returned.
        std: standard deviation, >= 0.
        generator: source of the draws; None is torch's global one.
    """
    if not std >= 0:
        raise ValueError(f"normal_init: expected std >= 0, got {std}")
    for child in module.modules():
        if isinstance(child, (_ConvNd, nn.Linear)):
            nn.init.normal_(child.weight, 0.0, std, generator=generator)
        elif isinstance(child, (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)):
            if child.weight is not None:
                nn.init.normal_(child.weight, 1.0, std, generator=generator)
        else:
            continue
        if child.bias is not None:
            nn.init.zeros_(child.bias)
    return module
