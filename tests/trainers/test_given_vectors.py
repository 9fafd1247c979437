"""Word vectors that models of text begin with: one key for all of them, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genlab import data
from genlab.checkpoint import load_bundle
from genlab.config import load_config
from genlab.data.text_vocabulary import TextCodec
from genlab.errors import ConfigError, DataError
from genlab.trainers import ALGORITHMS, DataSpec, train
from genlab.word_vectors import WordVectors, load_vectors

QUIET = ["train.steps=1", "train.tensorboard=false", "evaluate.metrics=[]", "optimizer.lr=0.1"]
# configuration, key of the section, network, where the words' vectors are in it, and settings that it needs
CASES = {
    "tagger": ("tagger_tiny", "model", "tagger", "embedding", []),
    "recurrent": ("language_model_tiny", "model", "model", "embedding", ["data.unit=word"]),
    "feedforward": ("language_model_tiny", "model", "model", "embedding",
                    ["data.unit=word", "model.network=feedforward"]),
    "causal": ("transformer_tiny", "model", "model", "embedding", ["data.unit=word"]),
    "captioning": ("captioning_tiny", "model", "captioner", "words", []),
    "source": ("seq2seq_tiny", "model.source", "translator", "source", []),
    "target": ("seq2seq_tiny", "model.target", "translator", "target", []),
    "transformer source": ("seq2seq_tiny", "model.source", "translator", "source", ["model.network=transformer"]),
    "transformer target": ("seq2seq_tiny", "model.target", "translator", "target", ["model.network=transformer"]),
}  # fmt: skip


def begun(name: str, path: Path, channels: str, *more: str):
    """(trainer that began with vectors of every second word, number -> its vector, its table, batches)."""
    config_name, key, network, table, needs = CASES[name]
    config = load_config(config_name, [*QUIET, *needs, *more])
    dataset = data.build(config.data)
    spec = DataSpec.of(dataset)
    codec = TextCodec.from_dict(spec.codecs.get(table) or next(iter(spec.codecs.values())))
    given = {n: token for n, token in enumerate(codec.tokens) if n not in codec.specials.values() and n % 2}
    vectors = torch.randn(len(given), config.model.embedding)
    WordVectors(tuple(given.values()), vectors).save_text(path)
    config = load_config(config_name, [*QUIET, *needs, *more, f"{key}.vectors={path}", f"{key}.channels={channels}"])
    trainer = ALGORITHMS.get(config.algorithm)(config, spec)
    trainer.begin()
    stream = trainer.open_stream(dataset, seed=0)
    return trainer, dict(zip(given, vectors, strict=True)), getattr(trainer.networks[network], table), stream


@pytest.mark.parametrize("channels", ["static", "non_static"])
@pytest.mark.parametrize("name", CASES)
def test_a_model_begins_with_given_vectors_and_keeps_or_tunes_them(name, channels, tmp_path):
    trainer, given, table, stream = begun(name, tmp_path / "v.txt", channels)
    numbers, rows = list(given), torch.stack(list(given.values()))
    torch.testing.assert_close(table.weight.detach()[numbers], rows, rtol=1e-4, atol=1e-4)
    others = [n for n in range(table.num_embeddings) if n not in given and n != table.padding_idx]
    assert table.weight.detach()[others].abs().sum(1).min() > 0
    (note,) = trainer.notes
    assert f"{len(given)} of the " in note
    before = table.weight.detach().clone()
    for _ in range(2):
        trainer.advance(next(stream))
    assert torch.equal(table.weight, before) == (channels == "static")


@pytest.mark.parametrize("name", ["tagger", "recurrent", "feedforward", "captioning", "source", "target"])
def test_of_two_channels_one_stays_and_one_is_tuned(name, tmp_path):
    trainer, given, table, stream = begun(name, tmp_path / "v.txt", "multichannel")
    rows = torch.stack(list(given.values()))
    assert table(torch.tensor([list(given)])).shape[2] == 2 * rows.shape[1]
    for _ in range(2):
        trainer.advance(next(stream))
    torch.testing.assert_close(table.given[list(given)], rows, rtol=1e-4, atol=1e-4)
    assert not torch.equal(table.weight.detach(), table.given)


def test_every_process_draws_the_same_vectors_for_words_without_one(tmp_path):
    trainer, _, table, _ = begun("tagger", tmp_path / "v.txt", "static")
    first = table.weight.detach().clone()
    torch.manual_seed(1234)  # the processes of a run differ in it
    trainer.begin()
    assert torch.equal(table.weight, first)


def test_tied_output_rows_are_the_given_vectors(tmp_path):
    trainer, given, table, _ = begun("causal", tmp_path / "v.txt", "non_static", "model.tie=true")
    assert trainer.networks["model"].output.weight is table.weight
    number = next(iter(given))
    torch.testing.assert_close(table.weight.detach()[number], given[number], atol=1e-4, rtol=0)


def test_a_run_of_word2vec_begins_a_language_model_which_then_needs_it_no_more(tmp_path):
    """From the same stories: a model whose vectors are fixed knows the words from the first step on."""
    stories = ["train.steps=40", "model.embedding_dim=16", "train.tensorboard=false", "evaluate.metrics=[]"]
    words = train(load_config("word2vec_tiny", stories), tmp_path / "words").run_path
    known = load_vectors(words)
    overrides = [*QUIET, "data.unit=word", "model.embedding=16", "model.channels=static", f"model.vectors={words}"]
    train(load_config("language_model_tiny", overrides), tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert "words have a vector there" in log
    words.rename(tmp_path / "gone")
    trainer = load_bundle(tmp_path / "run").trainer
    table = trainer.networks["model"].embedding.weight
    torch.testing.assert_close(table[trainer.codec.numbers["dog"]].detach(), known.vectors[known.number("dog")])


@pytest.mark.parametrize("name", ["tagger", "recurrent", "captioning", "source", "target"])
def test_vectors_that_cannot_be_used_are_refused_before_a_run_begins(name, tmp_path):
    config_name, key, _, _, needs = CASES[name]
    width = load_config(config_name, needs).model.embedding
    strange, long = tmp_path / "strange.txt", tmp_path / "long.txt"
    WordVectors(("xyzzy", "plugh"), torch.ones(2, width)).save_text(strange)
    WordVectors(("xyzzy", "plugh"), torch.ones(2, width + 1)).save_text(long)
    for file, error, message in (
        (strange, ConfigError, rf"{key}\.vectors=.*strange\.txt: expected vectors of the data's words, .*'xyzzy'"),
        (long, ConfigError, rf"{key}\.vectors=.*: expected vectors of {width} numbers, got {width + 1}; set"),
        (tmp_path / "none.txt", DataError, "none.txt: not a text file of word vectors"),
    ):
        given = [f"{key}.vectors={file}", f"{key}.channels=static"]
        with pytest.raises(error, match=message):
            train(load_config(config_name, [*QUIET, *needs, *given]), tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("tagger_tiny", ["model.channels=static"], "model: channels=static: expected vectors"),
        ("seq2seq_tiny", ["model.target.vectors=a.txt"], r"model\.target: vectors: expected channels of static"),
        ("transformer_tiny", ["model={network: transformer, channels: multichannel, vectors: a}"],
         "static with network=transformer"),
        ("language_model_tiny", ["model={tie: true, channels: multichannel, vectors: a}"], "non_static with tie"),
        ("seq2seq_tiny", ["model={network: transformer, source: {channels: multichannel, vectors: a}}"],
         "with network=transformer, got multichannel"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(name, overrides)
