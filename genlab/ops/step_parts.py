"""What the optimisers' steps share: what is done beside the rule, and the step as a sequence of torch calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genlab.ops import implementation

OP = "optimizer_step"
Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class StepExtras:
    """What a step does to the gradients before the rule and to the parameters after it.

    Attributes:
        grad_scale: one element; the gradients are divided by it.
        found_inf: one element; not 0: parameters, states and step counts stay, what follows them is done.
        max_norm: the gradients are scaled so that their norm, after the division, is at most that; needs grad_norm.
        grad_norm: `gradient_norm` of the gradients as they are stored, of all groups together.
        averages: one for each parameter, its dtype: average <- average + share (parameter - average).
        share: a number, or one element that a captured graph reads anew each time.
        bound: parameters are clipped to [-bound, bound]; infinity for not at all.
        shadows: one for each parameter, bfloat16 or float16: its rounded copy.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None
    max_norm: float = math.inf
    grad_norm: Tensor | None = None
    averages: list[Tensor] = field(default_factory=list)
    share: float | Tensor = 0.0
    bound: float = math.inf
    shadows: list[Tensor] = field(default_factory=list)

    def before(self) -> tuple[Any, ...]:
        """Arguments of the native ops for the gradients."""
        return self.grad_scale, self.found_inf, self.grad_norm, self.max_norm

    def after(self) -> tuple[Any, ...]:
        """Arguments of the native ops for what follows the parameters."""
        share, tensor = (0.0, self.share) if isinstance(self.share, Tensor) else (self.share, None)
        return list(self.averages), share, tensor, list(self.shadows), self.bound


NOTHING = StepExtras()


def chosen_for(impl: str, tensors: Tensors, rule: str | None = None, extras: StepExtras = NOTHING) -> str:
    """The implementation to run; `rule` as of `step_tuning.torch_wins`, None for what goes with every rule."""
    return implementation.choose(OP, impl, tensors[0], *(() if rule is None else (rule, tensors, extras)))


def number_of(value: float | Tensor) -> tuple[float, Tensor | None]:
    """(number, None), or (0, tensor) where it lies on another device than the CPU."""
    if not isinstance(value, Tensor):
        return value, None
    return (value.item(), None) if value.device.type == "cpu" else (0.0, value)


def host_of(value: float | Tensor) -> float:
    """The number, read from the device where it lies there."""
    return value.item() if isinstance(value, Tensor) else value


def fused_serves(params: Tensors) -> bool:
    """Whether torch's fused step serves them: it walks memory from the first element on, whatever lies between."""
    known = params[0].is_floating_point() and params[0].device.type in {"cpu", "cuda"}
    return known and all(map(_is_dense, params))


def alike(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether both lie in memory in the same order; the first question is the quicker one."""
    return (tensor.is_contiguous() and parameter.is_contiguous()) or tensor.stride() == parameter.stride()


def _is_dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def wide_of(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider."""
    return tensor if tensor.dtype == torch.float64 or tensor.is_complex() else tensor.float()


def composed(
    chosen: str,
    params: Tensors,
    grads: Tensors,
    extras: StepExtras,
    by_torch: Callable[[Tensors], None],
    by_definition: Callable[[Tensors], None],
) -> None:
    """The step as a sequence of torch calls; reads `found_inf` on the host."""
    if extras.found_inf is None or extras.found_inf.item() == 0:
        factor: float | Tensor = 1.0
        if extras.grad_scale is not None:
            factor = extras.grad_scale.double().reciprocal()
        if extras.grad_norm is not None:
            factor = factor * (extras.max_norm / (extras.grad_norm * factor + 1e-6)).clamp(max=1.0)
        if isinstance(factor, Tensor):
            grads = [(wide_of(g) * factor.to(wide_of(g))).to(g.dtype) for g in grads]
        # torch's fused kernels walk a parameter and its gradient alike, whatever their strides.
        grads = [g if alike(g, p) else torch.empty_like(p).copy_(g) for g, p in zip(grads, params, strict=True)]
        (by_torch if chosen == "torch" else by_definition)(grads)
    follow(params, extras)


def follow(params: Tensors, extras: StepExtras) -> None:
    """The bound, the averages and the shadows, each as calls of torch."""
    if math.isfinite(extras.bound):
        torch._foreach_clamp_min_(list(params), -extras.bound)
        torch._foreach_clamp_max_(list(params), extras.bound)
    if extras.averages:
        if isinstance(extras.share, Tensor):
            for average, parameter in zip(extras.averages, params, strict=True):
                average.lerp_(parameter, extras.share.to(parameter))
        else:
            torch._foreach_lerp_(extras.averages, list(params), extras.share)
    for shadow, parameter in zip(extras.shadows, params, strict=False):
        shadow.copy_(parameter)
