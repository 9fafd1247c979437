"""Tags that only the place of a word tells, and forecasts that a standing value cannot match."""

from __future__ import annotations

import pytest
import torch

from genlab import data
from genlab.checkpoint import load_bundle
from genlab.config import load_config
from genlab.errors import ConfigError, UserError
from genlab.models.recurrent import RecurrentTagger
from genlab.models.word_embedding import WordEmbedding
from genlab.trainers import ALGORITHMS, DataSpec, train

QUICK = ["train.tensorboard=false", "train.log_every=100", "train.sample_every=1000", "train.checkpoint_every=1000"]


def scores(tmp_path, name: str, *overrides: str) -> dict[str, float]:
    result = train(load_config(name, [*QUICK, *overrides]), tmp_path / "run")
    return {row["name"]: row["value"] for row in result.last_scores}


def test_each_words_commonest_tag_is_not_enough():
    from collections import Counter, defaultdict

    sets = [data.build(load_config("tagger_tiny").data, part) for part in ("train", "test")]
    seen: dict[int, Counter] = defaultdict(Counter)
    for row in range(len(sets[0])):
        for word, tag in zip(sets[0]._rows.row(row), sets[0]._tags.row(row), strict=True):
            seen[int(word)][int(tag)] += 1
    words, tags = sets[1]._rows.flat, sets[1]._tags.flat
    right = sum(seen[int(word)].most_common(1)[0][0] == int(tag) for word, tag in zip(words, tags, strict=True))
    assert right / len(tags) < 0.985


@pytest.mark.parametrize("network", ["lstm", "gru"])
def test_a_tagger_learns_what_the_place_tells(tmp_path, network):
    small = ["model.embedding=24", "model.hidden=24", "optimizer.lr=0.02", "data.batch_size=32", "train.steps=80"]
    found = scores(tmp_path, "tagger_tiny", f"model.network={network}", *small)
    assert found["test_accuracy"] >= 0.99
    trainer = load_bundle(tmp_path / "run").trainer
    tagged = dict(trainer.tag("the light dog lights a boat ."))
    assert (tagged["light"], tagged["lights"], tagged["boat"]) == ("adjective", "verb", "noun")
    with pytest.raises(UserError, match="sentence: expected words, got ' '"):
        trainer.tag(" ")


def test_predict_text_prints_a_word_and_its_tag_a_line_and_refuses_in_one_line(tmp_path, capsys):
    import json

    from genlab.cli import main

    run = str(tmp_path / "run")
    train(load_config("tagger_tiny", [*QUICK, "train.steps=2"]), run, evaluator=None)
    capsys.readouterr()
    assert main(["predict-text", run, "the old dog sleeps .", "a Lamp", "--device", "cpu"]) == 0
    first, second = (block.splitlines() for block in capsys.readouterr().out.split("\n\n"))
    tags = load_bundle(run).trainer.data.class_names
    assert [line.split()[0] for line in first] == ["the", "old", "dog", "sleeps", "."] and len(second) == 2
    assert all(line.split()[1] in tags for line in (*first, *second))
    assert main(["predict-text", run, "the dog", "--json", "--device", "cpu"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["text"] == "the dog" and [word for word, _ in row["tags"]] == ["the", "dog"]
    assert main(["predict-text", run, " ", "--device", "cpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    train(load_config("forecaster_tiny", [*QUICK, "train.steps=1"]), tmp_path / "other", evaluator=None)
    capsys.readouterr()
    assert main(["predict-text", str(tmp_path / "other"), "the dog", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "classifies sentences or words (sentence_classifier, tagger), got one of forecaster" in error


def test_a_tag_sees_both_sides_and_no_padding():
    net = RecurrentTagger(WordEmbedding(9, 4, padding=0), 3, "gru", 5, 2).eval()
    tokens, lengths = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2])
    whole = net(tokens, lengths)
    torch.testing.assert_close(whole[1:, :2], net(tokens[1:, :2], lengths[1:]))
    other = tokens.clone()
    other[0, 3] = 1
    assert (net(other, lengths)[0, 0] - whole[0, 0]).abs().max() > 1e-6


@pytest.mark.parametrize("network", ["window", "gru", "lstm", "rnn"])
def test_a_forecaster_beats_the_standing_value_by_far(tmp_path, network):
    small = ["model.hidden=24", "optimizer.lr=0.01", "train.steps=200", "data.batch_size=64"]
    found = scores(tmp_path, "forecaster_tiny", f"model.network={network}", *small)
    assert found["test_nrmse"] < 0.5 * found["test_nrmse_persistence"]
    assert (tmp_path / "run" / "samples" / "step_00000200.png").exists()


def test_a_longer_forecast_goes_on_from_its_own_values():
    config = load_config("forecaster_tiny")
    dataset = data.build(config.data)
    trainer = ALGORITHMS.get("forecaster")(config, DataSpec.of(dataset))
    past = dataset.fetch(torch.arange(3).numpy())["past"]
    ahead = trainer.forecast(past, 3)
    first = trainer.forecast(past, 1)
    assert torch.equal(ahead[:, :1], first)
    moved = torch.cat([past[:, 1:], first], 1)
    torch.testing.assert_close(ahead[:, 1:2], trainer.forecast(moved, 1))


def test_series_of_several_columns_are_learnt_from_a_file(tmp_path):
    lines = ["a,b"] + [f"{i % 7},{(i * 3) % 5}" for i in range(200)]
    (tmp_path / "two.csv").write_text("\n".join(lines))
    overrides = ["data.name=series", f"data.root={tmp_path / 'two.csv'}", "data.sequence_length=8", "train.steps=2"]
    found = scores(tmp_path, "forecaster_tiny", *overrides)
    assert set(found) == {"val_nrmse", "test_nrmse", "test_nrmse_persistence"}


def test_text_is_no_series_and_sentences_have_no_tags():
    for algorithm, name in (("forecaster", "small_tags"), ("tagger", "small_reviews")):
        config = load_config(f"{algorithm}_tiny", [f"data.name={name}"])
        with pytest.raises(ConfigError, match="expected a data set of"):
            ALGORITHMS.get(algorithm)(config, DataSpec.of(data.build(config.data)))
