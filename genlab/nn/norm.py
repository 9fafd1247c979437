"""Instance and layer normalisation with residual and activation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from genlab.nn.activated import Activated
from genlab.ops import instance_norm_act, layer_norm_act


class InstanceNormAct2d(Activated, nn.InstanceNorm2d):
    """activation(InstanceNorm2d(input) + residual) as one op; loads the state_dict of torch.nn.InstanceNorm2d.

    Args:
        *args, **kwargs: torch.nn.InstanceNorm2d's (num_features, eps, momentum, affine, track_running_stats).
        activation: None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu" or "silu".
        negative_slope: slope of leaky_relu below zero.
        reflect_pad: rows and columns mirrored at each border of the output, in place of a ReflectionPad2d after it.
        impl: "auto", "native", "torch" or "reference".

    Example:
        >>> layer = InstanceNormAct2d(256, activation="relu")
        >>> layer(torch.randn(1, 256, 32, 32)).shape
        torch.Size([1, 256, 32, 32])
    """

    def __init__(self, *args: Any, reflect_pad: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reflect_pad = reflect_pad

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C, H, W) or (C, H, W), and a residual of the same shape, to that shape with 2 reflect_pad more rows and
        columns."""
        self._check_input_dim(input)
        alone = input.dim() == 3
        if alone:
            input, residual = input.unsqueeze(0), None if residual is None else residual.unsqueeze(0)
        output = instance_norm_act(
            input, self.running_mean, self.running_var, self.weight, self.bias,
            self.training or not self.track_running_stats, 0.0 if self.momentum is None else self.momentum, self.eps,
            activation=self.activation, negative_slope=self.negative_slope, residual=residual,
            reflect_pad=self.reflect_pad, impl=self.impl,
        )  # fmt: skip
        return output.squeeze(0) if alone else output

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", reflect_pad={self.reflect_pad}" if self.reflect_pad else "")


class LayerNormAct(Activated, nn.LayerNorm):
    """activation(LayerNorm(input) + residual) as one op; loads the state_dict of torch.nn.LayerNorm.

    Args:
        *args, **kwargs: torch.nn.LayerNorm's (normalized_shape, eps, elementwise_affine, bias).
        activation: None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu" or "silu".
        negative_slope: slope of leaky_relu below zero.
        impl: "auto", "native", "torch" or "reference".

    Example:
        >>> layer = LayerNormAct(64, activation="gelu")
        >>> layer(torch.randn(2, 16, 64)).shape
        torch.Size([2, 16, 64])
    """

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """(..., *normalized_shape), and a residual of the same shape, to the same shape."""
        return layer_norm_act(
            input, self.normalized_shape, self.weight, self.bias, self.eps, activation=self.activation,
            negative_slope=self.negative_slope, residual=residual, impl=self.impl,
        )  # fmt: skip
