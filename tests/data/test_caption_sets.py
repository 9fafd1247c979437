"""Pictures with captions: what they say is what is drawn, parts share no picture, faulty files are told in a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.caption_config import CaptionDataConfig
from genlab.config import DataConfig
from genlab.data import build
from genlab.data.captions import divide
from genlab.data.drawn import SHAPES
from genlab.data.drawn_captions import COLOURS, boxes_of, captions_of, scenes_of
from genlab.data.randomness import EpochKey
from genlab.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve grey squares, each of another brightness, and no captions yet."""
    root = tmp_path / "set"
    root.mkdir()
    for number in range(12):
        Image.new("L", (9, 7), 20 * number).save(root / f"{number:02d}.png")
    return root


def lines(root: Path) -> list[str]:
    return [f"{path.name}\tgrey number {path.stem}" for path in sorted(root.glob("*.png"))]


def read(root: Path, split: str = "all", **values: object):
    return build(CaptionDataConfig(name="captioned", root=root, image_size=8, **values), split)


def test_captions_say_what_is_drawn_where():
    """Colours are found at the pixels of the boxes, and the relation in their corners."""
    dataset = build(CaptionDataConfig(name="captioned_shapes", image_size=48))
    numbers = np.arange(60)
    pictures, boxes = dataset.pictures(numbers), boxes_of(numbers, (48, 48))
    for picture, (first, second), pair in zip(pictures, captions_of(numbers), boxes, strict=True):
        words, centres = first.split(), (pair[:, :2] + pair[:, 2:]) / 2
        assert words[0] == "a" and words[2] in SHAPES and words[-1] in SHAPES
        for colour, (x, y) in zip((words[1], words[-2]), centres, strict=True):
            found = (picture[:, int(y), int(x)] + 1) / 2
            assert (found - torch.tensor(COLOURS[colour])).abs().max() < 0.03
        gap = centres[1] - centres[0]
        assert gap[0] > abs(gap[1]) if "left" in words else gap[1] > abs(gap[0])
        swapped = {"left": "right", "above": "below"}[words[3]]
        assert swapped in second and second.startswith(f"a {words[-2]} {words[-1]}")
    assert pair.min() >= 0 and pair.max() <= 48
    assert dataset.references[7] == list(captions_of(np.array([7]))[0])


def test_no_drawn_picture_shows_the_same_shape_twice():
    scenes = scenes_of(np.arange(4600))
    assert not ((scenes.shape[:, 0] == scenes.shape[:, 1]) & (scenes.colour[:, 0] == scenes.colour[:, 1])).any()
    counts = np.bincount(scenes.shape.ravel() * len(COLOURS) + scenes.colour.ravel())
    assert len(counts) == len(SHAPES) * len(COLOURS) and counts.min() > 200


def test_a_sample_is_a_picture_with_one_of_its_captions(folder):
    (folder / "captions.tsv").write_text("\n".join([*lines(folder), "03.png\tanother text"]) + "\n")
    dataset = read(folder, holdout=0)
    assert (len(dataset), len(dataset.references)) == (13, 12)
    (row,) = [row for row, texts in enumerate(dataset.references) if len(texts) == 2]
    samples = np.flatnonzero(dataset.picture_of == row)
    batch = dataset.fetch(samples)
    assert torch.equal(batch["image"][0], batch["image"][1])
    assert torch.equal(batch["image"][0], dataset.pictures(np.array([row]))[0])
    codec = dataset.codecs["caption"]
    assert [codec.decode(tokens) for tokens in batch["caption"].tolist()] == ["grey number 03", "another text"]
    assert batch["caption"][1, 2] == codec.special("end") and batch["caption"][1, 3] == codec.special("pad")


@pytest.mark.parametrize("form", ["tsv", "csv", "json", "coco"])
def test_every_form_of_file_gives_the_same_set(folder, form):
    pairs = [line.split("\t") for line in lines(folder)]
    if form == "tsv":
        (folder / "captions.tsv").write_bytes("\r\n".join(["file\tcaption", *lines(folder)]).encode("utf-8-sig"))
    elif form == "csv":
        rows = ["n,file,caption", *(f'1,{file},"{text}"' for file, text in pairs)]
        (folder / "captions.csv").write_text("\n".join(rows))
    elif form == "json":
        said = {file: [text] if number % 2 else text for number, (file, text) in enumerate(pairs)}
        (folder / "captions.json").write_text(json.dumps(said))
    else:
        images = [{"id": 10 + number, "file_name": file} for number, (file, _) in enumerate(pairs)]
        said = [{"image_id": 10 + number, "caption": text} for number, (_, text) in enumerate(pairs)]
        (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": said}))
    dataset = read(folder)
    named = dict(zip(dataset.file_names, dataset.references, strict=True))
    assert named == {file: [text] for file, text in pairs}


def test_a_zip_archive_is_read_in_place(folder, tmp_path):
    (folder / "captions.tsv").write_text("\n".join(lines(folder)))
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "set")
    packed, plain = read(Path(archive)), read(folder)
    assert packed.references == plain.references
    assert torch.equal(packed.pictures(np.arange(12)), plain.pictures(np.arange(12)))


def test_folders_are_parts_and_what_they_do_not_say_is_held_out(folder):
    for part, number in (("train", 8), ("test", 4)):
        (folder / part).mkdir()
        for path in sorted(folder.glob("*.png"))[:number]:
            path.rename(folder / part / path.name)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png"))
    (folder / "captions.tsv").write_text("\n".join(f"{name}\tgrey" for name in names))
    parts = {part: set(read(folder, part, holdout=0.25).file_names) for part in ("train", "val", "test")}
    assert parts["test"] == {name for name in names if name.startswith("test/")}
    assert len(parts["val"]) == 2 and len(parts["train"]) == 6
    assert parts["train"] | parts["val"] | parts["test"] == set(names)
    with pytest.raises(DataError, match=r"expected pictures in the val part, got none; set data\.holdout above 0"):
        read(folder, "val", holdout=0)


def test_parts_are_disjoint_and_depend_on_names_alone():
    names = [f"{number}.png" for number in range(100)]
    parts = divide(names, [None] * 100, 0.1)
    assert [len(parts[part]) for part in ("train", "val", "test")] == [80, 10, 10]
    assert sorted(sum(parts.values(), [])) == list(range(100))
    shuffled = names[::-1]
    again = divide(shuffled, [None] * 100, 0.1)
    assert {shuffled[row] for row in again["test"]} == {names[row] for row in parts["test"]}


def test_the_vocabulary_is_the_training_parts_and_rare_words_are_unknown(folder):
    (folder / "captions.tsv").write_text("\n".join(lines(folder)))
    train, test = read(folder, "train", holdout=0.2), read(folder, "test", holdout=0.2)
    codec = test.codecs["caption"]
    assert codec.digest == train.codecs["caption"].digest
    assert (test.fetch(np.arange(len(test)))["caption"] == codec.special("unknown")).sum() == len(test)
    assert len(read(folder, "train", min_count=2).codecs["caption"]) == 4 + 2
    cut = read(folder, "train", max_length=3)
    assert cut.longest == 3 and "captions were cut" in cut.notes[-1]


def test_limit_counts_pictures_not_captions():
    dataset = build(CaptionDataConfig(name="captioned_shapes", image_size=8, limit=10))
    assert (len(dataset.references), len(dataset)) == (10, 20)
    one = build(CaptionDataConfig(name="captioned_shapes", image_size=8, limit=10, captions_per_image=1))
    assert one.references == [[first] for first, _ in dataset.references]


def test_training_varies_pictures_by_epoch_and_index(folder):
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        Image.fromarray(np.tile(np.arange(9, dtype=np.uint8) * 20 + number, (7, 1))).save(path)
    (folder / "captions.tsv").write_text("\n".join(lines(folder)))
    dataset, key = read(folder, flip=True, jitter=10), EpochKey(0, 1)
    varied = dataset.fetch(np.arange(12), key)["image"]
    assert torch.equal(varied[5], dataset.fetch(np.array([5]), key)["image"][0])
    assert not torch.equal(varied, dataset.fetch(np.arange(12), EpochKey(0, 2))["image"])
    assert torch.equal(dataset.fetch(np.arange(12))["image"], read(folder).fetch(np.arange(12))["image"])


def test_emoji_are_held_out_in_every_style_or_by_style(shared_data):
    def emoji(split: str, **values: object):
        config = CaptionDataConfig(name="emoji_captions", root=shared_data, image_size=16, channels=3, **values)
        return build(config, split)

    parts = {split: emoji(split) for split in ("train", "val", "test")}
    names = {split: {name.split("/")[1] for name in part.file_names} for split, part in parts.items()}
    assert [len(names[split]) for split in parts] == [262, 33, 33]
    assert not names["train"] & names["test"] and not names["val"] & (names["train"] | names["test"])
    assert all(len(part) == 2 * len(names[split]) for split, part in parts.items())
    other = {"styles": ["twitter"], "tested_by": "styles"}
    train, test = emoji("train", **other), emoji("test", **other)
    assert {name.split("/")[0] for name in train.file_names} == {"twitter"} and len(train) == 328
    assert {name.split("/")[0] for name in test.file_names} == {"google"} and len(test) == 295
    row = train.file_names.index("twitter/1f98a.png")
    assert train.references[row] == ["fox face"]
    for values, message in (
        ({"styles": ["twiter"]}, "data.styles: expected some of google, twitter, got 'twiter'"),
        ({"styles": ["google", "twitter"], "tested_by": "styles"}, "expected a style left for testing"),
    ):
        with pytest.raises(DataError, match=message):
            emoji("train", **values)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, b"", "expected one file captions.tsv, captions.csv or captions.json beside the images, got none"),
        ("captions.tsv", b"", r"captions\.tsv: expected captions, got an empty file"),
        ("captions.tsv", b"00.png\tfine\ncaf\xe9", r"line 2: expected utf-8 text, got byte 0xE9; convert the file"),
        ("captions.tsv", b"00.png fine", "line 1: expected an image, a tab and a caption, got '00.png fine'"),
        ("captions.tsv", b"00.png\tfine\n01.png\t \n", r"line 2: expected an image and a caption, got '01\.png' and"),
        ("captions.tsv", b"00.png\tfine\n99.png\tx", r"line 2: expected an image below .*, got '99\.png', which is"),
        ("captions.tsv", b"00.png\tfine", r"01\.png: expected a caption in captions.tsv, got none \(11 images are"),
        ("captions.csv", b"name,text\n00.png,fine", "line 1: expected columns file and caption, got 'name, text'"),
        ("captions.json", b"{\n", "line 2: expected JSON"),
        ("captions.json", b"[1]", r'expected \{"image": "caption"\} or .*, got a list'),
        ("captions.json", b'{"00.png": 5}', r"image '00\.png': expected .*, got 5"),
        ("captions.json", b'{"00.png": []}', r"image '00\.png': expected .*, got \[\]"),
        ("captions.json", b'{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}', "got image_id 1"),
        ("captions.json", b'{"images": [{}], "annotations": []}', r"expected images with id and file_name, .*'id'"),
    ],
)  # fmt: skip
def test_faulty_captions_are_told_in_one_line(folder, name, content, message):
    if name is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_two_files_of_captions_are_refused(folder):
    for name in ("captions.tsv", "captions.json"):
        (folder / name).write_text("x")
    with pytest.raises(DataError, match="got captions.json, captions.tsv"):
        read(folder)


def test_a_plain_configuration_of_pictures_reads_captions_too(folder):
    (folder / "captions.tsv").write_text("\n".join(lines(folder)))
    assert build(DataConfig(name="captioned", root=folder, image_size=8), "all").image_shape == (1, 8, 8)
    with pytest.raises(DataError, match=r"data\.root: expected a folder or zip of images with captions\.tsv"):
        build(DataConfig(name="captioned"))
