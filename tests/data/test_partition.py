"""Parts of a labelled set: disjoint, whole, in proportion, the same every time; augmentation as a pure function."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genlab.config import DataConfig
from genlab.data import BatchStream, build
from genlab.data.augmentation import AugmentConfig, AugmentedSamples, Cutout
from genlab.data.partition import PartitionConfig, part_of, partition, require_every_class
from genlab.data.randomness import EpochKey
from genlab.errors import ConfigError, DataError

LABELS = np.random.default_rng(0).integers(0, 5, 503)


@pytest.fixture(scope="module")
def digits():
    return build(DataConfig(name="digits", image_size=8), "all")


@pytest.mark.parametrize(
    ("settings", "shares"),
    [({"validation": 0.2, "test": 0.2}, (0.6, 0.2, 0.2)), ({"validation": 0.1}, (0.9, 0.1, 0.0)),
     ({"validation": 0.0}, (1, 0, 0)), ({"folds": 5, "fold": 2, "test": 0.2}, (0.64, 0.16, 0.2))],
)  # fmt: skip
def test_parts_are_disjoint_whole_and_in_proportion(settings, shares):
    parts = partition(LABELS, PartitionConfig(**settings))
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(LABELS)))
    for (name, indices), share in zip(parts.items(), shares, strict=True):
        assert len(indices) == pytest.approx(share * len(LABELS), abs=1.01), name
        for number in range(5):
            expected = share * np.count_nonzero(number == LABELS)
            assert (LABELS[indices] == number).sum() == pytest.approx(expected, abs=2), (name, number)


def test_the_folds_cover_every_sample_once_and_share_their_test_part():
    parts = [partition(LABELS, PartitionConfig(folds=4, fold=fold, test=0.2)) for fold in range(4)]
    assert len({tuple(part["test"]) for part in parts}) == 1
    judged = np.concatenate([part["validation"] for part in parts])
    assert sorted(np.concatenate([judged, parts[0]["test"]])) == list(range(len(LABELS)))


def test_another_seed_is_another_partition_and_one_seed_the_same():
    first, again, other = (
        partition(LABELS, PartitionConfig(validation=0.3, seed=seed))["validation"] for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "settings", [{"validation": 0.6, "test": 0.4}, {"folds": 3, "fold": 3}, {"folds": 1}, {"validation": 1.0}]
)
def test_impossible_shares_are_refused(settings):
    with pytest.raises(ValueError, match="expected|greater|less"):
        PartitionConfig(**settings)


def test_a_part_holds_the_samples_and_labels_of_its_indices(digits):
    config = PartitionConfig(validation=0.2, test=0.2)
    indices = partition(digits.labels.numpy(), config)["validation"]
    part = part_of(digits, config, "validation")
    batch = part.fetch(np.arange(len(part)))
    assert torch.equal(batch["image"], digits.fetch(indices)["image"])
    assert torch.equal(batch["label"], part.labels)
    assert torch.equal(part.labels, digits.labels[indices])


def test_a_class_without_samples_in_a_part_is_named():
    few = build(DataConfig(name="digits", image_size=8, limit=12))
    with pytest.raises(DataError, match=r"expected samples of every class in the validation part, got none of .*split"):
        part_of(few, PartitionConfig(validation=0.1), "validation")
    with pytest.raises(DataError, match="expected samples of every class in the test split, got none of"):
        require_every_class(build(DataConfig(name="digits", image_size=8, limit=5)), "the test split")


def test_labels_out_of_range_and_sets_without_labels_are_refused(digits, monkeypatch):
    spoilt = digits.labels.clone()
    spoilt[3] = 10
    monkeypatch.setattr(digits, "labels", spoilt)
    with pytest.raises(DataError, match="expected labels from 0 to 9, got 0 to 10"):
        part_of(digits, PartitionConfig(), "train")
    monkeypatch.setattr(digits, "labels", None)
    with pytest.raises(DataError, match="expected labels, which a classifier learns from"):
        part_of(digits, PartitionConfig(), "train")


ALL = AugmentConfig(crop_padding=1, rotate=20, translate=0.1, scale=0.1, erasing=0.5, cutout=3, policy="rand")


def test_augmentation_is_a_function_of_seed_epoch_and_index(digits):
    varied = AugmentedSamples(digits, ALL)
    key = EpochKey(5, 2)
    before = torch.get_rng_state()
    whole = varied.fetch(np.arange(6), key)["image"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    parts = torch.cat([varied.fetch(np.array([i]), key)["image"] for i in range(6)])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, varied.fetch(np.arange(6), EpochKey(5, 3))["image"])
    assert not torch.equal(whole, varied.fetch(np.arange(6), EpochKey(6, 2))["image"])
    assert torch.equal(varied.fetch(np.arange(6))["image"], digits.fetch(np.arange(6))["image"])
    assert whole.shape == (6, 1, 8, 8)
    assert whole.abs().max() <= 1


def test_two_processes_and_a_resumed_stream_see_the_same_pictures(digits):
    varied = AugmentedSamples(digits, ALL)
    one = BatchStream(varied, 8, seed=1)
    batches = [next(one)["image"] for _ in range(3)]
    halves = [BatchStream(varied, 8, seed=1, rank=rank, world_size=2) for rank in (0, 1)]
    assert torch.equal(batches[0], torch.cat([next(half)["image"] for half in halves]))
    again = BatchStream(varied, 8, seed=1)
    again.load_state_dict({**one.state_dict(), "batches_consumed": 2})
    assert torch.equal(batches[2], next(again)["image"])


def test_padding_and_cropping_moves_pictures_without_changing_what_stays(digits):
    image = digits.fetch(np.arange(40))["image"]
    moved = AugmentedSamples(digits, AugmentConfig(crop_padding=2)).fetch(np.arange(40), EpochKey(0, 0))["image"]
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2), value=-1.0)
    offsets = set()
    for number in range(40):
        found = [
            (y, x) for y in range(5) for x in range(5)
            if torch.allclose(padded[number, :, y : y + 8, x : x + 8], moved[number], atol=1e-6)
        ]  # fmt: skip
        assert found, number
        offsets.update(found)
    assert len(offsets) > 10


def test_cutout_puts_out_a_square_that_the_border_may_cut():
    torch.manual_seed(0)
    areas = set()
    for _ in range(300):
        result = Cutout(4)(torch.ones(2, 6, 6))
        out = result == 0
        assert torch.equal(out[0], out[1])
        rows, columns = out[0].any(1), out[0].any(0)
        assert out[0].sum() == rows.sum() * columns.sum()
        areas.add((int(rows.sum()), int(columns.sum())))
    assert (4, 4) in areas
    assert (2, 2) in areas
    assert all(2 <= side <= 4 for area in areas for side in area)


def test_what_cannot_be_varied_is_refused(digits):
    with pytest.raises(ConfigError, match=r"augment\.cutout: expected at most 8, a side, got 9"):
        AugmentedSamples(digits, AugmentConfig(cutout=9))
    rgba = build(DataConfig(name="digits", image_size=8, channels=4))
    with pytest.raises(ConfigError, match="expected pictures of 1 or 3 channels for policy and colours, got 4"):
        AugmentedSamples(rgba, AugmentConfig(policy="trivial"))


@pytest.mark.parametrize("policy", ["auto_cifar10", "auto_imagenet", "auto_svhn", "rand", "trivial", "augmix"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_policy_varies_grey_and_coloured_pictures(policy, channels):
    dataset = build(DataConfig(name="digits", image_size=8, channels=channels))
    indices = np.arange(12)
    images = AugmentedSamples(dataset, AugmentConfig(policy=policy)).fetch(indices, EpochKey(0, 0))["image"]
    assert images.shape == (12, channels, 8, 8)
    assert not torch.equal(images, dataset.fetch(indices)["image"])
