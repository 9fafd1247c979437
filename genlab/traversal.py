"""Walks along single codes of a latent space, and pictures of a plane of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genlab.errors import UserError
from genlab.registry import nearest

if TYPE_CHECKING:
    from genlab.trainers.base import Trainer


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


@dataclass(frozen=True)
class Row:
    """The pictures of one walk.

    Attributes:
        code: what was walked.
        images: (points, C, H, W) float32 in [-1, 1] on the CPU.
        effect: mean standard deviation of a pixel along the walk, in grey levels where white minus black is 1.
    """

    code: Code
    images: Tensor
    effect: float


def walk_codes(
    trainer: Trainer,
    codes: Sequence[Code],
    bases: Tensor,
    steps: int,
    label: int | None = None,
    rows: int | None = None,
) -> list[Row]:
    """Walks each code from each base vector.

    Args:
        trainer: decodes.
        codes: to walk.
        bases: latent vectors that the walks start from, (n, d).
        steps: values of a number.
        label: class to decode with, of a conditional model.
        rows: keep only the codes that change the pictures most, as many as make at most so many rows, in the order of
            their effect; None keeps all in the order given.

    Returns:
        The n rows of the first code, then those of the second, and so on.
    """
    groups: list[list[Row]] = []
    most = None if rows is None else max(1, rows // len(bases))
    for code in codes:
        group = []
        for base in bases:
            walk = code.walk(base, steps)
            labels = None if label is None else torch.full((len(walk),), label)
            images = trainer.decode(walk, labels).float().cpu()
            group.append(Row(code, images, float(images.std(0, unbiased=False).mean()) / 2))
        groups.append(group)
        if most is not None:
            groups = sorted(groups, key=_effect, reverse=True)[:most]
    return [row for group in groups for row in group]


def _effect(group: list[Row]) -> float:
    return sum(row.effect for row in group) / len(group)


def rows_to_grid(rows: Sequence[Row]) -> tuple[Tensor, int]:
    """(images, columns) of one picture with a walk a row; rows of fewer points end in white."""
    columns = max(len(row.images) for row in rows)
    blank = torch.ones_like(rows[0].images[:1])
    filled = [torch.cat([row.images, blank.expand(columns - len(row.images), -1, -1, -1)]) for row in rows]
    return torch.cat(filled), columns
