"""Sentences with a class: SST-2, TREC, rt-polarity, files of one's own, and judgements made by a grammar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genlab.config import DataConfig
from genlab.data.base import ImageDataset
from genlab.data.catalogue import register, require_root
from genlab.data.selection import held_out, select
from genlab.data.text_base import SentenceDataset, encode_rows
from genlab.data.text_files import find_files, locate, read_lines, text_digests
from genlab.data.text_given import given_codec
from genlab.data.text_grammar import reviews
from genlab.data.text_vocabulary import BEGIN, END, MASK, PAD, UNKNOWN, TextCodec, build_codec
from genlab.errors import DataError
from genlab.text_config import TextDataConfig, as_text_config

SENTENCE_SPLITS = ("train", "val", "test", "all")
# WordPiece vocabularies are those of BERT, which fine-tunes on these sets.
ROLES = {"wordpiece": (PAD, UNKNOWN, BEGIN, END, MASK)}
SENTIMENT = ["negative", "positive"]
QUESTIONS = {"ABBR": "abbreviation", "DESC": "description", "ENTY": "entity", "HUM": "human", "LOC": "location"}
QUESTIONS["NUM"] = "number"


@dataclass
class Part:
    """Sentences of one part.

    Attributes:
        texts, labels: of equal length; labels are indices into the set's class names.
        files: that they were read from.
        place: where sentence i stands, as `place.format(i + 1)`.
    """

    texts: list[str]
    labels: list[int]
    files: list[Path]
    place: str

    def pick(self, wanted: np.ndarray) -> Part:
        rows = np.flatnonzero(wanted)
        return Part([self.texts[i] for i in rows], [self.labels[i] for i in rows], self.files, self.place)


def codec_of(config: TextDataConfig, texts: list[str], what: str) -> TextCodec:
    """The vocabulary that `data.vocabulary` names, else that of the training part of a set of sentences."""
    given = given_codec(config)
    if given is not None:
        return given
    roles = ROLES.get(config.unit, (PAD, UNKNOWN))
    return build_codec(
        texts, unit=config.unit, roles=roles, lowercase=config.lowercase, min_count=config.min_count,
        size=config.vocabulary_size, what=what,
    )  # fmt: skip


def split_parts(config: DataConfig, parts: dict[str, Part]) -> dict[str, Part]:
    """Train, val and test of what there is: a missing part is held out of the training part, by the sentences alone.

    With `data.holdout=0` nothing is held out, and a part that no file holds is missing.
    """
    result = dict(parts)
    for missing in ("test", "val"):
        if missing not in result and config.holdout > 0:
            whole = result["train"]
            out = held_out([f"{missing}/{n}/{text}" for n, text in enumerate(whole.texts)], config.holdout)
            result[missing], result["train"] = whole.pick(out), whole.pick(~out)
    return result


def build_sentences(
    config: DataConfig, split: str, class_names: list[str], read: Callable[[TextDataConfig], dict[str, Part]]
) -> SentenceDataset:
    """A part of a set as numbers, with the vocabulary of its training part.

    Args:
        config, split: what was asked for; "all" is every file.
        class_names: in order of label.
        read: the parts that files hold, "train" among them.

    Raises:
        DataError: the part is neither in a file nor held out, or a sentence is empty.
    """
    settings = as_text_config(config)
    given = read(settings)
    parts = split_parts(settings, given)
    if split != "all" and split not in parts:
        raise DataError(
            f"data set {config.name!r}: split {split!r}: expected data.holdout above 0, as no file holds it, got 0"
        )
    train = parts["train"] if split != "all" else given["train"]
    codec = codec_of(settings, train.texts, f"data set {config.name!r}")
    wanted = list(given.values()) if split == "all" else [parts[split]]
    texts = [text for part in wanted for text in part.texts]
    labels = np.array([label for part in wanted for label in part.labels], dtype=np.int64)
    chosen = select(config, len(texts), labels, class_names)
    texts = [texts[row] for row in chosen.picked]
    rows, cut = encode_rows(texts, codec, settings.max_length, f"data set {config.name!r} ({split}): sentence {{}}")
    notes = [f"{cut} of {len(texts)} sentences were cut to data.max_length={settings.max_length} tokens"] if cut else []
    if split not in given and split != "all":
        notes.append(f"{split}: {len(texts)} sentences held out of the training part (data.holdout={config.holdout})")
    files = sorted({path for part in given.values() for path in part.files})
    return SentenceDataset(
        rows, chosen.labels, texts, codec, name=config.name, split=split, class_names=chosen.class_names,
        notes=tuple(notes), **text_digests(settings, split, files or {"seed": 0, "counts": len(texts)}),
    )  # fmt: skip


def read_labelled_lines(path: Path, class_names: list[str] | None = None) -> tuple[list[str], list[str]]:
    """(sentences, labels) of lines `sentence<TAB>label`.

    Raises:
        DataError: a line without exactly one tab, an empty sentence, or a label not in `class_names`; names the line.
    """
    texts, labels = [], []
    for number, line in enumerate(read_lines(path), start=1):
        text, tab, label = line.rpartition("\t")
        if not tab or not text.strip() or not label.strip():
            raise DataError(f"{path}: line {number}: expected a sentence, a tab and a label, got {line[:60]!r}")
        if class_names is not None and label.strip() not in class_names:
            raise DataError(f"{path}: line {number}: expected a label of {', '.join(class_names)}, got {label!r}")
        texts.append(text)
        labels.append(label.strip())
    return texts, labels


@register(
    "sst2", kind="sentences", summary="sentences of film reviews, negative or positive, 6,920 + 872 + 1,821 (SST-2)",
    needs="data.root with text/sst2/{train,dev,test}.tsv", splits=SENTENCE_SPLITS,
)  # fmt: skip
def build_sst2(config: DataConfig, split: str) -> ImageDataset:
    """Stanford Sentiment Treebank (Socher et al. 2013): whole sentences only, neutral ones left out."""

    def read(settings: TextDataConfig) -> dict[str, Part]:
        files = find_files(settings, "sst2", ["train.tsv", "dev.tsv", "test.tsv"])
        parts = {}
        for name, path in zip(("train", "val", "test"), files.values(), strict=True):
            texts, labels = read_labelled_lines(path, ["0", "1"])
            parts[name] = Part(texts, [int(label) for label in labels], [path], f"{path}: line {{}}")
        return parts

    return build_sentences(config, split, SENTIMENT, read)


@register(
    "trec", kind="sentences", summary="questions by what they ask for, 6 classes, 5,452 + 500 (TREC)",
    needs="data.root with text/trec/TREC.{train,test}", splits=SENTENCE_SPLITS,
)  # fmt: skip
def build_trec(config: DataConfig, split: str) -> ImageDataset:
    """Li and Roth 2002, coarse classes. One byte is not ASCII, so that the files are read as Latin-1."""
    codes = list(QUESTIONS)

    def read(settings: TextDataConfig) -> dict[str, Part]:
        files = find_files(settings, "trec", ["TREC.train", "TREC.test"])
        parts = {}
        for name, path in zip(("train", "test"), files.values(), strict=True):
            texts, labels = [], []
            for number, line in enumerate(read_lines(path, "latin-1"), start=1):
                label, _, text = line.partition(" ")
                coarse = label.partition(":")[0]
                if coarse not in codes or not text.strip():
                    raise DataError(f"{path}: line {number}: expected CLASS:kind and a question, got {line[:60]!r}")
                texts.append(text)
                labels.append(codes.index(coarse))
            parts[name] = Part(texts, labels, [path], f"{path}: line {{}}")
        return parts

    return build_sentences(config, split, list(QUESTIONS.values()), read)


@register(
    "rt_polarity", kind="sentences", summary="sentences of film reviews, negative or positive, 5,331 of each",
    needs="data.root with text/rt-polarity/rt-polarity.{pos,neg}", splits=SENTENCE_SPLITS,
)  # fmt: skip
def build_rt_polarity(config: DataConfig, split: str) -> ImageDataset:
    """Pang and Lee 2005. Has no test part: `data.holdout` of the sentences are it (papers cross-validate tenfold)."""

    def read(settings: TextDataConfig) -> dict[str, Part]:
        files = find_files(settings, "rt-polarity", ["rt-polarity.neg", "rt-polarity.pos"])
        texts, labels = [], []
        for label, path in enumerate(files.values()):
            lines = read_lines(path, "cp1252")
            texts += lines
            labels += [label] * len(lines)
        return {"train": Part(texts, labels, list(files.values()), "rt-polarity: line {}")}

    return build_sentences(config, split, SENTIMENT, read)


@register(
    "sentences", kind="sentences", summary="your own: train.tsv and test.tsv (and val.tsv), lines `sentence<TAB>label`",
    needs="data.root=FOLDER with train.tsv", splits=SENTENCE_SPLITS,
)  # fmt: skip
def build_own(config: DataConfig, split: str) -> ImageDataset:
    """Files of one's own; the classes are the labels of train.tsv, sorted."""
    root = require_root(config, "a folder with train.tsv, lines `sentence<TAB>label`")
    found = {part: path for part in ("train", "val", "test") if (path := locate(root, f"{part}.tsv")) is not None}
    if "train" not in found:
        raise DataError(f"data set {config.name!r}: data.root={root}: expected train.tsv, got none; write it there")
    texts, labels = read_labelled_lines(found["train"])
    names = sorted(set(labels))

    def read(_: TextDataConfig) -> dict[str, Part]:
        parts = {"train": Part(texts, [names.index(label) for label in labels], [found["train"]], "train: line {}")}
        for name, path in found.items():
            if name != "train":
                other, marks = read_labelled_lines(path, names)
                parts[name] = Part(other, [names.index(mark) for mark in marks], [path], f"{path}: line {{}}")
        return parts

    return build_sentences(config, split, names, read)


@register(
    "small_reviews", kind="sentences", summary="judgements of films made by a grammar, 1,600 + 200 + 400",
    splits=SENTENCE_SPLITS,
)  # fmt: skip
def build_small_reviews(config: DataConfig, split: str) -> ImageDataset:
    def read(_: TextDataConfig) -> dict[str, Part]:
        made = reviews(2200, seed=7)
        bounds = {"train": (0, 1600), "val": (1600, 1800), "test": (1800, 2200)}
        return {
            name: Part([t for t, _ in made[a:b]], [label for _, label in made[a:b]], [], "sentence {}")
            for name, (a, b) in bounds.items()
        }

    return build_sentences(config, split, SENTIMENT, read)
