"""Pictures drawn from their index: classes, aligned pairs and two domains that need no file and no network.

Every shape is a signed distance function over the whole batch; coverage of a pixel is the distance to the edge clipped
to one pixel, which is the anti-aliasing. Distances are in units of half the shorter side, y pointing down.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from genlab.config import DataConfig
from genlab.data.base import ImageDataset, PairedDataset, PictureDataset, UnpairedDataset, View, digests
from genlab.data.catalogue import register
from genlab.data.pixels import convert_channels
from genlab.data.points import split_indices
from genlab.data.randomness import uniform
from genlab.data.selection import select

TRAIN_COUNT, TEST_COUNT = 10_000, 2_000
SHAPES = ("circle", "square", "triangle", "star", "cross")
_SEED = 2
# Fill of each shape in outline_pairs: a rule that a translator can learn from the outline alone.
_FILLS = np.array([(0.86, 0.24, 0.22), (0.20, 0.42, 0.85), (0.22, 0.65, 0.32), (0.95, 0.77, 0.18), (0.58, 0.30, 0.74)])

Plane = tuple[np.ndarray, np.ndarray]
Draw = Callable[[np.ndarray, "tuple[int, int]"], np.ndarray]


def plane(size: tuple[int, int]) -> Plane:
    """Coordinates of the pixel centres, each (1, H, W)."""
    height, width = size
    half = min(height, width) / 2
    y = ((np.arange(height) + 0.5 - height / 2) / half).astype(np.float32)
    x = ((np.arange(width) + 0.5 - width / 2) / half).astype(np.float32)
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    return grid_x[None], grid_y[None]


def _box(x: np.ndarray, y: np.ndarray, half_x: np.ndarray, half_y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x) - half_x, np.abs(y) - half_y)


def shape_distance(shape: np.ndarray, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Signed distance to the edge, negative inside.

    Args:
        shape: int (N,), index into `SHAPES`.
        x, y: (N, H, W) coordinates about the shape's centre, already turned.
        radius: (N, 1, 1), of the circle around the shape.
    """
    distance = np.empty(np.broadcast_shapes(x.shape, radius.shape), dtype=np.float32)
    for kind, name in enumerate(SHAPES):
        rows = shape == kind
        if rows.any():
            distance[rows] = _DISTANCES[name](x[rows], y[rows], radius[rows])
    return distance


def _circle(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.9 * r


def _square(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    return _box(x, y, r * math.sqrt(0.5), r * math.sqrt(0.5))


def _triangle(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.maximum(y, np.abs(x) * math.sqrt(0.75) - y * 0.5) - 0.5 * r


def _star(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Five points: the angle is folded into half of one point, whose edge is then a single line."""
    sector = math.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    length = np.hypot(x, y)
    inner = 0.45
    # The edge runs from the tip (1, 0) to the inner corner at angle `sector`, in units of r.
    to_x, to_y = inner * math.cos(sector) - 1, inner * math.sin(sector)
    norm = math.hypot(to_x, to_y)
    return ((length * np.cos(angle) - r) * to_y - length * np.sin(angle) * to_x) / norm


def _cross(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    long, short = 0.95 * r, 0.32 * r
    return np.minimum(_box(x, y, long, short), _box(x, y, short, long))


_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "cross": _cross}


def hue_colour(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """HSV in [0, 1] to RGB, (N, 3)."""
    wheel = (hue[:, None] * 6 + np.array([0.0, 4.0, 2.0])) % 6
    return value[:, None] * (1 - saturation[:, None] * (1 - np.clip(np.abs(wheel - 3) - 1, 0, 1)))


class Canvas:
    """A batch of float32 RGB pictures in [0, 1] that shapes are painted on."""

    def __init__(self, background: np.ndarray, size: tuple[int, int]) -> None:
        self.x, self.y = plane(size)
        self.pixel = 2.0 / min(size)
        self.room = (size[1] / min(size), size[0] / min(size))
        self.image = np.empty((len(background), *size, 3), dtype=np.float32)
        self.image[:] = background[:, None, None, :]

    def distance(self, shape: np.ndarray, centre: np.ndarray, radius: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """(N, H, W) distances; centre (N, 2) in [-1, 1] of the room that keeps the whole shape inside."""
        free_x, free_y = (np.maximum(room - radius, 0) for room in self.room)
        columns = (centre[:, 0] * free_x, centre[:, 1] * free_y, np.cos(turn), np.sin(turn), radius)
        left, top, cos, sin, size = (column.astype(np.float32)[:, None, None] for column in columns)
        x, y = self.x - left, self.y - top
        return shape_distance(shape, cos * x + sin * y, cos * y - sin * x, size)

    def paint(self, distance: np.ndarray, colour: np.ndarray) -> None:
        cover = np.clip(0.5 - distance / self.pixel, 0, 1)[..., None]
        self.image += cover * (colour.astype(np.float32)[:, None, None, :] - self.image)


class DrawnPictures:
    """A source whose pictures are drawn when they are asked for.

    Args:
        draw: (sample numbers, size) -> float (N, H, W, 3) in [0, 1].
        numbers: sample number of each index.
        config: gives the channels; 3 by default.
    """

    def __init__(self, draw: Draw, numbers: np.ndarray, config: DataConfig) -> None:
        self._draw, self._numbers = draw, numbers
        self.channels = config.channels or 3

    def __len__(self) -> int:
        return len(self._numbers)

    def batch(self, indices: np.ndarray, size: tuple[int, int]) -> Tensor:
        """uint8 (N, channels, *size)."""
        pixels = np.rint(self._draw(self._numbers[indices], size) * 255).astype(np.uint8)
        # The conversion is pixelwise, so that the whole batch can pass as one tall picture.
        flat = convert_channels(pixels.reshape(-1, size[1], 3), self.channels)
        return torch.from_numpy(flat.reshape(len(indices), *size, self.channels)).permute(0, 3, 1, 2).contiguous()


class DrawnPairs:
    """Two drawings of the same sample numbers, in the direction asked for."""

    def __init__(self, a: DrawnPictures, b: DrawnPictures, config: DataConfig) -> None:
        self._sides = (a, b) if config.direction == "a_to_b" else (b, a)
        self.channels = a.channels

    def __len__(self) -> int:
        return len(self._sides[0])

    def batch(self, indices: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return self._sides[0].batch(indices, size), self._sides[1].batch(indices, size)


def _numbers(numbers: np.ndarray, draw: int) -> np.ndarray:
    return uniform(_SEED, draw, numbers)


def shape_of(numbers: np.ndarray) -> np.ndarray:
    """Class of each sample number of `shapes`: in turn, so that every stretch of the set is balanced."""
    return numbers % len(SHAPES)


def draw_shapes(numbers: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One shape of any hue, size, place and tilt on a pale or a dark ground."""
    pale = _numbers(numbers, 0) < 0.5
    level = np.where(pale, 0.85 + 0.15 * _numbers(numbers, 1), 0.2 * _numbers(numbers, 1))
    canvas = Canvas(np.repeat(level[:, None], 3, axis=1), size)
    centre = np.stack([2 * _numbers(numbers, draw) - 1 for draw in (2, 3)], axis=1)
    radius = 0.4 + 0.35 * _numbers(numbers, 4)
    colour = hue_colour(_numbers(numbers, 5), 0.6 + 0.4 * _numbers(numbers, 6), 0.65 + 0.3 * _numbers(numbers, 7))
    tilt = (_numbers(numbers, 8) - 0.5) * (math.pi / 6)
    canvas.paint(canvas.distance(shape_of(numbers), centre, radius, tilt), colour)
    return canvas.image


def _scene(numbers: np.ndarray, size: tuple[int, int], filled: bool) -> np.ndarray:
    """One to three shapes, each with a dark edge; filled with the colour of its kind, or left white."""
    white, dark = np.ones((len(numbers), 3)), np.full((len(numbers), 3), 0.12)
    canvas = Canvas(white, size)
    edge = max(0.05, 1.2 * canvas.pixel)
    count = 1 + (_numbers(numbers, 20) * 3).astype(int)
    for slot in range(3):
        draw = 30 + 10 * slot
        shape = (_numbers(numbers, draw) * len(SHAPES)).astype(int)
        centre = np.stack([2 * _numbers(numbers, draw + 1) - 1, 2 * _numbers(numbers, draw + 2) - 1], axis=1)
        radius = 0.3 + 0.3 * _numbers(numbers, draw + 3)
        distance = canvas.distance(shape, centre, radius, 2 * math.pi * _numbers(numbers, draw + 4))
        distance[count <= slot] = np.inf
        canvas.paint(distance, dark)
        canvas.paint(distance + edge, _FILLS[shape] if filled else white)
    return canvas.image


def _domain(numbers: np.ndarray, size: tuple[int, int], offset: int, shape: str, hue: float) -> np.ndarray:
    """Two to four shapes of one kind, their hues within a tenth of the wheel about `hue`, on a tinted pale ground."""
    around = hue + 0.1 * (_numbers(numbers, offset) - 0.5)
    canvas = Canvas(hue_colour(around % 1, np.full(len(numbers), 0.12), np.full(len(numbers), 0.97)), size)
    count = 2 + (_numbers(numbers, offset + 1) * 3).astype(int)
    for slot in range(4):
        draw = offset + 10 + 10 * slot
        centre = np.stack([2 * _numbers(numbers, draw) - 1, 2 * _numbers(numbers, draw + 1) - 1], axis=1)
        radius = 0.2 + 0.25 * _numbers(numbers, draw + 2)
        tint = (hue + 0.1 * (_numbers(numbers, draw + 3) - 0.5)) % 1
        colour = hue_colour(tint, 0.7 + 0.3 * _numbers(numbers, draw + 4), 0.7 + 0.25 * _numbers(numbers, draw + 5))
        kind = np.full(len(numbers), SHAPES.index(shape))
        distance = canvas.distance(kind, centre, radius, np.zeros(len(numbers)))
        distance[count <= slot] = np.inf
        canvas.paint(distance, colour)
    return canvas.image


def draw_outlines(numbers: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return _scene(numbers, size, filled=False)


def draw_filled(numbers: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return _scene(numbers, size, filled=True)


def draw_warm_circles(numbers: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return _domain(numbers, size, 100, "circle", hue=0.06)


def draw_cool_squares(numbers: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return _domain(numbers, size, 200, "square", hue=0.58)


def _facts(config: DataConfig, split: str) -> dict[str, object]:
    content = {"seed": _SEED, "counts": (TRAIN_COUNT, TEST_COUNT)}
    return {"name": config.name, "split": split, **digests(config, split, content)}


@register("shapes", kind="images", summary="10,000 drawn circles, squares, triangles, stars and crosses; 5 classes")
def build_shapes(config: DataConfig, split: str) -> ImageDataset:
    numbers = split_indices(split, TRAIN_COUNT, TEST_COUNT)
    chosen = select(config, len(numbers), shape_of(numbers), SHAPES)
    source = DrawnPictures(draw_shapes, numbers, config)
    facts = {**_facts(config, split), "class_names": chosen.class_names}
    return PictureDataset(source, View.of(config), chosen.picked, chosen.labels, **facts)


@register(
    "outline_pairs", kind="paired", summary="10,000 drawn pairs: outlined shapes (A), the same filled by kind (B)"
)
def build_outline_pairs(config: DataConfig, split: str) -> ImageDataset:
    numbers = split_indices(split, TRAIN_COUNT, TEST_COUNT)
    picked = select(config, len(numbers)).picked
    outlines, filled = (DrawnPictures(draw, numbers, config) for draw in (draw_outlines, draw_filled))
    return PairedDataset(DrawnPairs(outlines, filled, config), View.of(config), picked, **_facts(config, split))


@register("two_domains", kind="unpaired", summary="drawn, unpaired: warm circles (A), cool squares (B), 10,000 each")
def build_two_domains(config: DataConfig, split: str) -> ImageDataset:
    numbers = split_indices(split, TRAIN_COUNT, TEST_COUNT)
    select(config, len(numbers))
    sides = [DrawnPictures(draw, numbers, config) for draw in (draw_warm_circles, draw_cool_squares)]
    a, b = sides if config.direction == "a_to_b" else sides[::-1]
    return UnpairedDataset(a, b, View.of(config), limit=config.limit, **_facts(config, split))
