"""Ways between latent vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def lerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Evenly spaced points on the straight lines between pairs of vectors.

    Args:
        start, end: (n, ...) each.
        steps: points of a line, both ends included; at least 2.

    Returns:
        (n, steps, ...).
    """
    fraction = _fractions(start, end, steps)
    return start.unsqueeze(1) * (1 - fraction) + end.unsqueeze(1) * fraction


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Evenly spaced points on the great circles between pairs of vectors (Shoemake 1985; White 2016 for latent spaces).

    The length goes linearly from one end's to the other's, so every point is about as long as a draw from a normal
    prior; a straight line would pass through short vectors that the prior never draws. Where two vectors are parallel
    or opposite, no one great circle joins them, and the straight line is taken.

    Args:
        start, end: (n, ...) each.
        steps: points of a way, both ends included; at least 2.

    Returns:
        (n, steps, ...).
    """
    fraction = _fractions(start, end, steps)
    a, b = start.flatten(1).double(), end.flatten(1).double()
    length_a, length_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    unit_a, unit_b = a / length_a.clamp_min(1e-12), b / length_b.clamp_min(1e-12)
    angle = torch.acos((unit_a * unit_b).sum(dim=1, keepdim=True).clamp(-1, 1)).unsqueeze(1)
    t = fraction.reshape(1, steps, 1).double()
    sine = torch.sin(angle)
    straight = sine.abs() < 1e-6
    divisor = torch.where(straight, torch.ones_like(sine), sine)
    arc = (torch.sin((1 - t) * angle) * unit_a.unsqueeze(1) + torch.sin(t * angle) * unit_b.unsqueeze(1)) / divisor
    arc = arc * (length_a.unsqueeze(1) * (1 - t) + length_b.unsqueeze(1) * t)
    points = torch.where(straight, a.unsqueeze(1) * (1 - t) + b.unsqueeze(1) * t, arc)
    return points.to(start.dtype).reshape(start.shape[0], steps, *start.shape[1:])


def _fractions(start: Tensor, end: Tensor, steps: int) -> Tensor:
    if start.shape != end.shape or start.dim() < 2:
        raise ValueError(
            f"interpolation: expected tensors (n, ...) of one shape, got {tuple(start.shape)} and {tuple(end.shape)}"
        )
    if steps < 2:
        raise ValueError(f"interpolation: expected at least 2 steps, got {steps}")
    return torch.linspace(0, 1, steps, device=start.device, dtype=start.dtype).reshape(
        1, steps, *(1,) * (start.dim() - 1)
    )
