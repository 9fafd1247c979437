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


SCHEMES = ("lecun", "xavier", "he", "lecun_uniform", "xavier_uniform", "he_uniform", "zero", "constant")


def initialize(
    module: nn.Module, scheme: str, *, value: float = 0.01, generator: torch.Generator | None = None
) -> nn.Module:
    """Initial weights of every convolution and linear layer by the layers' sizes; every bias 0, normalisations kept.

    Args:
        module: changed in place and returned.
        scheme: variance of weights with n inputs and m outputs of a unit. "lecun": 1 / n (LeCun et al. 1998,
            "Efficient BackProp", section 4.6); "xavier": 2 / (n + m) (Glorot and Bengio 2010, equation 12); "he": 2 / n
            (He et al. 2015, equation 10). Weights are normal, or with "_uniform" behind the name uniform on
            (-sqrt(3 variance), sqrt(3 variance)): equation 16 of Glorot and Bengio. "zero" and "constant" give all
            units of a layer the same gradient, so that they stay alike.
        value: of every weight with "constant".
        generator: source of the draws; None is torch's global one.

    Raises:
        ValueError: an unknown scheme.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"initialize: expected {', '.join(SCHEMES)}, got {scheme!r}")
    for child in module.modules():
        if not isinstance(child, (_ConvNd, nn.Linear)):
            continue
        fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(child.weight)
        if scheme == "zero" or scheme == "constant":
            nn.init.constant_(child.weight, value if scheme == "constant" else 0.0)
        else:
            kind, _, uniform = scheme.partition("_")
            variance = {"lecun": 1 / fan_in, "xavier": 2 / (fan_in + fan_out), "he": 2 / fan_in}[kind]
            if uniform:
                bound = (3 * variance) ** 0.5
                nn.init.uniform_(child.weight, -bound, bound, generator=generator)
            else:
                nn.init.normal_(child.weight, 0.0, variance**0.5, generator=generator)
        if child.bias is not None:
            nn.init.zeros_(child.bias)
    return module
