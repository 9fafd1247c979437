"""Two domains in files: aligned pairs (side by side, or matched by name) and unaligned sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from genlab.config import DataConfig
from genlab.data.base import ImageDataset, PairedDataset, UnpairedDataset, View, file_digests
from genlab.data.catalogue import register, require_root
from genlab.data.decoding import size_of_image
from genlab.data.files import Entry, FileTree, open_tree
from genlab.data.folders import FilePictures, stamps
from genlab.data.halves import misfits
from genlab.data.layout import FILE_SPLITS, Placed, groups_of, lacking_splits, place, take_split
from genlab.data.selection import select
from genlab.errors import DataError


class SideBySidePairs:
    """Files whose left half is A and whose right half is B."""

    def __init__(self, files: FilePictures, config: DataConfig) -> None:
        self._files, self._swap = files, config.direction == "b_to_a"
        self.channels = files.channels

    def __len__(self) -> int:
        return len(self._files)

    def batch(self, indices: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(input, target), each float32 (N, channels, *size)."""
        pairs = [self._halves(int(index), size) for index in indices]
        a, b = (torch.stack(side) for side in zip(*pairs, strict=True))
        return (b, a) if self._swap else (a, b)

    def _halves(self, index: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        pixels = self._files.decode(index)
        width = pixels.shape[1]
        if width % 2:  # the header, read when the set was opened, promised an even one
            label = self._files.tree.label(self._files.entries[index])
            raise DataError(f"{label}: expected an even width (A and B side by side), got {width} pixels; remove it")
        left, right = pixels[:, : width // 2], pixels[:, width // 2 :]
        return self._files.finish(left, index, size), self._files.finish(right, index, size)


class MatchedPairs:
    """Files of two folders, pair i being (a[i], b[i])."""

    def __init__(self, a: FilePictures, b: FilePictures, config: DataConfig) -> None:
        _require_equal_channels(a, b)
        self._sides = (a, b) if config.direction == "a_to_b" else (b, a)
        self.channels = a.channels

    def __len__(self) -> int:
        return len(self._sides[0])

    def batch(self, indices: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(input, target), each float32 (N, channels, *size)."""
        return self._sides[0].batch(indices, size), self._sides[1].batch(indices, size)


def _require_equal_channels(a: FilePictures, b: FilePictures) -> None:
    if a.channels != b.channels:
        first, second = a.tree.label(a.entries[0]), b.tree.label(b.entries[0])
        raise DataError(
            f"{second}: expected {a.channels} channels as in {first}, got {b.channels}; "
            "set data.channels to convert both domains"
        )


def match_names(tree: FileTree, placed: Sequence[Placed], domains: Sequence[str]) -> list[tuple[Placed, Placed]]:
    """Pairs of files with the same split and name (whatever the suffix), sorted.

    Raises:
        DataError: a file without a partner, or two of one name in a folder.
    """
    sides: dict[str, dict[tuple[str, str], Placed]] = {domain: {} for domain in domains}
    for item in placed:
        name = (item.split or "", item.key)
        twin = sides[item.group].setdefault(name, item)
        if twin is not item:
            raise DataError(
                f"{tree.label(item.entry)}: expected one file of that name in folder {item.group}, "
                f"got {tree.label(twin.entry)} too; remove one"
            )
    a, b = (sides[domain] for domain in domains)
    alone = sorted(a.keys() ^ b.keys())
    if alone:
        item, lacking = (a[alone[0]], domains[1]) if alone[0] in a else (b[alone[0]], domains[0])
        more = f" ({len(alone)} files are alone)" if len(alone) > 1 else ""
        raise DataError(
            f"{tree.label(item.entry)}: expected its partner in {lacking}, got no file of that name{more}; "
            f"add it or remove the file; `genlab data check {tree.root}` lists all"
        )
    return [(a[name], b[name]) for name in sorted(a)]


def require_halves(tree: FileTree, entries: Sequence[Entry]) -> None:
    """Reads the sizes of all files side by side, so that no training ends at one of them after hours.

    Raises:
        DataError: a file of odd width, or one picture without its partner (see `misfits`).
    """
    sizes = []
    for entry in entries:
        with tree.stream(entry) as stream:
            sizes.append(size_of_image(stream, tree.label(entry)))
    found = misfits(sizes)
    if found:
        first = found[0]
        more = f" ({len(found)} files are no pairs)" if len(found) > 1 else ""
        raise DataError(
            f"{tree.label(entries[first.index])}: {first.fault}{more}; {first.remedy}; "
            f"`genlab data check --paired {tree.root}` lists all"
        )


def _two_domains(tree: FileTree, placed: Sequence[Placed]) -> list[str]:
    domains = groups_of(tree, placed)
    if len(domains) != 2:
        raise DataError(
            f"{tree.root}: expected two folders A and B (or trainA, trainB, testA, testB), "
            f"got {', '.join(domains) if domains else 'images at the top'}; arrange them so"
        )
    return domains


@register(
    "paired",
    kind="paired",
    summary="aligned pairs: files side by side A|B, or two folders matched by file name",
    needs="data.root: a folder or zip",
    splits=FILE_SPLITS,
)
def build_paired(config: DataConfig, split: str) -> ImageDataset:
    """No subfolders beside splits: side by side. Two subfolders: matched by name; A is the first in order of name."""
    root = require_root(config, "a folder or zip of pairs")
    tree = open_tree(root)
    placed = place(tree.images())
    if groups_of(tree, placed):
        matched = match_names(tree, placed, _two_domains(tree, placed))
    else:
        require_halves(tree, [item.entry for item in placed])
        matched = [(item, item) for item in placed]
    firsts = [pair[0] for pair in matched]
    taken, notes = take_split(
        matched, [item.split for item in firsts], [item.key for item in firsts], split, config.holdout, str(root)
    )
    picked = select(config, len(taken)).picked
    entries = [[taken[row][side].entry for row in picked] for side in (0, 1)]
    side_by_side = taken[0][0] is taken[0][1]
    if side_by_side:
        pairs = SideBySidePairs(FilePictures(tree, entries[0], config), config)
    else:
        pairs = MatchedPairs(*(FilePictures(tree, side, config) for side in entries), config)
        notes = (*notes, f"A is {firsts[0].group}, B is {matched[0][1].group}")
    return PairedDataset(
        pairs,
        View.of(config),
        np.arange(len(picked)),
        name=config.name,
        split=split,
        notes=notes,
        **file_digests(config, split, [fact for side in entries for fact in stamps(side)]),
    )


@register(
    "unpaired",
    kind="unpaired",
    summary="two domains without pairs: trainA, trainB, testA, testB, or folders A and B",
    needs="data.root: a folder or zip",
    splits=FILE_SPLITS,
)
def build_unpaired(config: DataConfig, split: str) -> ImageDataset:
    """Domain a is the folder first in order of name; `data.direction=b_to_a` swaps them."""
    root = require_root(config, "a folder or zip of two domains")
    tree = open_tree(root)
    placed = place(tree.images())
    select(config, len(placed))
    sources, notes, files = [], (), []
    domains = _two_domains(tree, placed)
    lacking = lacking_splits(placed, domains)
    if lacking:
        split_name, domain = lacking[0]
        raise DataError(
            f"{root}: expected {split_name} images of both domains, got none of {domain}; add them, or move those of "
            f"the other domain to its train folder, of which data.holdout={config.holdout} is then kept for testing"
        )
    for domain in domains:
        members = [item for item in placed if item.group == domain]
        where = f"{root} ({domain})"
        names, splits = [item.key for item in members], [item.split for item in members]
        taken, said = take_split(members, splits, names, split, config.holdout, where)
        notes = (*notes, *said)
        sources.append(FilePictures(tree, [item.entry for item in taken], config))
        files += stamps([item.entry for item in taken])
    _require_equal_channels(*sources)
    a, b = sources if config.direction == "a_to_b" else sources[::-1]
    return UnpairedDataset(
        a,
        b,
        View.of(config),
        limit=config.limit,
        name=config.name,
        split=split,
        notes=notes,
        **file_digests(config, split, files),
    )
