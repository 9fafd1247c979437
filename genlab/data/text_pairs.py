"""Sentences with their translations: multi30k, files of one's own, and English-German made by a grammar."""

from __future__ import annotations

from pathlib import Path

from genlab.config import DataConfig
from genlab.data.base import ImageDataset
from genlab.data.catalogue import register, require_root
from genlab.data.text_base import PairDataset, encode_rows
from genlab.data.text_files import find_files, limited, locate, read_lines, text_digests
from genlab.data.text_given import refuse_given
from genlab.data.text_grammar import scenes
from genlab.data.text_vocabulary import BEGIN, END, PAD, UNKNOWN, build_codec, join_words
from genlab.errors import DataError
from genlab.text_config import as_text_config

SPLITS = ("train", "val", "test", "all")
GRAMMAR_COUNTS = (2400, 200, 400)
Pairs = list[tuple[str, str]]


def read_parallel(source: Path, target: Path) -> Pairs:
    """Line i of one file with line i of the other.

    Raises:
        DataError: files of unequal line counts, or an empty line; names file and line.
    """
    sides = [read_lines(path) for path in (source, target)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{source} and {target}: expected as many lines in both, got {len(sides[0])} and {len(sides[1])}; "
            "line i of one must be the translation of line i of the other"
        )
    for path, lines in zip((source, target), sides, strict=True):
        empty = next((number for number, line in enumerate(lines, start=1) if not line.strip()), None)
        if empty is not None:
            raise DataError(f"{path}: line {empty}: expected a sentence, got an empty line; remove it from both files")
    return list(zip(*sides, strict=True))


def build_pairs(config: DataConfig, split: str, parts: dict[str, Pairs], files: list[Path]) -> PairDataset:
    """A part of a set of pairs as numbers, with the vocabularies of its training part."""
    settings = as_text_config(config)
    if split != "all" and split not in parts:
        raise DataError(f"data set {config.name!r}: split {split!r}: expected its files, got none; copy them there")
    refuse_given(settings)
    codecs = {}
    for side, name in enumerate(("source", "target")):
        codecs[name] = build_codec(
            (pair[side] for pair in parts["train"]), unit=settings.unit, roles=(PAD, UNKNOWN, BEGIN, END),
            lowercase=settings.lowercase, min_count=settings.min_count, size=settings.vocabulary_size,
            what=f"data set {config.name!r}",
        )  # fmt: skip
    pairs = [pair for part in parts.values() for pair in part] if split == "all" else parts[split]
    pairs = [pairs[i] for i in limited(len(pairs), config)]
    place, rows, cut = f"data set {config.name!r} ({split}): pair {{}}", [], 0
    for side, name in enumerate(("source", "target")):
        encoded, shortened = encode_rows([p[side] for p in pairs], codecs[name], settings.max_length, place, end=True)
        rows.append(encoded)
        cut += shortened
    notes = (f"{cut} sentences were cut to data.max_length={settings.max_length} tokens",) if cut else ()
    return PairDataset(
        (rows[0], rows[1]), pairs, codecs, name=config.name, split=split, notes=notes,
        **text_digests(settings, split, files or {"counts": GRAMMAR_COUNTS}),
    )  # fmt: skip


@register(
    "multi30k", kind="sentence_pairs", summary="image descriptions in English, German, French: 29,000 + 1,014 + 1,000",
    needs="data.root with text/multi30k/{train,val,test_2016_flickr}.{en,de,fr}", splits=SPLITS,
)  # fmt: skip
def build_multi30k(config: DataConfig, split: str) -> ImageDataset:
    """Elliott et al. 2016, task 1; test is test 2016 (Flickr)."""
    languages = as_text_config(config).languages
    stems = {"train": "train", "val": "val", "test": "test_2016_flickr"}
    names = [f"{stem}.{language}" for stem in stems.values() for language in languages]
    files = find_files(config, "multi30k", names)
    parts = {
        part: read_parallel(*(files[f"{stem}.{language}"] for language in languages)) for part, stem in stems.items()
    }
    return build_pairs(config, split, parts, list(files.values()))


@register(
    "parallel", kind="sentence_pairs", summary="your own: train.en and train.de (val.*, test.*), line by line",
    needs="data.root=FOLDER; data.languages says the two endings", splits=SPLITS,
)  # fmt: skip
def build_parallel(config: DataConfig, split: str) -> ImageDataset:
    root, languages = require_root(config, "a folder with train.en and train.de"), as_text_config(config).languages
    parts, files = {}, []
    for part in ("train", "val", "test"):
        found = [locate(root, f"{part}.{language}") for language in languages]
        if all(found):
            parts[part] = read_parallel(*found)
            files += found
        elif any(found) or part == "train":
            missing = languages[0] if found[0] is None else languages[1]
            raise DataError(f"data set {config.name!r}: data.root={root}: expected {part}.{missing}, got none")
    return build_pairs(config, split, parts, files)


@register("small_pairs", kind="sentence_pairs", summary="English and German made by a grammar, 2,400 + 400",
          splits=SPLITS)  # fmt: skip
def build_small_pairs(config: DataConfig, split: str) -> ImageDataset:
    """Gender, case and the place of the verb must be learnt; languages other than en and de are not there."""
    languages = as_text_config(config).languages
    if set(languages) != {"en", "de"}:
        raise DataError(f"data set {config.name!r}: data.languages: expected en and de, got {', '.join(languages)}")
    made = [
        {"en": join_words(sentence.english), "de": join_words(sentence.german)}
        for sentence in scenes(sum(GRAMMAR_COUNTS), seed=17)
    ]
    pairs = [(sentence[languages[0]], sentence[languages[1]]) for sentence in made]
    train, val, _ = GRAMMAR_COUNTS
    parts = {"train": pairs[:train], "val": pairs[train : train + val], "test": pairs[train + val :]}
    return build_pairs(config, split, parts, [])
