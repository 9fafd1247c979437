"""From text to numbers and back: words, characters or WordPiece, with the vocabulary of the training part.

A codec is what a model of text needs beside its weights, so it lies in every checkpoint (`DataSpec.codecs`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from genlab.errors import DataError, UserError

PAD, UNKNOWN, BEGIN, END, MASK = "pad", "unknown", "begin", "end", "mask"
_NAMES = {PAD: "<pad>", UNKNOWN: "<unk>", BEGIN: "<bos>", END: "<eos>", MASK: "<mask>"}
# WordPiece's own names, with BERT's use of them: [CLS] begins a sequence, [SEP] ends a sentence (Devlin et al. 2019).
_WORDPIECE_NAMES = {PAD: "[PAD]", UNKNOWN: "[UNK]", BEGIN: "[CLS]", END: "[SEP]", MASK: "[MASK]"}
UNITS = ("word", "whitespace", "character", "wordpiece")

# English clitics stand alone, as in the Penn Treebank (do n't, it 's), so that typed text falls into the same tokens
# as the sets that come split; every other mark is a token of its own.
_WORD = re.compile(r"[^\W_]+(?=n't\b)|n't\b|'(?:s|ve|re|d|ll|m)\b|[^\W_]+|\.\.\.|[^\w\s]|_")
_NO_SPACE_BEFORE = re.compile(r"\s+([.,!?;:)\]%]|n't\b|'(?:s|ve|re|d|ll|m)\b)")
_NO_SPACE_AFTER = re.compile(r"([(\[$])\s+")
_HYPHEN = re.compile(r"(?<=\w) - (?=\w)")


def split_words(text: str) -> list[str]:
    """Words, clitics and marks: "It's good, isn't it?" gives it 's good , is n't it ? (case kept)."""
    return _WORD.findall(text)


def join_words(words: Iterable[str]) -> str:
    """Words as a person writes them: no space before a full stop or a clitic, none around a hyphen."""
    return _HYPHEN.sub("-", _NO_SPACE_AFTER.sub(r"\1", _NO_SPACE_BEFORE.sub(r"\1", " ".join(words))))


@dataclass(frozen=True)
class TextCodec:
    """A vocabulary and the rule by which text is split.

    Attributes:
        unit: "word", "whitespace", "character" or "wordpiece".
        tokens: token of each number.
        lowercase: whether capital letters become small ones first.
        specials: role ("pad", "unknown", "begin", "end", "mask") -> number, for the roles that this vocabulary has.
    """

    unit: str
    tokens: tuple[str, ...]
    lowercase: bool = False
    specials: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each token."""
        return {token: number for number, token in enumerate(self.tokens)}

    @cached_property
    def digest(self) -> str:
        """Hex digest of the tokens and the rule: equal only where encoded text means the same."""
        facts = "\0".join([self.unit, str(self.lowercase), str(sorted(self.specials.items())), *self.tokens])
        return hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest()

    def special(self, role: str) -> int:
        """Number of the special token of a role; asking for one that the vocabulary lacks is a programming error."""
        return self.specials[role]

    def split(self, text: str) -> list[str]:
        """Tokens of a text, whether or not the vocabulary has them."""
        return _split(text, self.unit, self.lowercase) if self.unit != "wordpiece" else self._wordpiece.encode(text)

    def encode(self, text: str) -> list[int]:
        """Numbers of a text's tokens, without special ones around them.

        Raises:
            UserError: a token that is not in a vocabulary without an "unknown" one.
        """
        unknown = self.specials.get(UNKNOWN)
        numbers = [self.numbers.get(token, unknown) for token in self.split(text)]
        if unknown is None and None in numbers:
            raise UserError(self._strange(text))
        return numbers  # type: ignore[return-value]  # None was refused

    def _strange(self, text: str) -> str:
        strange = list(dict.fromkeys(token for token in self.split(text) if token not in self.numbers))
        kind = "character" if self.unit == "character" else "word"
        known = f"the {len(self.tokens)} that the model was trained on"
        if kind == "character":
            known = f"one of the {len(self.tokens)} that the model was trained on ({''.join(self.tokens)!r})"
        return f"{kind}: expected {known}, got {', '.join(repr(token) for token in strange[:5])}"

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of tokens; padding, beginning and end are left out."""
        silent = {self.specials[role] for role in (PAD, BEGIN, END) if role in self.specials}
        tokens = [self.tokens[number] for number in numbers if number not in silent]
        if self.unit == "character":
            return "".join(tokens)
        if self.unit == "wordpiece":
            return join_words(" ".join(tokens).replace(" ##", "").split())
        return join_words(tokens) if self.unit == "word" else " ".join(tokens)

    def to_dict(self) -> dict[str, Any]:
        """JSON values that `from_dict` reads."""
        tokens = list(self.tokens)
        return {"unit": self.unit, "lowercase": self.lowercase, "specials": dict(self.specials), "tokens": tokens}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TextCodec:
        return cls(values["unit"], tuple(values["tokens"]), values["lowercase"], dict(values["specials"]))

    @cached_property
    def _wordpiece(self) -> Any:
        from genlab.data.text_wordpiece import WordPieceSplitter

        return WordPieceSplitter(self.tokens, self.lowercase, self.tokens[self.special(UNKNOWN)])


def _split(text: str, unit: str, lowercase: bool) -> list[str]:
    text = text.lower() if lowercase else text
    if unit == "character":
        return list(text)
    return split_words(text) if unit == "word" else text.split()


def special_tokens(unit: str, roles: Sequence[str]) -> list[str]:
    """Names of the special tokens of those roles, in their order."""
    names = _WORDPIECE_NAMES if unit == "wordpiece" else _NAMES
    return [names[role] for role in roles]


def build_codec(
    texts: Iterable[str],
    *,
    unit: str,
    roles: Sequence[str],
    lowercase: bool = True,
    min_count: int = 1,
    size: int | None = None,
    what: str = "text",
) -> TextCodec:
    """The vocabulary of a training part.

    Args:
        texts: of the training part only: what stands nowhere but in the test part must be unknown.
        unit: "word", "whitespace", "character" or "wordpiece".
        roles: special tokens, which come first, in this order.
        lowercase: capital letters become small ones.
        min_count: rarer tokens are left out; needs the role "unknown".
        size: most tokens, special ones not counted; the commonest stay. Of WordPiece: the size it is trained to.
        what: is named in errors.

    Raises:
        DataError: no tokens, or tokens left out of a vocabulary without "unknown".
    """
    names = special_tokens(unit, roles)
    if unit == "wordpiece":
        from genlab.data.text_wordpiece import train_wordpiece

        tokens = train_wordpiece(texts, names, lowercase=lowercase, size=size or 8000, min_count=min_count)
    else:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_split(text, unit, lowercase))
        for name in names:
            counts.pop(name, None)  # corpora that mark rare words as <unk> mean the special token
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        kept = [token for token, count in ranked if count >= min_count][:size]
        if len(kept) < len(ranked) and UNKNOWN not in roles:
            raise DataError(
                f"{what}: expected data.min_count=1 and data.vocabulary_size=null, as every {unit} must have a number, "
                f"got {len(ranked) - len(kept)} left out"
            )
        tokens = names + kept
    if len(tokens) == len(names):
        raise DataError(f"{what}: expected tokens that occur {min_count} times, got none; lower data.min_count")
    return TextCodec(unit, tuple(tokens), lowercase, {role: number for number, role in enumerate(roles)})


def require_same_codec(mine: TextCodec, other: TextCodec, what: str) -> None:
    """Refuses data whose numbers mean other tokens than the model's.

    Raises:
        DataError: another vocabulary; says how they differ.
    """
    if mine.digest == other.digest:
        return
    if (mine.unit, mine.lowercase) != (other.unit, other.lowercase):
        cases = ["as written" if not codec.lowercase else "lower case" for codec in (mine, other)]
        how = f"{mine.unit} {cases[0]}, got {other.unit} {cases[1]}"
    else:
        new = sum(token not in mine.numbers for token in other.tokens)
        how = f"{len(mine)} tokens, got {len(other)}, {new} of them new"
    raise DataError(
        f"{what}: expected the vocabulary of the model ({how}); give the data that it was trained on, unchanged"
    )
