"""How sharp a minimum is, and descending to flat ones: SAM and the leading eigenvalue of the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def at_worst_neighbour(network: nn.Module, rho: float, adaptive: bool = False) -> Iterator[None]:
    """Inside, the weights are w + e(w) and their gradients gone; afterwards w is back, bit for bit.

    e(w) = rho g / |g| with g the gradients that are there on entering: the first-order solution of the inner maximum
    (Foret et al. 2021, equation 2). A backward pass inside then gives the gradient that SAM descends along. Running
    statistics of normalisations are those of before: the second pass is no further sample of the data.

    Args:
        network: all of its parameters that have a gradient are moved.
        rho: radius of the neighbourhood, > 0 (0.05 in the paper).
        adaptive: measure the radius relative to each weight (ASAM, Kwon et al. 2021): e = rho w^2 g / |w g|.
    """
    moved = [parameter for parameter in network.parameters() if parameter.grad is not None]
    weights = [parameter.detach().clone() for parameter in moved]
    buffers = [buffer.clone() for buffer in network.buffers()]
    with torch.no_grad():
        gradients = [parameter.grad for parameter in moved]
        directions = [g * w.abs() for g, w in zip(gradients, weights, strict=True)] if adaptive else gradients
        length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm([d.float() for d in directions])))
        scale = rho / (length + 1e-12)
        for parameter, direction, weight in zip(moved, directions, weights, strict=True):
            parameter.add_((direction * weight.abs() if adaptive else direction) * scale.to(direction.dtype))
            parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, weight in zip(moved, weights, strict=True):
                parameter.copy_(weight)
            for buffer, before in zip(network.buffers(), buffers, strict=True):
                buffer.copy_(before)


def leading_eigenvalue(
    loss: Callable[[], Tensor] | Sequence[Callable[[], Tensor]],
    parameters: Sequence[Tensor],
    *,
    iterations: int = 50,
    tolerance: float = 1e-3,
    generator: torch.Generator | None = None,
) -> tuple[float, int]:
    """The Hessian's eigenvalue of largest magnitude by power iteration on Hessian-vector products (Pearlmutter 1994).

    Args:
        loss: gives the 0-d loss of fixed data, with a graph; called once for each product. Several: of their mean, one
            graph at a time, for data that are too many for one. Dropout must be off and normalisations in evaluation
            mode, so that it is a function of the weights.
        parameters: what the second derivatives are with respect to; they require gradients.
        iterations: products at most, at least 1.
        tolerance: relative change of the eigenvalue at which it stops.
        generator: CPU generator of the first vector; None is torch's global one.

    Returns:
        (eigenvalue as the Rayleigh quotient of the last vector, products taken).

    Raises:
        ValueError: no iterations, no loss, or one that is not finite.
    """
    if iterations < 1:
        raise ValueError(f"leading_eigenvalue: expected iterations of at least 1, got {iterations}")
    losses = [loss] if callable(loss) else list(loss)
    if not losses:
        raise ValueError("leading_eigenvalue: expected at least one loss, got none")
    parameters = list(parameters)
    vector = [torch.randn(p.shape, generator=generator).to(p.device, p.dtype) for p in parameters]
    vector = _normalised(vector)
    value = 0.0
    for count in range(1, iterations + 1):
        products = _mean_product(losses, parameters, vector)
        before, value = (
            value,
            float(sum((h.double() * v.double()).sum() for h, v in zip(products, vector, strict=True))),
        )
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"leading_eigenvalue: expected a finite loss and finite derivatives, got {value}")
        if not any(bool(h.any()) for h in products):  # a loss that is linear in every weight
            return 0.0, count
        vector = _normalised(products)
        if count > 1 and abs(value - before) <= tolerance * abs(value):
            break
    return value, count


def _mean_product(
    losses: Sequence[Callable[[], Tensor]], parameters: list[Tensor], vector: list[Tensor]
) -> list[Tensor]:
    """Hessian times vector, of the mean of the losses."""
    total = [torch.zeros_like(p) for p in parameters]
    for loss in losses:
        gradients = torch.autograd.grad(loss(), parameters, create_graph=True, allow_unused=True)
        used = [(g, v) for g, v in zip(gradients, vector, strict=True) if g is not None and g.requires_grad]
        if not used:
            continue
        inner = torch.stack([(g * v).sum() for g, v in used]).sum()
        for sum_, part in zip(total, torch.autograd.grad(inner, parameters, allow_unused=True), strict=True):
            if part is not None:
                sum_.add_(part, alpha=1 / len(losses))
    return total


def _normalised(vectors: list[Tensor]) -> list[Tensor]:
    length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(v.double()) for v in vectors]))
    return [(v / length).to(v.dtype) for v in vectors]
