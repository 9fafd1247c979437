"""Black and white pictures from grey ones: which number decides, and what it depends on."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from genlab.config import DataConfig
from genlab.data import BatchStream, build
from genlab.data.binarisation import BinarisedDataset, threshold
from genlab.data.randomness import EpochKey, uniform_rows


@pytest.fixture(scope="module")
def digits():
    return build(DataConfig(name="digits", image_size=8), "train")


def bits(dataset, mode, seed=0, key=None, indices=None):
    indices = np.arange(len(dataset)) if indices is None else indices
    return BinarisedDataset(dataset, mode, seed).fetch(indices, key)["image"]


@pytest.mark.parametrize("mode", ["threshold", "static", "dynamic"])
def test_every_pixel_is_black_or_white_and_labels_stay(digits, mode):
    indices = np.array([3, 1, 4])
    batch = BinarisedDataset(digits, mode).fetch(indices, EpochKey(0, 0))
    assert sorted(batch["image"].unique().tolist()) == [-1, 1]
    assert batch["image"].dtype == torch.float32
    assert torch.equal(batch["label"], digits.fetch(indices)["label"])


def test_threshold_cuts_at_middle_grey_without_chance(digits):
    grey = digits.fetch(np.arange(50))["image"]
    assert torch.equal(bits(digits, "threshold", indices=np.arange(50)), torch.where(grey > 0, 1.0, -1.0))
    assert torch.equal(threshold(threshold(grey)), threshold(grey))


def test_static_bits_do_not_depend_on_epoch_or_place_in_the_batch_but_on_the_seed(digits):
    whole = bits(digits, "static", key=EpochKey(5, 0))
    assert torch.equal(whole, bits(digits, "static", key=EpochKey(5, 3)))
    assert torch.equal(whole, bits(digits, "static", key=EpochKey(6, 0)))
    assert torch.equal(whole, bits(digits, "static"))
    picked = np.array([700, 2, 11])
    assert torch.equal(bits(digits, "static", indices=picked), whole[picked])
    other = bits(digits, "static", seed=1)
    assert (whole != other).float().mean() > 0.05


def test_dynamic_bits_change_with_the_epoch_and_the_seed_of_the_run(digits):
    draws = [bits(digits, "dynamic", key=key) for key in (EpochKey(0, 0), EpochKey(0, 1), EpochKey(1, 0))]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (draws[one] != draws[other]).float().mean() > 0.05
    assert torch.equal(draws[1], bits(digits, "dynamic", key=EpochKey(0, 1)))


def test_dynamic_bits_are_fixed_where_there_is_no_epoch(digits):
    assert torch.equal(bits(digits, "dynamic"), bits(digits, "dynamic"))
    assert torch.equal(bits(digits, "dynamic"), bits(digits, "static"))


def test_parts_of_a_set_are_drawn_apart():
    """Both parts number their samples from 0; equal draws would tie test bits to training bits."""
    train, test = (build(DataConfig(name="digits", image_size=8), split) for split in ("train", "test"))
    draws = [BinarisedDataset(part, "static")._draws(np.arange(10), None, 64) for part in (train, test)]
    assert not np.isclose(draws[0], draws[1]).any(axis=1).all()
    assert abs(np.corrcoef(draws[0].ravel(), draws[1].ravel())[0, 1]) < 0.2


def test_over_epochs_a_pixel_is_white_as_often_as_it_is_bright(digits):
    indices = np.arange(40)
    grey = digits.fetch(indices)["image"] * 0.5 + 0.5
    epochs = 400
    share = sum(bits(digits, "dynamic", key=EpochKey(9, epoch), indices=indices) for epoch in range(epochs))
    share = share / epochs * 0.5 + 0.5
    deviation = (grey * (1 - grey) / epochs).sqrt()
    assert torch.equal(share[grey == 0], torch.zeros_like(share[grey == 0]))
    assert torch.equal(share[grey == 1], torch.ones_like(share[grey == 1]))
    assert ((share - grey).abs() <= 5 * deviation + 1e-6).all()


def test_a_stream_gives_the_same_bits_to_any_number_of_processes_and_after_resuming(digits):
    whole = BatchStream(BinarisedDataset(digits, "dynamic"), 16, seed=3)
    parts = [BatchStream(BinarisedDataset(digits, "dynamic"), 16, seed=3, rank=r, world_size=2) for r in (0, 1)]
    for _ in range(whole.batches_per_epoch + 1):  # into the second epoch
        expected, position = next(whole)["image"], whole.state_dict()
        assert torch.equal(torch.cat([next(part)["image"] for part in parts]), expected)
    resumed = BatchStream(BinarisedDataset(digits, "dynamic"), 16, seed=3)
    resumed.load_state_dict(position)
    assert torch.equal(next(resumed)["image"], next(whole)["image"])


def test_it_travels_to_loader_processes_and_has_its_own_identity(digits):
    static, dynamic = BinarisedDataset(digits, "static"), BinarisedDataset(digits, "dynamic")
    again = pickle.loads(pickle.dumps(static))
    assert torch.equal(again.fetch(np.arange(5))["image"], static.fetch(np.arange(5))["image"])
    assert len({digits.fingerprint, static.fingerprint, dynamic.fingerprint}) == 3
    assert static.fingerprint != BinarisedDataset(digits, "static", 1).fingerprint
    assert (len(static), static.image_shape, static.num_classes) == (len(digits), (1, 8, 8), 10)


def test_rows_of_uniform_numbers_are_uniform_and_do_not_repeat():
    rows = uniform_rows(1, 2, np.arange(200), count=500)
    assert rows.shape == (200, 500)
    assert rows.dtype == np.float32
    assert rows.min() >= 0
    assert rows.max() < 1
    assert np.histogram(rows, bins=10, range=(0, 1))[0] == pytest.approx(10_000, rel=0.05)
    assert len(np.unique(rows[:, 0])) == 200
    correlation = np.corrcoef(rows)
    assert np.abs(correlation - np.eye(200)).max() < 0.25
    assert np.array_equal(uniform_rows(1, 2, np.arange(200), count=300), rows[:, :300])


def test_other_kinds_and_modes_are_refused():
    points = build(DataConfig(name="ring"), "train")
    with pytest.raises(ValueError, match="expected a data set of images, got points"):
        BinarisedDataset(points, "static")
    with pytest.raises(ValueError, match="expected mode threshold, static or dynamic, got 'none'"):
        BinarisedDataset(build(DataConfig(name="digits", image_size=8), "train"), "none")
