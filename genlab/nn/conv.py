"""Convolutions with a fused activation. Parameters, initial values and state_dict keys are torch.nn's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from genlab.nn.activated import Activated
from genlab.ops import conv1d, conv2d, conv_transpose2d, shapes


class Conv1d(Activated, nn.Conv1d):
    """torch.nn.Conv1d, then an activation, as one op (`genlab.ops.conv1d`).

    Args:
        *args, **kwargs: torch.nn.Conv1d's; padding_mode is "zeros" or "reflect".
        activation: None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu" or "silu".
        negative_slope: slope of leaky_relu below zero.
        impl: "auto", "native", "torch" or "reference".

    Example:
        >>> layer = Conv1d(1, 32, 25, stride=4, padding=12, activation="leaky_relu")
        >>> layer(torch.randn(8, 1, 16000)).shape
        torch.Size([8, 32, 4000])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check_padding_mode(self)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C_in, L) or (C_in, L) to (N, C_out, L_out) or (C_out, L_out)."""
        return conv1d(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
            padding_mode=self.padding_mode, activation=self.activation, negative_slope=self.negative_slope,
            impl=self.impl,
        )  # fmt: skip


class Conv2d(Activated, nn.Conv2d):
    """torch.nn.Conv2d, then an activation, as one op (`genlab.ops.conv2d`).

    Args:
        *args, **kwargs: torch.nn.Conv2d's; padding_mode is "zeros" or "reflect".
        activation: None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu" or "silu".
        negative_slope: slope of leaky_relu below zero.
        impl: "auto", "native", "torch" or "reference".

    Example:
        >>> layer = Conv2d(3, 64, 4, stride=2, padding=1, activation="leaky_relu")
        >>> layer(torch.randn(8, 3, 64, 64)).shape
        torch.Size([8, 64, 32, 32])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check_padding_mode(self)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C_in, H, W) or (C_in, H, W) to (N, C_out, H_out, W_out) or (C_out, H_out, W_out)."""
        return conv2d(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
            padding_mode=self.padding_mode, activation=self.activation, negative_slope=self.negative_slope,
            impl=self.impl,
        )  # fmt: skip


class ConvTranspose2d(Activated, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d, then an activation, as one op (`genlab.ops.conv_transpose2d`).

    Args:
        *args, **kwargs: torch.nn.ConvTranspose2d's.
        activation: None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu" or "silu".
        negative_slope: slope of leaky_relu below zero.
        impl: "auto", "native", "torch" or "reference".

    Example:
        >>> layer = ConvTranspose2d(100, 512, 4, activation="relu")
        >>> layer(torch.randn(8, 100, 1, 1)).shape
        torch.Size([8, 512, 4, 4])
    """

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """(N, C_in, H, W) or (C_in, H, W) to (N, C_out, H_out, W_out); `output_size` (H_out, W_out) picks among the
        sizes that the stride leaves open, as in torch."""
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation
        )
        return conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, output_padding, self.groups, self.dilation,
            activation=self.activation, negative_slope=self.negative_slope, impl=self.impl,
        )  # fmt: skip


def _check_padding_mode(module: Conv1d | Conv2d) -> None:
    if module.padding_mode not in shapes.PADDING_MODES:
        raise ValueError(
            f"{type(module).__name__}: expected padding_mode to be one of {', '.join(shapes.PADDING_MODES)}, got "
            f"{module.padding_mode!r}; pad with torch.nn.functional.pad for others"
        )
