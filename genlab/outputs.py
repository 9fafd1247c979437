"""Places to write to: checked before the work begins, and told plainly where the check could not see it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genlab.errors import UserError


def check_place(path: Path) -> None:
    """Raises UserError unless the nearest existing folder above `path` is one that may be written to."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"{path}: expected a place in a folder, got one below the file {above}; choose another")
    if not os.access(above, os.W_OK):
        raise UserError(f"{path}: expected a folder that may be written to, got {above}; choose another")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, a path that cannot be made is a user's error; a full disk or a lacking permission passes as it is."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
