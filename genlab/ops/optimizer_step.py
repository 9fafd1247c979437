"""The optimiser's step over lists of tensors, with all that comes before and after it, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam as torch_adam
from torch.optim.rmsprop import rmsprop as torch_rmsprop
from torch.optim.sgd import sgd as torch_sgd

from genlab.ops.step_parts import (
    NOTHING,
    StepExtras,
    Tensors,
    alike,
    chosen_for,
    composed,
    follow,
    fused_serves,
    host_of,
    number_of,
    wide_of,
)


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
    chosen = chosen_for(impl, params, "amsgrad" if max_exp_avg_sqs else "adam", extras)
    rate, rate_tensor = number_of(lr)
    if chosen == "native":
        torch.ops.genlab.optimizer_step_adam(
            params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, rate, beta1, beta2, eps, weight_decay,
            decoupled, maximize, rate_tensor, *extras.before(), *extras.after(),
        )  # fmt: skip
        return

    def by_torch(grads: Tensors) -> None:
        torch_adam(
            list(params), list(grads), list(exp_avgs), list(exp_avg_sqs), list(max_exp_avg_sqs), list(steps),
            fused=fused_serves(params), has_complex=params[0].is_complex(), amsgrad=bool(max_exp_avg_sqs), beta1=beta1,
            beta2=beta2, lr=lr, weight_decay=weight_decay, eps=eps, maximize=maximize,
            decoupled_weight_decay=decoupled,
        )  # fmt: skip

    def by_definition(grads: Tensors) -> None:
        for i, (x, g, m, v, t) in enumerate(zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True)):
            t.add_(1)
            wide, g = wide_of(x), wide_of(g) * (-1 if maximize else 1)
            if decoupled:
                wide = wide * (1 - lr * weight_decay)
            else:
                g = g + weight_decay * wide
            first = beta1 * wide_of(m) + (1 - beta1) * g
            second = beta2 * wide_of(v) + (1 - beta2) * g * g
            m.copy_(first)
            v.copy_(second)
            if max_exp_avg_sqs:
                second = torch.maximum(wide_of(max_exp_avg_sqs[i]), second)
                max_exp_avg_sqs[i].copy_(second)
            root = (second / (1 - beta2 ** t.item())).sqrt() + eps
            x.copy_(wide - lr * (first / (1 - beta1 ** t.item())) / root)

    composed(chosen, params, grads, extras, by_torch, by_definition)


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
    chosen = chosen_for(impl, params, "rmsprop", extras)
    rate, rate_tensor = number_of(lr)
    if chosen == "native":
        torch.ops.genlab.optimizer_step_rmsprop(
            params, grads, square_avgs, grad_avgs, momentum_buffers, steps, rate, alpha, eps, weight_decay, momentum,
            maximize, rate_tensor, *extras.before(), *extras.after(),
        )  # fmt: skip
        return

    def by_torch(grads: Tensors) -> None:
        torch_rmsprop(
            list(params), list(grads), list(square_avgs), list(grad_avgs), list(momentum_buffers), list(steps),
            foreach=True, has_complex=params[0].is_complex(), lr=host_of(lr), alpha=alpha, eps=eps,
            weight_decay=weight_decay, momentum=momentum, centered=bool(grad_avgs), maximize=maximize,
        )  # fmt: skip

    def by_definition(grads: Tensors) -> None:
        for i, (x, g, v, t) in enumerate(zip(params, grads, square_avgs, steps, strict=True)):
            t.add_(1)
            wide = wide_of(x)
            g = wide_of(g) * (-1 if maximize else 1) + weight_decay * wide
            second = alpha * wide_of(v) + (1 - alpha) * g * g
            v.copy_(second)
            if grad_avgs:
                mean = alpha * wide_of(grad_avgs[i]) + (1 - alpha) * g
                grad_avgs[i].copy_(mean)
                second = second - mean * mean
            moved = g / (second.sqrt() + eps)
            if momentum_buffers:
                moved = momentum * wide_of(momentum_buffers[i]) + moved
                momentum_buffers[i].copy_(moved)
            x.copy_(wide - lr * moved)

    composed(chosen, params, grads, extras, by_torch, by_definition)


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
    chosen = chosen_for(impl, params, "momentum" if momentum_buffers else "descent", extras)
    rate, rate_tensor = number_of(lr)
    if chosen == "native":
        torch.ops.genlab.optimizer_step_sgd(
            params, grads, momentum_buffers, list(is_first), rate, weight_decay, momentum, dampening, nesterov,
            maximize, rate_tensor, *extras.before(), *extras.after(),
        )  # fmt: skip
        return

    # Plain descent is one call of torch's foreach functions, quicker than its fused step.
    fused = bool(momentum_buffers or weight_decay or maximize) and fused_serves(params)
    fused = fused and all(map(alike, momentum_buffers, params))

    def by_torch(grads: Tensors) -> None:
        # Buffers that hold nothing yet are one call, the others another: the fused step knows one state for all.
        new = [i for i, first in enumerate(is_first) if first]
        if not new:
            descend(params, grads, list(momentum_buffers) or [None] * len(params))
            return
        old = [i for i, first in enumerate(is_first) if not first]
        if old:
            descend([params[i] for i in old], [grads[i] for i in old], [momentum_buffers[i] for i in old])
        found: list[Tensor | None] = [None] * len(new)
        descend([params[i] for i in new], [grads[i] for i in new], found)
        for i, value in zip(new, found, strict=True):
            momentum_buffers[i].copy_(value)

    def descend(params: Tensors, grads: Tensors, buffers: list[Tensor | None]) -> None:
        torch_sgd(
            list(params), list(grads), buffers, fused=fused, foreach=not fused, has_sparse_grad=False,
            weight_decay=weight_decay, momentum=momentum, lr=lr if fused else host_of(lr), dampening=dampening,
            nesterov=nesterov, maximize=maximize,
        )  # fmt: skip

    def by_definition(grads: Tensors) -> None:
        for i, (x, g) in enumerate(zip(params, grads, strict=True)):
            wide = wide_of(x)
            g = wide_of(g) * (-1 if maximize else 1) + weight_decay * wide
            if momentum_buffers:
                buffer = g if is_first[i] else momentum * wide_of(momentum_buffers[i]) + (1 - dampening) * g
                momentum_buffers[i].copy_(buffer)
                g = g + momentum * buffer if nesterov else buffer
            x.copy_(wide - lr * g)

    composed(chosen, params, grads, extras, by_torch, by_definition)


def follow_step(params: Tensors, extras: StepExtras, *, impl: str = "auto") -> None:
    """What follows a step, for parameters that take none: averages, bound and shadows of `extras`."""
    if chosen_for(impl, params) == "native":
        torch.ops.genlab.optimizer_step_follow(params, *extras.after())
    else:
        follow(params, extras)


def gradient_norm(grads: Tensors, *, impl: str = "auto") -> Tensor:
    """2-norm of all gradients as one vector, 0-d float64 on their device; the same bits every time.

    Raises:
        ValueError: no gradients. TypeError: several dtypes. RuntimeError: several devices, sparse gradients.
    """
    if not grads:
        raise ValueError("gradient_norm: expected at least one gradient")
    if chosen_for(impl, grads) == "native":
        return torch.ops.genlab.optimizer_step_norm(list(grads))
    squares = [torch.linalg.vector_norm(g, dtype=torch.float64).square() for g in grads]
    return torch.stack(squares).sum().sqrt()


def register() -> None:
    """Registers what the native ops look like without data: they write in place, the norm is one number."""
    for name in ("adam", "rmsprop", "sgd", "follow"):
        torch.library.register_fake(f"genlab::optimizer_step_{name}", lambda *arguments: None)
    torch.library.register_fake(
        "genlab::optimizer_step_norm", lambda grads: grads[0].new_empty((), dtype=torch.float64)
    )
