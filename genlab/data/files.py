"""A folder or a zip archive as one list of files that can be read by name, in place."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from genlab.data.decoding import IMAGE_SUFFIXES
from genlab.errors import DataError

MAX_FILE_BYTES = 256 * 1024 * 1024  # no image file is larger; a zip member that unpacks to more is a bomb


@dataclass(frozen=True)
class Entry:
    """One file. `path` is relative to the tree ("train/1.jpg"), `stamp` changes when the content does."""

    path: str
    size: int
    stamp: int
    stored: str

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("/"))

    @property
    def is_image(self) -> bool:
        return os.path.splitext(self.path)[1].lower() in IMAGE_SUFFIXES


class FileTree:
    """The files below a folder, sorted by path; hidden files are not seen."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries = sorted(self._list(), key=lambda entry: entry.path)

    def _list(self) -> Iterable[Entry]:
        visited = set()
        for folder, subfolders, names in os.walk(self.root, followlinks=True, onerror=_raise_unreadable):
            real = os.path.realpath(folder)
            if real in visited:  # a link that leads back up would be walked for ever
                subfolders.clear()
                continue
            visited.add(real)
            subfolders[:] = [name for name in subfolders if not _is_hidden(name)]
            for name in names:
                if _is_hidden(name):
                    continue
                full = os.path.join(folder, name)
                try:
                    status = os.stat(full)
                except OSError as error:
                    raise DataError(f"{full}: cannot be read ({error.strerror}); remove the broken link") from None
                path = PurePosixPath(Path(full).relative_to(self.root)).as_posix()
                yield Entry(path, status.st_size, status.st_mtime_ns, full)

    def read(self, entry: Entry) -> bytes:
        """All bytes of one file.

        Raises:
            DataError: gone, unreadable, or larger than `MAX_FILE_BYTES`.
        """
        with self.stream(entry) as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise DataError(f"{self.label(entry)}: expected at most {MAX_FILE_BYTES} bytes, got more; remove it")
        return data

    @contextmanager
    def stream(self, entry: Entry) -> Iterator[BinaryIO]:
        """One file to read from, for those who need only its beginning.

        Raises:
            DataError: gone or unreadable, at once or while it is read.
        """
        try:
            with open(entry.stored, "rb") as stream:
                yield stream
        except OSError as error:
            raise DataError(f"{self.label(entry)}: cannot be read ({error.strerror}); restore or remove it") from None

    def label(self, entry: Entry) -> str:
        """What messages call the file."""
        return entry.stored

    def images(self) -> list[Entry]:
        """The files with an image suffix.

        Raises:
            DataError: none, or one of zero bytes.
        """
        found = [entry for entry in self.entries if entry.is_image]
        if not found:
            have = f"{len(self.entries)} files of other kinds" if self.entries else "an empty folder or archive"
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(f"{self.root}: expected images ({suffixes}), got {have}; give another data.root")
        for entry in found:
            if entry.size == 0:
                raise DataError(
                    f"{self.label(entry)}: expected an image, got a file of zero bytes; remove it or copy it again; "
                    f"`genlab data check {self.root}` lists every such file"
                )
        return found


class ZipTree(FileTree):
    """The members of a zip archive, read in place; one top folder that holds everything is left out of the paths."""

    def __init__(self, root: Path) -> None:
        self._archive: zipfile.ZipFile | None = None
        self._owner = 0
        super().__init__(root)

    def _open(self) -> zipfile.ZipFile:
        # A worker process must not share the file position of its parent, so each process opens the archive once.
        if self._archive is None or self._owner != os.getpid():
            try:
                self._archive = zipfile.ZipFile(self.root)
            except zipfile.BadZipFile as error:
                raise DataError(f"{self.root}: expected a whole zip archive ({error}); copy it again") from None
            except OSError as error:
                raise DataError(f"{self.root}: cannot be read ({error.strerror})") from None
            self._owner = os.getpid()
        return self._archive

    def _list(self) -> Iterable[Entry]:
        members = [
            member
            for member in self._open().infolist()
            if not member.is_dir() and not any(_is_hidden(part) for part in PurePosixPath(member.filename).parts)
        ]
        tops = {PurePosixPath(member.filename).parts[0] for member in members}
        nested = all(len(PurePosixPath(member.filename).parts) > 1 for member in members)
        skip = 1 if len(tops) == 1 and nested else 0
        for member in members:
            path = PurePosixPath(*PurePosixPath(member.filename).parts[skip:]).as_posix()
            yield Entry(path, member.file_size, member.CRC, member.filename)

    @contextmanager
    def stream(self, entry: Entry) -> Iterator[BinaryIO]:
        """One member to read from; its checksum is verified by whoever reads it to the end.

        Raises:
            DataError: damaged, encrypted, or larger unpacked than `MAX_FILE_BYTES`.
        """
        if entry.size > MAX_FILE_BYTES:
            raise DataError(
                f"{self.label(entry)}: expected at most {MAX_FILE_BYTES} bytes unpacked, got {entry.size} "
                "(a zip bomb); remove it from the archive"
            )
        try:
            with self._open().open(entry.stored) as stream:
                yield stream
        except DataError:
            raise
        except (
            Exception
        ) as error:  # zlib.error, BadZipFile, RuntimeError (encrypted), NotImplementedError (method), EOFError
            raise DataError(f"{self.label(entry)}: cannot be unpacked ({error}); make the archive again") from None

    def label(self, entry: Entry) -> str:
        return f"{self.root}:{entry.stored}"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_archive": None}


def open_tree(path: str | os.PathLike[str]) -> FileTree:
    """Opens a folder or a zip archive.

    Raises:
        DataError: nothing there, or neither a folder nor a zip archive.
    """
    root = Path(path).expanduser()
    if root.is_dir():
        return FileTree(root)
    if not root.exists():
        raise DataError(f"{root}: expected a folder or a zip archive, got nothing at that path; check data.root")
    if root.is_file() and root.stat().st_size == 0:
        raise DataError(f"{root}: expected a folder or a zip archive, got a file of zero bytes; copy it again")
    if not zipfile.is_zipfile(root):
        raise DataError(f"{root}: expected a folder or a zip archive, got another or a truncated file; copy it again")
    return ZipTree(root)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in {"__MACOSX", "Thumbs.db"}


def _raise_unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); give the user read access") from None
