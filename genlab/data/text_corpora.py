"""Long texts for language models, tagged sentences and series: real, one's own, and made ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from genlab.config import DataConfig
from genlab.data.base import ImageDataset
from genlab.data.catalogue import register, require_root
from genlab.data.text_base import Ragged, SeriesDataset, StreamDataset, TaggedDataset, encode_rows
from genlab.data.text_files import find_files, limited, locate, read_lines, read_text, text_digests
from genlab.data.text_given import refuse_given
from genlab.data.text_grammar import TAGS, scenes
from genlab.data.text_vocabulary import BEGIN, END, MASK, PAD, UNKNOWN, build_codec, join_words
from genlab.errors import DataError
from genlab.text_config import TextDataConfig, as_text_config

SPLITS = ("train", "val", "test", "all")
STORY_SENTENCES = 3000
TAGGED_COUNTS = (1500, 200, 300)


def build_stream(
    config: DataConfig, split: str, parts: dict[str, str], files: list[Path], notes: tuple[str, ...] = ()
) -> StreamDataset:
    """A part of a text as one stream of numbers, with the vocabulary of its training part.

    In streams of words a line ends with the end token, as language models of words are usually given it. Characters
    have their own line feed and no unknown one; their vocabulary is that of all parts, as is usual for them.

    Args:
        config, split: what was asked for.
        parts: text of "train" and of the other parts; a missing "val" is the end of the training part
            (`data.holdout` of it).
        files: that were read.
        notes: for the log.
    """
    settings = as_text_config(config)
    parts = dict(parts)
    whole = "".join(parts.values())
    if "val" not in parts and settings.holdout > 0:
        train = parts["train"]
        at = round(len(train) * (1 - settings.holdout))
        at = train.find("\n", at) + 1 or at  # after a whole line where there are lines
        parts["train"], parts["val"] = train[:at], train[at:]
    if split != "all" and not parts.get(split):
        raise DataError(f"data set {config.name!r}: split {split!r}: expected data.holdout above 0, got 0")
    roles: tuple[str, ...] = () if settings.unit == "character" else (PAD, UNKNOWN, END)
    if settings.unit == "wordpiece":
        roles = (PAD, UNKNOWN, BEGIN, END, MASK)
    base = whole if settings.unit == "character" else parts["train"]
    refuse_given(settings)
    codec = build_codec(
        base.split("\n") if roles else [base], unit=settings.unit, roles=roles, lowercase=settings.lowercase,
        min_count=settings.min_count, size=settings.vocabulary_size, what=f"data set {config.name!r}",
    )  # fmt: skip
    text = whole if split == "all" else parts[split]
    if roles:
        end = codec.special(END)
        numbers = [n for line in text.split("\n") if line.strip() for n in (*codec.encode(line), end)]
    else:
        numbers = codec.encode(text)
    stream = np.array(numbers, dtype=np.int64)[: config.limit]
    return StreamDataset(
        stream, settings.sequence_length, codec, name=config.name, split=split, notes=notes,
        **text_digests(settings, split, files or {"sentences": STORY_SENTENCES}),
    )  # fmt: skip


def cut_tail(text: str, share: float = 0.1) -> dict[str, str]:
    """Train and test: the last `share` of the characters is for testing."""
    at = round(len(text) * (1 - share))
    return {"train": text[:at], "test": text[at:]}


@register(
    "tinyshakespeare", kind="text", summary="plays, 1,115,394 characters; the last tenth is for testing",
    needs="data.root with text/tinyshakespeare/input.txt", splits=SPLITS,
)  # fmt: skip
def build_tinyshakespeare(config: DataConfig, split: str) -> ImageDataset:
    """Karpathy's selection of plays; the split at nine tenths is nanoGPT's."""
    path = find_files(config, "tinyshakespeare", ["input.txt"])["input.txt"]
    return build_stream(config, split, cut_tail(read_text(path)), [path])


@register(
    "wikitext2", kind="text", summary="encyclopedia articles, words split, rare ones as <unk> (wikitext-2)",
    needs="data.root with text/wikitext-2/{train,valid,test}.txt; without train.txt, valid.txt is trained on",
    splits=SPLITS,
)  # fmt: skip
def build_wikitext2(config: DataConfig, split: str) -> ImageDataset:
    """Merity et al. 2016."""
    files = find_files(config, "wikitext-2", ["valid.txt", "test.txt"])
    train, notes = locate(files["valid.txt"].parent, "train.txt"), ()
    texts = {"val": read_text(files["valid.txt"]), "test": read_text(files["test.txt"])}
    if train is not None:
        texts["train"] = read_text(train)
        paths = [train, *files.values()]
    else:
        texts["train"], paths = texts.pop("val"), list(files.values())
        notes = ("train.txt is not there: valid.txt is trained on, and its end is the validation part",)
    return build_stream(config, split, texts, paths, notes)


@register(
    "text", kind="text", summary="your own: one text file (UTF-8, plain or .gz), its last tenth for testing",
    needs="data.root=FILE", splits=SPLITS,
)  # fmt: skip
def build_own_text(config: DataConfig, split: str) -> ImageDataset:
    path = require_root(config, "a text file")
    if not path.is_file():
        raise DataError(f"data set {config.name!r}: data.root={path}: expected a text file, got none; give its path")
    return build_stream(config, split, cut_tail(read_text(path)), [path])


@register("small_stories", kind="text", summary="3,000 short sentences made by a grammar, about 90,000 characters",
          splits=SPLITS)  # fmt: skip
def build_small_stories(config: DataConfig, split: str) -> ImageDataset:
    lines = [join_words(sentence.english) for sentence in scenes(STORY_SENTENCES, seed=11)]
    return build_stream(config, split, cut_tail("\n".join(lines) + "\n"), [])


def _tagged(
    config: DataConfig, split: str, parts: dict[str, tuple[list[list[str]], list[list[int]]]], names: list[str],
    files: list[Path],
) -> TaggedDataset:  # fmt: skip
    settings = as_text_config(config)
    if settings.unit != "whitespace":
        settings = TextDataConfig.model_validate({**settings.model_dump(), "unit": "whitespace"})
    refuse_given(settings)
    codec = build_codec(
        (" ".join(words) for words in parts["train"][0]), unit="whitespace", roles=(PAD, UNKNOWN),
        lowercase=settings.lowercase, min_count=settings.min_count, size=settings.vocabulary_size,
        what=f"data set {config.name!r}",
    )  # fmt: skip
    wanted = list(parts.values()) if split == "all" else [parts[split]] if split in parts else []
    if not wanted:
        raise DataError(f"data set {config.name!r}: split {split!r}: expected its file, got none; write it there")
    words = [sentence for part in wanted for sentence in part[0]]
    tags = [row for part in wanted for row in part[1]]
    kept = limited(len(words), config)
    place = f"data set {config.name!r} ({split}): sentence {{}}"
    rows, _ = encode_rows([" ".join(words[i]) for i in kept], codec, None, place)
    digests = text_digests(settings, split, files or {"counts": TAGGED_COUNTS})
    return TaggedDataset(
        rows, Ragged([tags[i] for i in kept]), codec, name=config.name, split=split, class_names=names, **digests
    )


@register("small_tags", kind="tagged", summary="sentences with the part of speech of each word, 7 tags, 1,500 + 300",
          splits=SPLITS)  # fmt: skip
def build_small_tags(config: DataConfig, split: str) -> ImageDataset:
    """`light`, `dream` and others are of several parts of speech: only the place tells which."""
    made, parts, at = scenes(sum(TAGGED_COUNTS), seed=13), {}, 0
    for name, count in zip(("train", "val", "test"), TAGGED_COUNTS, strict=True):
        chosen = made[at : at + count]
        parts[name] = ([sentence.english for sentence in chosen], [sentence.tags for sentence in chosen])
        at += count
    return _tagged(config, split, parts, list(TAGS), [])


@register(
    "tagged", kind="tagged", summary="your own: train.txt, test.txt (val.txt), lines `word tag`, a blank line between",
    needs="data.root=FOLDER with train.txt", splits=SPLITS,
)  # fmt: skip
def build_own_tagged(config: DataConfig, split: str) -> ImageDataset:
    """The column format of the CoNLL shared tasks: the word first, the tag last on each line."""
    root = require_root(config, "a folder with train.txt, lines `word tag`")
    files = {part: path for part in ("train", "val", "test") if (path := locate(root, f"{part}.txt")) is not None}
    if "train" not in files:
        raise DataError(f"data set {config.name!r}: data.root={root}: expected train.txt, got none; write it there")
    read = {part: _read_columns(path) for part, path in files.items()}
    names = sorted({tag for row in read["train"][1] for tag in row})
    parts = {}
    for part, (words, tags) in read.items():
        strange = sorted({tag for row in tags for tag in row} - set(names))
        if strange:
            raise DataError(f"{files[part]}: expected the tags of train.txt ({', '.join(names)}), got {strange[0]!r}")
        parts[part] = (words, [[names.index(tag) for tag in row] for row in tags])
    return _tagged(config, split, parts, names, list(files.values()))


def _read_columns(path: Path) -> tuple[list[list[str]], list[list[str]]]:
    words: list[list[str]] = [[]]
    tags: list[list[str]] = [[]]
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split()
        if not columns:
            if words[-1]:
                words.append([])
                tags.append([])
            continue
        if len(columns) < 2:
            raise DataError(f"{path}: line {number}: expected a word and its tag, got {line[:60]!r}")
        words[-1].append(columns[0])
        tags[-1].append(columns[-1])
    return [row for row in words if row], [row for row in tags if row]


def _series(config: DataConfig, split: str, values: np.ndarray, files: list[Path]) -> SeriesDataset:
    """The last fifth is for testing, the tenth before it for validation; the scale is the training part's."""
    settings = as_text_config(config)
    values = values[: config.limit]
    bounds = {"train": (0.0, 0.7), "val": (0.7, 0.8), "test": (0.8, 1.0), "all": (0.0, 1.0)}
    count = len(values)
    train = values[: round(0.7 * count)]
    mean, std = train.mean(axis=0), train.std(axis=0)
    if not (std > 0).all():
        column = int(np.flatnonzero(~(std > 0))[0]) + 1
        raise DataError(f"data set {config.name!r}: column {column}: expected values that vary, got one value only")
    first, last = (round(share * count) for share in bounds[split])
    return SeriesDataset(
        values[first:last], mean, std, settings.sequence_length, name=config.name, split=split,
        **text_digests(settings, split, files or {"steps": count}),
    )  # fmt: skip


@register("mackey_glass", kind="series", summary="a chaotic series of 3,000 values (Mackey and Glass 1977, delay 17)",
          splits=SPLITS)  # fmt: skip
def build_mackey_glass(config: DataConfig, split: str) -> ImageDataset:
    """dx/dt = 0.2 x(t-17) / (1 + x(t-17)^10) - 0.1 x(t), by steps of 0.1, every tenth kept, the start left out."""
    return _series(config, split, mackey_glass(3000), [])


def mackey_glass(count: int) -> np.ndarray:
    """The series, float64 (count, 1)."""
    delay, skip = 170, 5000
    x = [1.2] * (delay + 1)
    for _ in range(skip + 10 * count):
        past = x[-delay - 1]
        x.append(x[-1] + 0.1 * (0.2 * past / (1.0 + past**10) - 0.1 * x[-1]))
    return np.array(x[-10 * count :: 10])[:, None]


@register("series", kind="series", summary="your own: a CSV file of numbers, one step a line, one column a variable",
          needs="data.root=FILE.csv", splits=SPLITS)  # fmt: skip
def build_own_series(config: DataConfig, split: str) -> ImageDataset:
    path = require_root(config, "a CSV file of numbers")
    if not path.is_file():
        raise DataError(f"data set {config.name!r}: data.root={path}: expected a CSV file, got none; give its path")
    return _series(config, split, _read_numbers(path), [path])


def _read_numbers(path: Path) -> np.ndarray:
    rows: list[list[float]] = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = [float(cell) for cell in line.split(",")]
        except ValueError:
            if number == 1:
                continue  # names of the columns
            raise DataError(f"{path}: line {number}: expected numbers between commas, got {line[:60]!r}") from None
        if not np.isfinite(row).all() or (rows and len(row) != len(rows[0])):
            width = len(rows[0]) if rows else len(row)
            raise DataError(f"{path}: line {number}: expected {width} finite numbers, got {line[:60]!r}")
        rows.append(row)
    if len(rows) < 10:
        raise DataError(f"{path}: expected at least 10 lines of numbers, got {len(rows)}")
    return np.array(rows)
