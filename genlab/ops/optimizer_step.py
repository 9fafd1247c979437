"""The optimiser's step over lists of tensors, with all that comes before and after it, in one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam as torch_adam
from torch.optim.rmsprop import rmsprop as torch_rmsprop
from torch.optim.sgd import sgd as torch_sgd

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


def adam_step(
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    max_exp_avg_sqs: Tensors,
    steps: Tensors,
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    extras: StepExtras = NOTHING,
    impl: str = "auto",
) -> None:
    """A step of Adam (Kingma and Ba 2015, algorithm 1), AMSGrad (Reddi et al. 2018) or AdamW, in place.

    Args:
        params: of one dtype and device, any strides.
        grads, exp_avgs, exp_avg_sqs: one for each parameter, its shape and dtype.
        max_exp_avg_sqs: likewise with AMSGrad, else empty.
        steps: float32 of one element on the parameters' device; raised by one.
        lr: a number, or one element that a captured graph reads anew each time.
        weight_decay: added to the gradient times the parameter, or with `decoupled` taken off the parameter (AdamW).
        extras: see `StepExtras`.
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Raises:
        ValueError: lists of unequal length. TypeError: a dtype that does not fit.
        RuntimeError: tensors of other shapes or devices, sparse gradients.
    """
    chosen = _chosen(impl, params, "amsgrad" if max_exp_avg_sqs else "adam", extras)
    rate, rate_tensor = _number(lr)
    if chosen == "native":
        torch.ops.genlab.optimizer_step_adam(
            params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, rate, beta1, beta2, eps, weight_decay,
            decoupled, maximize, rate_tensor, *extras.before(), *extras.after(),
        )  # fmt: skip
        return

    def by_torch(grads: Tensors) -> None:
        torch_adam(
            list(params), list(grads), list(exp_avgs), list(exp_avg_sqs), list(max_exp_avg_sqs), list(steps),
            fused=_fused(params), has_complex=params[0].is_complex(), amsgrad=bool(max_exp_avg_sqs), beta1=beta1,
            beta2=beta2, lr=lr, weight_decay=weight_decay, eps=eps, maximize=maximize,
            decoupled_weight_decay=decoupled,
        )  # fmt: skip

    def by_definition(grads: Tensors) -> None:
        for i, (x, g, m, v, t) in enumerate(zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True)):
            t.add_(1)
            wide, g = _wide(x), _wide(g) * (-1 if maximize else 1)
            if decoupled:
                wide = wide * (1 - lr * weight_decay)
            else:
                g = g + weight_decay * wide
            first = beta1 * _wide(m) + (1 - beta1) * g
            second = beta2 * _wide(v) + (1 - beta2) * g * g
            m.copy_(first)
            v.copy_(second)
            if max_exp_avg_sqs:
                second = torch.maximum(_wide(max_exp_avg_sqs[i]), second)
                max_exp_avg_sqs[i].copy_(second)
            root = (second / (1 - beta2 ** t.item())).sqrt() + eps
            x.copy_(wide - lr * (first / (1 - beta1 ** t.item())) / root)

    _composed(chosen, params, grads, extras, by_torch, by_definition)


def rmsprop_step(
    params: Tensors,
    grads: Tensors,
    square_avgs: Tensors,
    grad_avgs: Tensors,
    momentum_buffers: Tensors,
    steps: Tensors,
    *,
    lr: float | Tensor,
    alpha: float,
    eps: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    maximize: bool = False,
    extras: StepExtras = NOTHING,
    impl: str = "auto",
) -> None:
    """A step of RMSprop (Hinton 2012, lecture 6e; centered: Graves 2013, equations 38-45), in place.

    Args and errors as of `adam_step`; grad_avgs is empty unless centered, momentum_buffers is empty without momentum.
    """
    chosen = _chosen(impl, params, "rmsprop", extras)
    rate, rate_tensor = _number(lr)
    if chosen == "native":
        torch.ops.genlab.optimizer_step_rmsprop(
            params, grads, square_avgs, grad_avgs, momentum_buffers, steps, rate, alpha, eps, weight_decay, momentum,
            maximize, rate_tensor, *extras.before(), *extras.after(),
        )  # fmt: skip
        return

    def by_torch(grads: Tensors) -> None:
        torch_rmsprop(
            list(params), list(grads), list(square_avgs), list(grad_avgs), list(momentum_buffers), list(steps),
            foreach=True, has_complex=params[0].is_complex(), lr=_host(lr), alpha=alpha, eps=eps,
            weight_decay=weight_decay, momentum=momentum, centered=bool(grad_avgs), maximize=maximize,
        )  # fmt: skip

    def by_definition(grads: Tensors) -> None:
        for i, (x, g, v, t) in enumerate(zip(params, grads, square_avgs, steps, strict=True)):
            t.add_(1)
            wide = _wide(x)
            g = _wide(g) * (-1 if maximize else 1) + weight_decay * wide
            second = alpha * _wide(v) + (1 - alpha) * g * g
            v.copy_(second)
            if grad_avgs:
                mean = alpha * _wide(grad_avgs[i]) + (1 - alpha) * g
                grad_avgs[i].copy_(mean)
                second = second - mean * mean
            moved = g / (second.sqrt() + eps)
            if momentum_buffers:
                moved = momentum * _wide(momentum_buffers[i]) + moved
                momentum_buffers[i].copy_(moved)
            x.copy_(wide - lr * moved)

    _composed(chosen, params, grads, extras, by_torch, by_definition)


def sgd_step(
    params: Tensors,
    grads: Tensors,
    momentum_buffers: Tensors,
    is_first: Sequence[bool],
    *,
    lr: float | Tensor,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    extras: StepExtras = NOTHING,
    impl: str = "auto",
) -> None:
    """A step of gradient descent with momentum (torch.optim.SGD's form), in place.

    Args and errors as of `adam_step`; momentum_buffers is empty without momentum, and `is_first` says for each of them
    whether it holds nothing yet: then it takes the gradient as it is.
    """
    chosen = _chosen(impl, params, "momentum" if momentum_buffers else "descent", extras)
    rate, rate_tensor = _number(lr)
    if chosen == "native":
        torch.ops.genlab.optimizer_step_sgd(
            params, grads, momentum_buffers, list(is_first), rate, weight_decay, momentum, dampening, nesterov,
            maximize, rate_tensor, *extras.before(), *extras.after(),
        )  # fmt: skip
        return

    # Plain descent is one call of torch's foreach functions, quicker than its fused step.
    alike = all(b.stride() == p.stride() for b, p in zip(momentum_buffers, params, strict=False))
    fused = alike and bool(momentum_buffers or weight_decay or maximize) and _fused(params)

    def by_torch(grads: Tensors) -> None:
        # Buffers that hold nothing yet are one call, the others another: the fused step knows one state for all.
        for new in sorted(set(is_first)) if momentum_buffers else (False,):
            rows = [i for i in range(len(params)) if not momentum_buffers or is_first[i] == new]
            found = [momentum_buffers[i] if momentum_buffers and not new else None for i in rows]
            torch_sgd(
                [params[i] for i in rows], [grads[i] for i in rows], found, fused=fused, foreach=not fused,
                has_sparse_grad=False, weight_decay=weight_decay, momentum=momentum, lr=lr if fused else _host(lr),
                dampening=dampening, nesterov=nesterov, maximize=maximize,
            )  # fmt: skip
            if new:
                for i, value in zip(rows, found, strict=True):
                    momentum_buffers[i].copy_(value)

    def by_definition(grads: Tensors) -> None:
        for i, (x, g) in enumerate(zip(params, grads, strict=True)):
            wide = _wide(x)
            g = _wide(g) * (-1 if maximize else 1) + weight_decay * wide
            if momentum_buffers:
                buffer = g if is_first[i] else momentum * _wide(momentum_buffers[i]) + (1 - dampening) * g
                momentum_buffers[i].copy_(buffer)
                g = g + momentum * buffer if nesterov else buffer
            x.copy_(wide - lr * g)

    _composed(chosen, params, grads, extras, by_torch, by_definition)


def follow_step(params: Tensors, extras: StepExtras, *, impl: str = "auto") -> None:
    """What follows a step, for parameters that take none: averages, bound and shadows of `extras`."""
    if _chosen(impl, params) == "native":
        torch.ops.genlab.optimizer_step_follow(params, *extras.after())
    else:
        _follow(params, extras)


def gradient_norm(grads: Tensors, *, impl: str = "auto") -> Tensor:
    """2-norm of all gradients as one vector, 0-d float64 on their device; the same bits every time.

    Raises:
        ValueError: no gradients. TypeError: several dtypes. RuntimeError: several devices, sparse gradients.
    """
    if not grads:
        raise ValueError("gradient_norm: expected at least one gradient")
    if _chosen(impl, grads) == "native":
        return torch.ops.genlab.optimizer_step_norm(list(grads))
    squares = [torch.linalg.vector_norm(g, dtype=torch.float64).square() for g in grads]
    return torch.stack(squares).sum().sqrt()


def _chosen(impl: str, tensors: Tensors, rule: str | None = None, extras: StepExtras = NOTHING) -> str:
    return implementation.choose(OP, impl, tensors[0], *(() if rule is None else (rule, tensors, extras)))


def _number(value: float | Tensor) -> tuple[float, Tensor | None]:
    """(number, None), or (0, tensor) where it lies on another device than the CPU."""
    if not isinstance(value, Tensor):
        return value, None
    return (value.item(), None) if value.device.type == "cpu" else (0.0, value)


def _host(value: float | Tensor) -> float:
    return value.item() if isinstance(value, Tensor) else value


def _fused(params: Tensors) -> bool:
    """Whether torch's fused step serves them: it walks memory from the first element on, whatever lies between."""
    known = params[0].is_floating_point() and params[0].device.type in {"cpu", "cuda"}
    return known and all(map(_is_dense, params))


def _is_dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 or tensor.is_complex() else tensor.float()


def _composed(
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
            grads = [(_wide(g) * factor.to(_wide(g))).to(g.dtype) for g in grads]
        # torch's fused kernels walk a parameter and its gradient alike, whatever their strides.
        grads = [
            g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for g, p in zip(grads, params, strict=True)
        ]
        (by_torch if chosen == "torch" else by_definition)(grads)
    _follow(params, extras)


def _follow(params: Tensors, extras: StepExtras) -> None:
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


def register() -> None:
    """Registers what the native ops look like without data: they write in place, the norm is one number."""
    for name in ("adam", "rmsprop", "sgd", "follow"):
        torch.library.register_fake(f"genlab::optimizer_step_{name}", lambda *arguments: None)
    torch.library.register_fake(
        "genlab::optimizer_step_norm", lambda grads: grads[0].new_empty((), dtype=torch.float64)
    )
