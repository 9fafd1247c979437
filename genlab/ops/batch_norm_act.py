"""batch_norm, residual and activation in one op, with statistics of one process or of a whole group."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import activation as act
from genlab.ops import collective, implementation, norm_native, norm_shapes, shapes


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
    reflect_pad: int = 0,
    process_group: dist.ProcessGroup | None = None,
    impl: str = "auto",
) -> Tensor:
    """activation(batch_norm(input) + residual), arguments and defaults of torch.nn.functional.batch_norm.

    Args:
        input: (N, C) or (N, C, ...), contiguous, channels_last or any strides.
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
        reflect_pad: rows and columns mirrored at each border of the output, as torch.nn.ReflectionPad2d does, for an
            input of shape (N, C, H, W); less than H and W.
        process_group: take the training statistics over all processes of this group, weighted by their batch sizes.
            Works on every backend (gloo on CPU included) and differentiates twice; every process must make the call.
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Returns:
        The input's shape and dtype; with reflect_pad of shape (N, C, H + 2 reflect_pad, W + 2 reflect_pad).

    Raises:
        ValueError: shapes that do not fit; one value per channel when training; no statistics when not training.
        TypeError: an input that is not floating point; parameters of another dtype (float32 beside a
            half precision input is fine).
        RuntimeError: tensors on different devices, or impl="native" where the extension is not built.
        NotImplementedError: impl="native" for a device or dtype without kernel.

    Example:
        >>> x = torch.randn(8, 64, 16, 16)
        >>> batch_norm_act(x, None, None, training=True, activation="relu").shape
        torch.Size([8, 64, 16, 16])
    """
    norm_shapes.check_input("batch_norm_act", input, eps)
    needed = None if training else "training=False"
    norm_shapes.check_channels(
        "batch_norm_act", input, running_mean, running_var, weight, bias, residual, needed=needed
    )
    act.check("batch_norm_act", activation, negative_slope)
    norm_shapes.check_reflect_pad("batch_norm_act", reflect_pad, input)
    group = process_group if training and process_group is not None and process_group.size() > 1 else None
    # Each implementation makes its own collective calls, so the processes must choose alike: not by their shapes.
    shape = () if group is not None else (activation,)
    chosen = implementation.choose("batch_norm_act", impl, input, *shape)
    if input.numel() == 0 and group is None:
        chosen = "torch"  # nothing to normalise: an empty tensor, running statistics as they are
    if training and group is None and input.numel() == input.shape[1] > 0:
        raise ValueError(
            f"batch_norm_act: expected more than 1 value per channel when training, got {shapes.shape_text(input)}"
        )
    if chosen == "native":
        if group is not None:
            return _native_of_group(
                input, running_mean, running_var, weight, bias, momentum, eps, activation, negative_slope, residual,
                reflect_pad, group,
            )  # fmt: skip
        mean, var = running_mean, running_var
        if training:
            mean, var = torch.ops.genlab.norm_statistics(input, False, running_mean, running_var, momentum)
        return torch.ops.genlab.norm_act(
            input, mean, var, weight, bias, residual, eps, activation, negative_slope, training, reflect_pad
        )
    if chosen == "torch" and group is None:
        output = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        # The sum is a new tensor; batch_norm's own backward reads its input and never its output.
        output = output if residual is None else output + residual
        return norm_shapes.pad(act.apply_(output, activation, negative_slope), reflect_pad)
    output = _normalised(input, running_mean, running_var, weight, bias, training, momentum, eps, group)
    output = output if residual is None else output + residual
    return norm_shapes.pad_by_index(act.apply(output, activation, negative_slope), reflect_pad)


def _native_of_group(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    activation: str | None,
    negative_slope: float,
    residual: Tensor | None,
    reflect_pad: int,
    group: dist.ProcessGroup,
) -> Tensor:
    """The native kernels around two collectives: one for the statistics, one for the sums of the backward pass."""
    with torch.no_grad():
        mean, var, count = norm_native.merged_statistics(input, group)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)

    def again(x: Tensor, scale: Tensor | None, shift: Tensor | None, add: Tensor | None) -> Tensor:
        output = _normalised(x, None, None, scale, shift, True, momentum, eps, group)
        output = act.apply(output if add is None else output + add, activation, negative_slope)
        return norm_shapes.pad_by_index(output, reflect_pad)

    return norm_native.SynchronisedNormAct.apply(
        input, weight, bias, residual, mean, var, count, eps, activation, negative_slope, reflect_pad, group, again
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
    sizes = (1, -1, *(1,) * (input.dim() - 2))
    if training:
        mean, count = _mean(x, group)
        centred = x - mean.reshape(sizes)
        var, _ = _mean(centred * centred, group)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                unbiased = var * (count / (count - 1))  # a group's count is a float64 scalar: var keeps its dtype
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    else:
        mean, var = running_mean.to(x.dtype), running_var.to(x.dtype)
        centred = x - mean.reshape(sizes)
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    output = centred * scale.reshape(sizes)
    if bias is not None:
        output = output + bias.reshape(sizes)
    return output.to(input.dtype)


def _mean(x: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor | int]:
    """(C,) means over batch and space, over the group's processes too, and how many values each was taken of.

    The group's count stays on the device: reading it would stall a GPU in every layer.
    """
    count = x.numel() // x.shape[1]
    total = x.sum((0, *range(2, x.dim())))
    if group is None:
        return total / count, count
    # float64 holds the count and the sum exactly enough to travel in one message.
    message = torch.cat((total.double(), torch.full((1,), count, dtype=torch.float64, device=x.device)))
    reduced = collective.all_reduce_sum(message, group)
    return (reduced[:-1] / reduced[-1]).to(x.dtype), reduced[-1]
