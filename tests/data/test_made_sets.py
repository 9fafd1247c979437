"""Sets that need nothing: digits, Gaussian mixtures, drawn shapes, pairs and domains; and the table of all sets."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from genlab.config import DataConfig
from genlab.data import DATASETS, build, describe
from genlab.data.drawn import SHAPES, plane, shape_distance
from genlab.data.randomness import EpochKey, hash64, normal, permutation, uniform
from genlab.data.selection import stratified
from genlab.errors import DataError, UserError
from genlab.text_config import TextDataConfig

PICTURES = {"images", "paired", "unpaired", "points"}
TEXTS = {"sentences", "sentence_pairs", "documents", "tagged", "text", "series"}
MADE = [row.name for row in describe() if row.needs == "nothing"]
MADE_PICTURES = [row.name for row in describe() if row.needs == "nothing" and row.kind in PICTURES]
PINNED_HASH = 608534069387675231
PINNED_ORDER = [2, 3, 4, 5, 0, 1]
DRAWN = ["shapes", "outline_pairs", "two_domains"]


def made(name: str, split: str = "train", **values: object):
    if name == "small_documents":  # which words will not do for
        return build(TextDataConfig(name=name, unit="wordpiece"), split)
    return build(DataConfig(**{"name": name, "image_size": 16, **values}), split)


def test_the_sets_that_need_nothing_are_the_promised_ones():
    assert sorted(MADE_PICTURES) == ["digits", "grid", "outline_pairs", "ring", "shapes", "two_domains"]
    texts = ["captioned_shapes", "mackey_glass", "small_documents", "small_pairs", "small_reviews", "small_stories"]
    assert sorted(set(MADE) - set(MADE_PICTURES)) == [*texts, "small_tags"]


def test_describe_lists_every_set_with_its_kind():
    rows = {row.name: row for row in describe()}
    assert set(rows) == set(DATASETS.names())
    assert {row.kind for row in rows.values()} == PICTURES | TEXTS | {"captioned"}
    assert {"mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "celeba", "lsun", "folder", "zip"} < set(rows)
    assert all(row.summary and row.needs for row in rows.values())


def test_unknown_name_gets_the_nearest():
    with pytest.raises(UserError, match=r"data set: expected one of .*, got 'mnits'; did you mean 'mnist'\?"):
        build(DataConfig(name="mnits"))


def test_unknown_split_is_refused():
    with pytest.raises(DataError, match="data set 'digits': expected split train, test, all, got 'val'"):
        build(DataConfig(name="digits"), "val")


def test_split_of_the_config_is_the_default():
    assert len(build(DataConfig(name="digits", split="test"))) == 297


@pytest.mark.parametrize("name", MADE)
def test_made_sets_are_the_same_every_time_and_differ_between_splits(name):
    first, again, test = made(name), made(name), made(name, "test")
    assert first.fingerprint == again.fingerprint != test.fingerprint
    indices = np.array([0, 5, 11])
    batches = [dataset.fetch(indices) for dataset in (first, again, test)]
    for key in batches[0].keys() - {"label"}:
        assert torch.equal(batches[0][key], batches[1][key])
    assert any(not torch.equal(batches[0][key], batches[2][key]) for key in batches[0])
    if name in MADE_PICTURES:
        for key in batches[0].keys() - {"label"}:
            assert not torch.equal(batches[0][key], batches[2][key])
            assert tuple(batches[0][key].shape[1:]) == first.image_shape
        assert len(made(name, "all")) == len(first) + len(test)
    else:  # which have a validation part too
        assert len(made(name, "all")) > len(first) + len(test)


@pytest.mark.parametrize("name", MADE)
def test_a_sample_alone_is_the_sample_in_its_batch(name):
    dataset = made(name)
    indices = (3, min(900, len(dataset) - 1))
    batch = dataset.fetch(np.array(indices))
    for row, index in enumerate(indices):
        for key, value in dataset[index].items():
            alone, padded = torch.as_tensor(value), batch[key][row]
            length = alone.shape[0] if alone.dim() else None  # sentences are filled up with zeros in a batch
            assert torch.equal(alone, padded if length is None else padded[:length])
            if name in MADE_PICTURES:
                assert alone.shape == padded.shape
    with pytest.raises(IndexError, match="expected an index below"):
        dataset[len(dataset)]


def test_digits_hold_every_class_in_proportion_and_no_picture_twice():
    train, test = made("digits"), made("digits", "test")
    assert (len(train), len(test), train.num_classes) == (1500, 297, 10)
    share = torch.bincount(test.labels) / torch.bincount(made("digits", "all").labels)
    assert share.min() > 0.155
    assert share.max() < 0.175


def test_digits_are_scaled_to_the_whole_range():
    images = made("digits", image_size=8).fetch(np.arange(1500))["image"]
    assert images.shape == (1500, 1, 8, 8)
    assert (images.min(), images.max()) == (-1, 1)
    levels = ((images + 1) * 8).unique()
    assert len(levels) == 17  # the 17 grey levels of the original, spread evenly
    torch.testing.assert_close(levels, torch.arange(17.0), atol=0.04, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_digits_and_shapes_come_in_any_channel_count(channels):
    for name in ("digits", "shapes"):
        dataset = made(name, channels=channels)
        assert dataset.image_shape == (channels, 16, 16)
        assert dataset[0]["image"].shape == (channels, 16, 16)


def test_digits_can_be_read_apart_by_their_nearest_neighbour():
    train, test = made("digits"), made("digits", "test")
    known, asked = (part.fetch(np.arange(len(part)))["image"].flatten(1) for part in (train, test))
    guesses = train.labels[torch.cdist(asked, known).argmin(1)]
    assert (guesses == test.labels).float().mean() > 0.97


def test_stratified_takes_the_exact_count_from_uneven_classes():
    labels = np.repeat([0, 1, 2], [10, 100, 1000])
    chosen = stratified(labels, 111, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [1, 10, 100]


@pytest.mark.parametrize(("name", "count", "std"), [("ring", 8, 0.02), ("grid", 25, 0.05)])
def test_mixtures_are_round_gaussians_about_equally_likely_modes(name, count, std):
    dataset = made(name)
    assert dataset.modes.shape == (count, 2)
    assert dataset.std == std
    offsets = dataset.points - dataset.modes[dataset.mode_of]
    torch.testing.assert_close(offsets.mean(0), torch.zeros(2), atol=4 * std / len(dataset) ** 0.5, rtol=0)
    torch.testing.assert_close(offsets.T.cov() / std**2, torch.eye(2), atol=0.03, rtol=0)
    share = torch.bincount(dataset.mode_of, minlength=count) / len(dataset) * count
    assert (share - 1).abs().max() < 0.1
    nearest = torch.cdist(dataset.points, dataset.modes).argmin(1)
    assert torch.equal(nearest, dataset.mode_of)
    assert set(dataset[0]) == {"point"}


def test_ring_and_grid_lie_where_the_papers_put_them():
    torch.testing.assert_close(made("ring").modes.norm(dim=1), torch.full((8,), 2.0))
    assert made("grid").modes.unique().tolist() == [-4, -2, 0, 2, 4]


def test_limit_shortens_a_mixture():
    assert len(made("ring", limit=100)) == 100


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_drawn_larger_is_the_same_picture(name):
    for key, small in made(name, image_size=64)[7].items():
        if key != "label":
            large = made(name, image_size=256)[7][key]
            error = (torch.nn.functional.avg_pool2d(large, 4) - small).abs().mean()
            assert error < 0.04


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_sets_fill_a_non_square_size(name):
    for key, value in made(name, image_size=(12, 40))[3].items():
        if key != "label":
            assert value.shape == (3, 12, 40)


@pytest.mark.parametrize("kind", range(len(SHAPES)))
def test_shapes_are_filled_inside_and_end_within_their_radius(kind):
    x, y = plane((200, 200))
    radius = np.array([[[0.8]]])
    distance = shape_distance(np.array([kind]), x, y, radius)[0]
    reach = np.hypot(x[0], y[0])[distance < 0]
    assert distance[100, 100] < 0
    assert 0.6 < reach.max() < 0.81
    # What the anti-aliasing relies on: the distance grows by one pixel per pixel across the edge.
    steps = np.abs(np.diff(distance, axis=1))[np.abs(distance[:, 1:]) < 0.02]
    assert steps.max() < 1.05 * 0.01


def test_shapes_have_anti_aliased_edges_and_balanced_classes():
    dataset = made("shapes", image_size=32)
    assert torch.bincount(dataset.labels).tolist() == [2000] * 5
    image = dataset[0]["image"]
    assert len(image[0].unique()) > 4


def test_shapes_keep_only_the_named_classes():
    dataset = made("shapes", classes=["star", "circle"])
    assert dataset.class_names == ["star", "circle"]
    assert torch.bincount(dataset.labels).tolist() == [2000, 2000]
    assert torch.equal(dataset[0]["image"], made("shapes")[0]["image"])  # sample 0 is a circle in both


def test_outline_pairs_agree_on_the_ground_and_the_edges():
    for index in range(20):
        sample = made("outline_pairs", image_size=64)[index]
        ground = (sample["target"] == 1).all(0)
        assert (sample["input"][:, ground] == 1).all()
        edges = (sample["input"] < -0.7).all(0)
        assert edges.any()
        torch.testing.assert_close(sample["input"][:, edges], sample["target"][:, edges], atol=0.1, rtol=0)
        saturation = {key: (value.amax(0) - value.amin(0)).max() for key, value in sample.items()}
        assert saturation["input"] < 0.02
        assert saturation["target"] > 0.5


def test_two_domains_are_warm_and_cool_and_do_not_correspond():
    batch = made("two_domains").fetch(np.arange(50))
    warmth = {key: (value[:, 0] - value[:, 2]).mean((1, 2)) for key, value in batch.items()}
    assert warmth["a"].min() > 0 > warmth["b"].max()
    drawn = made("two_domains").fetch(np.arange(50), EpochKey(0, 0))
    assert torch.equal(drawn["a"], batch["a"])
    assert not torch.equal(drawn["b"], batch["b"])


def test_direction_swaps_drawn_sets_too():
    for name, keys in (("outline_pairs", ("input", "target")), ("two_domains", ("a", "b"))):
        forward, backward = made(name)[3], made(name, direction="b_to_a")[3]
        assert torch.equal(forward[keys[0]], backward[keys[1]])
        assert torch.equal(forward[keys[1]], backward[keys[0]])


def test_flip_and_jitter_apply_to_sets_in_memory():
    dataset = made("digits", flip=True, jitter=20)
    indices = np.arange(40)
    varied = dataset.fetch(indices, EpochKey(0, 1))["image"]
    assert varied.shape == (40, 1, 16, 16)
    assert torch.equal(varied, dataset.fetch(indices, EpochKey(0, 1))["image"])
    assert not torch.equal(varied, dataset.fetch(indices, EpochKey(0, 2))["image"])
    assert torch.equal(dataset.fetch(indices)["image"], made("digits").fetch(indices)["image"])


def test_a_resized_copy_that_would_be_too_large_is_made_batch_by_batch(monkeypatch):
    expected = made("digits").fetch(np.array([4, 2]))["image"]
    monkeypatch.setattr("genlab.data.arrays.RESIZED_BYTES", 1000)
    dataset = made("digits")
    assert torch.equal(dataset.fetch(np.array([4, 2]))["image"], expected)
    assert not dataset._source._at_size


def test_random_numbers_depend_on_every_coordinate_and_are_uniform():
    indices = np.arange(20_000)
    base = uniform(1, 2, 3, indices)
    assert (base >= 0).all()
    assert (base < 1).all()
    counts = np.histogram(base, 20, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-square, 19 degrees of freedom, p = 0.0007
    for other in (uniform(0, 2, 3, indices), uniform(1, 1, 3, indices), uniform(1, 2, 4, indices)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.03
    assert abs(np.corrcoef(base[1:], base[:-1])[0, 1]) < 0.03
    assert abs(normal(1, 2, indices).std() - 1) < 0.02


def test_random_numbers_never_change_between_machines_and_versions():
    assert hash64(7, 3, 1, 42).tolist() == [PINNED_HASH]
    assert permutation(EpochKey(5, 2), 6).tolist() == PINNED_ORDER


def test_permutation_is_one_and_changes_with_seed_and_epoch():
    orders = {tuple(permutation(EpochKey(seed, epoch), 50)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_importing_the_package_loads_no_heavy_library():
    probe = (
        "import sys, genlab.data; print([m for m in ('torchvision', 'sklearn', 'scipy', 'lmdb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
