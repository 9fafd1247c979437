"""Sentence classifiers: they learn what random code cannot, keep the paper's rule, and refuse what they cannot use."""

from __future__ import annotations

import json

import pytest
import torch

from genlab import data
from genlab.checkpoint import load_bundle
from genlab.config import load_config
from genlab.errors import ConfigError, DataError, UserError
from genlab.trainers import ALGORITHMS, DataSpec, train
from genlab.word_vectors import WordVectors

SMALL = ["evaluate.every=null", "train.tensorboard=false", "train.log_every=50", "model.max_norm=3"]


def accuracy(tmp_path, *overrides: str) -> dict[str, float]:
    steps = ["train.steps=160", "train.sample_every=160", "train.checkpoint_every=160"]
    config = load_config("sentence_classifier_tiny", [*SMALL, *steps, *overrides])
    result = train(config, tmp_path / "run")
    return {row["name"]: row["value"] for row in result.last_scores}


@pytest.mark.parametrize(
    ("network", "least"),
    [("text_cnn", 0.85), ("tdnn", 0.9), ("lstm", 0.9), ("gru", 0.9), ("rnn", 0.85), ("transformer", 0.82)],
)
def test_learns_judgements_in_which_not_and_but_turn_the_meaning(tmp_path, network, least):
    """Half of the test sentences are of either class; whoever only counts words stays near 0.75."""
    small = ["model.embedding=24", "model.dropout=0.1", "optimizer.lr=0.005", "data.batch_size=64"]
    small += ["model.cnn={kernel_sizes: [2, 3, 5], filters: 48}", "model.recurrent.hidden=32"]
    small += ["model.transformer={layers: 1, heads: 4, feedforward: 48}"]
    small += ["model.tdnn={channels: [32, 32], kernel_sizes: [5, 5], dilations: [1, 2]}"]
    scores = accuracy(tmp_path, f"model.network={network}", *small)
    assert scores["test_accuracy"] >= least and scores["val_accuracy"] >= least - 0.04


def test_learns_real_questions_in_seconds(tmp_path, shared_data):
    real = [
        "data.name=trec",
        f"data.root={shared_data}",
        "data.min_count=3",
        "data.batch_size=64",
        "optimizer.lr=0.004",
    ]
    real += ["model.embedding=48", "model.cnn.filters=48", "model.max_norm=null"]
    scores = accuracy(tmp_path, *real)
    assert scores["test_accuracy"] >= 0.7  # the commonest class has 0.28


def test_counting_words_alone_stays_behind():
    """What the bound above means: a linear model of the words, trained to its best, on the same sentences."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    sets = [data.build(load_config("sentence_classifier_tiny").data, part) for part in ("train", "test")]
    counts = [
        torch.stack([torch.bincount(torch.tensor(s._rows.row(i)), minlength=60) for i in range(len(s))]) for s in sets
    ]
    model = sklearn.LogisticRegression(max_iter=200).fit(counts[0].numpy(), sets[0].labels.numpy())
    assert model.score(counts[1].numpy(), sets[1].labels.numpy()) < 0.8


def test_the_last_layers_rows_are_never_longer_than_max_norm():
    config = load_config("sentence_classifier_tiny", ["model.max_norm=0.2", "optimizer.lr=0.5"])
    dataset = data.build(config.data)
    trainer = ALGORITHMS.get("sentence_classifier")(config, DataSpec.of(dataset))
    stream = trainer.open_stream(dataset, seed=0)
    for _ in range(3):
        trainer.advance(next(stream))
        assert trainer.networks["classifier"].output.weight.norm(dim=1).max() <= 0.2 + 1e-5


def test_gradients_are_shortened_to_the_limit():
    norms = []
    for limit in ("null", "1e-3"):
        config = load_config("sentence_classifier_tiny", [f"optimizer.max_grad_norm={limit}", "optimizer.name=sgd"])
        dataset = data.build(config.data)
        trainer = ALGORITHMS.get("sentence_classifier")(config, DataSpec.of(dataset))
        before = [p.detach().clone() for p in trainer.networks["classifier"].parameters()]
        trainer.advance(next(trainer.open_stream(dataset, seed=0)))
        moved = [p - q for p, q in zip(trainer.networks["classifier"].parameters(), before, strict=True)]
        norms.append(float(torch.cat([m.flatten() for m in moved]).norm()) / config.optimizer.lr)
    assert norms[0] > 2e-3 and norms[1] == pytest.approx(1e-3, rel=0.05)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("sentences") / "run"
    train(load_config("sentence_classifier_tiny", ["train.tensorboard=false"]), path)
    return path


def test_a_checkpoint_classifies_typed_sentences_without_its_data(run):
    trainer = load_bundle(run).trainer
    typed, split = trainer.classify(["The plot isn't dull.", "the plot is n't dull ."])
    assert torch.equal(typed, split)
    assert typed.sum() == pytest.approx(1)
    with pytest.raises(UserError, match="sentence 2: expected words, got ' '"):
        trainer.classify(["fine", " "])


def test_given_vectors_are_where_training_begins(tmp_path):
    path = tmp_path / "v.txt"
    WordVectors(("plot", "dull"), torch.tensor([[1.0] * 8, [2.0] * 8])).save_text(path)
    overrides = [f"model.vectors={path}", "model.channels=static", "train.steps=1"]
    bundle = load_bundle(train(load_config("sentence_classifier_tiny", overrides), tmp_path / "r").last_checkpoint)
    embedding = bundle.trainer.networks["classifier"].embedding
    assert torch.equal(embedding.weight[bundle.trainer.codec.numbers["dull"]], torch.full((8,), 2.0))
    with pytest.raises(ConfigError, match="expected vectors of 9 numbers, got 8; set model.embedding=8"):
        train(load_config("sentence_classifier_tiny", [*overrides, "model.embedding=9"]), tmp_path / "s")


def test_sentences_longer_than_the_places_are_refused():
    small = ["model.network=transformer", "model.transformer={layers: 1, heads: 2, positions: 15}"]
    config = load_config("sentence_classifier_tiny", small)
    dataset = data.build(config.data)
    trainer = ALGORITHMS.get("sentence_classifier")(config, DataSpec.of(dataset))
    with pytest.raises(
        ConfigError, match=r"positions: expected at least \d+, the tokens of the longest sentence of the train part"
    ):
        trainer.open_stream(dataset, seed=0)
    with pytest.raises(
        UserError, match="sentence 1: expected at most 15 tokens, the places that the model has, got 16"
    ):
        trainer.classify(["good " * 16])


def test_a_test_sentence_longer_than_the_places_is_told_before_the_training(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "train.tsv").write_text("good film\t0\nbad\t1\n" * 10)
    (folder / "test.tsv").write_text(f"good film\t0\n{'long ' * 60}\t1\n")
    overrides = ["data.name=sentences", f"data.root={folder}", "data.batch_size=4", "model.network=transformer"]
    overrides += ["model.transformer={layers: 1, heads: 2, positions: 32}", "train.steps=1", "train.tensorboard=false"]
    message = r"positions: expected at least 60, .* longest sentence of the test part, got 32; .*data\.max_length=32"
    with pytest.raises(ConfigError, match=message):
        train(load_config("sentence_classifier_tiny", overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(load_config("sentence_classifier_tiny", [*overrides, "data.max_length=32"]), tmp_path / "cut")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model={network: transformer, embedding: 10}", "expected a divisor of the width 10, got 4"),
        ("model.channels=static", "channels=static: expected vectors"),
        ("model.vectors=a.txt", "vectors: expected channels of static"),
        ("model.tdnn={channels: [3], kernel_sizes: [4], dilations: [1]}", "expected odd numbers"),
        ("model.tdnn.channels=[3]", "expected lists of equal length"),
        ("data.flip=true", "flip: is of pictures"),
        ("data.languages=[en, en]", "expected two different ones"),
    ],
)
def test_settings_that_do_not_fit_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("sentence_classifier_tiny", [override])


def test_pictures_are_refused():
    config = load_config("sentence_classifier_tiny")
    with pytest.raises(ConfigError, match="expected a data set of sentences, got images"):
        ALGORITHMS.get("sentence_classifier")(config, DataSpec("digits", "images", (1, 8, 8), 10))


def test_scores_on_data_of_another_vocabulary_are_refused(tmp_path):
    """The files changed after the training: numbers would mean other words."""
    folder = tmp_path / "own"
    folder.mkdir()
    lines = [f"{word} film\t{label}" for label, word in enumerate(("fine", "bad"))] * 10
    for part in ("train", "test"):
        (folder / f"{part}.tsv").write_text("\n".join(lines) + "\n")
    overrides = ["data.name=sentences", f"data.root={folder}", "data.batch_size=4", "evaluate.metrics=[]"]
    config = load_config("sentence_classifier_tiny", [*overrides, "train.steps=1"])
    train(config, tmp_path / "run")
    (folder / "train.tsv").write_text("\n".join([*lines, "strange movie\t0"]) + "\n")
    trainer = load_bundle(tmp_path / "run").trainer
    from genlab.trainers.evaluation import EvaluationData

    with pytest.raises(DataError, match="expected the vocabulary of the model"):
        trainer.scores(EvaluationData(trainer.config, torch.device("cpu"), 10))


def test_predict_text_prints_classes_and_refuses_in_one_line(run, capsys, tmp_path):
    from genlab.cli import main

    assert main(["predict-text", str(run), "the plot is good", "--json", "--device", "cpu"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["class"] in ("negative", "positive")
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"fine\ncaf\xe9\n")
    empty = tmp_path / "empty.txt"
    empty.write_text("fine\n\nbad\n")
    for words, message in (
        ([str(run)], "give one of the two"),
        ([str(run), " "], "TEXT 1: expected a sentence"),
        ([str(run), "--file", str(bad)], "line 2: expected utf-8 text, got byte 0xE9"),
        ([str(run), "--file", str(empty)], "line 2: expected a sentence"),
    ):
        assert main(["predict-text", *words, "--device", "cpu"]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
