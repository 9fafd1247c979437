"""Sets of documents: the articles of wikitext-2, files of one's own, and stories made by a grammar."""

from __future__ import annotations

import re
from pathlib import Path

from genlab.config import DataConfig
from genlab.data.base import ImageDataset
from genlab.data.catalogue import register, require_root
from genlab.data.text_base import Ragged
from genlab.data.text_documents import DocumentDataset
from genlab.data.text_files import find_files, locate, read_text, text_digests
from genlab.data.text_given import BERT_ROLES, given_codec
from genlab.data.text_grammar import stories
from genlab.data.text_vocabulary import UNKNOWN, TextCodec, build_codec
from genlab.errors import DataError
from genlab.text_config import TextDataConfig, as_text_config

SPLITS = ("train", "val", "test", "all")
STORY_COUNT = 900
RARE = "<unk>"  # how wikitext marks words that it leaves out
Documents = list[list[str]]

_TITLE = re.compile(r" = [^=].* = ")
_HEADING = re.compile(r" = = .* = = ")
_JOINED = re.compile(r" @([-.,])@ ")
_TOKENISED_END = re.compile(r"(?<= [.!?]) (?! ?[\"')])|(?<= [.!?] [\"')]) ")
_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(\[]?[A-Z0-9])")


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
    return [document for document in documents if document]


def read_documents(text: str) -> Documents:
    """Documents between blank lines, of a sentence or a paragraph a line."""
    documents: Documents = [[]]
    for line in text.split("\n"):
        if line.strip():
            documents[-1] += split_sentences(line)
        else:
            documents.append([])
    return [document for document in documents if document]


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
