"""Vocabularies that are given: a model's own, out of its checkpoint, or a file `vocab.txt` as BERT's are published."""

from __future__ import annotations

from pathlib import Path

from genlab.data.text_vocabulary import BEGIN, END, MASK, PAD, UNKNOWN, TextCodec, special_tokens
from genlab.errors import CheckpointError, DataError
from genlab.text_config import TextDataConfig

KEY = "data.vocabulary"
BERT_ROLES = (PAD, UNKNOWN, BEGIN, END, MASK)


def given_codec(config: TextDataConfig) -> TextCodec | None:
    """The codec at hand or that `data.vocabulary` names; None where neither is.

    Raises:
        DataError: nothing there that has a vocabulary, or one of another unit or case than the data section says.
    """
    if config.codec is not None:
        return config.codec
    if config.vocabulary is None:
        return None
    codec = read_codec(config.vocabulary, config.lowercase)
    for key, expected, got in (("unit", codec.unit, config.unit), ("lowercase", codec.lowercase, config.lowercase)):
        if expected != got:
            raise DataError(
                f"data.{key}: expected {str(expected).lower()}, as the vocabulary of {config.vocabulary} has it, got "
                f"{str(got).lower()}; set data.{key}={str(expected).lower()}"
            )
    return codec


def read_codec(path: Path, lowercase: bool = True) -> TextCodec:
    """The codec of a run, a checkpoint, or of a `vocab.txt` (one token a line, WordPiece, as published with BERT).

    Args:
        path: of it.
        lowercase: whether a `vocab.txt` is of small letters; checkpoints say so themselves.

    Raises:
        DataError: no such file, or no vocabulary in it.
    """
    if path.suffix == ".txt":
        return _read_vocabulary_file(path, lowercase)
    from genlab.checkpoint import find_checkpoint, read_state

    try:
        state = read_state(find_checkpoint(path))
    except CheckpointError as error:
        raise DataError(f"{KEY}: {error}") from None
    codecs = state["data"].get("codecs") or {}
    if "tokens" not in codecs:
        raise DataError(
            f"{KEY}: {path}: expected a model of one vocabulary of text, got one of {state['algorithm']}; give the run "
            "of a model of text"
        )
    return TextCodec.from_dict(codecs["tokens"])


def _read_vocabulary_file(path: Path, lowercase: bool) -> TextCodec:
    try:
        tokens = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{KEY}: {path}: cannot be read ({error})") from None
    tokens = tokens[:-1] if tokens[-1] == "" else tokens
    places = {token: number for number, token in enumerate(tokens)}
    names = special_tokens("wordpiece", BERT_ROLES)
    missing = [name for name in names if name not in places]
    if missing or len(places) != len(tokens):
        what = f"no {', '.join(missing)}" if missing else "a token twice"
        raise DataError(f"{KEY}: {path}: expected a token a line, [PAD] [UNK] [CLS] [SEP] [MASK] too, got {what}")
    specials = {role: places[name] for role, name in zip(BERT_ROLES, names, strict=True)}
    return TextCodec("wordpiece", tuple(tokens), lowercase, specials)


def refuse_given(config: TextDataConfig) -> None:
    """Refuses `data.vocabulary` where a set always has the vocabulary of its training part.

    Raises:
        DataError: it is given.
    """
    if config.vocabulary is not None:
        raise DataError(
            f"{KEY}: expected a data set of sentences or documents, got {config.name!r}, with its own; leave it out"
        )
