"""Speeds and counts are told in what each algorithm really sees: images, sentences, characters, pairs, windows."""

from __future__ import annotations

import json

import pytest

from genlab import data
from genlab.cli.progress import describe_metrics, describe_training
from genlab.config import load_config
from genlab.log_rows import counted
from genlab.report import write_report
from genlab.trainers import ALGORITHMS, DataSpec, train

QUICK = ["train.steps=2", "train.log_every=1", "train.tensorboard=false", "train.sample_count=2"]
CASES = {
    "sentence_classifier_tiny": ("sentences", 2 * 16),
    "tagger_tiny": ("sentences", 2 * 16),
    "language_model_tiny": ("characters", 2 * 8 * 20),
    "seq2seq_tiny": ("pairs", None),
    "bert_pretraining_tiny": ("pairs", 2 * 16),
    "forecaster_tiny": ("windows", None),
    "vae_tiny": ("images", None),
    "word2vec_tiny": ("words", 2 * 500),
}


@pytest.mark.parametrize("name", CASES)
def test_log_console_and_report_name_what_is_counted(name, tmp_path, capsys):
    unit, seen = CASES[name]
    config = load_config(name, QUICK)
    train(config, tmp_path / "run", evaluator=None)
    row = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()][-1]
    seen = 2 * config.data.batch_size if seen is None else seen
    assert counted(row) == unit and row[unit] == seen
    line = describe_metrics({name: value for name, value in row.items() if not isinstance(value, list)})
    assert line.endswith(f" {unit}/s")
    assert f"{unit}_per_second" not in line
    page = write_report(tmp_path / "run").read_text()
    assert f"{unit} seen <b>{seen:,}</b>" in page
    assert ("images" in page.split("How it was made")[0]) == (unit == "images")


def test_words_of_a_language_model_are_tokens():
    config = load_config("language_model_tiny", ["data.unit=word"])
    trainer = ALGORITHMS.get("language_model")(config, DataSpec.of(data.build(config.data)))
    assert trainer.counted == ("tokens", 20)


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("sentence_classifier_tiny", "sentence_classifier on small_reviews (sentences, 53 tokens), batch 16"),
        ("seq2seq_tiny", "on small_pairs (sentence pairs, "),
        ("forecaster_tiny", "on mackey_glass (series of 1 value), batch"),
        ("dcgan_tiny", "on digits ("),
    ],
)
def test_the_first_line_tells_the_look_of_the_data(name, look, tmp_path):
    config = load_config(name)
    trainer = ALGORITHMS.get(config.algorithm)(config, DataSpec.of(data.build(config.data)))
    line = describe_training(trainer, tmp_path)[0]
    assert look in line and "()" not in line
