"""`genlab data check`: reads every file of a set once and reports all that is wrong with it, not only the first."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from genlab.data import cifar, idx
from genlab.data.decoding import (
    CHECK_HINT,
    BombError,
    EmptyFileError,
    NotAnImageError,
    TruncatedImageError,
    decode_image,
)
from genlab.data.files import Entry, FileTree, open_tree
from genlab.data.halves import misfits
from genlab.data.layout import Placed, groups_of, lacking_splits, place
from genlab.errors import DataError

FEW_IMAGES = 10  # a class below this cannot be learned, nor measured

_KINDS = {EmptyFileError: "empty", TruncatedImageError: "truncated", BombError: "bomb", NotAnImageError: "not-an-image"}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (`severity` "error": training would stop at it) or odd ("warning")."""

    severity: str
    kind: str
    path: str
    detail: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.kind}: {self.path}: {self.detail}"


@dataclass
class CheckReport:
    """What a folder, archive or torchvision root holds.

    Attributes:
        path: what was checked.
        layout: "folder", "zip", "idx", "cifar" or "idx and cifar".
        images: number of readable images.
        sizes: images by (height, width).
        formats: images by channels and bits, such as "3 channels, 8 bit".
        groups: images by class, domain or part.
        findings: everything wrong or odd, errors first.
    """

    path: str
    layout: str
    images: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def ok(self) -> bool:
        """Nothing that training would stop at; warnings may remain."""
        return not self.errors

    def add(self, severity: str, kind: str, path: str, detail: str) -> None:
        self.findings.append(Finding(severity, kind, path, detail))

    def lines(self) -> list[str]:
        """The report as text: counts, then every finding on a line of its own."""
        warnings = len(self.findings) - len(self.errors)
        rows = [f"{self.path}: {self.layout}, {self.images} readable images"]
        rows += [f"size {width} x {height}: {count}" for (height, width), count in self.sizes.most_common(10)]
        if len(self.sizes) > 10:
            rows.append(f"and {len(self.sizes) - 10} more sizes")
        rows += [f"{name}: {count}" for name, count in self.formats.most_common()]
        rows += [f"group {name}: {count}" for name, count in sorted(self.groups.items())]
        rows += [str(finding) for finding in self.findings]
        verdict = "ok" if self.ok else "not usable as it is"
        rows.append(f"{verdict}: {len(self.errors)} errors, {warnings} warnings")
        return rows


@dataclass(frozen=True)
class _Inspection:
    """What one image file turned out to be."""

    item: Placed
    shape: tuple[int, int, int] | None
    bits: int
    content: bytes
    fault: DataError | None


def check(
    path: str | os.PathLike[str], *, paired: bool | None = None, progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Reads every file below a folder, in a zip archive, or of a MNIST or CIFAR root.

    Args:
        path: what to check.
        paired: True demands a partner for every file of two domains, or two pictures in every file side by side; None
            demands partners in folders A and B where at least half of the files have one.
        progress: called with (files read, files in all) after each file.

    Raises:
        DataError: nothing at that path, or neither a folder nor a zip archive.
    """
    root = Path(path).expanduser()
    report = CheckReport(str(root), "")
    layouts = [name for name, look in (("idx", _check_idx), ("cifar", _check_cifar)) if look(root, report)]
    if not layouts:
        tree = open_tree(root)
        layouts = ["folder" if root.is_dir() else "zip"]
        _check_tree(tree, report, paired, progress)
    report.layout = " and ".join(layouts)
    report.findings.sort(key=lambda finding: finding.severity)
    return report


def _check_tree(
    tree: FileTree, report: CheckReport, paired: bool | None, progress: Callable[[int, int], None] | None
) -> None:
    for entry in tree.entries:
        if not entry.is_image:
            report.add("warning", "ignored", tree.label(entry), "no image by its suffix")
    placed = place([entry for entry in tree.entries if entry.is_image])
    if not placed:
        report.add("error", "no-images", str(tree.root), "expected image files, got none")
        return
    readable = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for count, found in enumerate(pool.map(lambda item: _inspect(tree, item), placed), start=1):
            if found.fault is None:
                readable.append(found)
            else:
                report.add("error", _KINDS.get(type(found.fault), "unreadable"), *_split_message(found))
            if progress is not None:
                progress(count, len(placed))
    report.images = len(readable)
    _check_uniform(tree, report, readable)
    _check_duplicates(tree, report, readable)
    _check_groups(tree, report, placed, readable, paired)


def _inspect(tree: FileTree, item: Placed) -> _Inspection:
    try:
        data = tree.read(item.entry)
        pixels = decode_image(data, tree.label(item.entry))
    except DataError as error:
        return _Inspection(item, None, 0, b"", error)
    height, width, channels = pixels.shape
    content = hashlib.blake2b(data, digest_size=16).digest()
    return _Inspection(item, (height, width, channels), 8 * pixels.dtype.itemsize, content, None)


def _split_message(found: _Inspection) -> tuple[str, str]:
    """(path, rest) of an error message, which begins with the label of the file."""
    path, _, detail = str(found.fault).partition(": ")
    return path, detail.removesuffix(f"; {CHECK_HINT}")


def _check_uniform(tree: FileTree, report: CheckReport, readable: list[_Inspection]) -> None:
    formats: Counter[tuple[int, int]] = Counter()
    for found in readable:
        height, width, channels = found.shape or (0, 0, 0)
        report.sizes[(height, width)] += 1
        formats[(channels, found.bits)] += 1
        report.formats[f"{channels} channels, {found.bits} bit"] += 1
    if not readable:
        return
    usual_channels, usual_bits = formats.most_common(1)[0][0]
    (usual_height, usual_width), agreeing = report.sizes.most_common(1)[0]
    for found in readable:
        height, width, channels = found.shape or (0, 0, 0)
        label = tree.label(found.item.entry)
        if channels != usual_channels:
            detail = f"{channels} channels, where most files have {usual_channels}; set data.channels to convert"
            report.add("error", "channels", label, detail)
        elif found.bits != usual_bits:
            report.add("warning", "bits", label, f"{found.bits} bit, where most files have {usual_bits}")
        # Without a size that most files share there is nothing to be odd against.
        if (height, width) != (usual_height, usual_width) and 2 * agreeing > len(readable):
            report.add(
                "warning", "size", label, f"{width} x {height}, where most files are {usual_width} x {usual_height}"
            )


def _check_duplicates(tree: FileTree, report: CheckReport, readable: list[_Inspection]) -> None:
    first: dict[bytes, Entry] = {}
    for found in readable:
        original = first.setdefault(found.content, found.item.entry)
        if original is not found.item.entry:
            report.add("warning", "duplicate", tree.label(found.item.entry), f"same bytes as {tree.label(original)}")


def _check_groups(
    tree: FileTree, report: CheckReport, placed: list[Placed], readable: list[_Inspection], paired: bool | None
) -> None:
    try:
        groups = groups_of(tree, placed)
    except DataError as error:
        path, _, detail = str(error).partition(": ")
        report.add("error", "stray", path, detail)
        return
    if not groups:
        if paired:
            _check_halves(tree, report, readable)
        return
    report.groups.update(found.item.group or "" for found in readable)
    for group in groups:
        if len(groups) > 1 and report.groups[group] < FEW_IMAGES:
            report.add("warning", "few-images", f"{tree.root}/{group}", f"only {report.groups[group]} readable images")
    if [group.upper() for group in groups] == ["A", "B"]:
        for split, group in lacking_splits(placed, groups):
            report.add("error", "domains", str(tree.root), f"{split} images of one domain, none of {group}")
    if len(groups) == 2 and paired is not False:
        _check_partners(tree, report, placed, groups, demanded=bool(paired))
    elif paired:
        report.add("error", "domains", str(tree.root), f"expected two folders A and B, got {', '.join(groups)}")


def _check_halves(tree: FileTree, report: CheckReport, readable: list[_Inspection]) -> None:
    shaped = [(found.item.entry, found.shape[:2]) for found in readable if found.shape]
    for misfit in misfits([size for _, size in shaped]):
        report.add("error", misfit.kind, tree.label(shaped[misfit.index][0]), misfit.fault)


def _check_partners(
    tree: FileTree, report: CheckReport, placed: list[Placed], groups: list[str], demanded: bool
) -> None:
    sides = [{(item.split, item.key): item for item in placed if item.group == group} for group in groups]
    shared = sides[0].keys() & sides[1].keys()
    # Two classes with numbered files look like two domains; only the names A and B say that they are.
    paired_by_design = [group.upper() for group in groups] == ["A", "B"]
    if not demanded and not (paired_by_design and 2 * len(shared) >= max(len(side) for side in sides)):
        return
    for side, lacking in ((sides[0], groups[1]), (sides[1], groups[0])):
        for name in sorted(side.keys() - shared, key=str):
            report.add("error", "unpaired", tree.label(side[name].entry), f"no file of that name in {lacking}")


def _check_idx(root: Path, report: CheckReport) -> bool:
    """Reads every MNIST-like part below `root`; False when there is none."""
    folders = (root, root / "raw", root / "MNIST" / "raw", root / "FashionMNIST" / "raw")
    names = [name for part in idx.PREFIXES for name in idx.idx_files(part)]
    found = [folder for folder in folders if any(idx.locate(folder, name) for name in names)]
    for folder in found:
        for part in idx.PREFIXES:
            try:
                images, labels = idx.read_part(folder, part)
            except DataError as error:
                _add_message(report, error)
            else:
                _count_array(report, images[..., None], labels, f"{folder.parent.name} {part}")
    return bool(found)


def _check_cifar(root: Path, report: CheckReport) -> bool:
    """Reads every file of CIFAR-10 and CIFAR-100 below `root`; False when there is none."""
    found = False
    for layout in (cifar.CIFAR10, cifar.CIFAR100):
        for folder in (root, root / layout.folder):
            if folder.name == layout.folder and folder.is_dir():
                found = True
                for name in (*layout.files("all"), layout.meta):
                    _check_cifar_file(report, folder, name, layout)
    return found


def _check_cifar_file(report: CheckReport, folder: Path, name: str, layout: cifar.CifarLayout) -> None:
    path = cifar.locate(folder, name)
    if path is None:
        report.add("error", "missing", str(folder / name), "expected this file, plain or .xz; copy it there")
        return
    try:
        if name == layout.meta:
            cifar.read_class_names(path, layout)
        else:
            _count_array(report, *cifar.read_batch(path, layout), name)
    except DataError as error:
        _add_message(report, error)


def _add_message(report: CheckReport, error: DataError) -> None:
    path, _, detail = str(error).partition(": ")
    report.add("error", "unreadable", path, detail)


def _count_array(report: CheckReport, pixels: np.ndarray, labels: np.ndarray, part: str) -> None:
    report.images += len(pixels)
    report.sizes[pixels.shape[1:3]] += len(pixels)
    report.formats[f"{pixels.shape[3]} channels, 8 bit"] += len(pixels)
    for label, count in enumerate(np.bincount(labels)):
        report.groups[f"{part}, label {label}"] += int(count)
