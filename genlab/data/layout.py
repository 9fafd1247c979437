"""What the folders of an image set mean: splits, classes, domains.

Splits are folders `train`, `val`, `test` (and their usual synonyms) on the first level, on the second below two domain
folders, or the first half of `trainA`, `trainB`, `testA`, `testB`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

import numpy as np

from genlab.data.files import Entry, FileTree
from genlab.data.selection import held_out
from genlab.errors import DataError

SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLIT_FOLDERS |= {"test": "test", "testing": "test"}
FILE_SPLITS = ("train", "val", "test", "all")
_SPLIT_DOMAIN = re.compile(r"(train|val|test)_?([AB])", re.IGNORECASE)

T = TypeVar("T")


@dataclass(frozen=True)
class Placed:
    """A file and its place: `group` is its class or domain folder (None at the top), `key` its path without both."""

    entry: Entry
    split: str | None
    group: str | None
    key: str


def place(entries: Sequence[Entry]) -> list[Placed]:
    """Reads split and group off the folders of every file."""
    joined = [_SPLIT_DOMAIN.fullmatch(entry.parts[0]) if len(entry.parts) > 1 else None for entry in entries]
    if all(joined):
        return [
            Placed(entry, match[1].lower(), match[2].upper(), _key(entry.parts[1:]))
            for entry, match in zip(entries, joined, strict=True)
            if match
        ]
    placed = []
    split_first = all(_is_split(entry.parts) for entry in entries)
    split_second = not split_first and all(_is_split(entry.parts[1:]) for entry in entries)
    for entry in entries:
        parts, split = list(entry.parts), None
        if split_first or split_second:
            split = SPLIT_FOLDERS[parts.pop(1 if split_second else 0).lower()]
        group = parts[0] if len(parts) > 1 else None
        placed.append(Placed(entry, split, group, _key(parts[1:] if group else parts)))
    return placed


def _is_split(parts: Sequence[str]) -> bool:
    return len(parts) > 1 and parts[0].lower() in SPLIT_FOLDERS


def _key(parts: Sequence[str]) -> str:
    return PurePosixPath(*parts).with_suffix("").as_posix()


def groups_of(tree: FileTree, placed: Sequence[Placed]) -> list[str]:
    """The class or domain folders, sorted; empty when the files lie at the top.

    Raises:
        DataError: some files lie in folders and others beside them.
    """
    found = {item.group for item in placed}
    if None in found and len(found) > 1:
        stray = next(item for item in placed if item.group is None)
        inside = next(item for item in placed if item.group is not None)
        raise DataError(
            f"{tree.label(stray.entry)}: expected every image in a subfolder, as {tree.label(inside.entry)} is, "
            "got one beside the subfolders; move it into one, or move all images to the top"
        )
    return sorted(group for group in found if group is not None)


def lacking_splits(placed: Sequence[Placed], groups: Sequence[str]) -> list[tuple[str, str]]:
    """(split, group) for each split folder that one group has and another lacks, in order."""
    have = {(item.split, item.group) for item in placed}
    splits = sorted({split for split, _ in have if split is not None})
    return [(split, group) for split in splits for group in groups if (split, group) not in have]


def take_split(
    items: Sequence[T], splits: Sequence[str | None], names: Sequence[str], wanted: str, holdout: float, where: str
) -> tuple[list[T], tuple[str, ...]]:
    """The samples of one split, and a note where it is not simply a folder.

    Args:
        items: samples; `splits` and `names` say for each its split folder (None without) and its name.
        wanted: "train", "val", "test" or "all".
        holdout: share kept for testing where no folder is.
        where: what messages call the set.

    Raises:
        DataError: the split cannot be made: no such folder and nothing held out.
    """
    if wanted == "all":
        return list(items), ()
    have = {split or "train" for split in splits}
    pool = [row for row, split in enumerate(splits) if (split or "train") == "train"]
    if wanted == "train" and not pool:
        raise DataError(f"{where}: expected a train folder, got only {', '.join(sorted(have))}; use data.split=all")
    other = {"val": "test", "test": "val"}.get(wanted)
    if wanted != "train" and wanted in have:
        return [item for item, split in zip(items, splits, strict=True) if split == wanted], ()
    if other in have:
        note = f"{wanted}: no such folder in {where}; its {other} folder is used"
        return [item for item, split in zip(items, splits, strict=True) if split == other], (note,)
    if wanted == "train" and len(have) > 1:
        return [items[row] for row in pool], ()
    kept = held_out([names[row] for row in pool], holdout)
    rows = np.flatnonzero(kept if wanted != "train" else ~kept)
    if len(rows) == 0:
        raise DataError(
            f"{where}: expected a {wanted} folder or files to hold out, got {len(pool)} files and "
            f"data.holdout={holdout}; set data.holdout, or use split all"
        )
    note = f"{int(kept.sum())} of {len(pool)} samples of {where} are held out for testing (data.holdout={holdout})"
    return [items[pool[row]] for row in rows], (note,) if kept.any() else ()
