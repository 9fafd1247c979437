"""Bytes of an image file to pixels, refusing what is empty, truncated, oversized or no image at all."""

from __future__ import annotations

import io
import threading
import warnings
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from genlab.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
CHECK_HINT = "`genlab data check` on the folder or archive lists every such file"

_EIGHT_BIT_MODES = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB"}
_EIGHT_BIT_MODES |= {"RGBA": "RGBA", "RGBa": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}
_WARNING_FILTERS = threading.Lock()  # `catch_warnings` swaps the filters of the whole process


class EmptyFileError(DataError):
    """A file of zero bytes."""


class TruncatedImageError(DataError):
    """A file that begins as an image and does not end as one."""


class BombError(DataError):
    """An image whose header claims more pixels than Pillow's limit."""


class NotAnImageError(DataError):
    """Bytes that no decoder knows, or an image of a kind that has no meaning here."""


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes one image; of an animation the first frame; turned upright where EXIF says how.

    Palettes become RGB (RGBA with a transparent entry), CMYK and YCbCr become RGB, bilevel becomes grey.

    Args:
        data: the whole file.
        name: what the error messages call it.

    Returns:
        (H, W, C), uint8 or uint16 (16-bit PNG, TIFF and PGM), C = 1 to 4.

    Raises:
        DataError: one of its subclasses in this module, naming the file.
    """
    if not data:
        raise EmptyFileError(f"{name}: expected an image, got a file of zero bytes; remove it or copy it again")
    image = open_header(data, name)
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise NotAnImageError(
            f"{name}: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which hides broken files; leave it False"
        )
    try:
        if _is_sixteen_bit_colour_png(data):
            return _decode_sixteen_bit_png(data, name)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_array(image, name)
    except DataError:
        raise
    except (
        Exception
    ) as error:  # a decoder fed with broken bytes raises whatever it likes: OSError, SyntaxError, struct.error
        detail = " ".join(str(error).split()) or type(error).__name__
        raise TruncatedImageError(
            f"{name}: expected a whole image, got one that breaks off or is damaged ({detail}); "
            f"remove it or copy it again; {CHECK_HINT}"
        ) from None


def open_header(data: bytes | BinaryIO, name: str) -> Image.Image:
    """Reads the header only and refuses bombs, before a pixel is decoded.

    Raises:
        BombError: more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
        NotAnImageError: no image format known to Pillow.
    """
    try:
        with _WARNING_FILTERS, warnings.catch_warnings():
            # Pillow only warns between one and two times its limit; the limit is meant here.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BombError(
            f"{name}: expected at most {Image.MAX_IMAGE_PIXELS} pixels, got a header that claims more "
            "(a decompression bomb, or a picture to scale down first); remove it or scale it down"
        ) from None
    except UnidentifiedImageError:
        raise NotAnImageError(
            f"{name}: expected an image, got bytes of no known image format; remove it; {CHECK_HINT}"
        ) from None
    except Exception as error:  # broken headers reach the format plugins, which raise whatever they like
        detail = " ".join(str(error).split()) or type(error).__name__
        raise TruncatedImageError(f"{name}: expected an image, got a damaged header ({detail}); remove it") from None


def size_of_image(stream: BinaryIO, name: str) -> tuple[int, int]:
    """(height, width) that `decode_image` would give, from the header alone.

    Args:
        stream: the file from its beginning; must be able to seek.
        name: what the error messages call it.

    Raises:
        DataError: as `open_header` does.
    """
    start = stream.read(26)
    stream.seek(0)
    image = open_header(stream, name)
    try:
        # Newer versions of Pillow turn the size of a TIFF when they open it, older ones when they load it.
        width, height = (image.tag_v2[256], image.tag_v2[257]) if hasattr(image, "tag_v2") else image.size
        # A PNG's own getexif would decode all of it, in search of an EXIF chunk behind the pixels.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # broken EXIF reaches the parsers, which raise whatever they like
        detail = " ".join(str(error).split()) or type(error).__name__
        raise TruncatedImageError(f"{name}: expected an image, got a damaged header ({detail}); remove it") from None
    turned = orientation in (5, 6, 7, 8) and not _is_sixteen_bit_colour_png(start)
    return (width, height) if turned else (height, width)


def _to_array(image: Image.Image, name: str) -> np.ndarray:
    if image.mode in _SIXTEEN_BIT_MODES:
        return np.asarray(image).astype(np.uint16)[:, :, None]
    if image.mode == "I":  # what Pillow makes of 16-bit PGM, and of 16-bit grey PNG before version 11
        wide = np.asarray(image)
        if wide.min() >= 0 and wide.max() <= 65535:
            return wide.astype(np.uint16)[:, :, None]
    mode = _EIGHT_BIT_MODES.get(image.mode)
    if mode is None:
        raise NotAnImageError(
            f"{name}: expected 8 or 16 bits and 1 to 4 channels, got Pillow's mode {image.mode}; "
            "save it as 8- or 16-bit PNG"
        )
    if "transparency" in image.info:
        mode = _WITH_ALPHA.get(mode, mode)
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _is_sixteen_bit_colour_png(data: bytes) -> bool:
    # IHDR is always the first chunk: bit depth at byte 24, colour type at byte 25 (0 is grey, which Pillow keeps).
    return data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 25 and data[24] == 16 and data[25] != 0


def _decode_sixteen_bit_png(data: bytes, name: str) -> np.ndarray:
    """Pillow cuts 16-bit colour PNG down to 8 bits; torchvision's decoder keeps them."""
    import torch

    try:
        from torchvision.io import ImageReadMode, decode_png
    except ImportError:
        raise NotAnImageError(
            f"{name}: expected a torchvision with io.decode_png, which reads 16-bit colour PNG, got one without; "
            "save the file as 8-bit PNG"
        ) from None
    with _WARNING_FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torchvision 0.29 announces its removal, without a date
        decoded = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    return np.moveaxis(decoded.numpy(), 0, 2)
