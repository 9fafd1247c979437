"""Walks along codes, and the plane of two latents."""

from __future__ import annotations

import pytest
import torch

from genlab.errors import UserError
from genlab.traversal import Code, choose_codes, gaussian_codes, gaussian_plane, rows_to_grid, walk_codes


class Painter:
    """Decodes (n, 3) latents to pictures whose grey is 0.5 z0 + 0.01 z1 and ignores z2."""

    def decode(self, latents, labels=None):
        grey = 0.5 * latents[:, 0] + 0.01 * latents[:, 1] + (0 if labels is None else labels)
        return grey[:, None, None, None].expand(-1, 1, 2, 2)


def test_a_walk_changes_one_code_and_passes_its_ends():
    base = torch.tensor([5.0, 6.0, 7.0])
    walk = Code("z1", 1, (-2.0, 2.0)).walk(base, 5)
    assert walk[:, 1].tolist() == [-2, -1, 0, 1, 2]
    assert (walk[:, [0, 2]] == base[[0, 2]]).all()
    assert base.tolist() == [5, 6, 7]


def test_a_category_shows_each_of_its_values_once():
    walk = Code("category", 1, None, categories=3).walk(torch.tensor([9.0, 0.2, 0.3, 0.4, 8.0]), 11)
    assert torch.equal(walk[:, 1:4], torch.eye(3))
    assert (walk[:, [0, 4]] == torch.tensor([9.0, 8.0])).all()


def test_rows_are_the_codes_that_change_the_picture_most():
    bases = torch.zeros(2, 3)
    rows = walk_codes(Painter(), gaussian_codes(3), bases, 7, rows=4)
    assert [row.code.name for row in rows] == ["z0", "z0", "z1", "z1"]
    assert rows[0].effect == pytest.approx(0.5 * torch.linspace(-3, 3, 7).std(unbiased=False).item() / 2)
    everything = walk_codes(Painter(), gaussian_codes(3)[::-1], bases, 7)
    assert [row.code.name for row in everything] == ["z2", "z2", "z1", "z1", "z0", "z0"]
    assert everything[0].effect == 0


def test_the_label_reaches_the_decoder():
    plain, labelled = (walk_codes(Painter(), gaussian_codes(1), torch.zeros(1, 3), 3, label) for label in (None, 4))
    torch.testing.assert_close(labelled[0].images, plain[0].images + 4)


def test_shorter_rows_end_in_white():
    rows = walk_codes(Painter(), [Code("z0", 0), Code("c", 1, None, 2)], torch.zeros(1, 3), 4)
    images, columns = rows_to_grid(rows)
    assert (columns, len(images)) == (4, 8)
    assert (images[6:] == 1).all()
    assert (images[4:6] < 1).all()


def test_codes_are_chosen_by_name_in_the_order_asked_for():
    codes = gaussian_codes(20)
    assert [code.name for code in choose_codes(codes, ["z7", "z1"])] == ["z7", "z1"]
    assert choose_codes(codes, []) == codes
    with pytest.raises(UserError, match=r"code: expected one of z0 to z19, got 'z20'; did you mean"):
        choose_codes(codes, ["z20"])


def test_the_plane_has_equal_shares_of_the_prior_and_grows_right_and_up():
    plane = gaussian_plane(9).view(9, 9, 2)
    shares = torch.special.ndtr(plane[4, :, 0].double())
    torch.testing.assert_close(shares, (torch.arange(9) + 0.5).double() / 9, rtol=1e-5, atol=1e-6)
    assert (plane[:, 1:, 0] > plane[:, :-1, 0]).all()
    assert (plane[:-1, :, 1] > plane[1:, :, 1]).all()
    torch.testing.assert_close(plane[4, 4], torch.zeros(2), atol=1e-6, rtol=0)
