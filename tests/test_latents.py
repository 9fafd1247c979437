"""Codes as points: the principal plane, and a picture that shows codes of two numbers as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genlab.config import load_config
from genlab.latents import encode_in_batches, figure_image, latent_figure, latent_picture, principal_plane
from genlab.trainers import DataSpec
from genlab.trainers.autoencoder import AutoencoderTrainer


def offsets(axes) -> np.ndarray:
    return np.concatenate([np.asarray(collection.get_offsets()) for collection in axes.collections])


def test_the_plane_is_scikit_learns_up_to_the_sign():
    from sklearn.decomposition import PCA

    points = torch.randn(60, 7) @ torch.randn(7, 7)
    plane, share = principal_plane(points)
    pca = PCA(2).fit(points.double().numpy())
    expected = pca.transform(points.double().numpy())
    for axis in range(2):
        sign = np.sign((plane[:, axis] * expected[:, axis]).sum())
        np.testing.assert_allclose(plane[:, axis], sign * expected[:, axis], atol=1e-6)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum())
    np.testing.assert_array_equal(plane, principal_plane(points.clone())[0])


def test_the_sign_of_an_axis_is_fixed():
    points = torch.randn(50, 3) * torch.tensor([5.0, 1.0, 0.1])
    plane, _ = principal_plane(points)
    assert np.corrcoef(plane[:, 0], points[:, 0].numpy())[0, 1] > 0.9
    assert np.corrcoef(plane[:, 1], points[:, 1].numpy())[0, 1] > 0.9


@pytest.mark.parametrize("shape", [(4, 1), (5, 3)])
def test_degenerate_points_have_a_plane(shape):
    plane, share = principal_plane(torch.ones(shape))
    assert plane.shape == (shape[0], 2)
    assert np.isfinite(plane).all()
    assert share == 1.0


def test_codes_of_two_numbers_are_drawn_as_they_are_in_the_colours_of_their_class():
    images, codes = torch.rand(30, 1, 4, 4), torch.randn(30, 2)
    labels = torch.arange(30) % 3
    figure = latent_figure(images, codes, labels, ["a", "b", "c"])
    right = figure.axes[1]
    assert len(right.collections) == 3
    for number, collection in enumerate(right.collections):
        np.testing.assert_allclose(collection.get_offsets(), codes[labels == number].double().numpy())
    assert len({tuple(c.get_facecolor()[0]) for c in right.collections}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]


@pytest.mark.parametrize("length", [1, 2, 5])
def test_every_length_of_code_has_a_picture_with_and_without_classes(length):
    images, codes = torch.rand(12, 3, 4, 4), torch.randn(12, length)
    for labels, names in (
        (None, None),
        (torch.arange(12) % 2, ["x", "y"]),
        (torch.arange(12), list("abcdefghijkl") * 2),
    ):
        figure = latent_figure(images, codes, labels, names)
        assert len(offsets(figure.axes[1])) == 12
        picture = figure_image(figure, dpi=40)
        assert picture.dtype == torch.uint8
        assert picture.shape[0] == 3
        assert picture.float().std() > 1
    with pytest.raises(ValueError, match="expected at least 2 images"):
        latent_figure(images[:1], codes[:1])


def test_codes_are_the_trainers_whatever_the_number_of_batches(monkeypatch):
    config = load_config("autoencoder_tiny", ["data.image_size=8"])
    trainer = AutoencoderTrainer(config, DataSpec("digits", "images", (1, 8, 8), 10, tuple("0123456789")))
    images = torch.rand(23, 1, 8, 8) * 2 - 1
    monkeypatch.setattr("genlab.latents.BATCH", 5)
    torch.testing.assert_close(encode_in_batches(trainer, images), trainer.encode(images))
    picture = latent_picture(trainer, images, torch.arange(23) % 10)
    assert picture.shape[:2] == (1, 3)
    assert picture.abs().max() <= 1
