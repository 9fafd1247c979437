"""What all sets of torchvision's layout share: finding the files below a root, and downloading them when asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genlab.config import DataConfig
from genlab.errors import DataError


def download_with_torchvision(class_name: str, root: Path, **arguments: Any) -> None:
    """Lets `torchvision.datasets.<class_name>` fetch its files into `root`; files that are there are kept.

    Raises:
        DataError: no network, no space, a changed checksum, or a missing helper package.
    """
    import torchvision

    try:
        root.mkdir(parents=True, exist_ok=True)
        getattr(torchvision.datasets, class_name)(str(root), download=True, **arguments)
    except Exception as error:  # urllib, gdown, tarfile and torchvision's own checks raise what they like
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"data.download: torchvision could not fetch {class_name} into {root} ({detail}); "
            "copy the files there and set data.download=false"
        ) from None


def first_folder_with(
    config: DataConfig,
    candidates: Sequence[Path],
    complete: Callable[[Path], bool],
    expected: str,
    download: Callable[[], object] | None = None,
) -> Path:
    """The first of the candidate folders that holds the set.

    Where none does, `download` is called once, if `data.download` allows it: a complete root is left untouched, so that
    it may be read-only.

    Raises:
        DataError: no folder holds it; says what was expected below `data.root` and how to get it.
    """
    attempts = 2 if download is not None and config.download else 1
    for attempt in range(attempts):
        if attempt:
            download()
        for folder in candidates:
            if folder.is_dir() and complete(folder):
                return folder
    remedy = "set data.download=true or copy the files there"
    if download is None:
        remedy = "torchvision cannot download this set: fetch it from its authors and unpack it there"
    found = "nothing at that path" if not Path(config.root or "").expanduser().exists() else "files missing"
    raise DataError(f"data set {config.name!r}: data.root={config.root}: expected {expected}, got {found}; {remedy}")


def stamp(path: Path) -> tuple[str, int, int]:
    """What a data set's digests hold of one file: name, size, time of change."""
    status = path.stat()
    return (path.name, status.st_size, status.st_mtime_ns)
