"""Files side by side that are no pairs: told by sizes, refused when the set is opened, listed by `check`."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from picture_files import png_bytes, random_pixels
from PIL import Image

from genlab.data import build, check
from genlab.data.decoding import decode_image, size_of_image
from genlab.data.files import open_tree
from genlab.data.halves import misfits
from genlab.errors import DataError

SQUARE_PAIR, LANDSCAPE_PAIR, PORTRAIT_PAIR = (256, 512), (300, 800), (400, 600)


def found(*sizes: tuple[int, int]) -> list[tuple[int, str]]:
    return [(misfit.index, misfit.kind) for misfit in misfits(sizes)]


@pytest.mark.parametrize(
    ("pairs", "one"),
    [
        ([SQUARE_PAIR] * 3, (256, 256)),
        ([SQUARE_PAIR] * 3, (300, 304)),  # at another size than the pairs
        ([SQUARE_PAIR, (240, 490), (300, 570)], (500, 500)),  # the pairs vary too
        ([LANDSCAPE_PAIR] * 3, (300, 400)),
        ([PORTRAIT_PAIR] * 3, (400, 300)),
        ([PORTRAIT_PAIR, (500, 760), (300, 440)], (410, 310)),
        ([SQUARE_PAIR] * 4 + [(200, 700)], (256, 256)),  # half of the usual size to the pixel, whatever else is there
    ],
)
def test_one_picture_among_pairs_is_found(pairs, one):
    assert found(*pairs) == []
    assert found(*pairs, one) == [(len(pairs), "unpaired")]
    assert found(one, *pairs, one) == [(0, "unpaired"), (len(pairs) + 1, "unpaired")]


@pytest.mark.parametrize(
    "sizes",
    [
        [SQUARE_PAIR] * 4,
        [(256, 512), (240, 490), (300, 570), (1024, 2048)],
        [LANDSCAPE_PAIR] * 9 + [PORTRAIT_PAIR],
        [(200, 600)] * 9 + [(400, 600)],  # 3:2 landscapes and a 3:4 portrait, whose pair is as wide as one landscape
        [(200, 600), (210, 620), (190, 570), (400, 620)],
        [(1000, 2828)] * 9 + [(1414, 2000)],  # sheets of paper both ways
        [SQUARE_PAIR] * 4 + [(256, 300), (512, 512)],  # shapes are mixed, and 512 x 512 is half of no other file
        [SQUARE_PAIR] * 5 + [(256, 288)],  # a pair of 9:16
        [SQUARE_PAIR, (256, 256)],  # no majority
        [SQUARE_PAIR] * 2 + [(256, 256)] * 2,
        [(256, 256)] * 5,  # narrow pairs, for all that their sizes tell
        [(8, 2)],
        [],
    ],
)
def test_pairs_that_may_be_meant_so_pass(sizes):
    assert found(*sizes) == []


def test_odd_widths_are_found_and_do_not_count_for_the_usual_shape():
    assert found((255, 511), SQUARE_PAIR, (64, 63), SQUARE_PAIR, (255, 255), SQUARE_PAIR, (128, 128)) == [
        (0, "odd-width"),
        (2, "odd-width"),
        (4, "odd-width"),
        (6, "unpaired"),
    ]


@pytest.fixture(params=["folder", "zip"])
def opened(request, write):
    """The set written so far, as a folder or as an archive."""
    return lambda: write.zipped() if request.param == "zip" else write.root


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_one_picture_is_refused_at_opening_whatever_the_split_and_limit(write, config, opened, split):
    write.many("train/{}.png", 3, width=16)
    write.many("test/{}.png", 3, width=16)
    write("test/7.png")
    root = opened()
    with pytest.raises(DataError) as caught:
        build(config("paired", root=root, limit=2), split)
    assert str(caught.value).endswith(
        "test/7.png: expected A and B side by side, 2.00 times as wide as high like most files, got 8 x 8, the shape "
        f"of one picture alone; join it and its partner to one file, or remove it; `genlab data check --paired {root}` "
        "lists all"
    )
    assert [str(finding).rpartition("/")[2] for finding in check(root, paired=True).errors] == [
        "7.png: expected A and B side by side, 2.00 times as wide as high like most files, got 8 x 8, the shape of "
        "one picture alone"
    ]
    assert check(root).ok  # a set of pictures may hold both


def test_odd_width_is_refused_at_opening(write, config, opened):
    write.many("{}.png", 3, width=16)
    write("5.png", width=15)
    write("6.png", width=13)
    with pytest.raises(DataError, match=r"5\.png: expected an even width .*, got 15 pixels \(2 files are no pairs\);"):
        build(config("paired", root=opened(), limit=1), "all")


def test_pairs_of_varying_sizes_are_read(write, config, opened):
    for number, (height, width) in enumerate([(8, 16), (20, 40), (30, 58), (10, 22), (7, 14)]):
        write(f"{number}.png", height=height, width=width)
    root = opened()
    dataset = build(config("paired", root=root), "all")
    assert dataset.fetch(np.arange(5))["target"].shape == (5, 3, 8, 8)
    assert check(root, paired=True).ok


def test_a_file_that_changes_to_an_odd_width_later_is_refused_when_it_is_drawn(write, config):
    write("1.png", width=16)
    dataset = build(config("paired"), "all")
    write("1.png", width=15)
    with pytest.raises(DataError, match=r"1\.png: expected an even width .* got 15 pixels"):
        dataset[0]


def test_a_broken_header_is_refused_at_opening(write, config, opened):
    write.many("{}.png", 3, width=16)
    write.bytes("4.png", png_bytes(random_pixels(8, 16, 3, 0))[:20])
    with pytest.raises(DataError, match=r"4\.png: expected an image"):
        build(config("paired", root=opened()), "all")


def test_a_damaged_archive_member_is_named_at_opening(write, config):
    write.many("{}.png", 3, width=16)
    archive = write.zipped()
    with zipfile.ZipFile(archive) as members:
        start = members.getinfo("set/1.png").header_offset
    data = bytearray(archive.read_bytes())
    data[start] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"set/1\.png: cannot be unpacked"):
        build(config("paired", root=archive), "all")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp", "gif", "pgm"])
@pytest.mark.parametrize("turned", [False, True])
def test_the_header_tells_the_size_that_decoding_gives(write, opened, suffix, turned):
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6  # bmp, gif and pgm have no place for it
    path = write.bytes(f"1.{suffix}", b"")
    mode = "L" if suffix == "pgm" else "RGB"
    Image.fromarray(random_pixels(6, 10, 3, 0)).convert(mode).save(path, exif=exif)
    tree = open_tree(opened())
    (entry,) = tree.images()
    with tree.stream(entry) as stream:
        size = size_of_image(stream, entry.path)
    assert size == decode_image(tree.read(entry), entry.path).shape[:2]
    assert size == ((10, 6) if turned and suffix in ("png", "jpg", "tif", "webp") else (6, 10))


def test_the_header_of_a_deep_colour_png_tells_its_size(write):
    pixels = write("1.png", height=6, width=10, dtype=np.uint16)
    with (write.root / "1.png").open("rb") as stream:
        assert size_of_image(stream, "1.png") == pixels.shape[:2]


def test_real_facades_with_one_photograph_alone_are_refused(shared_data, config, tmp_path):
    with zipfile.ZipFile(shared_data / "facades.zip") as archive:
        for name in archive.namelist()[:6]:
            archive.extract(name, tmp_path / "some")
    root = tmp_path / "some" / "facades"
    assert len(build(config("paired", root=root), "all")) == 6
    first = next(root.rglob("*.jpg"))
    with Image.open(first) as pair:
        pair.crop((0, 0, 256, 256)).save(first.with_name("alone.jpg"))
    with pytest.raises(DataError, match=r"alone\.jpg: expected A and B side by side, 2\.00 times .*, got 256 x 256"):
        build(config("paired", root=root), "all")
