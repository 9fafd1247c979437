"""Channel conversion, resizing and decoding against values known by hand or from Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from picture_files import bomb_bytes, png_bytes, random_pixels
from PIL import Image, ImageFile

from genlab.data.decoding import BombError, EmptyFileError, NotAnImageError, TruncatedImageError, decode_image
from genlab.data.pixels import FILTERS, clear_hidden, convert_channels, pixels_to_tensor, resize_pixels
from genlab.errors import DataError


def encoded(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("have", [1, 2, 3, 4])
@pytest.mark.parametrize("want", [1, 2, 3, 4])
def test_convert_channels_gives_the_wanted_count_and_keeps_the_dtype(have, want, dtype):
    pixels = random_pixels(3, 5, have, 1, dtype)
    result = convert_channels(pixels, want)
    assert result.shape == (3, 5, want)
    assert result.dtype == dtype


def test_convert_channels_makes_grey_as_pillow_does():
    pixels = random_pixels(150, 150, 3, 2)
    np.testing.assert_array_equal(
        convert_channels(pixels, 1)[:, :, 0], np.asarray(Image.fromarray(pixels).convert("L"))
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_convert_channels_composites_over_white(dtype):
    top = np.iinfo(dtype).max
    pixels = np.array([[[0, 0, 0, 0], [10, 20, 30, top], [0, top, 0, top // 2]]], dtype=dtype)
    result = convert_channels(pixels, 3)[0].astype(float)
    np.testing.assert_allclose(result, [[top] * 3, [10, 20, 30], [top / 2, top, top / 2]], atol=1)


def test_convert_channels_adds_an_opaque_alpha_and_repeats_grey():
    result = convert_channels(np.array([[[7]]], dtype=np.uint8), 4)
    assert result.tolist() == [[[7, 7, 7, 255]]]


def test_clear_hidden_blanks_only_what_is_wholly_transparent():
    pixels = np.array([[[9, 9, 9, 0], [9, 9, 9, 1]]], dtype=np.uint8)
    assert clear_hidden(pixels).tolist() == [[[0, 0, 0, 0], [9, 9, 9, 1]]]


@pytest.mark.parametrize("interpolation", sorted(FILTERS))
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_resize_is_pillows_resize_for_eight_bits(interpolation, channels):
    pixels = random_pixels(11, 7, channels, 3)
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    expected = np.asarray(image.resize((9, 6), FILTERS[interpolation])).reshape(6, 9, channels)
    np.testing.assert_array_equal(resize_pixels(pixels, (6, 9), "stretch", interpolation), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_resize_of_sixteen_bits_agrees_with_eight(channels):
    pixels = random_pixels(12, 10, channels, 4)
    if channels in (2, 4):
        pixels[:, :, -1] |= 128  # colour under faint alpha is not determined to 8 bits
    eight = resize_pixels(pixels, (5, 6), "crop", "bilinear").astype(float)
    sixteen = resize_pixels(pixels.astype(np.uint16) * 257, (5, 6), "crop", "bilinear").astype(float) / 257
    np.testing.assert_allclose(
        eight, sixteen, atol=3
    )  # two passes of 8 bits round, dividing by alpha >= 1/2 doubles it


def test_resize_of_sixteen_bits_keeps_values_between_eight_bit_levels():
    pixels = np.full((4, 4, 1), 1000, dtype=np.uint16)
    assert set(resize_pixels(pixels, (9, 9), "stretch", "bicubic").ravel()) == {1000}


def test_crop_cuts_the_long_side_evenly():
    pixels = np.zeros((4, 12, 1), dtype=np.uint8)
    pixels[:, 4:8] = 200
    assert set(resize_pixels(pixels, (2, 2), "crop", "box").ravel()) == {200}
    assert set(resize_pixels(pixels.transpose(1, 0, 2), (2, 2), "crop", "box").ravel()) == {200}


def test_pad_keeps_the_aspect_ratio_and_fills_with_black():
    result = resize_pixels(np.full((4, 8, 1), 99, dtype=np.uint8), (8, 8), "pad", "bilinear")[:, :, 0]
    assert (result[2:6] == 99).all()
    assert (np.delete(result, np.s_[2:6], axis=0) == 0).all()


def test_resize_to_the_same_size_changes_nothing():
    pixels = random_pixels(5, 6, 3, 5)
    assert resize_pixels(pixels, (5, 6), "crop", "lanczos") is pixels


def test_pixels_to_tensor_spans_minus_one_to_one_in_both_depths():
    for dtype in (np.uint8, np.uint16):
        top = np.iinfo(dtype).max
        tensor = pixels_to_tensor(np.array([[[0], [top]]], dtype=dtype))
        torch.testing.assert_close(tensor, torch.tensor([[[-1.0, 1.0]]]))
    fine = pixels_to_tensor(np.array([[[1000], [1001]]], dtype=np.uint16))
    assert fine[0, 0, 0] < fine[0, 0, 1]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_of_every_depth_and_channel_count_decodes_to_its_pixels(channels, dtype):
    pixels = random_pixels(6, 5, channels, 6, dtype)
    decoded = decode_image(png_bytes(pixels), "a.png")
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, pixels)


def test_sixteen_bit_tiff_and_pgm_keep_their_depth():
    grey = random_pixels(4, 3, 1, 7, np.uint16)
    pgm = b"P5\n3 4\n65535\n" + grey.astype(">u2").tobytes()
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(grey[:, :, 0]), "tiff"), "a.tif"), grey)
    np.testing.assert_array_equal(decode_image(pgm, "a.pgm"), grey)


def test_palette_bilevel_and_cmyk_become_plain_modes():
    image = Image.fromarray(random_pixels(8, 8, 3, 8))
    palette = image.quantize(16)
    np.testing.assert_array_equal(decode_image(encoded(palette), "p.png"), np.asarray(palette.convert("RGB")))
    assert decode_image(encoded(palette, transparency=0), "t.png").shape == (8, 8, 4)
    assert decode_image(encoded(image.convert("1")), "b.png").shape == (8, 8, 1)
    assert decode_image(encoded(image.convert("CMYK"), "jpeg"), "c.jpg").shape == (8, 8, 3)


def test_exif_orientation_is_applied():
    image = Image.fromarray(random_pixels(4, 8, 3, 9))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: the stored rows are columns
    assert decode_image(encoded(image, "jpeg", exif=exif), "phone.jpg").shape == (8, 4, 3)


def test_zero_bytes_are_named():
    with pytest.raises(EmptyFileError, match=r"^a\.png: expected an image, got a file of zero bytes; remove it"):
        decode_image(b"", "a.png")


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "gif", "tiff", "webp"])
def test_truncated_image_is_refused_in_every_format(kind):
    data = encoded(Image.fromarray(random_pixels(64, 64, 3, 10)), kind)
    with pytest.raises((TruncatedImageError, NotAnImageError), match=r"^cut: expected .*; remove it"):
        decode_image(data[: len(data) // 2], "cut")


@pytest.mark.parametrize("channels", [1, 3])
def test_truncated_sixteen_bit_png_is_refused(channels):
    data = png_bytes(random_pixels(32, 32, channels, 11, np.uint16))
    with pytest.raises(TruncatedImageError, match=r"^deep\.png: expected a whole image"):
        decode_image(data[: len(data) // 2], "deep.png")


def test_flipped_byte_in_a_png_is_refused():
    data = bytearray(png_bytes(random_pixels(32, 32, 3, 12)))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(TruncatedImageError, match="damaged"):
        decode_image(bytes(data), "bad.png")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "gif", "tiff", "webp", "ppm"])
def test_damaged_bytes_give_pixels_or_a_data_error_and_nothing_else(kind):
    whole = encoded(Image.fromarray(random_pixels(24, 24, 3, 15)), kind)
    random = np.random.default_rng(16)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(random.integers(1, 6)):
            data[random.integers(min(len(data), 200))] = random.integers(256)
        try:
            assert decode_image(bytes(data), "x").ndim == 3
        except DataError as error:
            assert str(error).startswith("x: expected ")
            assert "\n" not in str(error)
            refused += 1
    assert refused


def test_decompression_bomb_is_refused_by_its_header():
    with pytest.raises(BombError, match=r"^bomb\.png: expected at most \d+ pixels"):
        decode_image(bomb_bytes(), "bomb.png")


def test_bomb_limit_is_pillows_own_and_exact(monkeypatch):
    data = png_bytes(random_pixels(10, 10, 1, 13))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_image(data, "a.png").shape == (10, 10, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    with pytest.raises(BombError, match="at most 99 pixels"):
        decode_image(data, "a.png")


def test_bytes_of_no_image_format_are_refused():
    with pytest.raises(NotAnImageError, match=r"^notes\.png: expected an image, got bytes of no known image format"):
        decode_image(b"this is text", "notes.png")


def test_floating_point_tiff_is_refused_with_its_mode():
    data = encoded(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "tiff")
    with pytest.raises(NotAnImageError, match="got Pillow's mode F; save it as 8- or 16-bit PNG"):
        decode_image(data, "f.tif")


def test_the_switch_that_hides_truncation_is_refused(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(NotAnImageError, match="LOAD_TRUNCATED_IMAGES"):
        decode_image(png_bytes(random_pixels(4, 4, 3, 14)), "a.png")
