"""Text files, plain or gzipped, read whole: bytes that are not the stated encoding are told with their line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genlab.config import DataConfig
from genlab.data.base import FileFacts, digests, evenly_spaced
from genlab.data.catalogue import require_root
from genlab.data.fetching import stamp
from genlab.data.text_given import given_codec
from genlab.errors import DataError
from genlab.text_config import TextDataConfig

_SHAPING = (
    "unit",
    "lowercase",
    "min_count",
    "vocabulary_size",
    "max_length",
    "sequence_length",
    "languages",
    "holdout",
)


def find_files(config: DataConfig, folder: str, names: Sequence[str]) -> dict[str, Path]:
    """The files of a set below `data.root`, each as it is or with ".gz".

    Looked for in root/text/<folder>, root/<folder> and root itself.

    Args:
        config: the `data` section.
        folder: of the set, such as "sst2".
        names: files without ".gz".

    Raises:
        DataError: no root, or a file is in none of these places; names the file.
    """
    root = require_root(config, f"the folder that holds {folder} with {', '.join(names)} (each plain or .gz)")
    best: dict[str, Path] = {}
    for place in (root / "text" / folder, root / folder, root):
        found = {name: path for name in names if (path := locate(place, name)) is not None}
        if len(found) == len(names):
            return found
        best = max(best, found, key=len)
    missing = [name for name in names if name not in best]
    raise DataError(
        f"data set {config.name!r}: data.root={config.root}: expected {', '.join(missing)} (plain or .gz) in "
        f"text/{folder}, {folder} or the folder itself, got none; copy the files there"
    )


def locate(folder: Path, name: str) -> Path | None:
    """The file `name` in a folder, as it is or with ".gz"."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """A whole text file; "\\r\\n" ends a line like "\\n".

    Raises:
        DataError: unreadable, a damaged archive, empty, or bytes that are not `encoding`; names the line.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a readable text file, got {error}; copy it again") from None
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}: line {line}: expected {encoding} text, got byte 0x{content[error.start]:02X}; convert the "
            f"file to {encoding}"
        ) from None
    if not text.strip():
        raise DataError(f"{path}: expected text, got an empty file; copy it again")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """The lines of a text file, split at line feeds alone; errors as of `read_text`."""
    lines = read_text(path, encoding).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def text_digests(config: TextDataConfig, split: str, files: Sequence[Path] | dict[str, object]) -> dict[str, str]:
    """`fingerprint` and `contents` of text: its files (or what it is drawn with) and how it becomes tokens.

    Args:
        config, split: what was asked for.
        files: that were read, the training part's too where the vocabulary comes from there; or plain facts.
    """
    shaping = {name: getattr(config, name) for name in _SHAPING}
    given = given_codec(config)
    if given is not None:  # what its tokens are, not where its file lies
        shaping["vocabulary"] = given.digest
    if isinstance(files, dict):
        return digests(config, split, {"text": shaping, **files})
    facts: list[FileFacts] = [stamp(path) for path in files]
    return digests(config, split, {"text": shaping, "files": [f[:2] for f in facts]}, [f[2] for f in facts])


def limited(count: int, config: DataConfig) -> np.ndarray:
    """Indices of the samples that `data.limit` leaves, evenly spaced."""
    return evenly_spaced(count, config.limit)
