"""Drawn pictures of two coloured shapes with captions that say what is where: needs no file and no network.

Each picture has two captions, one from either side: "a red circle above a blue square" and "a blue square below a red
circle"; or "left of" and "right of". Whoever captions one must tell shapes, colours and places apart, and know which
colour belongs to which shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genlab.caption_config import as_caption_config
from genlab.config import DataConfig
from genlab.data.base import ImageDataset, digests
from genlab.data.captions import CAPTION_SPLITS, Captioned, build_captioned, shaping
from genlab.data.catalogue import register
from genlab.data.drawn import SHAPES, Canvas, DrawnPictures
from genlab.data.randomness import uniform

COUNTS = {"train": 4000, "val": 200, "test": 400}
COLOURS = {
    "red": (0.86, 0.16, 0.16),
    "green": (0.16, 0.62, 0.25),
    "blue": (0.16, 0.36, 0.86),
    "yellow": (0.95, 0.80, 0.12),
    "black": (0.08, 0.08, 0.08),
}
RELATIONS = (("left of", "right of"), ("above", "below"))
_SEED = 3


@dataclass(frozen=True)
class Scenes:
    """What N pictures show; the first shape is the one on the left or above.

    Attributes:
        vertical: bool (N,), whether the second lies below the first rather than on its right.
        shape, colour: int (N, 2), indices into `SHAPES` and `COLOURS`.
        centre: (N, 2, 2), x and y in [-1, 1] of the room that keeps the whole shape inside.
        radius: (N, 2), of the circle around the shape, in units of half the shorter side.
    """

    vertical: np.ndarray
    shape: np.ndarray
    colour: np.ndarray
    centre: np.ndarray
    radius: np.ndarray


def scenes_of(numbers: np.ndarray) -> Scenes:
    """What the pictures of those sample numbers show. The two differ in shape or colour."""

    def draw(what: int) -> np.ndarray:
        return np.stack([uniform(_SEED, what, slot, numbers) for slot in (0, 1)], axis=1)

    vertical = uniform(_SEED, 0, 0, numbers) < 0.5
    shape, colour = (draw(1) * len(SHAPES)).astype(int), (draw(2) * len(COLOURS)).astype(int)
    same = (shape[:, 0] == shape[:, 1]) & (colour[:, 0] == colour[:, 1])
    colour[same, 1] = (colour[same, 1] + 1) % len(COLOURS)
    along = (0.75 + 0.25 * draw(3)) * np.array([-1.0, 1.0])
    across = draw(4) - 0.5
    x, y = np.where(vertical[:, None], across, along), np.where(vertical[:, None], along, across)
    return Scenes(vertical, shape, colour, np.stack([x, y], axis=2), 0.32 + 0.08 * draw(5))


def captions_of(numbers: np.ndarray) -> list[tuple[str, str]]:
    """The captions of each picture, from the first shape's side and from the second's."""
    scenes, colours = scenes_of(numbers), list(COLOURS)
    result = []
    for vertical, shape, colour in zip(scenes.vertical, scenes.shape, scenes.colour, strict=True):
        first, second = (f"a {colours[c]} {SHAPES[s]}" for s, c in zip(shape, colour, strict=True))
        forth, back = RELATIONS[int(vertical)]
        result.append((f"{first} {forth} {second}", f"{second} {back} {first}"))
    return result


def boxes_of(numbers: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, 2, 4): left, top, right and bottom, in pixels, of the square around each shape's circle."""
    scenes, half = scenes_of(numbers), min(size) / 2
    room = np.array([size[1], size[0]]) / min(size)
    centre = scenes.centre * (room - scenes.radius[:, :, None])
    corners = [centre - scenes.radius[:, :, None], centre + scenes.radius[:, :, None]]
    return np.concatenate([(corner + room) * half for corner in corners], axis=2)


def draw_scenes(numbers: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, H, W, 3) in [0, 1] on a pale ground."""
    scenes, palette = scenes_of(numbers), np.array(list(COLOURS.values()))
    canvas = Canvas(np.full((len(numbers), 3), 0.93), size)
    upright = np.zeros(len(numbers))
    for slot in (0, 1):
        distance = canvas.distance(scenes.shape[:, slot], scenes.centre[:, slot], scenes.radius[:, slot], upright)
        canvas.paint(distance, palette[scenes.colour[:, slot]])
    return canvas.image


@register(
    "captioned_shapes", kind="captioned", splits=CAPTION_SPLITS,
    summary="4,000 drawn pictures of two shapes, two captions each: a red circle above a blue square",
)  # fmt: skip
def build_captioned_shapes(config: DataConfig, split: str) -> ImageDataset:
    settings = as_caption_config(config)
    numbers = np.arange(sum(COUNTS.values()))
    texts, parts, start = captions_of(numbers), {}, 0
    for part, count in COUNTS.items():
        parts[part] = [Captioned(row, texts[row]) for row in range(start, start + count)]
        start += count
    facts = digests(settings, split, {"seed": _SEED, "counts": COUNTS, "captions": shaping(settings)})
    return build_captioned(settings, split, DrawnPictures(draw_scenes, numbers, settings), parts, **facts)
