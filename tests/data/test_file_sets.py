"""Folders and zips of images: splits, classes, sizes, channels, and every bad input by its message."""

from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from picture_files import bomb_bytes, png_bytes, random_pixels

from genlab.data import build, files, open_tree, require_labels
from genlab.errors import DataError


def test_flat_folder_has_no_labels_and_gives_the_files_in_order(write, config):
    first = write("a.png")
    second = write("b.png")
    dataset = build(config("folder"), "all")
    assert (len(dataset), dataset.num_classes, dataset.image_shape) == (2, None, (3, 8, 8))
    for index, pixels in enumerate((first, second)):
        expected = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)) / 127.5 - 1
        torch.testing.assert_close(dataset[index]["image"], expected)
    assert set(dataset[0]) == {"image"}


def test_class_folders_give_labels_in_order_of_name(write, config):
    write.many("dogs/{}.png", 3)
    write.many("cats/deep/{}.png", 2)
    dataset = build(config("folder"), "all")
    assert dataset.class_names == ["cats", "dogs"]
    assert [dataset[index]["label"] for index in range(5)] == [0, 0, 1, 1, 1]
    assert require_labels(dataset, "a test") == 2


def test_zip_gives_the_same_samples_as_the_folder(write, config):
    write.many("train/cats/{}.png", 3)
    write.many("train/dogs/{}.png", 3)
    write.many("test/cats/{}.png", 1)
    folder, archive = build(config("folder"), "train"), build(config("zip", root=write.zipped()), "train")
    assert len(folder) == len(archive) == 6
    assert folder.class_names == archive.class_names
    for index in range(6):
        torch.testing.assert_close(folder[index]["image"], archive[index]["image"], rtol=0, atol=0)


def test_split_folders_are_used_and_all_is_their_union(write, config):
    write.many("training/{}.png", 5)
    write.many("valid/{}.png", 3)
    write.many("test/{}.png", 2)
    assert [len(build(config("folder"), split)) for split in ("train", "val", "test", "all")] == [5, 3, 2, 10]


def test_without_split_folders_a_stated_share_is_held_out(write, config):
    write.many("{}.png", 20)
    train, test = build(config("folder"), "train"), build(config("folder"), "test")
    assert (len(train), len(test)) == (18, 2)
    assert "2 of 20 samples" in train.notes[0]
    pictures = [sample["image"] for part in (train, test) for sample in (part[i] for i in range(len(part)))]
    assert len({picture.numpy().tobytes() for picture in pictures}) == 20
    assert len(build(config("folder", holdout=0), "train")) == 20


def test_the_held_out_files_stay_when_others_are_added_to_a_class(write, config):
    write.many("{}.png", 40)
    before = {entry.path for entry in build(config("folder", holdout=0.25), "test")._source.entries}
    again = {entry.path for entry in build(config("folder", holdout=0.25), "test")._source.entries}
    assert before == again
    assert len(before) == 10


def test_missing_test_folder_falls_back_to_val_and_says_so(write, config):
    write.many("train/{}.png", 4)
    write.many("val/{}.png", 2)
    dataset = build(config("folder"), "test")
    assert len(dataset) == 2
    assert "its val folder is used" in dataset.notes[0]


def test_a_train_folder_alone_gives_up_a_share_for_testing(write, config):
    write.many("train/{}.png", 10)
    assert [len(build(config("folder"), split)) for split in ("train", "test", "val")] == [9, 1, 1]


def test_nothing_to_hold_out_is_an_error(write, config):
    write("only.png")
    with pytest.raises(DataError, match=r"expected a test folder or files to hold out, got 1 files"):
        build(config("folder"), "test")


def test_only_a_test_folder_cannot_be_trained_on(write, config):
    write("test/a.png")
    with pytest.raises(DataError, match="expected a train folder, got only test; use data.split=all"):
        build(config("folder"), "train")


def test_classes_keeps_and_renumbers_in_the_order_given(write, config):
    for name in ("ant", "bee", "cat"):
        write.many(name + "/{}.png", 2)
    dataset = build(config("folder", classes=["cat", 0]), "all")
    assert dataset.class_names == ["cat", "ant"]
    assert [dataset[index]["label"] for index in range(4)] == [1, 1, 0, 0]  # files in order: two ants, two cats


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cta"], r"expected some of ant, cat, got 'cta'; did you mean 'cat'\?"),
        ([2], "expected numbers from 0 to 1, got 2"),
        (["cat", 1], "each once"),
        ([], "at least one class"),
    ],
)
def test_unknown_or_doubled_classes_are_refused(write, config, classes, message):
    write.many("cat/{}.png", 2)
    write.many("ant/{}.png", 2)
    with pytest.raises(DataError, match=message):
        build(config("folder", classes=classes), "all")


def test_classes_of_a_set_without_labels_are_refused(write, config):
    write("a.png")
    with pytest.raises(DataError, match="expected a set with labels"):
        build(config("folder", classes=["cat"]), "all")


def test_limit_is_spread_over_the_classes(write, config):
    write.many("a/{}.png", 6)
    write.many("b/{}.png", 6)
    dataset = build(config("folder", limit=4), "all")
    assert [dataset[index]["label"] for index in range(4)] == [0, 0, 1, 1]


def test_require_labels_names_who_needs_them(write, config):
    write("a.png")
    with pytest.raises(DataError, match=r"expected labels, which model.conditional=true needs"):
        require_labels(build(config("folder"), "all"), "model.conditional=true")


def test_mixed_sizes_come_out_as_one_non_square_size(write, config):
    write("a.png", height=30, width=7)
    write("b.png", height=5, width=40)
    for resize in ("stretch", "crop", "pad"):
        dataset = build(config("folder", image_size=(6, 10), resize=resize), "all")
        assert dataset.fetch(np.array([0, 1]))["image"].shape == (2, 3, 6, 10)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_channel_count_and_depth_is_read_as_it_is(write, config, channels, dtype):
    pixels = write("a.png", channels=channels, dtype=dtype)
    if channels in (2, 4):
        pixels = np.where(pixels[:, :, -1:] == 0, 0, pixels)
    dataset = build(config("folder"), "all")
    assert dataset.image_shape == (channels, 8, 8)
    expected = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float64)) / (np.iinfo(dtype).max / 2) - 1
    torch.testing.assert_close(dataset[0]["image"].double(), expected, rtol=0, atol=1e-6)


def test_mixed_channels_are_an_error_naming_the_file_unless_converted(write, config):
    write("a.png", channels=3)
    write("b.png", channels=1)
    dataset = build(config("folder"), "all")
    with pytest.raises(DataError, match=r"b\.png: expected 3 channels as in .*a\.png, got 1; set data\.channels"):
        dataset[1]
    for channels in (1, 2, 3, 4):
        assert build(config("folder", channels=channels), "all")[1]["image"].shape == (channels, 8, 8)


def test_fingerprint_changes_with_files_and_view_and_with_nothing_else(write, config):
    write.many("{}.png", 4)
    base = build(config("folder"), "all").fingerprint
    assert build(config("folder", flip=True, jitter=9, batch_size=2, workers=1), "all").fingerprint == base
    others = [
        build(config("folder", **change), split).fingerprint
        for split, change in (
            ("all", {"image_size": 9}),
            ("all", {"channels": 1}),
            ("all", {"resize": "pad"}),
            ("all", {"interpolation": "box"}),
            ("all", {"limit": 2}),
            ("train", {}),
        )
    ]
    write("4.png")
    others.append(build(config("folder"), "all").fingerprint)
    assert len({base, *others}) == len(others) + 1


def test_hidden_files_and_other_kinds_are_not_seen(write, config):
    write("a.png")
    for name in (".hidden.png", "__MACOSX/._a.png", "notes.txt", ".git/b.png"):
        write.bytes(name, b"x")
    assert len(build(config("folder"), "all")) == 1
    assert len(build(config("folder", root=write.zipped()), "all")) == 1


def test_a_link_back_up_is_walked_once(write, config):
    write("a/1.png")
    os.symlink(write.root, write.root / "a" / "loop")
    assert len(open_tree(write.root).entries) == 1


def test_a_tree_travels_to_another_process(write):
    expected = png_bytes(write("a.png"))
    tree = open_tree(write.zipped())
    tree.read(tree.entries[0])
    clone = pickle.loads(pickle.dumps(tree))
    assert clone.read(clone.entries[0]) == expected


def test_an_archive_is_opened_anew_in_another_process(write):
    write("a.png")
    tree = open_tree(write.zipped())
    tree.read(tree.entries[0])
    inherited = tree._archive
    tree._owner += 1  # as a forked worker finds it: opened by a process that is not this one
    tree.read(tree.entries[0])
    assert tree._archive is not inherited


def test_missing_root_is_asked_for(config):
    with pytest.raises(DataError, match=r"data\.root: expected a folder or a zip archive of images, got nothing; set"):
        build(config("folder", root=None), "all")


def test_missing_folder_is_named(write, config):
    with pytest.raises(DataError, match=r"absent: expected a folder or a zip archive, got nothing at that path"):
        build(config("folder", root=write.root / "absent"), "all")


def test_empty_folder_is_named(config):
    with pytest.raises(DataError, match=r"pictures: expected images \(.*\.png.*\), got an empty folder or archive"):
        build(config("folder"), "all")


def test_folder_without_images_says_what_it_holds(write, config):
    write.bytes("notes.txt", b"x")
    with pytest.raises(DataError, match="got 1 files of other kinds"):
        build(config("folder"), "all")


def test_zero_byte_file_stops_the_build(write, config):
    write("a.png")
    write.bytes("b.png", b"")
    with pytest.raises(DataError, match=r"b\.png: expected an image, got a file of zero bytes.*genlab data check"):
        build(config("folder"), "all")


def test_file_beside_class_folders_is_named(write, config):
    write("cats/a.png")
    write("stray.png")
    with pytest.raises(DataError, match=r"stray\.png: expected every image in a subfolder, as .*a\.png is"):
        build(config("folder"), "all")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png_bytes(random_pixels(32, 32, 3, 0))[:200], "breaks off or is damaged"),
        (bomb_bytes(), r"expected at most \d+ pixels"),
        (b"text", "bytes of no known image format"),
    ],
)
def test_bad_image_is_named_when_it_is_read(write, config, data, message):
    write("a.png")
    write.bytes("bad.png", data)
    for root, label in ((write.root, r"/bad\.png"), (write.zipped(), r"\.zip:set/bad\.png")):
        dataset = build(config("folder", root=root), "all")
        with pytest.raises(DataError, match=f"{label}: .*{message}"):
            dataset[1]


def test_file_that_vanished_is_named(write, config):
    write("a.png")
    write("b.png")
    dataset = build(config("folder"), "all")
    (write.root / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: cannot be read \(No such file"):
        dataset[1]


def test_damaged_zip_member_is_named(write, config):
    write("a.png")
    write("b.png")
    archive = write.zipped()
    data = bytearray(archive.read_bytes())
    data[data.rindex(b"IDAT", 0, data.index(b"PK\x01\x02")) + 20] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"b\.png: cannot be unpacked \(Bad CRC"):
        build(config("zip", root=archive), "all")[1]


def test_truncated_zip_is_refused(write, config):
    write("a.png")
    archive = write.zipped()
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(DataError, match="expected a folder or a zip archive, got another or a truncated file"):
        build(config("zip", root=archive), "all")


def test_zip_bomb_is_refused_before_it_is_unpacked(write, config, monkeypatch):
    write("a.png")
    archive = write.root.parent / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("big.png", bytes(2_000_000))
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1_000_000)
    with pytest.raises(
        DataError, match=r"big\.png: expected at most 1000000 bytes unpacked, got 2000000 \(a zip bomb\)"
    ):
        build(config("zip", root=archive), "all")


def test_zip_member_that_lies_about_its_size_is_cut_off(write, monkeypatch):
    archive = write.root.parent / "liar.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("big.png", bytes(2_000_000))
    tree = open_tree(archive)
    liar = files.Entry(tree.entries[0].path, 10, 0, tree.entries[0].stored)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1_000_000)
    with pytest.raises(DataError, match="expected at most 1000000 bytes, got more"):
        tree.read(liar)


def test_jitter_below_the_image_size_is_refused(write, config):
    write("a.png")
    with pytest.raises(DataError, match=r"data\.jitter: expected at least 8, .*got 7"):
        build(config("folder", jitter=7), "all")


def test_real_faces_are_read_from_their_archive(shared_data, config):
    dataset = build(config("zip", root=shared_data / "lfwcrop_64.zip", image_size=64), "all")
    assert len(dataset) == 2500
    images = dataset.fetch(np.arange(0, 2500, 100))["image"]
    assert images.shape == (25, 3, 64, 64)
    assert -0.6 < images.mean() < 0.2
    assert images.std() > 0.3
