"""Captions in a file beside the pictures: captions.tsv, captions.csv or captions.json in a folder or a zip archive."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genlab.caption_config import CaptionDataConfig, as_caption_config
from genlab.config import DataConfig
from genlab.data.base import ImageDataset, digests
from genlab.data.captions import (
    CAPTION_SPLITS,
    Captioned,
    KeptPictures,
    build_captioned,
    divide,
    shaping,
)
from genlab.data.catalogue import register, require_root
from genlab.data.files import Entry, FileTree, open_tree
from genlab.data.folders import FilePictures, stamps
from genlab.data.layout import place
from genlab.errors import DataError

NAMES = ("captions.tsv", "captions.csv", "captions.json")


@dataclass(frozen=True)
class Line:
    """One caption.

    Attributes:
        file: path of the picture below the root.
        text: the caption.
        place: where it stands, for messages.
    """

    file: str
    text: str
    place: str


def find_captions(tree: FileTree, names: Sequence[str] = NAMES) -> Entry:
    """The file of captions at the top of a tree.

    Raises:
        DataError: none, or several.
    """
    found = [entry for entry in tree.entries if entry.path in names]
    if len(found) != 1:
        got = ", ".join(entry.path for entry in found) or "none"
        wanted = " or ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
        raise DataError(f"{tree.root}: expected one file {wanted} beside the images, got {got}")
    return found[0]


def read_lines_of(tree: FileTree, entry: Entry) -> list[Line]:
    """All captions of a file, in its order.

    Raises:
        DataError: bytes that are not UTF-8, a line without picture or caption, or JSON of another form; names the line.
    """
    label = tree.label(entry)
    text = _decoded(tree.read(entry), label)
    lines = {".tsv": _tab_lines, ".csv": _comma_lines, ".json": _json_lines}[entry.path[entry.path.rindex(".") :]](
        text, label
    )
    if not lines:
        raise DataError(f"{label}: expected captions, got an empty file")
    for line in lines:
        if not line.file or not line.text.strip():
            raise DataError(
                f"{line.place}: expected an image and a caption, got {line.file!r} and {line.text!r}; correct the line"
            )
    return lines


def _decoded(content: bytes, label: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{label}: line {line}: expected utf-8 text, got byte 0x{content[error.start]:02X}; convert the file "
            "to utf-8"
        ) from None


def _tab_lines(text: str, label: str) -> list[Line]:
    lines = []
    for number, line in enumerate(text.rstrip("\n").split("\n") if text else [], start=1):
        file, tab, caption = line.rstrip("\r").partition("\t")
        if number == 1 and (file.lower(), caption.lower()) == ("file", "caption"):
            continue
        if not tab:
            raise DataError(f"{label}: line {number}: expected an image, a tab and a caption, got {line[:60]!r}")
        lines.append(Line(file.strip(), caption, f"{label}: line {number}"))
    return lines


def _comma_lines(text: str, label: str) -> list[Line]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = {"file", "caption"} - set(reader.fieldnames or ())
    if missing:
        raise DataError(
            f"{label}: line 1: expected columns file and caption, got {', '.join(reader.fieldnames or ())!r}"
        )
    try:
        return [
            Line((row["file"] or "").strip(), row["caption"] or "", f"{label}: line {reader.line_num}")
            for row in reader
        ]
    except csv.Error as error:
        raise DataError(f"{label}: line {reader.line_num}: expected comma-separated values ({error})") from None


def _json_lines(text: str, label: str) -> list[Line]:
    """{"file": "caption" or [captions]}, or COCO's "images" and "annotations"."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{label}: line {error.lineno}: expected JSON ({error.msg})") from None
    if isinstance(tree, dict) and {"images", "annotations"} <= tree.keys():
        return _coco_lines(tree, label)
    form = 'expected {"image": "caption"} or {"image": ["caption", ...]}'
    if not isinstance(tree, dict):
        raise DataError(f"{label}: {form}, got a {type(tree).__name__}")
    lines = []
    for file, said in tree.items():
        captions = [said] if isinstance(said, str) else said
        if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
            raise DataError(f"{label}: image {file!r}: {form}, got {json.dumps(said)[:60]}")
        lines += [Line(file, text, f"{label}: image {file!r}") for text in captions]
    return lines


def _coco_lines(tree: dict[str, Any], label: str) -> list[Line]:
    try:
        files = {image["id"]: str(image["file_name"]) for image in tree["images"]}
        rows = [(row["image_id"], str(row["caption"])) for row in tree["annotations"]]
    except (TypeError, KeyError) as error:
        raise DataError(
            f"{label}: expected images with id and file_name, and annotations with image_id and caption ({error} is "
            "missing)"
        ) from None
    strange = next((number for number, _ in rows if number not in files), None)
    if strange is not None:
        raise DataError(f"{label}: expected annotations of the images that are listed, got image_id {strange!r}")
    return [Line(files[number], text, f"{label}: image {files[number]!r}") for number, text in rows]


def match_captions(tree: FileTree, images: Sequence[Entry], lines: Sequence[Line], source: str) -> list[Captioned]:
    """The captions of each image, in the order of `images`.

    Raises:
        DataError: a caption of an image that is not there, or an image without one; says how many there are.
    """
    rows = {entry.path: row for row, entry in enumerate(images)}
    captions: list[list[str]] = [[] for _ in images]
    lost = [line for line in lines if line.file not in rows]
    if lost:
        more = f" ({len(lost)} captions are without)" if len(lost) > 1 else ""
        raise DataError(
            f"{lost[0].place}: expected an image below {tree.root}, got {lost[0].file!r}, which is not there{more}; "
            "add the image or remove the line"
        )
    for line in lines:
        captions[rows[line.file]].append(line.text)
    silent = [entry for entry, texts in zip(images, captions, strict=True) if not texts]
    if silent:
        more = f" ({len(silent)} images are without)" if len(silent) > 1 else ""
        raise DataError(
            f"{tree.label(silent[0])}: expected a caption in {source}, got none{more}; add it or remove the image"
        )
    return [Captioned(row, tuple(texts)) for row, texts in enumerate(captions)]


@register(
    "captioned", kind="captioned", splits=CAPTION_SPLITS,
    summary="your own: images with captions.tsv (image, tab, caption), .csv or .json; several lines of one image count",
    needs="data.root: a folder or zip of images with a file of captions",
)  # fmt: skip
def build_captioned_files(config: DataConfig, split: str) -> ImageDataset:
    """Folders train, val and test are parts; what they do not say is held out by `data.holdout`."""
    settings = as_caption_config(config)
    tree = open_tree(
        require_root(settings, "a folder or zip of images with captions.tsv, captions.csv or captions.json")
    )
    file = find_captions(tree)
    images = tree.images()
    pictures = match_captions(tree, images, read_lines_of(tree, file), file.path)
    placed = place(images)
    rows = divide([entry.path for entry in images], [item.split for item in placed], settings.holdout)
    parts = {part: [pictures[row] for row in chosen] for part, chosen in rows.items()}
    return build_captioned(
        settings, split, kept_files(tree, images, settings), parts, **caption_digests(settings, split, [file, *images])
    )


@register(
    "emoji_captions", kind="captioned", splits=CAPTION_SPLITS,
    summary="328 emoji in two hands, 64 px, with their names in English",
    needs="data.root with emoji_64.zip, or the archive or its folder itself",
)  # fmt: skip
def build_emoji_captions(config: DataConfig, split: str) -> ImageDataset:
    """`data.styles` are trained on. val and test hold other emoji in these styles, or the other styles' emoji.

    An emoji is held out in every style, so that no name of the test part was ever read.
    """
    settings = as_caption_config(config)
    root = require_root(settings, "the folder that holds emoji_64.zip")
    tree = open_tree(next((path for path in (root / "emoji_64.zip", root / "emoji_64") if path.exists()), root))
    file = find_captions(tree, ("captions.csv",))
    said = read_lines_of(tree, file)
    known = sorted({entry.parts[0] for entry in tree.images() if len(entry.parts) == 2})
    styles = known if settings.styles is None else settings.styles
    strange = [style for style in styles if style not in known]
    if strange:
        raise DataError(f"data.styles: expected some of {', '.join(known)}, got {strange[0]!r}")
    others = [style for style in known if style not in styles]
    if settings.tested_by == "styles" and not others:
        raise DataError(
            f"data.styles: expected a style left for testing with data.tested_by=styles, got {', '.join(styles)}"
        )
    images = [entry for entry in tree.images() if len(entry.parts) == 2]
    lines = [Line(f"{style}/{line.file}", line.text, line.place) for style in known for line in said]
    pictures = match_captions(tree, images, lines, file.path)
    rows = {entry.path: row for row, entry in enumerate(images)}
    names = sorted({line.file for line in said})
    apart = divide(names, [None] * len(names), settings.holdout)

    def of(some: Sequence[str], chosen: Sequence[int]) -> list[Captioned]:
        return [pictures[rows[f"{style}/{names[number]}"]] for number in chosen for style in some]

    if settings.tested_by == "styles":
        everything = range(len(names))
        val = apart.get("val", [])
        parts = {"train": of(styles, everything), "val": of(others, val)}
        parts["test"] = of(others, [number for number in everything if number not in set(val)])
    else:
        parts = {part: of(styles, chosen) for part, chosen in apart.items()}
    return build_captioned(
        settings, split, kept_files(tree, images, settings), parts, **caption_digests(settings, split, [file, *images])
    )


def kept_files(tree: FileTree, images: Sequence[Entry], config: CaptionDataConfig) -> KeptPictures:
    """The images as a source that decodes each of them once."""
    return KeptPictures(FilePictures(tree, images, config))


def caption_digests(config: CaptionDataConfig, split: str, files: Sequence[Entry]) -> dict[str, str]:
    """`fingerprint` and `contents` of captioned files."""
    facts = stamps(files)
    content = {"captions": shaping(config), "files": [fact[:2] for fact in facts]}
    return digests(config, split, content, [fact[2] for fact in facts])
