"""Codecs: what is split comes together again, what was not trained on is unknown, other vocabularies are refused."""

from __future__ import annotations

import pytest

from genlab.data.text_vocabulary import (
    BEGIN,
    END,
    MASK,
    PAD,
    UNKNOWN,
    TextCodec,
    build_codec,
    join_words,
    require_same_codec,
    split_words,
)
from genlab.errors import DataError, UserError

TEXTS = ["the dog sees the cat .", "the cat sleeps .", "a dog sleeps"]


def words(**settings) -> TextCodec:
    return build_codec(TEXTS, **{"unit": "word", "roles": (PAD, UNKNOWN), **settings})


def test_typed_and_split_text_give_the_same_words():
    assert split_words("It's good, isn't it?") == split_words("It 's good , is n't it ?")
    assert split_words("It's good, isn't it?") == ["It", "'s", "good", ",", "is", "n't", "it", "?"]
    assert split_words("well-made… (really)") == ["well", "-", "made", "…", "(", "really", ")"]


def test_words_are_joined_as_a_person_writes_them():
    assert join_words(["It", "'s", "good", ",", "is", "n't", "it", "?"]) == "It's good, isn't it?"


def test_tokens_are_ranked_by_how_often_they_occur_after_the_special_ones():
    codec = words()
    assert codec.tokens[:3] == ("<pad>", "<unk>", "the")
    assert codec.encode("the DOG flies") == [2, codec.numbers["dog"], codec.special(UNKNOWN)]
    assert codec.decode(codec.encode("the cat sees a dog.")) == "the cat sees a dog."


def test_rare_tokens_and_those_beyond_the_size_are_unknown():
    assert "sees" not in words(min_count=2).tokens
    assert len(words(size=3)) == 5


def test_a_marked_unknown_word_is_the_special_one_not_another_token():
    codec = build_codec(["a <unk> b", "<unk> <unk>"], unit="whitespace", roles=(PAD, UNKNOWN, END))
    assert codec.tokens.count("<unk>") == 1
    assert codec.encode("<unk> a") == [codec.special(UNKNOWN), codec.numbers["a"]]


def test_a_character_that_the_model_does_not_know_is_named():
    codec = build_codec(["to be"], unit="character", roles=(), lowercase=False)
    assert codec.decode(codec.encode("bet")) == "bet"
    with pytest.raises(UserError, match=r"character: expected one of the 5 .*got '€', 'x'"):
        codec.encode("be €x€")


def test_a_vocabulary_without_an_unknown_token_must_hold_all():
    with pytest.raises(DataError, match=r"data\.min_count=1"):
        build_codec(["aab"], unit="character", roles=(), min_count=2)
    with pytest.raises(DataError, match="got none; lower data.min_count"):
        words(min_count=50)


def test_a_codec_survives_a_checkpoint():
    codec = words(lowercase=False)
    again = TextCodec.from_dict(codec.to_dict())
    assert again == codec and again.digest == codec.digest


def test_another_vocabulary_is_refused_with_what_differs():
    with pytest.raises(DataError, match="2 of them new"):
        require_same_codec(words(), build_codec([*TEXTS, "two birds"], unit="word", roles=(PAD, UNKNOWN)), "test.tsv")
    with pytest.raises(DataError, match="word lower case, got word as written"):
        require_same_codec(words(), words(lowercase=False), "test.tsv")
    require_same_codec(words(), words(), "test.tsv")


def test_wordpiece_splits_words_into_pieces_that_decode_to_the_text():
    pytest.importorskip("tokenizers")
    texts = ["playing played plays player", "sing singing singer", "the cat is playing"] * 5
    roles = (PAD, UNKNOWN, BEGIN, END, MASK)
    codec = build_codec(texts, unit="wordpiece", roles=roles, size=40)
    assert codec.tokens[:5] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert len(codec) <= 40
    assert any(token.startswith("##") for token in codec.tokens)
    assert codec.decode(codec.encode("The singer plays")) == "the singer plays"
    assert codec.encode("Ω") == [codec.special(UNKNOWN)]
    assert TextCodec.from_dict(codec.to_dict()).encode("played") == codec.encode("played")
