"""Label budgets: as many of each class, a function of the seed, and a set that holds nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genlab.config import DataConfig
from genlab.data import build
from genlab.data.budget import ChosenSamples, label_budget
from genlab.errors import DataError

LABELS = np.tile(np.arange(10), 30)


@pytest.mark.parametrize("count", [10, 20, 25, 100, 299, 300])
def test_each_class_gives_its_share_to_within_one(count):
    chosen = label_budget(LABELS, 10, count, seed=0)
    assert len(chosen) == len(set(chosen.tolist())) == count
    assert (np.diff(chosen) > 0).all()
    shares = np.bincount(LABELS[chosen], minlength=10)
    assert shares.max() - shares.min() <= (0 if count % 10 == 0 else 1)


def test_the_choice_is_one_of_the_seed():
    assert np.array_equal(label_budget(LABELS, 10, 50, seed=1), label_budget(LABELS, 10, 50, seed=1))
    others = [tuple(label_budget(LABELS, 10, 50, seed=seed)) for seed in range(5)]
    assert len(set(others)) == 5
    # which classes get what does not divide evenly depends on it too
    extra = {tuple(np.bincount(LABELS[label_budget(LABELS, 10, 13, seed=seed)])) for seed in range(5)}
    assert len(extra) > 1


def test_a_small_class_gives_all_it_has_and_the_others_the_rest():
    labels = np.repeat([0, 1, 2], [2, 50, 50])
    shares = np.bincount(labels[label_budget(labels, 3, 60, seed=0)])
    assert shares.tolist() == [2, 29, 29]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (9, "sgan.labels: expected at least 10, one label for each class, got 9"),
        (301, "sgan.labels: expected at most 300, the samples of the training set, got 301"),
    ],
)
def test_impossible_budgets_are_refused(count, message):
    with pytest.raises(DataError, match=message):
        label_budget(LABELS, 10, count, seed=0, key="sgan.labels")


def test_a_set_of_which_a_class_has_no_sample_is_refused():
    labels = np.repeat([0, 2, 3], [5, 1, 6])
    with pytest.raises(DataError) as caught:
        label_budget(labels, 5, 11, seed=0, key="sgan.labels")
    assert str(caught.value) == (
        "sgan.labels: expected a training set with samples of all 5 classes, got 12 samples with none of class 1, 4; "
        "raise data.limit, or leave those classes out (data.classes)"
    )


def test_chosen_samples_are_those_and_no_others():
    whole = build(DataConfig(name="digits", image_size=8))
    indices = np.array([3, 500, 42])
    chosen = ChosenSamples(whole, indices, "3 labels")
    assert len(chosen) == 3
    assert chosen.num_classes == 10
    got, expected = chosen.fetch(np.array([2, 0])), whole.fetch(np.array([42, 3]))
    assert torch.equal(got["image"], expected["image"])
    assert torch.equal(got["label"], expected["label"])
    with pytest.raises(IndexError):
        chosen.fetch(np.array([3]))
    assert chosen.contents != whole.contents
