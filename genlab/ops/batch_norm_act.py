"""batch_norm, residual and activation in one op, with statistics of one process or of a whole group."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import activation as act
from genlab.ops import collective, implementation, shapes


def batch_norm_act(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    process_group: dist.ProcessGroup | None = None,
    impl: str = "auto",
) -> Tensor:
    """activation(batch_norm(input) + residual), the argument order and defaults of torch.nn.functional.batch_norm.

    Args:
        input: (N, C, H, W).
        running_mean: (C,), updated in place when training; None keeps no running statistics.
        running_var: (C,), likewise, with the unbiased variance.
        weight: (C,) scale or None.
        bias: (C,) shift or None.
        training: normalise by the batch's statistics (else by the running ones).
        momentum: weight of the new value in the running statistics.
        eps: added to the variance.
        activation: None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu" (exact, erf) or "silu".
        negative_slope: slope of leaky_relu below zero, >= 0.
        residual: added before the activation; the input's shape.
        process_group: take the training statistics over all processes of this group, weighted by their batch sizes.
            Works on every backend (gloo on CPU included) and differentiates twice; every process must make the call.
        impl: "auto", "torch" or "reference".

    Returns:
        The input's shape and dtype.

    Raises:
        ValueError: shapes that do not fit; one value per channel when training; no statistics when not training.
        TypeError: an input that is not floating point.
        NotImplementedError: impl="native".

    Example:
        >>> x = torch.randn(8, 64, 16, 16)
        >>> batch_norm_act(x, None, None, training=True, activation="relu").shape
        torch.Size([8, 64, 16, 16])
    """
    _check(input, running_mean, running_var, weight, bias, training, residual, eps)
    act.check("batch_norm_act", activation, negative_slope)
    chosen = implementation.choose("batch_norm_act", impl, input)
    group = process_group if training and process_group is not None and process_group.size() > 1 else None
    if training and group is None and input.numel() // input.shape[1] == 1:
        raise ValueError(
            f"batch_norm_act: expected more than 1 value per channel when training, got {shapes.shape_text(input)}"
        )
    if chosen == "torch" and group is None:
        output = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        # The sum is a new tensor; batch_norm's own backward reads its input and never its output.
        output = output if residual is None else output + residual
        return act.apply_(output, activation, negative_slope)
    output = _normalised(input, running_mean, running_var, weight, bias, training, momentum, eps, group)
    output = output if residual is None else output + residual
    return act.apply(output, activation, negative_slope)


def _check(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    residual: Tensor | None,
    eps: float,
) -> None:
    if input.dim() != 4:
        raise ValueError(f"batch_norm_act: expected input of shape (N, C, H, W), got {shapes.shape_text(input)}")
    if not input.dtype.is_floating_point:
        raise TypeError(f"batch_norm_act: expected a floating point input, got {input.dtype}")
    if input.numel() == 0 and training:
        raise ValueError(f"batch_norm_act: expected a batch to take statistics of, got {shapes.shape_text(input)}")
    if not eps >= 0:
        raise ValueError(f"batch_norm_act: expected eps >= 0, got {eps}")
    channels = input.shape[1]
    named = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, tensor in named.items():
        if tensor is not None and (tensor.dim() != 1 or tensor.shape[0] != channels):
            raise ValueError(f"batch_norm_act: expected {name} of shape ({channels},), got {shapes.shape_text(tensor)}")
        if tensor is not None and tensor.device != input.device:
            raise RuntimeError(
                f"batch_norm_act: expected {name} on the input's device {input.device}, got {tensor.device}"
            )
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm_act: expected running_mean and running_var both or neither, got one of them")
    if not training and running_mean is None:
        raise ValueError("batch_norm_act: expected running_mean and running_var when training=False, got None")
    if residual is not None and residual.shape != input.shape:
        raise ValueError(
            f"batch_norm_act: expected residual of the input's shape {shapes.shape_text(input)}, got "
            f"{shapes.shape_text(residual)}"
        )


def _normalised(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """The definition, in float32 or wider: (x - mean) / sqrt(var + eps) * weight + bias per channel.

    With a group the sums run over its processes. The mean is settled before the squares are summed: E[x^2] - E[x]^2
    would lose the digits of a variance that is small beside the mean.
    """
    x = input if input.dtype == torch.float64 else input.float()
    if training:
        mean, count = _mean(x, group)
        centred = x - mean.reshape(1, -1, 1, 1)
        var, _ = _mean(centred * centred, group)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                unbiased = var * (count / (count - 1))  # a group's count is a float64 scalar: var keeps its dtype
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    else:
        mean, var = running_mean.to(x.dtype), running_var.to(x.dtype)
        centred = x - mean.reshape(1, -1, 1, 1)
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    output = centred * scale.reshape(1, -1, 1, 1)
    if bias is not None:
        output = output + bias.reshape(1, -1, 1, 1)
    return output.to(input.dtype)


def _mean(x: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor | int]:
    """(C,) means over batch and space, over the group's processes too, and how many values each was taken of.

    The group's count stays on the device: reading it would stall a GPU in every layer.
    """
    count = x.numel() // x.shape[1]
    total = x.sum((0, 2, 3))
    if group is None:
        return total / count, count
    # float64 holds the count and the sum exactly enough to travel in one message.
    message = torch.cat((total.double(), torch.full((1,), count, dtype=torch.float64, device=x.device)))
    reduced = collective.all_reduce_sum(message, group)
    return (reduced[:-1] / reduced[-1]).to(x.dtype), reduced[-1]
