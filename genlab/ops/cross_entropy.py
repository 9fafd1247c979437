"""Softmax cross-entropy without stored probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import implementation, shapes

OP = "cross_entropy"
REDUCTIONS = ("none", "mean", "sum")  # by torch's numbers
HALF = (torch.float16, torch.bfloat16)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    impl: str = "auto",
) -> Tensor:
    """-log softmax(input) at the target's class, arguments and defaults of torch.nn.functional.cross_entropy.

    The native kernels keep two numbers of each row for the backward pass; on the CPU the gradient of a mean or sum is
    written in the same pass over the logits.

    Args:
        input: logits (C), (N, C) or (N, C, d1, ...), any strides.
        target: class numbers in [0, C) or `ignore_index`, int64 or uint8, of shape (), (N) or (N, d1, ...); or
            probabilities of the input's shape, which the native kernels do not take: "auto" leaves them to torch.
        weight: of each class, (C), in the input's dtype, or float32 beside half precision; no gradient flows to it.
        size_average, reduce: torch's old names of `reduction`; None leaves them out.
        ignore_index: class of rows that count for nothing.
        reduction: "none", "mean" (over the sum of the rows' weights) or "sum".
        label_smoothing: share in [0, 1] of the target's probability that all classes divide among them (Szegedy et al.
            2016, "Rethinking the Inception Architecture", section 7).
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Returns:
        0-d, or the target's shape with reduction "none"; the input's dtype, float32 under autocast. It can be
        differentiated any number of times.

    Raises:
        ValueError: an unknown reduction, another batch size than the input's.
        IndexError: a class that does not exist (on a GPU the loss is NaN instead: asking would wait for it).
        RuntimeError: other shapes, dtypes or devices that do not fit, smoothing out of range; impl="native" where the
            extension is not built.
        NotImplementedError: an input that is not floating point; impl="native" for probabilities, or for a device or
            dtype without kernel.

    Example:
        >>> logits = torch.randn(4, 10, requires_grad=True)
        >>> cross_entropy(logits, torch.tensor([3, 1, 4, 1])).shape
        torch.Size([])
    """
    if size_average is not None or reduce is not None:
        from torch.nn import _reduction

        reduction = _reduction.legacy_get_string(size_average, reduce)
    if not isinstance(target, Tensor):
        raise TypeError(f"{OP}: expected target to be a tensor, got {type(target).__name__}")
    probabilities = target.shape == input.shape and target.dtype.is_floating_point
    _check(input, target, weight, reduction, label_smoothing, probabilities)
    if input.dtype in HALF and shapes.autocast_dtype(input) is not None:
        input = input.float()
    chosen = implementation.choose(OP, impl, input, target, label_smoothing)
    if probabilities and chosen == "native":  # never by "auto"
        raise NotImplementedError(
            f'{OP}: impl="native" cannot run: target holds probabilities, not class numbers; use impl="torch"'
        )
    if input.numel() == 0:
        chosen = "torch"  # no rows: every implementation gives torch's answer
    if chosen == "native":
        return _native(input, target, weight, reduction, ignore_index, label_smoothing)
    if chosen == "torch":
        weight = weight if weight is None else weight.to(input.dtype)
        return F.cross_entropy(
            input, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )
    wide = input if input.dtype == torch.float64 else input.float()
    loss = definition(wide, target, weight, reduction, ignore_index, label_smoothing, probabilities)
    return loss.to(input.dtype)


def _native(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, ignore_index: int, label_smoothing: float
) -> Tensor:
    target = target if target.dtype == torch.int64 else target.long()
    if target.dim() == input.dim() == 1:
        target = target.reshape(())
    number = REDUCTIONS.index(reduction)
    gradient = (
        number != 0
        and input.requires_grad
        and torch.is_grad_enabled()
        and input.device.type == "cpu"
        and not torch.compiler.is_compiling()
    )
    return torch.ops.genlab.cross_entropy(input, target, weight, number, ignore_index, label_smoothing, gradient)[0]


def _check(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    label_smoothing: float,
    probabilities: bool,
) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{OP}: expected reduction to be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    if not input.dtype.is_floating_point:
        raise NotImplementedError(f"{OP}: expected a floating point input, got {input.dtype}; call input.float() first")
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"{OP}: expected label_smoothing in [0, 1], got {label_smoothing}")
    if target.device != input.device:
        raise RuntimeError(f"{OP}: expected target on the input's device {input.device}, got {target.device}")
    if not probabilities:
        _check_classes(input, target)
    if weight is not None:
        _check_weight(input, weight)


def _check_classes(input: Tensor, target: Tensor) -> None:
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(
            f"{OP}: expected target of class numbers, int64 or uint8, or of probabilities in the input's shape "
            f"{shapes.shape_text(input)}, got {target.dtype} of shape {shapes.shape_text(target)}"
        )
    if input.dim() == 0:
        raise RuntimeError(f"{OP}: expected input of shape (C), (N, C) or (N, C, ...), got ()")
    if input.dim() == 1:
        if target.dim() > 1 or target.numel() != 1:
            raise RuntimeError(f"{OP}: expected target of shape () for one row, got {shapes.shape_text(target)}")
        return
    if target.dim() == 0 or target.shape[0] != input.shape[0]:
        raise ValueError(
            f"{OP}: expected target of the input's batch size {input.shape[0]}, got {shapes.shape_text(target)}"
        )
    if target.shape[1:] != input.shape[2:]:
        sizes = ", ".join(map(str, (input.shape[0], *input.shape[2:])))
        raise RuntimeError(f"{OP}: expected target of shape ({sizes}), got {shapes.shape_text(target)}")


def _check_weight(input: Tensor, weight: Tensor) -> None:
    classes = input.shape[0 if input.dim() == 1 else 1]
    if weight.dim() != 1 or weight.shape[0] != classes:
        raise RuntimeError(f"{OP}: expected weight of shape ({classes}), got {shapes.shape_text(weight)}")
    if weight.device != input.device:
        raise RuntimeError(f"{OP}: expected weight on the input's device {input.device}, got {weight.device}")
    if weight.dtype != input.dtype and not (weight.dtype == torch.float32 and input.dtype in HALF):
        raise RuntimeError(f"{OP}: expected weight of the input's dtype {input.dtype}, got {weight.dtype}")
    if weight.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(f"{OP}: expected weight without gradient, which the loss has none for; detach it")


def definition(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    probabilities: bool = False,
) -> Tensor:
    """The loss from the logarithms of the probabilities, in the input's dtype; arguments as of `cross_entropy`."""
    axis = 0 if input.dim() == 1 else 1
    sizes = [-1 if i == axis else 1 for i in range(input.dim())]
    scale = input.new_ones(input.shape[axis]) if weight is None else weight.to(input.dtype)
    surprise = scale.reshape(sizes) * (input.logsumexp(axis, keepdim=True) - input)
    smooth = surprise.sum(axis) / input.shape[axis]
    if probabilities:
        loss = (1 - label_smoothing) * (surprise * target).sum(axis) + label_smoothing * smooth
        rows = loss.numel()
        return {"none": loss, "sum": loss.sum(), "mean": loss.sum() / rows}[reduction]
    target = target.long().reshape(smooth.shape)
    counted = target != ignore_index
    known = target.where(counted, torch.zeros_like(target))
    own = surprise.gather(axis, known.unsqueeze(axis)).squeeze(axis)
    loss = (1 - label_smoothing) * own + label_smoothing * smooth if label_smoothing else own
    loss = loss.where(counted, torch.zeros_like(loss))
    if reduction == "mean":
        return loss.sum() / (scale[known] * counted).sum()
    return loss.sum() if reduction == "sum" else loss
