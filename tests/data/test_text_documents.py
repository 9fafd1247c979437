"""Pairs of segments: they fill the sequence, follow or come from elsewhere half of the time, drawn by the seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from genlab.data import build, iterate
from genlab.data.randomness import EpochKey
from genlab.data.text_base import Ragged
from genlab.data.text_document_sets import encode_sentence, read_articles, read_documents, split_sentences
from genlab.data.text_documents import DocumentDataset
from genlab.data.text_grammar import BEINGS, THINGS, stories
from genlab.data.text_vocabulary import TextCodec
from genlab.errors import DataError
from genlab.text_config import TextDataConfig

ROOT = Path(__file__).resolve().parents[2]
LENGTH = 40


def documents(name: str = "small_documents", split: str = "train", **settings):
    values = {"unit": "wordpiece", "sequence_length": LENGTH, **settings}
    return build(TextDataConfig(name=name, **values), split)


@pytest.fixture(scope="module")
def made():
    return documents()


def test_a_pair_is_cls_first_sep_second_sep_with_its_segments_and_padding(made):
    codec = made.codecs["tokens"]
    begin, end, pad = (codec.special(role) for role in ("begin", "end", "pad"))
    batch = made.fetch(np.arange(200), EpochKey(3, 0))
    for tokens, segment, length in zip(batch["tokens"], batch["segment"], batch["length"], strict=True):
        inside = tokens[:length]
        ends = (inside == end).nonzero().flatten().tolist()
        assert inside[0] == begin and (inside == begin).sum() == 1
        assert len(ends) == 2 and ends[1] == length - 1 and 1 < ends[0] < length - 2, "neither segment is empty"
        assert (tokens[length:] == pad).all() and (inside != pad).all()
        assert segment.tolist() == [0] * (ends[0] + 1) + [1] * (int(length) - ends[0] - 1) + [0] * (
            LENGTH - int(length)
        )


def test_half_of_the_second_segments_follow_and_half_come_from_another_document():
    """Token d * 1000 + k is the k-th of document d; 4,000 pairs: a fair coin lies within 4 deviations of a half."""
    counts, rows = [3, 10, 40, 25], []
    for document, count in enumerate(counts):
        numbers = iter(range(1000))
        rows += [[5 + document * 1000 + next(numbers) for _ in range(3 + n % 5)] for n in range(count)]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(str(number) for number in range(4000))]
    codec = TextCodec("wordpiece", tuple(names), True, {"pad": 0, "unknown": 1, "begin": 2, "end": 3, "mask": 4})
    facts = {"name": "x", "split": "train", "fingerprint": "", "contents": ""}
    dataset, follows, total = DocumentDataset(Ragged(rows), counts, LENGTH, codec, **facts), 0, 0
    for epoch in range(4000 // len(dataset)):
        batch = dataset.fetch(np.arange(len(dataset)), EpochKey(1, epoch))
        for tokens, segment, length, random_next in zip(*(batch[n].numpy() for n in batch), strict=True):
            parts = [[t - 5 for t in tokens[:length][segment[:length] == side] if t > 4] for side in (0, 1)]
            documents = [{number // 1000 for number in part} for part in parts]
            assert all(len(one) == 1 for one in documents)
            assert all(part == list(range(part[0], part[-1] + 1)) for part in parts), "each is one piece of text"
            assert (documents[0] == documents[1]) == (random_next == 0)
            assert random_next or parts[1][0] > parts[0][-1], "what follows comes later"
            follows, total = follows + int(random_next == 0), total + 1
    assert total > 3500 and abs(follows - total / 2) < 4 * (total / 4) ** 0.5


def test_pairs_fill_the_sequence_but_for_one_in_ten_and_the_ends_of_documents(made):
    full = [
        documents(name="small_documents", sequence_length=16).fetch(np.arange(500), EpochKey(0, e)) for e in range(4)
    ]
    share = torch.cat([batch["length"] for batch in full]).eq(16).double().mean()
    assert 0.7 < share < 0.92


def test_an_epoch_draws_other_pairs_and_the_same_ones_for_the_same_seed(made):
    indices = np.arange(100)
    first, again, other, next_epoch = (
        made.fetch(indices, EpochKey(*key))["tokens"] for key in ((5, 0), (5, 0), (6, 0), (5, 1))
    )
    assert torch.equal(first, again)
    assert (first != other).any(1).float().mean() > 0.9 and (first != next_epoch).any(1).float().mean() > 0.9
    fixed = made.fetch(indices)
    assert torch.equal(fixed["tokens"], made.fetch(indices)["tokens"])
    assert torch.equal(fixed["tokens"][7:8], made.fetch(indices[7:8])["tokens"]), "whatever else is in the batch"
    assert 30 < int(fixed["random_next"].sum()) < 70


def test_a_pass_shows_nearly_every_sentence(made):
    shown = {int(token) for batch in iterate(made, 64) for token in batch["tokens"].flatten()}
    assert shown >= set(made._flat.tolist())


def test_a_sentence_longer_than_the_sequence_is_cut_on_either_side(tmp_path):
    path = tmp_path / "own.txt"
    words = " ".join(f"w{n}" for n in range(60))
    path.write_text("\n\n".join(f"{words}\n{words}" for _ in range(40)))
    dataset = documents("documents", root=path, sequence_length=20)
    batch = dataset.fetch(np.arange(len(dataset)), EpochKey(0, 0))
    assert int(batch["length"].max()) == 20
    kept = (batch["segment"] == 1).sum(1)[batch["length"] == 20] - 1
    assert set(kept.tolist()) == {8}, "the 17 places are shared, the odd one goes to the first"
    assert len({tuple(row.tolist()) for row in batch["tokens"]}) > 5


def test_stories_keep_to_their_cast():
    for story in stories(50, seed=19):
        nouns = [noun for noun in (*BEINGS, *THINGS) if noun.one not in ("light", "dream")]  # verbs too
        words = set(" ".join(story).split())
        assert sum(bool({noun.one, noun.many} & words) for noun in nouns) <= 4
        assert 8 <= len(story) <= 15


def test_articles_are_read_without_headings_and_marks_of_the_splitter():
    text = " \n = Title = \n \n It is red @-@ tipped . 0 @.@ 7 m . \n\n = = Part = = \n\n H. americanus <unk> ! \n\n"
    text += " = Next = \n\n One . "
    assert read_articles(text) == [["It is red-tipped .", "0.7 m .", "H. americanus <unk> !"], ["One ."]]


def test_paragraphs_are_split_into_sentences_and_documents_at_blank_lines():
    assert split_sentences('He came. "Why?" she said. It was 3.5 m.') == [
        "He came.",
        '"Why?" she said.',
        "It was 3.5 m.",
    ]
    assert read_documents("One. Two.\nthree\n\n\nFour.\n") == [["One.", "Two.", "three"], ["Four."]]


def test_rare_words_of_wikitext_are_the_unknown_token(made):
    codec = made.codecs["tokens"]
    assert encode_sentence("the <unk> sleeps", codec)[1] == codec.special("unknown")
    assert len(encode_sentence("the <unk> sleeps", codec)) == 3


def test_the_articles_of_wikitext_are_read_whole(shared_data):
    parts = {
        split: documents("wikitext2_articles", split, root=shared_data, vocabulary_size=2000, min_count=2)
        for split in ("train", "val")
    }
    assert {split: part.documents for split, part in parts.items()} == {"train": 54, "val": 6}
    assert "valid.txt is trained on" in parts["train"].notes[0]
    train = parts["train"]
    assert len(train.codecs["tokens"]) == 2000 and train.codecs["tokens"].tokens[:5] == (
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    )  # fmt: skip
    assert 0.02 < (train._flat == 1).mean() < 0.08, "words that wikitext leaves out"


def test_the_vocabulary_is_the_same_in_every_process():
    """The library's own order is that of a hash table with a seed of the process."""
    program = (
        "import hashlib; from genlab.data.text_grammar import scenes; from genlab.data.text_wordpiece import *;"
        "v = train_wordpiece((' '.join(s.german) for s in scenes(400, 3)), ['[PAD]', '[UNK]'], lowercase=True, "
        "size=300, min_count=1); print(len(v), hashlib.sha256('|'.join(v).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    jobs = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    found = {job.communicate(timeout=120)[0] for job in jobs}
    assert len(found) == 1 and all(len(line.split()) == 2 for line in found)


def test_given_vocabularies_are_read_from_files(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[unused0]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ndog\n##s\n")
    dataset = documents(vocabulary=path)
    codec = dataset.codecs["tokens"]
    assert codec.encode("the dogs zzz") == [6, 7, 8, 2] and codec.special("mask") == 5
    before = documents().fingerprint
    assert dataset.fingerprint != before
    path.write_text(path.read_text() + "bird\n")
    assert documents(vocabulary=path).fingerprint != dataset.fingerprint, "what the tokens are counts, not the path"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "word"}, "data.unit: expected wordpiece, got word"),
        ({"sequence_length": 4}, "data.sequence_length: expected at least 5, got 4"),
        ({"limit": 1}, "expected at least 2 documents of 2 sentences"),
        ({"name": "documents"}, "data.root: expected a text file of documents, got nothing"),
        ({"name": "documents", "root": "nowhere.txt"}, "expected a text file, got none"),
        ({"vocabulary": "nowhere"}, "data.vocabulary: checkpoint nowhere: no such file or folder"),
        ({"vocabulary": "nowhere.txt"}, "data.vocabulary: nowhere.txt: cannot be read"),
    ],
)
def test_settings_that_will_not_do_are_refused_in_one_line(settings, message):
    with pytest.raises(DataError, match=message) as failure:
        documents(**settings)
    assert "\n" not in str(failure.value)


def test_vocabulary_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n")
    with pytest.raises(DataError, match=r"expected a token a line, .* got no \[MASK\]"):
        documents(vocabulary=path)
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nthe\n")
    with pytest.raises(DataError, match="got a token twice"):
        documents(vocabulary=path)
    with pytest.raises(DataError, match="expected a data set of sentences or documents, got 'small_stories'"):
        documents("small_stories", vocabulary=path)
