"""layer_norm, residual and activation in one op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import activation as act
from genlab.ops import implementation, norm_shapes, shapes

OP = "layer_norm_act"


def layer_norm_act(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """activation(layer_norm(input) + residual), arguments and defaults of torch.nn.functional.layer_norm.

    Args:
        input: (..., *normalized_shape), any strides.
        normalized_shape: the trailing sizes that one mean and variance is taken over (Ba et al. 2016, "Layer
            Normalization").
        weight: scale of shape normalized_shape, or None.
        bias: shift of shape normalized_shape, or None.
        eps: added to the variance; may be negative where the variance is larger, as in torch.
        activation: None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu" (exact, erf) or "silu".
        negative_slope: slope of leaky_relu below zero, >= 0.
        residual: added before the activation; the input's shape.
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Returns:
        The input's shape and dtype.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: an input that is not floating point; parameters of another dtype (float32 beside a half precision
            input is fine).
        RuntimeError: tensors on different devices, or impl="native" where the extension is not built.
        NotImplementedError: impl="native" for a device or dtype without kernel.

    Example:
        >>> tokens = torch.randn(2, 16, 64)
        >>> layer_norm_act(tokens, (64,), activation="gelu").shape
        torch.Size([2, 16, 64])
    """
    sizes = _check(input, normalized_shape, weight, bias, residual)
    act.check(OP, activation, negative_slope)
    chosen = implementation.choose(OP, impl, input, activation, residual is not None)
    if input.numel() == 0:
        chosen = "torch"  # nothing to normalise: every implementation gives the empty tensor
    if chosen == "native":
        output, _, _ = torch.ops.genlab.layer_norm_act(
            input, len(sizes), weight, bias, residual, eps, activation, negative_slope
        )
        return output
    if chosen == "torch":
        output = F.layer_norm(input, sizes, weight, bias, eps)
        output = output if residual is None else output + residual
        return act.apply_(output, activation, negative_slope)
    output = _normalised(input, sizes, weight, bias, eps)
    output = output if residual is None else output + residual
    return act.apply(output, activation, negative_slope)


def _check(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
) -> tuple[int, ...]:
    norm_shapes.check_floating(OP, input)
    sizes = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else None
    if not sizes:
        raise ValueError(f"{OP}: expected normalized_shape to be one or more sizes, got {normalized_shape!r}")
    if tuple(input.shape[-len(sizes) :]) != sizes:
        raise ValueError(f"{OP}: expected input of shape (..., {str(sizes)[1:]}, got {shapes.shape_text(input)}")
    norm_shapes.check_parameter(OP, "weight", weight, input, sizes)
    norm_shapes.check_parameter(OP, "bias", bias, input, sizes)
    norm_shapes.check_residual(OP, residual, input)
    return sizes


def _normalised(
    input: Tensor, sizes: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """The definition, in float32 or wider: (x - mean) / sqrt(var + eps) * weight + bias over the trailing sizes."""
    x = input if input.dtype == torch.float64 else input.float()
    trailing = tuple(range(-len(sizes), 0))
    centred = x - x.mean(trailing, keepdim=True)
    output = centred * torch.rsqrt((centred * centred).mean(trailing, keepdim=True) + eps)
    output = output if weight is None else output * weight
    output = output if bias is None else output + bias
    return output.to(input.dtype)
