"""Ways between latent vectors."""

from __future__ import annotations

import pytest
import torch

from genlab.interpolation import lerp, slerp


@pytest.mark.parametrize("way", [slerp, lerp])
def test_ways_begin_and_end_at_the_given_vectors(way) -> None:
    start, end = torch.randn(5, 7), torch.randn(5, 7)
    points = way(start, end, 6)
    assert points.shape == (5, 6, 7)
    torch.testing.assert_close(points[:, 0], start)
    torch.testing.assert_close(points[:, -1], end)


def test_slerp_on_the_unit_circle_takes_equal_angles() -> None:
    points = slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 4)[0]
    angles = torch.atan2(points[:, 1], points[:, 0])
    torch.testing.assert_close(angles, torch.linspace(0, torch.pi / 2, 4))
    torch.testing.assert_close(points.norm(dim=1), torch.ones(4))


def test_slerp_keeps_the_length_that_a_straight_line_loses() -> None:
    start, end = torch.randn(64, 100), torch.randn(64, 100)
    lengths = slerp(start, end, 3)[:, 1].norm(dim=1)
    torch.testing.assert_close(lengths, (start.norm(dim=1) + end.norm(dim=1)) / 2)
    assert lerp(start, end, 3)[:, 1].norm(dim=1).mean() < 0.8 * lengths.mean()


def test_slerp_joins_parallel_and_opposite_vectors_by_the_straight_line() -> None:
    start = torch.tensor([[1.0, 2.0], [1.0, 0.0], [0.0, 0.0]])
    end = torch.tensor([[2.0, 4.0], [-1.0, 0.0], [1.0, 1.0]])
    points = slerp(start, end, 5)
    assert torch.isfinite(points).all()
    torch.testing.assert_close(points[:2], lerp(start, end, 5)[:2])


def test_vectors_of_any_shape_are_joined() -> None:
    assert slerp(torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), 5).shape == (2, 5, 4, 3, 3)


def test_ways_refuse_other_shapes_and_single_points() -> None:
    with pytest.raises(ValueError, match="one shape"):
        slerp(torch.randn(2, 3), torch.randn(2, 4), 3)
    with pytest.raises(ValueError, match="at least 2 steps"):
        lerp(torch.randn(2, 3), torch.randn(2, 3), 1)
