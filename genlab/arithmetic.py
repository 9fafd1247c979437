"""Arithmetic on latent vectors, as Radford et al. 2016 (section 6.3.2, figure 7): mean(a) - mean(b) + mean(c).

Single vectors are unstable under arithmetic, so each side is an average over several that show the same thing. The
result stands in the middle of a 3x3 square whose other eight places differ from it by uniform noise of +-0.25.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genlab.errors import UserError

NEIGHBOURS = 9
CENTRE = 4  # of the 3x3 square, read row by row


@dataclass(frozen=True)
class Sum:
    """The vectors of one a - b + c.

    Attributes:
        groups: the chosen vectors of a, b and c, each (k, ...).
        means: their averages, (3, ...).
        result: mean a - mean b + mean c, (...).
        square: the result with its neighbours, (9, ...), row by row.
    """

    groups: tuple[Tensor, Tensor, Tensor]
    means: Tensor
    result: Tensor
    square: Tensor


def pick(latents: Tensor, numbers: Sequence[int], what: str) -> Tensor:
    """The latents of the given numbers, (k, ...).

    Raises:
        UserError: no number, one named twice, or one that the sheet does not have.
    """
    if not numbers:
        raise UserError(f"{what}: expected the numbers of at least one picture, such as 3,7,12; got none")
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{what}: expected each picture once, got {', '.join(map(str, numbers))}")
    wrong = [number for number in numbers if not 0 <= number < len(latents)]
    if wrong:
        raise UserError(
            f"{what}: expected pictures 0 to {len(latents) - 1} of the sheet, got {wrong[0]}; raise --sheet-size"
        )
    return latents[list(numbers)]


def combine(a: Tensor, b: Tensor, c: Tensor, noise: float, generator: torch.Generator) -> Sum:
    """mean(a) - mean(b) + mean(c) with its neighbourhood.

    Args:
        a, b, c: latent vectors, (k, ...) each, k of its own.
        noise: the neighbours differ by U(-noise, noise) in each coordinate.
        generator: CPU generator of that noise.
    """
    means = torch.stack([group.mean(dim=0) for group in (a, b, c)])
    result = means[0] - means[1] + means[2]
    offsets = (torch.rand(NEIGHBOURS, *result.shape, generator=generator) * 2 - 1) * noise
    offsets[CENTRE] = 0
    return Sum((a, b, c), means, result, result + offsets.to(result))


def picture(total: Sum, decode: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
    """(images, columns) of the paper's figure: a row for each of a, b and c ending in its average, the square beside.

    Args:
        total: what `combine` gave.
        decode: latents (N, ...) to images (N, C, H, W) in [-1, 1].
    """
    most = max(len(group) for group in total.groups)
    sources = [decode(group).cpu() for group in total.groups]
    means, square = decode(total.means).cpu(), decode(total.square).cpu()
    blank = torch.ones_like(means[:1])
    rows = []
    for index, images in enumerate(sources):
        padding = blank.expand(most - len(images), *blank.shape[1:])
        rows += [images, padding, means[index : index + 1], blank, square[3 * index : 3 * index + 3]]
    return torch.cat(rows), most + 5


def number_grid(grid: Tensor, count: int, columns: int, padding: int = 2) -> Tensor:
    """A grid of `make_grid` with the number of each picture in its upper left corner, uint8 (3, H, W).

    Args:
        grid: uint8 (C, H, W), C = 1 or 3.
        count, columns, padding: as `make_grid` was called.
    """
    import numpy as np
    from PIL import ImageDraw

    from genlab.images import to_pil

    rows = -(-count // columns)
    height, width = ((side - padding) / parts for side, parts in zip(grid.shape[1:], (rows, columns), strict=True))
    sheet = to_pil(grid).convert("RGB")
    draw = ImageDraw.Draw(sheet)
    for number in range(count):
        corner = (padding + (number % columns) * width + 1, padding + (number // columns) * height)
        box = draw.textbbox(corner, str(number))
        draw.rectangle((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), fill="white")
        draw.text(corner, str(number), fill="red")
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)
