"""Numeric precision of a training step: fp32, or mixed with bfloat16 or float16.

Parameters, gradients, optimiser state, losses and gradient penalties stay float32 in every mode; only the networks'
forward passes run under autocast.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from genlab.errors import ConfigError

_AUTOCAST_DTYPES = {"bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16}


class Precision:
    """The autocast context and the gradient scalers of one precision on one device.

    Args:
        name: "fp32", "bf16-mixed" or "fp16-mixed".
        device: where the networks live.

    Raises:
        ConfigError: unknown name, or a CUDA device without bfloat16.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name != "fp32" and name not in _AUTOCAST_DTYPES:
            raise ConfigError(f"train.precision: expected fp32, bf16-mixed or fp16-mixed, got {name!r}")
        wants_bf16 = name == "bf16-mixed" and device.type == "cuda"
        if wants_bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError(
                f"train.precision: {torch.cuda.get_device_name(device)} has no bfloat16; use fp16-mixed or fp32"
            )
        self.name = name
        self.device = device
        self.dtype = _AUTOCAST_DTYPES.get(name)

    def autocast(self) -> AbstractContextManager:
        """Context of the networks' forward passes."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)

    def full(self) -> AbstractContextManager:
        """Context that switches autocast off, for losses and penalties that need float32."""
        return torch.autocast(self.device.type, enabled=False)

    def new_scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler for one optimiser: active for float16 only, whose small gradients would vanish.

        Each optimiser has its own, because one scaler allows one step per update and GANs take several.
        """
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
