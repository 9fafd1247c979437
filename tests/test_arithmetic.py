"""a - b + c of latent vectors: exact on a linear decoder, its square, its picture and numbered sheets."""

from __future__ import annotations

import pytest
import torch

from genlab.arithmetic import CENTRE, combine, number_grid, pick, picture
from genlab.errors import UserError
from genlab.images import make_grid


def test_on_a_linear_decoder_the_picture_of_the_sum_is_the_sum_of_the_pictures():
    latents, weight = torch.randn(20, 6, dtype=torch.float64), torch.randn(6, 16, dtype=torch.float64)

    def decode(z: torch.Tensor) -> torch.Tensor:
        return (z @ weight).unflatten(1, (1, 4, 4))

    a, b, c = pick(latents, [3, 7, 12], "--a"), pick(latents, [0], "--b"), pick(latents, [5, 19], "--c")
    total = combine(a, b, c, 0.25, torch.Generator().manual_seed(0))
    expected = decode(a).mean(0) - decode(b).mean(0) + decode(c).mean(0)
    torch.testing.assert_close(decode(total.result[None])[0], expected)
    images, columns = picture(total, decode)
    assert (columns, len(images)) == (3 + 5, 24)
    rows = images.unflatten(0, (3, columns))
    torch.testing.assert_close(rows[0, :3], decode(a))
    torch.testing.assert_close(rows[:, 3], torch.stack([decode(g).mean(0) for g in (a, b, c)]))
    torch.testing.assert_close(rows[1, 6], expected)  # the middle of the square
    assert torch.equal(rows[1, 1:3], torch.ones(2, 1, 4, 4, dtype=torch.float64))
    assert torch.equal(rows[:, 4], torch.ones(3, 1, 4, 4, dtype=torch.float64))


def test_neighbours_differ_by_uniform_noise_and_the_middle_by_none():
    z = torch.randn(2, 5000)
    total = combine(z[:1], z[1:], z[:1], 0.25, torch.Generator().manual_seed(0))
    offsets = total.square - total.result
    assert not offsets[CENTRE].any()
    others = offsets[[i for i in range(9) if i != CENTRE]]
    assert others.abs().max() <= 0.25 + 1e-6
    assert others.std().item() == pytest.approx(0.5 / 12**0.5, rel=0.02)


def test_latents_of_any_shape_are_averaged():
    z = torch.randn(6, 2, 3, 3)
    total = combine(z[:2], z[2:4], z[4:], 0.0, torch.Generator())
    torch.testing.assert_close(total.result, z[:2].mean(0) - z[2:4].mean(0) + z[4:].mean(0))
    assert total.square.shape == (9, 2, 3, 3)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [([], "--a: expected the numbers of at least one picture"), ([1, 1], "expected each picture once, got 1, 1"),
     ([2, 5], "expected pictures 0 to 4 of the sheet, got 5")],
)  # fmt: skip
def test_numbers_that_are_no_pictures_are_refused(numbers, message):
    with pytest.raises(UserError, match=message):
        pick(torch.randn(5, 2), numbers, "--a")


@pytest.mark.parametrize("channels", [1, 3])
def test_numbers_are_written_into_the_corner_of_each_picture_alone(channels):
    grid = make_grid(torch.full((5, channels, 8, 8), -1.0), columns=3, scale=8)
    sheet = number_grid(grid, 5, 3)
    assert sheet.shape == (3, *grid.shape[1:])
    changed = (sheet != grid.expand(3, -1, -1)).any(0)
    for index in range(6):
        top, left = 2 + index // 3 * 66, 2 + index % 3 * 66
        tile = changed[top : top + 64, left : left + 64]
        assert tile.any() == (index < 5)
        assert not tile[24:].any()
        assert not tile[:, 32:].any()
