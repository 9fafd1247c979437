"""WordPiece (Schuster and Nakajima 2012; as in Devlin et al. 2019) by the tokenizers library, imported at first use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from genlab.errors import RunError


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise RunError(
            "data.unit=wordpiece: expected the package tokenizers, got none; pip install 'genlab[text]'"
        ) from None
    return tokenizers


def _tokenizer(model: Any, lowercase: bool) -> Any:
    tokenizers = _library()
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return tokenizer


def train_wordpiece(
    texts: Iterable[str], specials: Sequence[str], *, lowercase: bool, size: int, min_count: int
) -> list[str]:
    """The tokens of a vocabulary of about `size`, the special ones first; pieces inside of a word begin with "##".

    The library numbers the letters inside of words as its hash table happens to hold them, and settles ties between
    equally common pairs by these numbers: every process would find another vocabulary. Letters that are named
    beforehand, among the special tokens, keep their numbers, and the same text gives the same vocabulary.
    """
    tokenizers = _library()
    tokenizer = _tokenizer(tokenizers.models.WordPiece(unk_token=specials[1]), lowercase)
    texts = list(texts)
    letters = [f"##{letter}" for letter in _inner_letters(tokenizer, texts)]
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=min_count, special_tokens=[*specials, *letters], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    numbers = tokenizer.get_vocab()
    learnt = sorted((token for token in numbers if token not in specials), key=numbers.__getitem__)
    return [*specials, *learnt]


def _inner_letters(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """Every letter that stands behind another one in a word, sorted."""
    letters: set[str] = set()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
            letters.update(word[1:])
    return sorted(letters)


class WordPieceSplitter:
    """Splits words into the longest pieces of a vocabulary.

    Args:
        tokens: in order of their numbers.
        lowercase: whether capital letters become small ones and accents are taken off.
        unknown: what a word becomes that no pieces make.
    """

    def __init__(self, tokens: Sequence[str], lowercase: bool, unknown: str) -> None:
        vocabulary = {token: number for number, token in enumerate(tokens)}
        self._tokenizer = _tokenizer(_library().models.WordPiece(vocab=vocabulary, unk_token=unknown), lowercase)

    def encode(self, text: str) -> list[str]:
        return self._tokenizer.encode(text, add_special_tokens=False).tokens
