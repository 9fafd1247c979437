"""Walks along single codes of a latent space, and pictures of a plane of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genlab.errors import UserError
from genlab.registry import nearest


@dataclass(frozen=True)
class Code:
    """One thing that a latent vector says, and the values that it can be walked through.

    Attributes:
        name: such as "z3" or "category".
        start: first place of the latent vector that the code takes up.
        ends: (lowest, highest) of a number; None for a category.
        categories: length of a one-hot category, which takes up as many places; 1 for a number.
    """

    name: str
    start: int
    ends: tuple[float, float] | None = (-3.0, 3.0)
    categories: int = 1

    def points(self, steps: int) -> Tensor:
        """What is written into the latent vector, (steps, places); a category gives all of its values instead."""
        if self.ends is None:
            return torch.eye(self.categories)
        return torch.linspace(*self.ends, steps).unsqueeze(1)

    def walk(self, base: Tensor, steps: int) -> Tensor:
        """Copies of `base` (d,) that differ in this code alone, (points, d)."""
        points = self.points(steps).to(base)
        walk = base.repeat(len(points), 1)
        walk[:, self.start : self.start + points.shape[1]] = points
        return walk


def gaussian_codes(count: int) -> list[Code]:
    """Codes z0, z1, ... of a standard normal prior, each walked from -3 to 3."""
    return [Code(f"z{index}", index) for index in range(count)]


def choose_codes(codes: Sequence[Code], wanted: Sequence[str]) -> list[Code]:
    """The codes of the given names, in that order; all where no name is given.

    Raises:
        UserError: no code of that name.
    """
    named = {code.name: code for code in codes}
    for name in wanted:
        if name not in named:
            guess = nearest(name, named)
            hint = f"; did you mean {guess!r}?" if guess else ""
            listed = ", ".join(named) if len(named) <= 12 else f"{codes[0].name} to {codes[-1].name}"
            raise UserError(f"code: expected one of {listed}, got {name!r}{hint}")
    return [named[name] for name in wanted] if wanted else list(codes)


def gaussian_plane(side: int) -> Tensor:
    """A side x side grid of 2-d latents at equal steps of the normal distribution's probability, (side^2, 2).

    Coordinates are the inverse Gaussian CDF of the middles of `side` equal shares of [0, 1] (Kingma and Welling 2014,
    figure 4), so each picture stands for an equal share of the prior. The first coordinate grows to the right, the
    second upwards.
    """
    shares = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    along = torch.special.ndtri(shares).float()
    up, right = torch.meshgrid(along.flip(0), along, indexing="ij")
    return torch.stack([right.flatten(), up.flatten()], dim=1)
