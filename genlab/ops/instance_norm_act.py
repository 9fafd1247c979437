"""instance_norm, residual and activation in one op."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.ops import activation as act
from genlab.ops import implementation, norm_shapes, shapes

OP = "instance_norm_act"


def instance_norm_act(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    reflect_pad: int = 0,
    impl: str = "auto",
) -> Tensor:
    """activation(instance_norm(input) + residual), arguments and defaults of torch.nn.functional.instance_norm.

    Each sample and channel is normalised by its own mean and variance over space (Ulyanov et al. 2016, "Instance
    Normalization: The Missing Ingredient for Fast Stylization").

    Args:
        input: (N, C, ...) with at least one spatial dimension, contiguous, channels_last or any strides.
        running_mean: (C,), updated in place by the mean over the batch when use_input_stats; None keeps none.
        running_var: (C,), likewise, with the unbiased variances.
        weight: (C,) scale or None.
        bias: (C,) shift or None.
        use_input_stats: normalise by the input's own statistics (else by the running ones).
        momentum: weight of the new value in the running statistics.
        eps: added to the variance.
        activation: None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu" (exact, erf) or "silu".
        negative_slope: slope of leaky_relu below zero, >= 0.
        residual: added before the activation; the input's shape.
        reflect_pad: rows and columns mirrored at each border of the output, as torch.nn.ReflectionPad2d does, for an
            input of shape (N, C, H, W); less than H and W.
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Returns:
        The input's shape and dtype; with reflect_pad of shape (N, C, H + 2 reflect_pad, W + 2 reflect_pad).

    Raises:
        ValueError: shapes that do not fit; one value per sample and channel; no statistics where they are needed.
        TypeError: an input that is not floating point; parameters of another dtype (float32 beside a
            half precision input is fine).
        RuntimeError: tensors on different devices, or impl="native" where the extension is not built.
        NotImplementedError: impl="native" for a device or dtype without kernel.

    Example:
        >>> x = torch.randn(1, 256, 32, 32)
        >>> instance_norm_act(x, activation="relu").shape
        torch.Size([1, 256, 32, 32])
    """
    _check(input, running_mean, running_var, weight, bias, use_input_stats, eps, residual)
    act.check(OP, activation, negative_slope)
    norm_shapes.check_reflect_pad(OP, reflect_pad, input)
    chosen = implementation.choose(OP, impl, input, activation)
    if input.numel() == 0:
        chosen = "reference"  # nothing to normalise: every implementation gives the empty tensor
    if chosen == "native":
        return _native(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps, activation, negative_slope,
            residual, reflect_pad,
        )  # fmt: skip
    if chosen == "torch":
        output = norm_shapes.torch_instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )
        output = output if residual is None else output + residual
        return norm_shapes.pad(act.apply_(output, activation, negative_slope), reflect_pad)
    output = _normalised(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    output = output if residual is None else output + residual
    return norm_shapes.pad_by_index(act.apply(output, activation, negative_slope), reflect_pad)


def _check(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    use_input_stats: bool,
    eps: float,
    residual: Tensor | None,
) -> None:
    norm_shapes.check_input(OP, input, eps)
    if input.dim() < 3:
        raise ValueError(f"{OP}: expected input of shape (N, C, ...) with space, got {shapes.shape_text(input)}")
    if use_input_stats and input[0:1, 0:1].numel() == 1:
        raise ValueError(f"{OP}: expected more than 1 spatial element, got {shapes.shape_text(input)}")
    needed = None if use_input_stats else "use_input_stats=False"
    norm_shapes.check_channels(OP, input, running_mean, running_var, weight, bias, residual, needed=needed)


def _native(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    activation: str | None,
    negative_slope: float,
    residual: Tensor | None,
    reflect_pad: int,
) -> Tensor:
    mean, var = running_mean, running_var
    if use_input_stats:
        mean, var = torch.ops.genlab.norm_statistics(input, True, None, None, 0.0)
        _update(running_mean, running_var, mean, var, input, momentum)
    return torch.ops.genlab.norm_act(
        input, mean, var, weight, bias, residual, eps, activation, negative_slope, use_input_stats, reflect_pad
    )


def _normalised(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """The definition, in float32 or wider: (x - mean) / sqrt(var + eps) * weight + bias per sample and channel."""
    x = input if input.dtype == torch.float64 else input.float()
    space = tuple(range(2, x.dim()))
    if use_input_stats:
        mean = x.mean(space, keepdim=True)
        centred = x - mean
        var = (centred * centred).mean(space, keepdim=True)
        _update(running_mean, running_var, mean.flatten(1), var.flatten(1), input, momentum)
    else:
        mean, var = (norm_shapes.per_channel(t.to(x.dtype), x) for t in (running_mean, running_var))
        centred = x - mean
    output = centred * torch.rsqrt(var + eps)
    if weight is not None:
        output = output * norm_shapes.per_channel(weight, x)
    if bias is not None:
        output = output + norm_shapes.per_channel(bias, x)
    return output.to(input.dtype)


@torch.no_grad()
def _update(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    var: Tensor,
    input: Tensor,
    momentum: float,
) -> None:
    """Moves the running statistics towards the batch's mean of (N, C) means and unbiased variances."""
    if running_mean is None or running_var is None or input.numel() == 0:
        return
    count = input.numel() // (input.shape[0] * input.shape[1])
    running_mean.lerp_(mean.mean(0).to(running_mean.dtype), momentum)
    running_var.lerp_((var.mean(0) * (count / (count - 1))).to(running_var.dtype), momentum)
