"""Classifiers on a pre-trained BERT: they begin with its weights and tokens, learn, and refuse what does not fit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from genlab import data
from genlab.checkpoint import load_bundle, load_checkpoint
from genlab.config import load_config
from genlab.data.text_vocabulary import TextCodec
from genlab.errors import CheckpointError, ConfigError, DataError, UserError
from genlab.models.bert_weights import to_transformers
from genlab.trainers import ALGORITHMS, DataSpec, train
from genlab.trainers.evaluation import EvaluationData

SHAPE = {"width": 16, "layers": 1, "heads": 2, "feedforward": 32, "positions": 48}
QUICK = ["train.tensorboard=false", "train.steps=2"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run of two steps whose vocabulary is of the judgements that are classified later, and of stories."""
    folder = tmp_path_factory.mktemp("pretrained")
    reviews = data.build(load_config("sentence_classifier_tiny").data).texts
    pages = ["\n".join(reviews[at : at + 8]) for at in range(0, 800, 8)]
    (folder / "own.txt").write_text("\n\n".join(pages))
    own = ["data.name=documents", f"data.root={folder / 'own.txt'}"]
    train(load_config("bert_pretraining_tiny", [*QUICK, *own]), folder / "run", evaluator=None)
    return folder / "run"


def classifier(*overrides: str):
    return load_config("bert_tiny", [*QUICK, *overrides])


def begun(config):
    dataset = data.build(config.data)
    trainer = ALGORITHMS.get("sentence_classifier")(config, DataSpec.of(dataset))
    trainer.begin()
    return trainer, dataset


def test_one_key_brings_weights_sizes_and_vocabulary(pretrained):
    config = classifier(f"model.bert.pretrained={pretrained}")
    assert config.model.bert.shape() == SHAPE
    assert (config.data.vocabulary, config.data.unit, config.data.lowercase) == (pretrained, "wordpiece", True)
    trainer, dataset = begun(config)
    saved = load_checkpoint(pretrained / "checkpoints" / "step_00000002.safetensors")
    assert dataset.codecs["tokens"] == TextCodec.from_dict(saved.state["data"]["codecs"]["tokens"])
    mine = trainer.networks["classifier"].state_dict()
    taken = [name for name in mine if name.startswith("bert.")]
    assert len(taken) == 19
    assert all(torch.equal(mine[name], saved.tensors[f"networks/model/{name}"]) for name in taken)
    fresh, _ = begun(classifier(f"data.vocabulary={pretrained}", *(f"model.bert.{k}={v}" for k, v in SHAPE.items())))
    assert all(
        torch.equal(mine[name], fresh.networks["classifier"].state_dict()[name]) for name in mine.keys() - set(taken)
    )
    assert not torch.equal(mine["bert.tokens.weight"], fresh.networks["classifier"].bert.tokens.weight)


def test_a_run_needs_neither_the_pretrained_one_nor_its_data_to_be_used_and_scored(pretrained, tmp_path):
    moved = shutil.copytree(pretrained, tmp_path / "pretrained")
    result = train(classifier(f"model.bert.pretrained={moved}"), tmp_path / "run")
    before = {row["name"]: row["value"] for row in result.last_scores}
    assert result.last_scores[0]["protocol"]["pretrained"] == str(moved)
    shutil.rmtree(moved)
    trainer = load_bundle(tmp_path / "run").trainer
    assert trainer.classify(["the plot is dull ."]).sum() == pytest.approx(1)
    scores = trainer.scores(EvaluationData(trainer.config, torch.device("cpu"), 10))
    assert {score.name: score.value for score in scores} == before
    with pytest.raises(DataError, match="data.vocabulary: checkpoint .*: no such file or folder"):
        data.build(trainer.config.data)


def test_learns_from_random_weights_what_counting_words_cannot(tmp_path):
    learner = ["train.steps=250", "train.sample_every=250", "train.checkpoint_every=250", "train.log_every=50"]
    small = ["model.bert={width: 48, layers: 2, heads: 4, feedforward: 96, positions: 48, initial_std: 0.1}"]
    small += ["train.schedule={name: linear, warmup_steps: 30}", "data.batch_size=64"]
    config = classifier(*learner, *small, "optimizer.lr=0.004", "model.dropout=0")
    result = train(config, tmp_path / "run")
    scores = {row["name"]: row["value"] for row in result.last_scores}
    assert scores["test_accuracy"] >= 0.95  # a linear model of the words stays below 0.8


def test_padding_and_the_rest_of_the_batch_do_not_matter_to_a_sentence(pretrained):
    trainer, _ = begun(classifier(f"model.bert.pretrained={pretrained}"))
    together = trainer.classify(["the plot is dull .", "the ending is not very good but the music is brilliant ."])
    alone = trainer.classify(["the plot is dull ."])
    torch.testing.assert_close(together[:1], alone)


def test_decay_spares_biases_and_normalisations_of_bert_alone():
    trainer, _ = begun(classifier("optimizer.weight_decay=0.1"))
    groups = trainer.optimizers["classifier"].param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    config = load_config("sentence_classifier_tiny", ["optimizer.weight_decay=0.1"])
    other = ALGORITHMS.get("sentence_classifier")(config, DataSpec.of(data.build(config.data)))
    assert [group["weight_decay"] for group in other.optimizers["classifier"].param_groups] == [0.1]


def test_a_fine_tuned_model_may_be_fine_tuned_again_and_a_pretrained_one_trained_on(pretrained, tmp_path):
    train(classifier(f"model.bert.pretrained={pretrained}"), tmp_path / "first", evaluator=None)
    trainer, _ = begun(classifier(f"model.bert.pretrained={tmp_path / 'first'}"))
    saved = load_checkpoint(tmp_path / "first" / "checkpoints" / "step_00000002.safetensors").tensors
    mine = trainer.networks["classifier"].state_dict()
    assert torch.equal(mine["bert.tokens.weight"], saved["networks/classifier/bert.tokens.weight"])
    config = load_config("bert_pretraining_tiny", [*QUICK])
    tree = {**config.model_dump(mode="json"), "model": {"bert": {"pretrained": str(pretrained)}}}
    from genlab.config import parse_config

    tree["data"] = {"name": "small_documents", "sequence_length": 32, "batch_size": 16}
    more = parse_config(tree)
    dataset = data.build(more.data)
    again = ALGORITHMS.get("bert_pretraining")(more, DataSpec.of(dataset))
    again.begin()
    theirs = load_checkpoint(pretrained / "checkpoints" / "step_00000002.safetensors").tensors
    assert all(torch.equal(v, theirs[f"networks/model/{n}"]) for n, v in again.networks["model"].state_dict().items())


@pytest.fixture
def published(tmp_path):
    """A folder as the transformers library writes it: four heads, which the weights do not tell."""
    from genlab.models.bert import Bert, BertPretraining

    net = BertPretraining(Bert(12, 8, 2, 4, 24, 40, initial_std=0.5))
    state = {name: value.clone() for name, value in to_transformers(net.state_dict()).items()}
    folder = tmp_path / "published"
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 4, "hidden_act": "gelu"}))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nis\n.\nplot\nnot\ngood\n##s\n")
    return folder, net


def test_published_weights_are_loaded_from_their_folder_or_file(published):
    folder, net = published
    for path in (folder, folder / "model.safetensors"):
        config = classifier(f"model.bert.pretrained={path}")
        assert config.model.bert.shape() == {"width": 8, "layers": 2, "heads": 4, "feedforward": 24, "positions": 40}
        assert config.data.vocabulary == folder / "vocab.txt"
        trainer, dataset = begun(config)
        assert dataset.codecs["tokens"].encode("The plots") == [5, 8, 11]
        mine = trainer.networks["classifier"].bert.state_dict()
        assert all(torch.equal(mine[name], value) for name, value in net.bert.state_dict().items())


def test_published_weights_that_do_not_fit_are_refused_in_one_line(published):
    folder, _ = published
    with (folder / "vocab.txt").open("a") as file:
        file.write("more\n")
    with pytest.raises(CheckpointError, match="expected the vocabulary .* of 12 tokens, got the data's of 13"):
        begun(classifier(f"model.bert.pretrained={folder}"))
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="config.json: expected JSON with num_attention_heads"):
        classifier(f"model.bert.pretrained={folder}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.bert\.pretrained: run .*: expected checkpoints, found none"):
        classifier(f"model.bert.pretrained={folder}")


def test_another_vocabulary_or_other_sizes_are_refused_in_one_line(pretrained, tmp_path):
    words = tmp_path / "vocab.txt"
    words.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nqqq\n")
    for overrides, message in (
        (
            [f"data.vocabulary={words}"],
            r"expected the vocabulary that it was trained with, of \d+ tokens, got the data's",
        ),
        (["model.bert.width=8"], "expected a BERT of width 8, layers 4, heads 1, .*, got width 16, layers 1, heads 2"),
        (["model.bert.layers=2"], "expected a BERT of layers 2, as the model section says, got layers 1"),
    ):
        with pytest.raises(CheckpointError, match=message) as failure:
            begun(classifier(f"model.bert.pretrained={pretrained}", *overrides))
        assert str(pretrained) in str(failure.value) and "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.unit=word"], r"data\.unit: expected wordpiece with model\.network=bert, got word"),
        (["model.embedding=64"], "embedding: expected none with network bert"),
        (
            ["model.network=gru", "model.bert.pretrained={path}"],
            "bert.pretrained: expected model.network=bert, got gru",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides, message, pretrained):
    with pytest.raises(ConfigError, match=message):
        classifier(*(override.format(path=pretrained) for override in overrides))


def test_runs_of_other_algorithms_are_refused(tmp_path):
    train(load_config("sentence_classifier_tiny", QUICK), tmp_path / "cnn", evaluator=None)
    with pytest.raises(CheckpointError, match="expected a run of bert_pretraining, got one of sentence_classifier"):
        classifier(f"model.bert.pretrained={tmp_path / 'cnn'}")
    with pytest.raises(CheckpointError, match=r"model\.bert\.pretrained: checkpoint nowhere: no such file"):
        classifier("model.bert.pretrained=nowhere")


def test_sentences_longer_than_the_places_and_empty_ones_are_refused(pretrained):
    config = classifier("model.bert.positions=12")
    dataset = data.build(config.data)
    trainer = ALGORITHMS.get("sentence_classifier")(config, DataSpec.of(dataset))
    with pytest.raises(ConfigError, match=r"model\.bert\.positions: expected at least \d+, .*\[CLS\].*, got 12; .*=10"):
        trainer.open_stream(dataset, seed=0)
    with pytest.raises(
        UserError, match="sentence 1: expected at most 10 tokens, the places that the model has, got 11"
    ):
        trainer.classify(["good " * 11])
    with pytest.raises(UserError, match="sentence 2: expected words, got ' '"):
        trainer.classify(["good", " "])


def test_it_resumes_bit_for_bit_and_predicts_from_the_command_line(pretrained, tmp_path, capsys):
    from training_jobs import assert_same_checkpoint

    from genlab.cli import main

    config = classifier(f"model.bert.pretrained={pretrained}", "train.steps=4", "train.checkpoint_every=2")
    train(config, tmp_path / "whole", evaluator=None)
    middle = tmp_path / "whole" / "checkpoints" / "step_00000002.safetensors"
    train(config, tmp_path / "rest", resume=middle, evaluator=None)
    assert_same_checkpoint(
        *(tmp_path / name / "checkpoints" / "step_00000004.safetensors" for name in ("whole", "rest"))
    )
    capsys.readouterr()
    assert main(["predict-text", str(tmp_path / "rest"), "the plot is good", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.split("\t")[0] in ("negative", "positive")
