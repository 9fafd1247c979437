"""Text for word2vec: unknown words go before windows are laid, lines stay apart, blocks are the text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genlab import data
from genlab.data.randomness import EpochKey
from genlab.data.word_blocks import BlockStream, WordBlocks, join_blocks
from genlab.errors import DataError
from genlab.text_config import TextDataConfig


def own_text(tmp_path, content: str, **settings) -> WordBlocks:
    path = tmp_path / "text.txt"
    path.write_text(content)
    block_words = settings.pop("block_words", 10_000)
    values = {"name": "text", "root": path, "vocabulary_part": "split", "sequence_length": 1, **settings}
    return WordBlocks(data.build(TextDataConfig(**values), "all"), block_words)


def words_of(blocks: WordBlocks, names: str) -> list[str]:
    """The text by the names of its words, a bar between sentences."""
    ends = set(blocks.starts[1:-1].tolist())
    return "".join(("|" if at in ends else "") + names[word] for at, word in enumerate(blocks.words))


def test_rare_words_and_marks_of_the_corpus_are_deleted_and_lines_stay_apart(tmp_path):
    blocks = own_text(tmp_path, "a b x a\n\na <unk> b a\ny\nb\n", min_count=2)
    assert words_of(blocks, "ab") == "aba|aba|b"
    assert blocks.counts.tolist() == [4, 3]


def test_lines_of_more_than_a_thousand_words_are_cut(tmp_path):
    blocks = own_text(tmp_path, "a " * 2500 + "\n" + "b " * 1000 + "\nb\n")
    assert blocks.starts.tolist() == [0, 1000, 2000, 2500, 3500, 3501]


@pytest.mark.parametrize("block_words", [1, 7, 50, 10_000])
def test_blocks_one_after_another_are_the_text(tmp_path, block_words):
    lines = "\n".join("abcdefgh"[i % 8] + " a" * (i % 5) for i in range(60))
    blocks = own_text(tmp_path, lines, block_words=block_words)
    parts = [blocks.fetch(np.array([i]), EpochKey(3, 1)) for i in range(len(blocks))]
    assert torch.equal(torch.cat([part["words"] for part in parts]), torch.from_numpy(blocks.words))
    starts = torch.cat([part["starts"][:-1] + part["position"] for part in parts])
    assert starts.tolist() == blocks.starts[:-1].tolist()
    assert {int(part["key"]) for part in parts} == {int(join_blocks(blocks, EpochKey(3, 1))["key"])}
    longest = max(len(part["words"]) for part in parts)
    assert longest < block_words + 5  # a sentence is never cut for a block


def test_sentences_of_a_classified_set_are_lines_too():
    config = TextDataConfig(name="small_reviews")
    dataset = data.build(config)
    blocks = WordBlocks(dataset, 500)
    assert len(blocks.starts) - 1 == len(dataset)
    assert len(blocks.words) == int(dataset.lengths.sum())


def test_the_stream_takes_blocks_in_order_pass_after_pass_and_goes_on_anywhere(tmp_path):
    blocks = own_text(tmp_path, "a b c\n" * 40, block_words=30)
    stream = BlockStream(blocks, seed=5, rank=1, world_size=2)
    taken = [next(stream) for _ in range(9)]
    assert [int(batch["position"]) for batch in taken] == [0, 30, 60, 90] * 2 + [0]
    assert len({int(batch["key"]) for batch in taken}) == 3  # one a pass
    again = BlockStream(blocks, seed=5)
    again.load_state_dict({**again.state_dict(), "batches_consumed": 6})
    for batch in taken[6:]:
        for name, value in next(again).items():
            assert torch.equal(value, batch[name]), name


def test_the_vocabulary_of_a_split_is_its_own_and_the_default_keeps_old_digests(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("old words\n" * 50 + "new words\n" * 10)
    sets = {
        vocabulary: data.build(
            TextDataConfig(name="text", root=path, vocabulary_part=vocabulary, sequence_length=2), "all"
        )
        for vocabulary in ("train", "split")
    }
    assert "new" not in sets["train"].codecs["tokens"].numbers
    assert "new" in sets["split"].codecs["tokens"].numbers
    assert sets["train"].contents != sets["split"].contents


def test_a_text_of_unknown_words_only_is_told(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a a\n" * 90 + "b b\n" * 10)
    test = data.build(TextDataConfig(name="text", root=path, sequence_length=1), "test")
    with pytest.raises(DataError, match=r"'text' \(test\): expected words that the vocabulary has, got none"):
        WordBlocks(test, 100)
    with pytest.raises(DataError, match="expected tokens that occur 500 times, got none; lower data.min_count"):
        own_text(tmp_path, "a a\n", min_count=500)
    with pytest.raises(DataError, match="expected a text or sentences, got tagged"):
        WordBlocks(data.build(TextDataConfig(name="small_tags")), 100)
