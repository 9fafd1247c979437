"""Masks: 15 % of the tokens, 80/10/10 by chi-square, special tokens never, whole words where asked, anew each epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genlab.data import build
from genlab.data.randomness import EpochKey
from genlab.data.text_base import IGNORED
from genlab.data.text_masking import MaskedPairs, Masking, TokenMasker
from genlab.data.text_vocabulary import TextCodec
from genlab.text_config import TextDataConfig

LENGTH = 48


@pytest.fixture(scope="module")
def documents():
    return build(TextDataConfig(name="small_documents", unit="wordpiece", sequence_length=LENGTH), "train")


def draws(documents, masking: Masking, epochs: int = 6):
    """(before, batch after) of every epoch."""
    indices = np.arange(len(documents))
    for epoch in range(epochs):
        key = EpochKey(11, epoch)
        yield documents.fetch(indices, key), MaskedPairs(documents, masking).fetch(indices, key)


def outcomes(documents, masking: Masking) -> dict[str, int]:
    mask = documents.codecs["tokens"].special("mask")
    count = {"mask": 0, "random": 0, "same": 0}
    for _, batch in draws(documents, masking):
        put = batch["tokens"].gather(1, batch["places"])[batch["target"] != IGNORED]
        target = batch["target"][batch["target"] != IGNORED]
        count["mask"] += int((put == mask).sum())
        count["same"] += int((put == target).sum())
        count["random"] += int(((put != mask) & (put != target)).sum())
    return count


def test_eighty_ten_ten_by_chi_square(documents):
    """A random token is the old one once in V times: what is expected of `same` counts that in."""
    count, ordinary = outcomes(documents, Masking()), len(documents.codecs["tokens"]) - 5
    total = sum(count.values())
    expected = {"mask": 0.8, "random": 0.1 * (1 - 1 / ordinary), "same": 0.1 * (1 + 1 / ordinary)}
    chi_square = sum((count[name] - total * share) ** 2 / (total * share) for name, share in expected.items())
    assert total > 20_000
    assert chi_square < 13.8, f"{count}: beyond one in a thousand for two degrees of freedom"


def test_random_tokens_are_uniform_over_the_ordinary_ones_by_chi_square(documents):
    codec = documents.codecs["tokens"]
    found = torch.zeros(len(codec))
    for _, batch in draws(documents, Masking(mask=0.0, random=1.0)):
        told = batch["target"] != IGNORED
        found += torch.bincount(batch["tokens"].gather(1, batch["places"])[told], minlength=len(codec))
    special = list(codec.specials.values())
    assert found[special].sum() == 0
    ordinary = np.delete(found.numpy(), special)
    expected = ordinary.mean()
    chi_square = float(((ordinary - expected) ** 2 / expected).sum())
    freedom = len(ordinary) - 1
    assert expected > 50 and abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5


def test_fifteen_in_a_hundred_tokens_are_told_of_every_sequence(documents):
    for before, batch in draws(documents, Masking(), epochs=2):
        told = (batch["target"] != IGNORED).sum(1)
        most = round(0.15 * LENGTH)
        expected = (0.15 * before["length"].double()).round().clamp(1, most)
        assert torch.equal(told.double(), expected)
        assert batch["places"].shape == batch["target"].shape == (len(documents), most)


@pytest.mark.parametrize("whole_word", [False, True])
def test_special_tokens_are_never_chosen_and_the_rest_stays(documents, whole_word):
    special = torch.tensor(list(documents.codecs["tokens"].specials.values()))
    for before, batch in draws(documents, Masking(whole_word=whole_word), epochs=2):
        told = batch["target"] != IGNORED
        assert not torch.isin(batch["target"][told], special).any()
        assert torch.equal(batch["target"][told], before["tokens"].gather(1, batch["places"])[told])
        rows = torch.arange(len(told))[:, None].expand_as(told)[told]
        pairs = torch.stack([rows, batch["places"][told]], 1)
        assert len(pairs) == len(pairs.unique(dim=0)), "a place is told once"
        untouched = before["tokens"].clone()
        untouched[rows, batch["places"][told]] = batch["tokens"][rows, batch["places"][told]]
        assert torch.equal(untouched, batch["tokens"])
        assert all(torch.equal(before[name], batch[name]) for name in ("segment", "length", "random_next"))


def test_every_ordinary_place_is_as_likely(documents):
    chosen, possible = torch.zeros(LENGTH), torch.zeros(LENGTH)
    special = torch.tensor(list(documents.codecs["tokens"].specials.values()))
    for before, batch in draws(documents, Masking(), epochs=8):
        full = before["length"] == LENGTH
        told = (batch["target"] != IGNORED) & full[:, None]
        chosen += torch.bincount(batch["places"][told], minlength=LENGTH)
        possible += (~torch.isin(before["tokens"], special) & full[:, None]).sum(0)
    places = possible > 1000
    shares = chosen[places] / possible[places]
    deviation = (shares.mean() * (1 - shares.mean()) / possible[places]).sqrt()
    assert places.sum() > 30 and ((shares - shares.mean()).abs() < 5 * deviation).all()


def test_masks_are_drawn_anew_in_every_epoch_and_the_same_for_one_seed(documents):
    indices, masked = np.arange(50), MaskedPairs(documents, Masking())
    first, again, later = (masked.fetch(indices, EpochKey(2, epoch))["places"] for epoch in (0, 0, 1))
    assert torch.equal(first, again) and (first != later).any(1).all()
    fixed = masked.fetch(indices)
    assert all(torch.equal(value, masked.fetch(indices)[name]) for name, value in fixed.items())


def words_codec() -> TextCodec:
    tokens = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "##s", "a", "house", "b")
    return TextCodec("wordpiece", tokens, True, {"pad": 0, "unknown": 1, "begin": 2, "end": 3, "mask": 4})


def test_whole_words_are_masked_with_all_their_pieces_or_not_at_all():
    row = [2, 5, 6, 7, 8, 9, 7, 3, 6, 8, 1, 5, 6, 10, 3, 0]  # play ##ing ##s | a | house ##s | ##ing (cut) | a | ...
    words = [{1, 2, 3}, {4}, {5, 6}, {8}, {9}, {11, 12}, {13}]
    batch = {"tokens": torch.tensor([row] * 400), "length": torch.full((400,), 15)}
    made = TokenMasker(words_codec(), Masking(share=0.3, whole_word=True))(batch, np.arange(400), EpochKey(0, 0))
    seen = set()
    for places, target in zip(made["places"], made["target"], strict=True):
        told = set(places[target != IGNORED].tolist())
        assert 1 <= len(told) <= round(0.3 * 15)
        assert all(word <= told or not word & told for word in words)
        seen |= {n for n, word in enumerate(words) if word <= told}
    assert seen == set(range(len(words)))


def test_single_pieces_may_be_masked_where_words_are_not_whole():
    row = [2, 5, 6, 7, 5, 6, 7, 5, 6, 7, 3, 3]
    batch = {"tokens": torch.tensor([row] * 50), "length": torch.full((50,), 12)}
    made = TokenMasker(words_codec(), Masking())(batch, np.arange(50), EpochKey(0, 0))
    assert any(set(p.tolist()) not in ({1, 2, 3}, {4, 5, 6}, {7, 8, 9}) for p in made["places"])


def test_a_sequence_of_unknown_words_has_nothing_to_tell():
    batch = {"tokens": torch.tensor([[2, 1, 3, 1, 3, 0, 0, 0]]), "length": torch.tensor([5])}
    for whole_word in (False, True):
        made = TokenMasker(words_codec(), Masking(whole_word=whole_word))(batch, np.arange(1), None)
        assert (made["target"] == IGNORED).all() and (made["places"] == 0).all()
        assert torch.equal(made["tokens"], batch["tokens"])
