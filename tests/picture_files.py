"""Image files made on the spot, for the tests of the data sets."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def random_pixels(height: int, width: int, channels: int, seed: int, dtype: type = np.uint8) -> np.ndarray:
    top = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, top, (height, width, channels)).astype(dtype)


def png_bytes(pixels: np.ndarray) -> bytes:
    """8-bit PNG by Pillow; 16-bit PNG of any channel count written chunk by chunk, since Pillow writes only grey."""
    height, width, channels = pixels.shape
    if pixels.dtype == np.uint8:
        stream = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels, MODES[channels]).save(stream, "png")
        return stream.getvalue()
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, data) for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb_bytes() -> bytes:
    """A PNG of a few bytes whose header claims 40,000 x 40,000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks)


class Writer:
    """Writes pictures below a folder: `write("cats/1.png")`; every picture differs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0

    def __call__(
        self, name: str, height: int = 8, width: int = 8, channels: int = 3, dtype: type = np.uint8
    ) -> np.ndarray:
        self._count += 1
        pixels = random_pixels(height, width, channels, self._count, dtype)
        self.bytes(name, png_bytes(pixels))
        return pixels

    def bytes(self, name: str, data: bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def many(self, pattern: str, count: int, **arguments: int) -> None:
        for number in range(count):
            self(pattern.format(number), **arguments)

    def zipped(self, top: str = "set") -> Path:
        """The folder as an archive with one top folder."""
        target = self.root.parent / f"{self.root.name}.zip"
        with zipfile.ZipFile(target, "w") as archive:
            for path in sorted(self.root.rglob("*")):
                if path.is_file():
                    archive.write(path, f"{top}/{path.relative_to(self.root).as_posix()}")
        return target
