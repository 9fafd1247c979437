"""What PyTorch must know of the native losses beside their kernels: shapes without data, and second gradients.

The first gradients are in csrc/ops/losses_autograd.cpp, and gan_loss's of every order; here are the gradients of
cross_entropy_backward and reparametrize_kl_backward, by differentiating the definitions in torch ops.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genlab.ops.cross_entropy import REDUCTIONS
from genlab.ops.cross_entropy import definition as cross_entropy_definition
from genlab.ops.reparametrize_kl import definition as reparametrize_definition


def register() -> None:
    """Registers the fakes of every op and the second gradients with the dispatcher."""
    fakes = {
        "cross_entropy": _cross_entropy_fake,
        "cross_entropy_backward": _cross_entropy_backward_fake,
        "gan_loss": _gan_loss_fake,
        "reparametrize_kl": _reparametrize_fake,
        "reparametrize_kl_backward": _reparametrize_backward_fake,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"genlab::{name}", fake)
    torch.library.register_autograd(
        "genlab::cross_entropy_backward", _cross_entropy_second, setup_context=_cross_entropy_setup
    )
    torch.library.register_autograd(
        "genlab::reparametrize_kl_backward", _reparametrize_second, setup_context=_reparametrize_setup
    )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


# -- shapes ------------------------------------------------------------------------------------------------------------


def _gan_loss_fake(
    fake_logits: Tensor, real_logits: Tensor | None, loss: str, label_smoothing: float, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = _wide(fake_logits.dtype)

    def gradient_of(logits: Tensor | None) -> Tensor:
        if not gradient or logits is None:
            return fake_logits.new_empty((0,), dtype=dtype)
        return torch.empty_like(logits, dtype=dtype)

    return fake_logits.new_empty((), dtype=dtype), gradient_of(fake_logits), gradient_of(real_logits)


def _cross_entropy_fake(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = _wide(input.dtype)
    return (
        input.new_empty(target.shape if reduction == 0 else ()),
        input.new_empty((*target.shape, 2), dtype=dtype),
        input.new_empty((), dtype=dtype),
        input.new_empty(input.shape if gradient else (0,)),
    )


def _cross_entropy_backward_fake(grad_loss: Tensor, input: Tensor, *rest: Any) -> Tensor:
    return input.new_empty(input.shape)


def _reparametrize_fake(mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    return noise.new_empty(noise.shape), mean.new_empty(mean.shape)


def _reparametrize_backward_fake(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mean: Tensor,
    log_variance: Tensor,
    noise: Tensor,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    like = zip((mean, mean, noise), wanted, strict=True)
    found = [tensor.new_empty(tensor.shape if asked else (0,)) for tensor, asked in like]
    return found[0], found[1], found[2]


# -- gradients of the gradients ----------------------------------------------------------------------------------------


def _leaf(tensor: Tensor | None, again: bool) -> Tensor | None:
    """The tensor itself where its graph is wanted (a third derivative), else cut from it."""
    if tensor is None or (again and tensor.requires_grad):
        return tensor
    return tensor.detach().requires_grad_()


def _cross_entropy_setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    grad_loss, input, target, weight, _, _, *attributes = inputs
    ctx.save_for_backward(grad_loss, input, target, weight)
    ctx.attributes = attributes


def _cross_entropy_second(ctx: Any, grad: Tensor) -> tuple:
    again = torch.is_grad_enabled()
    grad_loss, input, target, weight = ctx.saved_tensors
    grad_loss, input = _leaf(grad_loss, again), _leaf(input, again)
    reduction, ignore_index, label_smoothing = ctx.attributes
    with torch.enable_grad():
        wide = input.to(_wide(input.dtype))
        name = REDUCTIONS[reduction]
        loss = cross_entropy_definition(wide, target, weight, name, ignore_index, label_smoothing).to(input.dtype)
        (first,) = torch.autograd.grad(loss, input, grad_loss, create_graph=True)
        found = torch.autograd.grad(first, (grad_loss, input), grad, create_graph=again, allow_unused=True)
    return (*found, None, None, None, None, None, None, None)


def _reparametrize_setup(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    *tensors, wanted = inputs
    ctx.save_for_backward(*tensors)
    ctx.wanted = tuple(wanted)
    ctx.set_materialize_grads(False)


def _reparametrize_second(ctx: Any, *grads: Tensor | None) -> tuple:
    again = torch.is_grad_enabled()
    grad_z, grad_kl, mean, log_variance, noise = (_leaf(tensor, again) for tensor in ctx.saved_tensors)
    operands = (mean, log_variance, noise)
    with torch.enable_grad():
        outputs = reparametrize_definition(*operands)
        given = [(o, g) for o, g in zip(outputs, (grad_z, grad_kl), strict=True) if g is not None]
        pairs = [
            (operand, grad)
            for operand, grad, wanted in zip(operands, grads, ctx.wanted, strict=True)
            if wanted and grad is not None
        ]
        if not pairs:
            return (None,) * 6
        first = torch.autograd.grad(
            [o for o, _ in given],
            [operand for operand, _ in pairs],
            [g for _, g in given],
            create_graph=True,
            materialize_grads=True,
        )
        of = [t for t in (grad_z, grad_kl, *operands) if t is not None]
        differentiable = [(f, g) for f, (_, g) in zip(first, pairs, strict=True) if f.requires_grad]
        found = iter(
            torch.autograd.grad(
                [f for f, _ in differentiable],
                of,
                [g for _, g in differentiable],
                create_graph=again,
                allow_unused=True,
            )
        )
    return (*(None if t is None else next(found) for t in (grad_z, grad_kl, *operands)), None)
