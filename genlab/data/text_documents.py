"""Documents, sentence by sentence, and the pairs of segments that BERT is trained on (Devlin et al. 2019, section 3.1).

A pair is two segments that fill a sequence: half of the time they follow one another, half of the time the second one
comes from another document.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlab.config import DataConfig
from genlab.data.base import ImageDataset
from genlab.data.catalogue import register, require_root
from genlab.data.randomness import EpochKey, uniform_rows
from genlab.data.text_base import Ragged, TokenDataset
from genlab.data.text_files import find_files, locate, read_text, text_digests
from genlab.data.text_given import BERT_ROLES, given_codec
from genlab.data.text_grammar import stories
from genlab.data.text_vocabulary import BEGIN, END, MASK, PAD, UNKNOWN, TextCodec, build_codec
from genlab.errors import DataError
from genlab.text_config import TextDataConfig, as_text_config

SPLITS = ("train", "val", "test", "all")
STORY_COUNT = 900
RARE = "<unk>"  # how wikitext marks words that it leaves out
PAIR = 48  # names the draws of a pair, apart from those of other sets
FIXED = EpochKey(0, 0)  # the draws of an unvaried pass
SPECIALS = 3  # [CLS] first [SEP] second [SEP]
Documents = list[list[str]]

_TITLE = re.compile(r" = [^=].* = ")
_HEADING = re.compile(r" = = .* = = ")
_JOINED = re.compile(r" @([-.,])@ ")
_TOKENISED_END = re.compile(r"(?<= [.!?]) (?! ?[\"')])|(?<= [.!?] [\"')]) ")
_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(\[]?[A-Z0-9])")


class DocumentDataset(TokenDataset):
    """Documents, drawn from as pairs of segments.

    Batches: "tokens", "segment" (N, T) int64, "length" (N,), "random_next" (N,) int64, 1 where the second segment comes
    from another document. T is `sequence_length`; what a pair does not fill is padding.

    Sample i begins at the i-th of the places at which sequences begin when they are laid side by side. In a training
    pass it begins somewhere between there and the next, and where the first segment ends, what follows it, and (with
    probability `short_share`) a shorter length are drawn anew.

    Args:
        rows: tokens of every sentence, document after document.
        counts: sentences of each document, at least 2.
        sequence_length: T.
        codec: has [CLS], [SEP], [MASK] and padding.
        short_share: of the pairs of a training pass that are shorter, as sentences are that a model is fine-tuned on.

    Raises:
        DataError: fewer than two documents, or no room for a token of either segment.
    """

    kind = "documents"

    def __init__(
        self,
        rows: Ragged,
        counts: Sequence[int],
        sequence_length: int,
        codec: TextCodec,
        short_share: float = 0.1,
        **facts: Any,
    ) -> None:
        super().__init__({"tokens": codec}, **facts)
        what = f"data set {self.name!r} ({self.split})"
        if len(counts) < 2:
            raise DataError(
                f"{what}: expected at least 2 documents of 2 sentences, as a segment may be followed by another "
                f"document's, got {len(counts)}; give more text, or change data.holdout"
            )
        if sequence_length < SPECIALS + 2:
            raise DataError(f"{what}: data.sequence_length: expected at least {SPECIALS + 2}, got {sequence_length}")
        self.sequence_length, self.short_share = sequence_length, short_share
        self._flat = rows.flat
        self._offsets = np.concatenate([[0], np.cumsum(rows.lengths)])  # each sentence's first token; one more
        self._bounds = np.concatenate([[0], np.cumsum(counts)])  # each document's first sentence; one more
        self._begins = self._lay_out(sequence_length - SPECIALS)

    def _lay_out(self, room: int) -> np.ndarray:
        """(document, first sentence, sentences until the next) of every sample, int64 (M, 3)."""
        begins = []
        for document, (first, last) in enumerate(zip(self._bounds[:-1], self._bounds[1:], strict=True)):
            at = int(first)
            while at < last:
                end = self._end_of(at, int(last), room)
                begins.append((document, at, end - at))
                at = end
        return np.array(begins, dtype=np.int64)

    def _end_of(self, first: int, last: int, room: int) -> int:
        """The sentence behind those that fill `room` tokens from sentence `first` on, `last` at most."""
        end = int(np.searchsorted(self._offsets, self._offsets[first] + room))
        return min(max(end, first + 1), last)

    def __len__(self) -> int:
        return len(self._begins)

    @property
    def documents(self) -> int:
        return len(self._bounds) - 1

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        codec, length = self.codecs["tokens"], self.sequence_length
        draws = uniform_rows(*(key or FIXED), PAIR, indices, count=9).astype(np.float64)
        tokens = np.full((len(indices), length), codec.special(PAD), dtype=np.int64)
        segment, sizes = np.zeros_like(tokens), np.zeros(len(indices), dtype=np.int64)
        random_next = draws[:, 0] < 0.5
        begin, end = ([codec.special(role)] for role in (BEGIN, END))
        for row, index in enumerate(indices):
            first, second = self._pair(index, bool(random_next[row]), draws[row], varied=key is not None)
            both = np.concatenate([begin, first, end, second, end])
            tokens[row, : len(both)] = both
            segment[row, len(first) + 2 : len(both)] = 1
            sizes[row] = len(both)
        whole = {"tokens": tokens, "segment": segment, "length": sizes, "random_next": random_next.astype(np.int64)}
        return {name: torch.from_numpy(value) for name, value in whole.items()}

    def _pair(self, index: int, random_next: bool, draws: np.ndarray, varied: bool) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the two segments of sample `index`.

        Args:
            draws: nine numbers in [0, 1).
            varied: whether it may begin later, or be shorter.
        """
        document, at, sentences = (int(value) for value in self._begins[index])
        last, room = int(self._bounds[document + 1]), self.sequence_length - SPECIALS
        if varied:
            at += int(draws[1] * sentences)
            if draws[2] < self.short_share:
                room = 2 + int(draws[3] * (room - 1))
        at = min(at, last - 2)
        end = max(self._end_of(at, last, room), at + 2)
        cut = at + 1 + int(draws[4] * (end - at - 1))
        first, second = self._tokens(at, cut), self._tokens(cut, end)
        if random_next:
            other = int(draws[5] * (self.documents - 1))
            other += other >= document
            start, stop = int(self._bounds[other]), int(self._bounds[other + 1])
            start += int(draws[6] * (stop - start))
            second = self._tokens(start, self._end_of(start, stop, max(1, room - len(first))))
        return _shortened(first, second, room, draws[7:9])

    def _tokens(self, first: int, end: int) -> np.ndarray:
        return self._flat[self._offsets[first] : self._offsets[end]]


def _shortened(first: np.ndarray, second: np.ndarray, room: int, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Takes from the longer segment until both fit; how much off its front and how much off its end is drawn."""
    keep_first = max(room - len(second), (room + 1) // 2)
    keep_second = max(room - len(first), room // 2)
    cut = []
    for tokens, keep, draw in ((first, keep_first, draws[0]), (second, keep_second, draws[1])):
        off = int(draw * (max(0, len(tokens) - keep) + 1))
        cut.append(tokens[off : off + keep])
    return cut[0], cut[1]


def split_sentences(text: str, tokenised: bool = False) -> list[str]:
    """The sentences of a paragraph.

    Args:
        text: of one line.
        tokenised: marks stand between spaces, so that "." alone ends a sentence and "H." does not.
    """
    parts = (_TOKENISED_END if tokenised else _END).split(text.strip())
    return [part.strip() for part in parts if part.strip()]


def read_articles(text: str) -> Documents:
    """Articles of wikitext: a line ` = Title = ` begins one; titles and headings are left out."""
    documents: Documents = [[]]
    for line in text.split("\n"):
        if _HEADING.fullmatch(line):
            continue
        if _TITLE.fullmatch(line):
            documents.append([])
        else:
            documents[-1] += split_sentences(_JOINED.sub(r"\1", line), tokenised=True)
    return documents


def read_documents(text: str) -> Documents:
    """Documents between blank lines, of a sentence or a paragraph a line."""
    documents: Documents = [[]]
    for line in text.split("\n"):
        if line.strip():
            documents[-1] += split_sentences(line)
        elif documents[-1]:
            documents.append([])
    return documents


def build_documents(
    config: DataConfig, split: str, parts: dict[str, Documents], files: list[Path], notes: tuple[str, ...] = ()
) -> DocumentDataset:
    """A part of a set of documents, with the vocabulary of its training part or the one that is given.

    Args:
        config, split: what was asked for.
        parts: "train", "test" and maybe "val"; a missing "val" is the end of the training part (`data.holdout` of it).
        files: that were read.
        notes: for the log.
    """
    settings = as_text_config(config)
    what = f"data set {config.name!r}"
    if settings.unit != "wordpiece" and settings.vocabulary is None:
        raise DataError(f"{what}: data.unit: expected wordpiece, got {settings.unit}; set data.unit=wordpiece")
    parts = {name: [document for document in part if len(document) > 1] for name, part in parts.items()}
    whole = [document for part in parts.values() for document in part]
    if "val" not in parts and settings.holdout > 0:
        at = round(len(parts["train"]) * (1 - settings.holdout))
        parts["train"], parts["val"] = parts["train"][:at], parts["train"][at:]
    if split not in parts and split != "all":
        raise DataError(f"{what}: split {split!r}: expected data.holdout above 0, got 0")
    codec = given_codec(settings) or _train_codec(settings, parts["train"], what)
    chosen = (whole if split == "all" else parts[split])[: settings.limit]
    rows = Ragged([encode_sentence(sentence, codec) for document in chosen for sentence in document])
    if len(rows) and not rows.lengths.all():
        raise DataError(f"{what} ({split}): expected sentences, got one without a token; remove it")
    return DocumentDataset(
        rows, [len(document) for document in chosen], settings.sequence_length, codec, name=config.name, split=split,
        notes=notes, **text_digests(settings, split, files or {"stories": STORY_COUNT}),
    )  # fmt: skip


def _train_codec(settings: TextDataConfig, documents: Documents, what: str) -> TextCodec:
    return build_codec(
        (sentence.replace(RARE, " ") for document in documents for sentence in document), unit="wordpiece",
        roles=BERT_ROLES, lowercase=settings.lowercase, min_count=settings.min_count, size=settings.vocabulary_size,
        what=what,
    )  # fmt: skip


def encode_sentence(text: str, codec: TextCodec, marks: dict[str, str] | None = None) -> list[int]:
    """Numbers of a sentence's tokens; words that stand for a special token become that token.

    Args:
        text: as written.
        codec: of the model.
        marks: word -> role of the special token; default: wikitext's <unk>.
    """
    roles = {RARE: UNKNOWN} if marks is None else marks
    numbers: list[int] = []
    for part in re.split(f"({'|'.join(map(re.escape, roles))})", text):
        numbers += [codec.special(roles[part])] if part in roles else codec.encode(part)
    return numbers


MASK_MARK = {"[MASK]": MASK}


@register(
    "wikitext2_articles", kind="documents", summary="the articles of wikitext-2, sentence by sentence, for BERT",
    needs="data.root with text/wikitext-2/{train,valid,test}.txt; without train.txt, valid.txt is trained on",
    splits=SPLITS,
)  # fmt: skip
def build_articles(config: DataConfig, split: str) -> ImageDataset:
    """Merity et al. 2016; each article is a document."""
    files = find_files(config, "wikitext-2", ["valid.txt", "test.txt"])
    train, notes = locate(files["valid.txt"].parent, "train.txt"), ()
    parts = {"val": read_articles(read_text(files["valid.txt"])), "test": read_articles(read_text(files["test.txt"]))}
    paths = list(files.values())
    if train is not None:
        parts["train"] = read_articles(read_text(train))
        paths.insert(0, train)
    else:
        parts["train"] = parts.pop("val")
        notes = ("train.txt is not there: valid.txt is trained on, and its last articles are the validation part",)
    return build_documents(config, split, parts, paths, notes)


@register(
    "documents", kind="documents",
    summary="your own: a UTF-8 file of documents between blank lines, the last tenth for testing",
    needs="data.root=FILE", splits=SPLITS,
)  # fmt: skip
def build_own_documents(config: DataConfig, split: str) -> ImageDataset:
    path = require_root(config, "a text file of documents")
    if not path.is_file():
        raise DataError(f"data set {config.name!r}: data.root={path}: expected a text file, got none; give its path")
    documents = read_documents(read_text(path))
    at = round(0.9 * len(documents))
    return build_documents(config, split, {"train": documents[:at], "test": documents[at:]}, [path])


@register("small_documents", kind="documents", summary="900 stories made by a grammar, each with a cast of its own",
          splits=SPLITS)  # fmt: skip
def build_small_documents(config: DataConfig, split: str) -> ImageDataset:
    made = stories(STORY_COUNT, seed=19)
    return build_documents(config, split, {"train": made[:700], "val": made[700:800], "test": made[800:]}, [])
