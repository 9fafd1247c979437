"""Anomalies by reconstruction error: the measures, the threshold, and a small set where the tenth digit stands out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genlab import data
from genlab.anomalies import Measure, anomaly_figure, auc, find_anomalies, outliers, smooth
from genlab.config import load_config
from genlab.errors import UserError
from genlab.inputs import Inputs, open_inputs
from genlab.latents import figure_image
from genlab.trainers import DataSpec
from genlab.trainers.autoencoder import AutoencoderTrainer

NORMAL = [0, 1, 2, 3, 5, 6, 7, 8, 9]  # the digit 4 is the outlier


@pytest.fixture(scope="module")
def trainer() -> AutoencoderTrainer:
    config = load_config(
        "autoencoder_tiny",
        ["model.hidden=[64]", "model.code=6", "data.batch_size=50", "data.image_size=8", "train.steps=300",
         "train.schedule.name=cosine", "optimizer.lr=4e-3", f"data.classes={NORMAL}"],
    )  # fmt: skip
    dataset = data.build(config.data)
    trainer = AutoencoderTrainer(config, DataSpec.of(dataset))
    stream = trainer.open_stream(dataset, seed=0)
    for _ in range(config.train.steps):
        trainer.advance(next(stream))
    return trainer


@pytest.fixture(scope="module")
def test_images(trainer) -> Inputs:
    return open_inputs(None, trainer, every_class=True)


@pytest.fixture(scope="module")
def training_images(trainer) -> Inputs:
    return open_inputs(None, trainer, split="train")


def test_the_digit_that_was_left_out_has_larger_errors(trainer, test_images, training_images):
    found = find_anomalies(trainer, test_images, training_images)
    assert found.outlier.sum() == (test_images.dataset.labels == 4).sum()
    assert found.auc > 0.8
    assert found.found[found.outlier].mean() > 5 * found.found[~found.outlier].mean()


def test_the_threshold_is_the_quantile_of_the_training_images(trainer, test_images, training_images):
    for quantile in (0.5, 0.9):
        found = find_anomalies(trainer, test_images, training_images, quantile=quantile)
        assert (found.training_errors <= found.threshold).mean() == pytest.approx(quantile, abs=2e-3)
        assert (found.found == (found.errors > found.threshold)).all()
        assert (np.diff(found.errors[found.order]) <= 0).all()
    assert len(find_anomalies(trainer, test_images, training_images, training_samples=77).training_errors) == 77


def test_the_area_is_the_share_of_pairs_in_order():
    errors, outlier = np.array([0.1, 0.4, 0.3, 0.9, 0.3]), np.array([False, False, True, True, False])
    pairs = [(a > b) + 0.5 * (a == b) for a in errors[outlier] for b in errors[~outlier]]
    assert auc(errors, outlier) == pytest.approx(np.mean(pairs))
    assert auc(errors, np.zeros(5, dtype=bool)) is None
    assert auc(errors, np.ones(5, dtype=bool)) is None
    assert auc(errors, None) is None


def test_measures_are_what_they_say():
    images, again = torch.rand(4, 2, 9, 9) * 2 - 1, torch.rand(4, 2, 9, 9) * 2 - 1
    x, z = (images + 1) / 2, (again + 1) / 2
    squared = (x - z).square().flatten(1)
    torch.testing.assert_close(Measure("mse", 0)(images, again), squared.mean(1))
    expected = squared.sum(1) / (x.square() + z.square()).flatten(1).sum(1)
    torch.testing.assert_close(Measure("relative", 0)(images, again), expected, rtol=1e-4, atol=1e-5)
    blurred = Measure("mse", 1.0)(images, again)
    torch.testing.assert_close(blurred, Measure("mse", 0)(smooth(images, 1.0), smooth(again, 1.0)))
    empty = torch.full((1, 1, 4, 4), -1.0)
    assert torch.isfinite(Measure("relative", 0)(empty, empty + 0.1)).all()


def test_a_relative_error_does_not_depend_on_the_amount_of_ink():
    thin, thick = torch.full((1, 1, 12, 12), -1.0), torch.full((1, 1, 12, 12), -1.0)
    thin[..., 5:6], thick[..., 3:9] = 1.0, 1.0
    faint = [image * 0.5 - 0.5 for image in (thin, thick)]  # every stroke comes back at half its intensity
    relative = [Measure("relative", 0)(a, b).item() for a, b in zip((thin, thick), faint, strict=True)]
    assert relative == pytest.approx([0.2, 0.2], rel=1e-4)  # 0.25 of 1 + 0.25
    mse = [Measure("mse", 0)(a, b).item() for a, b in zip((thin, thick), faint, strict=True)]
    assert mse[1] == pytest.approx(6 * mse[0])


def test_smoothing_keeps_what_is_even_and_spreads_a_point_as_a_gaussian():
    even = torch.full((2, 3, 7, 5), 0.3)
    torch.testing.assert_close(smooth(even, 1.5), even)
    point = torch.zeros(1, 1, 15, 15)
    point[0, 0, 7, 7] = 1
    spread = smooth(point, 1.0)[0, 0]
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    assert (spread[7, 9] / spread[7, 7]).item() == pytest.approx(np.exp(-2), rel=1e-4)
    torch.testing.assert_close(spread, spread.t())


def test_outliers_are_the_classes_that_are_not_normal(trainer, test_images):
    labels = test_images.dataset.labels.numpy()
    assert (outliers(test_images, trainer.data.class_names) == (labels == 4)).all()
    assert (outliers(test_images, ["1", "7"], named=True) == ~np.isin(labels, [1, 7])).all()
    assert outliers(test_images, None) is None
    with pytest.raises(UserError, match="--normal: expected some of 0, 1, .*, got 'eleven'"):
        outliers(test_images, ["1", "eleven"], named=True)


@pytest.mark.parametrize("quantile", [0, 1, -0.1, 1.5])
def test_a_quantile_out_of_range_is_refused(trainer, test_images, training_images, quantile):
    with pytest.raises(UserError, match="quantile: expected a number between 0 and 1"):
        find_anomalies(trainer, test_images, training_images, quantile=quantile)


def test_unknown_measures_are_refused():
    with pytest.raises(UserError, match="measure: expected one of relative, mse, got 'ssim'"):
        Measure("ssim")
    with pytest.raises(UserError, match="blur: expected 0 to 64 pixels, got -1"):
        Measure("mse", -1)


def test_the_figure_has_a_curve_only_where_labels_tell(trainer, test_images, training_images):
    found = find_anomalies(trainer, test_images, training_images)
    assert len(anomaly_figure(found).axes) == 2
    plain = find_anomalies(trainer, training_images, training_images)
    assert plain.auc is None
    assert len(anomaly_figure(plain).axes) == 1
    assert figure_image(anomaly_figure(plain)).shape[0] == 3
