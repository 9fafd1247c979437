"""A name -> object table whose misses name the nearest entry."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from genlab.errors import UserError

T = TypeVar("T")


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, or None when nothing is close."""
    matches = difflib.get_close_matches(str(name), list(candidates), n=1, cutoff=0.5)
    return matches[0] if matches else None


class Registry(Generic[T]):
    """Holds the entries of one kind ("data set", "algorithm", "loss") by name.

    Args:
        kind: what an entry is, in the singular; used in error messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files an entry under `name`; a second entry of that name is a programming error."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            UserError: no such entry; names the nearest one and lists all.
        """
        if name not in self._entries:
            raise UserError(f"{self.kind}: expected one of {', '.join(self.names())}, got {name!r}{self._hint(name)}")
        return self._entries[name]

    def known(self, name: str) -> str:
        """`name`, for a configuration's validator.

        Raises:
            ValueError: no such entry, in the words that a key's message goes on with.
        """
        if name not in self._entries:
            raise ValueError(f"expected one of {', '.join(self.names())}{self._hint(name)}")
        return name

    def _hint(self, name: str) -> str:
        guess = nearest(name, self._entries)
        return f"; did you mean {guess!r}?" if guess else ""

    def names(self) -> list[str]:
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
