"""Points as a picture: where they land, which colour wins, and that stray ones are seen."""

from __future__ import annotations

import pytest
import torch

from genlab.scatter import GENERATED_COLOUR, REAL_COLOUR, scatter_picture

CORNERS = torch.tensor([[-4.0, -4.0], [4.0, 4.0]])


def colour_at(picture: torch.Tensor, x: float, y: float) -> list[int]:
    """The colour at a place in units of the frame, (-1, -1) bottom left to (1, 1) top right."""
    size = picture.shape[-1]
    column, row = round((x + 1) / 2 * (size - 1)), round((1 - y) / 2 * (size - 1))
    return ((picture[0, :, row, column] + 1) * 127.5).round().int().tolist()


def test_points_lie_where_their_coordinates_say():
    picture = scatter_picture(CORNERS, torch.tensor([[-4.0, 4.0]]))
    assert picture.shape == (1, 3, 512, 512)
    assert picture.abs().max() <= 1
    inner = 1 / 1.3  # a margin of 15 % of the range on each side
    assert colour_at(picture, inner, inner) == list(REAL_COLOUR)
    assert colour_at(picture, -inner, -inner) == list(REAL_COLOUR)
    assert colour_at(picture, -inner, inner) == list(GENERATED_COLOUR)
    assert colour_at(picture, inner, -inner) == [255, 255, 255]


def test_generated_points_lie_on_top_and_strays_at_the_edge():
    picture = scatter_picture(CORNERS, torch.tensor([[4.0, 4.0], [1e9, 0.0], [float("nan"), 0.0]]))
    assert colour_at(picture, 1 / 1.3, 1 / 1.3) == list(GENERATED_COLOUR)
    assert colour_at(picture, 1.0, 0.0) == list(GENERATED_COLOUR)


def test_alike_real_points_still_make_a_picture():
    assert torch.isfinite(scatter_picture(torch.ones(3, 2), torch.zeros(1, 2))).all()


def test_anything_but_points_of_the_plane_is_refused():
    with pytest.raises(ValueError, match=r"expected generated points of shape \(N, 2\), got \(3, 3\)"):
        scatter_picture(CORNERS, torch.zeros(3, 3))
