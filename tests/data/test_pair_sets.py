"""Paired and unpaired sets from files: layouts, alignment under augmentation, and the files that break them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.data import BatchStream, build
from genlab.data.randomness import EpochKey
from genlab.errors import DataError

KEY = EpochKey(3, 5)


def as_float(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)) / 127.5 - 1


def test_side_by_side_splits_at_the_middle_and_direction_swaps(write, config):
    pixels = write("1.png", width=16)
    forward, backward = (build(config("paired", direction=way), "all")[0] for way in ("a_to_b", "b_to_a"))
    torch.testing.assert_close(forward["input"], as_float(pixels[:, :8]))
    torch.testing.assert_close(forward["target"], as_float(pixels[:, 8:]))
    torch.testing.assert_close(backward["input"], forward["target"])
    torch.testing.assert_close(backward["target"], forward["input"])


@pytest.mark.parametrize(
    "layout", [("A/{}.png", "B/{}.png"), ("trainA/{}.png", "trainB/{}.png"), ("train/A/{}.png", "train/B/{}.png")]
)
def test_two_folders_are_matched_by_name(write, config, layout):
    a = [write(layout[0].format(number)) for number in range(3)]
    b = [write(layout[1].format(number)) for number in reversed(range(3))][::-1]
    dataset = build(config("paired"), "all")
    for index in range(3):
        torch.testing.assert_close(dataset[index]["input"], as_float(a[index]))
        torch.testing.assert_close(dataset[index]["target"], as_float(b[index]))


def test_splits_may_lie_below_the_domains(write, config):
    for split, count in (("train", 3), ("test", 2)):
        for domain in ("photo", "sketch"):
            write.many(f"{domain}/{split}/{{}}.png", count)
    assert [len(build(config("paired"), split)) for split in ("train", "test")] == [3, 2]


def test_partners_may_have_other_suffixes(write, config):
    pixels = write("A/1.png")
    Image.fromarray(pixels).save(write.bytes("B/1.bmp", b""))
    sample = build(config("paired"), "all")[0]
    torch.testing.assert_close(sample["input"], sample["target"])


def test_unpaired_file_in_a_paired_folder_is_named(write, config):
    write.many("A/{}.png", 3)
    write.many("B/{}.png", 2)
    with pytest.raises(DataError, match=r"A/2\.png: expected its partner in B, got no file of that name; add it"):
        build(config("paired"), "train")


def test_two_files_of_one_name_are_refused(write, config):
    pixels = write("A/1.png")
    write("B/1.png")
    Image.fromarray(pixels).save(write.bytes("A/1.bmp", b""))
    with pytest.raises(DataError, match=r"A/1\.png: expected one file of that name in folder A, got .*1\.bmp too"):
        build(config("paired"), "train")


def test_domains_of_other_channels_must_be_converted(write, config):
    write("A/1.png", channels=3)
    write("B/1.png", channels=1)
    for name in ("paired", "unpaired"):
        with pytest.raises(
            DataError, match=r"B/1\.png: expected 3 channels as in .*A/1\.png, got 1; set data\.channels"
        ):
            build(config(name), "all")
        assert build(config(name, channels=3), "all").image_shape == (3, 8, 8)


@pytest.mark.parametrize("name", ["paired", "unpaired"])
def test_three_domains_are_refused(write, config, name):
    for domain in "ABC":
        write(f"{domain}/1.png")
    with pytest.raises(DataError, match="expected two folders A and B .*, got A, B, C; arrange them so"):
        build(config(name), "all")


def test_unpaired_needs_two_folders(write, config):
    write("1.png")
    with pytest.raises(DataError, match="got images at the top"):
        build(config("unpaired"), "all")


def test_a_pair_stays_aligned_under_flip_and_jitter(write, config):
    for number in range(6):
        half = np.random.default_rng(number).integers(0, 256, (12, 12, 3)).astype(np.uint8)
        Image.fromarray(np.concatenate([half, 255 - half], axis=1)).save(write.bytes(f"{number}.png", b""))
    dataset = build(config("paired", flip=True, jitter=12), "all")
    batch = dataset.fetch(np.arange(6), KEY)
    assert batch["input"].shape == (6, 3, 8, 8)
    torch.testing.assert_close(batch["input"], -batch["target"])


def test_flip_and_jitter_move_by_seed_epoch_and_index_alone(write, config):
    write.many("{}.png", 16, height=12, width=12)
    dataset = build(config("folder", flip=True, jitter=12), "all")
    indices = np.arange(16)
    varied = dataset.fetch(indices, KEY)["image"]
    reversed_order = dataset.fetch(indices[::-1].copy(), KEY)["image"]
    torch.testing.assert_close(varied, reversed_order.flip(0), rtol=0, atol=0)
    assert not torch.equal(varied, dataset.fetch(indices, EpochKey(3, 6))["image"])
    assert not torch.equal(varied, dataset.fetch(indices, EpochKey(4, 5))["image"])


def test_jitter_cuts_windows_of_the_enlarged_picture_and_flip_mirrors_about_half(write, config):
    pixels = write("0.png", height=12, width=12)
    dataset = build(config("folder", flip=True, jitter=12), "all")
    whole = as_float(pixels)
    places, mirrored = set(), 0
    for epoch in range(200):
        image = dataset.fetch(np.array([0]), EpochKey(0, epoch))["image"][0]
        found = [
            (top, left, flipped)
            for top in range(5)
            for left in range(5)
            for flipped in (False, True)
            if torch.equal(image.flip(-1) if flipped else image, whole[:, top : top + 8, left : left + 8])
        ]
        assert len(found) == 1
        places.add(found[0][:2])
        mirrored += found[0][2]
    assert places == {(top, left) for top in range(5) for left in range(5)}
    assert 70 < mirrored < 130


def test_evaluation_sees_the_picture_unvaried(write, config):
    pixels = write("0.png")
    dataset = build(config("folder", flip=True, jitter=12), "all")
    torch.testing.assert_close(dataset[0]["image"], as_float(pixels))


def test_unpaired_goes_around_the_shorter_domain_and_draws_partners(write, config):
    a = [as_float(write(f"trainA/{number}.png")) for number in range(3)]
    b = [as_float(write(f"trainB/x{number}.png")) for number in range(7)]
    write.many("testA/{}.png", 2)
    write.many("testB/{}.png", 1)
    dataset = build(config("unpaired"), "train")
    assert (len(dataset), dataset.lengths) == (7, (3, 7))
    plain = dataset.fetch(np.arange(7))
    for index in range(7):
        torch.testing.assert_close(plain["a"][index], a[index % 3])
        torch.testing.assert_close(plain["b"][index], b[index])
    partners = set()
    for epoch in range(30):
        drawn = dataset.fetch(np.array([4]), EpochKey(0, epoch))
        torch.testing.assert_close(drawn["a"][0], a[1])
        partners.add(next(number for number in range(7) if torch.equal(drawn["b"][0], b[number])))
    assert partners == set(range(7))
    assert build(config("unpaired"), "test").lengths == (2, 1)


def test_unpaired_direction_swaps_the_domains(write, config):
    write.many("A/{}.png", 2)
    write.many("B/{}.png", 5)
    assert build(config("unpaired", direction="b_to_a"), "all").lengths == (5, 2)


def test_limit_bounds_both_domains(write, config):
    write.many("A/{}.png", 5)
    write.many("B/{}.png", 5)
    assert build(config("unpaired", limit=2), "all").lengths == (2, 2)
    assert len(build(config("paired", limit=2), "all")) == 2


def test_real_facades_are_photo_left_and_labels_right(shared_data, config):
    dataset = build(config("paired", root=shared_data / "facades.zip", image_size=64, direction="b_to_a"), "train")
    assert (len(dataset), len(build(config("paired", root=shared_data / "facades.zip"), "test"))) == (350, 50)
    batch = dataset.fetch(np.arange(20))
    # The label maps are mostly saturated blue; photographs of houses are not.
    blueness = {name: (value[:, 2] - value[:, 0]).mean() for name, value in batch.items()}
    assert blueness["input"] > 0.5 > blueness["target"]


def test_real_horses_and_zebras_are_unpaired(shared_data, config):
    dataset = build(config("unpaired", root=shared_data / "horse2zebra_128.zip", image_size=32), "train")
    assert dataset.lengths == (250, 250)
    assert build(config("unpaired", root=shared_data / "horse2zebra_128.zip"), "test").lengths == (40, 40)
    batch = next(BatchStream(dataset, 4, seed=0))
    assert batch["a"].shape == batch["b"].shape == (4, 3, 32, 32)


def test_real_emoji_are_paired_by_code_point(shared_data, config):
    dataset = build(config("paired", root=shared_data / "emoji_64.zip", image_size=32, channels=4), "all")
    assert len(dataset) == 328
    assert "A is google, B is twitter" in dataset.notes
    batch = dataset.fetch(np.arange(0, 328, 8))
    a, b = (batch[name][:, 3].flatten(1) for name in ("input", "target"))
    matched = torch.nn.functional.cosine_similarity(a, b).mean()
    shifted = torch.nn.functional.cosine_similarity(a, b.roll(1, 0)).mean()
    assert matched > shifted + 0.1  # two drawings of one emoji share their outline
