"""Streams of text: every sentence once an epoch, little padding; rows that go on where they were; exact resuming."""

from __future__ import annotations

import pytest
import torch

from genlab.data import build
from genlab.data.text_streams import ContiguousStream, LengthStream
from genlab.errors import UserError
from genlab.text_config import TextDataConfig


@pytest.fixture(scope="module")
def sentences():
    return build(TextDataConfig(name="small_reviews", limit=200))


@pytest.fixture(scope="module")
def story():
    return build(TextDataConfig(name="small_stories", unit="character", sequence_length=20, limit=4000))


def take(stream, count):
    return [next(stream) for _ in range(count)]


def test_an_epoch_holds_every_sentence_once_and_little_padding(sentences):
    stream = LengthStream(sentences, 20, bucket_batches=10, seed=3)
    batches = take(stream, 10)
    seen = sorted(int(length) for batch in batches for length in batch["length"])
    assert seen == sorted(sentences.lengths.tolist())
    padding = sum(int(b["tokens"].numel() - b["length"].sum()) for b in batches)
    plain = LengthStream(sentences, 20, bucket_batches=1, seed=3)
    assert padding < 0.3 * sum(int(b["tokens"].numel() - b["length"].sum()) for b in take(plain, 10))
    again = take(stream, 10)
    assert any(not torch.equal(a["tokens"], b["tokens"]) for a, b in zip(batches, again, strict=True))


def test_two_processes_share_what_one_sees(sentences, story):
    for kind, data in ((LengthStream, sentences), (ContiguousStream, story)):
        one = take(kind(data, 8, seed=1), 4)
        parts = [take(kind(data, 8, seed=1, rank=rank, world_size=2), 4) for rank in range(2)]
        key = "length" if kind is LengthStream else "tokens"
        for whole, *halves in zip(one, *parts, strict=True):
            assert torch.equal(torch.cat([half[key] for half in halves]), whole[key])


def test_rows_go_on_where_they_were_and_say_when_they_begin_anew(story):
    stream = ContiguousStream(story, 6, seed=2)
    batches = take(stream, stream.batches_per_epoch + 1)
    for before, after in zip(batches[:-2], batches[1:-1], strict=True):
        assert torch.equal(before["tokens"][:, -1], after["tokens"][:, 0])
    assert [bool(batch["fresh"].all()) for batch in batches] == [True] + [False] * (len(batches) - 2) + [True]


@pytest.mark.parametrize("kind", [LengthStream, ContiguousStream])
def test_a_position_is_gone_back_to_exactly(kind, sentences, story):
    data = sentences if kind is LengthStream else story
    stream = kind(data, 8, seed=5)
    take(stream, 30)
    state, rest = stream.state_dict(), take(stream, 5)
    other = kind(data, 8, seed=5)
    other.load_state_dict(state)
    for mine, its in zip(rest, take(other, 5), strict=True):
        assert all(torch.equal(mine[name], its[name]) for name in mine)


def test_more_rows_than_windows_are_refused(story):
    with pytest.raises(UserError, match=r"data\.batch_size: expected at most \d+, the windows of 20 tokens"):
        ContiguousStream(story, 4001, seed=0)
