"""Argument rules of the normalisations: what they accept and what they say otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import shapes


def check_input(op: str, input: Tensor, eps: float) -> None:
    """(N, C, ...), floating point, with a legal eps."""
    if input.dim() < 2:
        raise ValueError(f"{op}: expected input of shape (N, C, ...), got {shapes.shape_text(input)}")
    check_floating(op, input)
    if not eps >= 0:
        raise ValueError(f"{op}: expected eps >= 0, got {eps}")


def check_floating(op: str, input: Tensor) -> None:
    """An input that can be normalised."""
    if not input.dtype.is_floating_point:
        raise TypeError(f"{op}: expected a floating point input, got {input.dtype}; call input.float() first")


def check_parameter(op: str, name: str, tensor: Tensor | None, input: Tensor, sizes: tuple[int, ...]) -> None:
    """A weight, bias or running statistic: shape, device and dtype (the input's, or float32 beside half precision)."""
    if tensor is None:
        return
    # One glance at the usual case: these checks are a tenth of a small layer's forward pass.
    if tensor.shape == sizes and tensor.dtype == input.dtype and tensor.device == input.device:
        return
    if tuple(tensor.shape) != sizes:
        raise ValueError(f"{op}: expected {name} of shape {tuple(sizes)}, got {shapes.shape_text(tensor)}")
    if tensor.device != input.device:
        raise RuntimeError(f"{op}: expected {name} on the input's device {input.device}, got {tensor.device}")
    mixed = tensor.dtype == torch.float32 and input.dtype in (torch.bfloat16, torch.float16)
    if tensor.dtype != input.dtype and not mixed:
        raise TypeError(
            f"{op}: expected {name} of the input's dtype {input.dtype} (or float32 beside bfloat16 and float16), got "
            f"{tensor.dtype}; convert one of them"
        )


def check_residual(op: str, residual: Tensor | None, input: Tensor) -> None:
    """The residual is added element by element: the input's shape and dtype."""
    if residual is None:
        return
    if residual.shape != input.shape:
        raise ValueError(
            f"{op}: expected residual of the input's shape {shapes.shape_text(input)}, got "
            f"{shapes.shape_text(residual)}"
        )
    if residual.dtype != input.dtype:
        raise TypeError(f"{op}: expected residual of the input's dtype {input.dtype}, got {residual.dtype}")
    if residual.device != input.device:
        raise RuntimeError(f"{op}: expected residual on the input's device {input.device}, got {residual.device}")


def check_running(op: str, running_mean: Tensor | None, running_var: Tensor | None, *, needed: str | None) -> None:
    """Both running statistics or neither; both where `needed` says why."""
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{op}: expected running_mean and running_var both or neither, got one of them")
    if needed is not None and running_mean is None:
        raise ValueError(f"{op}: expected running_mean and running_var when {needed}, got None")


def check_channels(
    op: str,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    *,
    needed: str | None,
) -> None:
    """All tensors beside the input of a normalisation by channels; `needed` as of `check_running`."""
    given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, tensor in given.items():
        check_parameter(op, name, tensor, input, (input.shape[1],))
    check_running(op, running_mean, running_var, needed=needed)
    check_residual(op, residual, input)


def per_channel(parameter: Tensor, input: Tensor) -> Tensor:
    """(C,) as (1, C, 1, ...), to broadcast against the input."""
    return parameter.reshape(1, -1, *(1,) * (input.dim() - 2))


def check_reflect_pad(op: str, reflect_pad: int, input: Tensor) -> None:
    """Borders to mirror: fewer than the image has rows and columns."""
    if isinstance(reflect_pad, bool) or not isinstance(reflect_pad, int):
        raise TypeError(f"{op}: expected reflect_pad to be an int, got {reflect_pad!r}")
    if reflect_pad < 0:
        raise ValueError(f"{op}: expected reflect_pad >= 0, got {reflect_pad}")
    if reflect_pad > 0 and (input.dim() != 4 or reflect_pad >= min(input.shape[2:])):
        raise ValueError(
            f"{op}: expected reflect_pad less than height and width of an input of shape (N, C, H, W), got "
            f"{reflect_pad} with {shapes.shape_text(input)}"
        )


def torch_instance_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """F.instance_norm with the gradient right for one sample too.

    torch (2.14 on the CPU, in every dtype) gives instance_norm of one sample a wrong gradient where the output's
    gradient comes in channels_last memory. Of one sample it is the same as batch_norm, whose gradient is right.
    """
    arguments = (running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    if input.shape[0] == 1:
        return F.batch_norm(input, *arguments)
    return F.instance_norm(input, *arguments)


def pad(output: Tensor, reflect_pad: int) -> Tensor:
    """(N, C, H, W) with its borders mirrored by torch; `output` itself where there is nothing to mirror."""
    return F.pad(output, (reflect_pad,) * 4, mode="reflect") if reflect_pad else output


def pad_by_index(output: Tensor, reflect_pad: int) -> Tensor:
    """The definition of mirrored borders: row -k is row k, row H - 1 + k is row H - 1 - k; columns likewise."""
    for dim in (2, 3) if reflect_pad else ():
        last = output.shape[dim] - 1
        at = torch.arange(-reflect_pad, last + 1 + reflect_pad, device=output.device).abs()
        output = output.index_select(dim, last - (last - at).abs())
    return output
