"""BERT's pre-training: it tells masked words from both sides, is scored as it says, and refuses what it cannot use."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from genlab import data
from genlab.checkpoint import load_bundle
from genlab.config import load_config
from genlab.data.text_base import IGNORED
from genlab.data.text_masking import MaskedPairs, Masking
from genlab.errors import ConfigError, UserError
from genlab.trainers import ALGORITHMS, DataSpec, train
from genlab.trainers.evaluation import EvaluationData

QUICK = ["train.tensorboard=false", "train.log_every=100", "train.sample_every=1000", "train.checkpoint_every=1000"]
LEARNER = [
    *QUICK, "train.steps=300", "data.sequence_length=24", "data.batch_size=64", "optimizer.lr=0.005",
    "model.bert={width: 48, layers: 2, heads: 4, feedforward: 96, positions: 48, initial_std: 0.1}",
]  # fmt: skip


def build(*overrides: str):
    config = load_config("bert_pretraining_tiny", list(overrides))
    dataset = data.build(config.data)
    trainer = ALGORITHMS.get("bert_pretraining")(config, DataSpec.of(dataset))
    return trainer, trainer.open_stream(dataset, seed=0)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """(run, scores by name) of a training of five seconds."""
    path = tmp_path_factory.mktemp("bert") / "run"
    result = train(load_config("bert_pretraining_tiny", LEARNER), path)
    return path, {row["name"]: row for row in result.last_scores}


def counted_accuracy(config) -> float:
    """Share of masked words that the commonest word between the same two neighbours in the training part tells."""
    sets = {part: data.build(config.data, part) for part in ("train", "test")}
    flat = sets["train"]._flat.tolist()
    between: dict[tuple[int, int], Counter] = defaultdict(Counter)
    for before, word, after in zip(flat[:-2], flat[1:-1], flat[2:], strict=True):
        between[before, after][word] += 1
    commonest = Counter(flat).most_common(1)[0][0]
    batch = MaskedPairs(sets["test"], Masking()).fetch(np.arange(len(sets["test"])))
    right = total = 0
    for tokens, places, target in zip(*(batch[name].tolist() for name in ("tokens", "places", "target")), strict=True):
        for place, word in zip(places, target, strict=True):
            if word != IGNORED:
                seen = between.get((tokens[place - 1], tokens[place + 1]))
                right += (seen.most_common(1)[0][0] if seen else commonest) == word
                total += 1
    return right / total


def test_tells_masked_words_better_than_counts_of_both_neighbours_could(learnt):
    run, scores = learnt
    counts = counted_accuracy(load_bundle(run).config)
    assert 0.25 < counts < 0.34
    assert scores["test_mlm_accuracy"]["value"] > counts + 0.05
    assert scores["test_mlm_loss"]["value"] < 2.2  # the words' own frequencies leave 3.3
    assert scores["test_mlm_perplexity"]["value"] == pytest.approx(math.exp(scores["test_mlm_loss"]["value"]))


def test_learns_which_segments_belong_together(tmp_path):
    """Each document speaks of one of four things; a stranger's segment is of the same once in four: 0.88 is most."""
    topics = (("dog", "bone", "bark"), ("sea", "boat", "fish"), ("king", "crown", "throne"), ("bread", "oven", "flour"))
    draw = random.Random(0)
    documents = []
    for number in range(120):
        words = topics[number % 4]
        documents.append("\n".join(" ".join(words[int(draw.random() * 3)] for _ in range(4)) for _ in range(6)))
    (tmp_path / "own.txt").write_text("\n\n".join(documents))
    small = ["data.name=documents", f"data.root={tmp_path / 'own.txt'}", "data.min_count=1", "data.sequence_length=15"]
    small += ["data.batch_size=32", "train.steps=200", "optimizer.lr=0.005", "evaluate.metrics=[]"]
    small += ["model.bert={width: 32, layers: 2, heads: 2, feedforward: 64, positions: 16, initial_std: 0.15}"]
    train(load_config("bert_pretraining_tiny", [*QUICK, *small]), tmp_path / "run")
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 200 and 0.8 < last["nsp_accuracy"] < 0.92


def test_protocols_say_what_was_told_of_what(learnt):
    protocol = learnt[1]["test_mlm_loss"]["protocol"]
    assert protocol["share"] == 0.15 and protocol["told"] > 1000
    assert protocol["real"]["source"] == "small_documents" and protocol["real"]["split"] == "test"
    assert learnt[1]["test_mlm_loss"]["better"] == "lower" and learnt[1]["val_nsp_accuracy"]["better"] == "higher"


def test_masks_are_filled_with_what_grammar_wants(learnt):
    trainer = load_bundle(learnt[0]).trainer
    first, second = trainer.fill_mask("the old man [MASK] the boat . the men [MASK] .", 8)
    verbs = {"sees", "finds", "carries", "loves", "paints", "lights"}
    assert sum(chance for token, chance in first if token in verbs) > 0.5
    assert [chance for _, chance in second] == sorted((chance for _, chance in second), reverse=True)
    assert not {token for row in (first, second) for token, _ in row} & set(trainer.codec.specials)
    typed = trainer.fill_mask("The old man [MASK] the boat. The men [MASK].", 8)
    assert typed[0] == first, "capitals and spaces before a stop do not matter"


def test_the_loss_is_of_masked_places_alone():
    """A target elsewhere changes nothing, one of the masked ones does; both against plain arithmetic."""
    trainer, stream = build("train.steps=1")
    batch = next(stream)
    network = trainer.networks["model"]
    with torch.no_grad():
        words, follows = network(batch["tokens"], batch["length"], batch["segment"], batch["places"])
    told = batch["target"] != IGNORED
    picked = words.log_softmax(2).gather(2, batch["target"].clamp(min=0)[:, :, None])[:, :, 0]
    mlm = -picked[told].mean()
    nsp = F.cross_entropy(follows, batch["random_next"])
    moved = {name: value.clone() for name, value in batch.items()}
    moved["places"][~told] = 5  # where nothing is told it does not matter where
    for given in (batch, moved):
        fresh, _ = build("train.steps=1")
        metrics = fresh.advance(given)
        assert float(metrics["mlm_loss"]) == pytest.approx(float(mlm), rel=1e-5)
        assert float(metrics["nsp_loss"]) == pytest.approx(float(nsp), rel=1e-5)
        assert float(metrics["loss"]) == pytest.approx(float(mlm + nsp), rel=1e-5)
    other = {name: value.clone() for name, value in batch.items()}
    row, column = told.nonzero()[0].tolist()
    other["target"][row, column] = 5 + (int(other["target"][row, column]) - 4) % 50
    assert float(build()[0].advance(other)["mlm_loss"]) != pytest.approx(float(mlm), rel=1e-6)


def test_micro_batches_with_unequal_masks_give_the_step_of_the_whole_batch():
    ends = []
    for parts in (1, 4):
        trainer, stream = build(f"train.grad_accumulation={parts}", "optimizer.name=sgd", "data.batch_size=16")
        batch = next(stream)
        batch["target"][:4, 1:] = IGNORED
        trainer.advance(batch)
        ends.append(torch.cat([p.detach().flatten() for p in trainer.networks["model"].parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-7)


def test_weight_decay_moves_matrices_alone():
    trainer, stream = build("optimizer.weight_decay=0.5", "optimizer.lr=0.1", "masking.share=0.1")
    decayed, spared = trainer.optimizers["model"].param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.5, 0.0)
    assert all(p.dim() == 2 for p in decayed["params"]) and all(p.dim() == 1 for p in spared["params"])
    assert decayed["max_grad_norm"] == spared["max_grad_norm"] == 1.0
    held = sum(p.numel() for group in (decayed, spared) for p in group["params"])
    assert held == sum(p.numel() for p in trainer.networks["model"].parameters())


def test_without_next_sentence_its_head_neither_learns_nor_is_scored():
    trainer, stream = build("next_sentence=false")
    before = {name: p.detach().clone() for name, p in trainer.networks["model"].named_parameters()}
    metrics = trainer.advance(next(stream))
    after = dict(trainer.networks["model"].named_parameters())
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {f"{layer}.{kind}" for layer in ("next_sentence", "bert.pooler") for kind in ("weight", "bias")}
    assert "nsp_loss" not in metrics
    scores = trainer.scores(EvaluationData(trainer.config, torch.device("cpu"), 8))
    assert not [score.name for score in scores if "nsp" in score.name]


def test_scores_are_means_over_all_masked_tokens_whatever_the_batch():
    trainer, _ = build()
    one, two = (
        {
            score.name: score.value
            for score in trainer.scores(
                EvaluationData(
                    trainer.config.model_copy(
                        update={"evaluate": trainer.config.evaluate.model_copy(update={"batch_size": size})}
                    ),
                    torch.device("cpu"),
                    8,
                )
            )
        }
        for size in (7, 100)
    )
    assert one == pytest.approx(two, rel=1e-5)
    assert one["test_mlm_loss"] == pytest.approx(math.log(len(trainer.codec)), rel=0.05)  # untrained
    assert set(one) == set(trainer.own_score_names)


def test_what_is_written_shows_the_masked_words(learnt):
    text = (learnt[0] / "samples" / "step_00000300.txt").read_text()
    assert text.count("[CLS]") == 4 and text.count("[SEP]") == 8
    assert ", not " in text and "[PAD]" not in text


def test_whole_words_are_masked_from_the_configuration():
    trainer, stream = build("masking.whole_word=true", "data.vocabulary_size=60")
    batch = next(stream)
    codec, told = trainer.codec, (batch["target"] != IGNORED)
    inner = torch.tensor([token.startswith("##") for token in codec.tokens])
    assert inner[batch["target"][told]].any()
    whole = batch["tokens"].clone().scatter_(1, batch["places"].where(told, 0), batch["target"].where(told, 2))
    for row in range(len(whole)):
        chosen = set(batch["places"][row][told[row]].tolist())
        for place in chosen:
            if place + 1 < batch["length"][row] and inner[whole[row, place + 1]]:
                assert place + 1 in chosen


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.sequence_length=64"], r"sequence_length: expected at most model\.bert\.positions=48, got 64"),
        (["model.bert.heads=3"], "heads: expected a divisor of the width 16, got 3"),
        (["model.bert.size=huge"], "size: expected 'tiny', 'mini'"),
        (["masking.mask=0.95"], r"random: expected at most 1 - mask = 0\.05, got 0\.1"),
        (["masking.share=0"], "share: expected greater than 0, got 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config("bert_pretraining_tiny", overrides)


def test_sentences_without_documents_are_refused():
    with pytest.raises(ConfigError, match="expected a data set of documents, got sentences"):
        config = load_config("bert_pretraining_tiny", ["data.name=small_reviews"])
        ALGORITHMS.get("bert_pretraining")(config, DataSpec.of(data.build(config.data)))


def test_fill_mask_prints_a_table_or_json_and_refuses_in_one_line(learnt, capsys, tmp_path):
    from genlab.cli import main

    run = str(learnt[0])
    assert main(["fill-mask", run, "the [MASK] sleeps .", "--top-k", "3", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[1].split() == ["mask", "rank", "token", "probability"]
        and len([line for line in lines if "%" in line]) == 3
    )
    assert main(["fill-mask", run, "the [MASK] [MASK] .", "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(row) for row in found["masks"]] == [5, 5]
    assert all(0 < entry["probability"] < 1 for row in found["masks"] for entry in row)
    train(load_config("dcgan_tiny", ["train.steps=1", "train.tensorboard=false"]), tmp_path / "gan", evaluator=None)
    for words, message in (
        ([run, "the dog sleeps ."], "text: expected [MASK] where a word is to be told, got none in 'the dog sleeps .'"),
        ([run, ""], "text: expected [MASK]"),
        ([run, "the [MASK] " * 30], "text: expected at most 46 tokens, the places that the model has, got 60"),
        ([run, "the [MASK]", "--top-k", "0"], "top-k"),
        (
            [str(tmp_path / "gan"), "the [MASK]"],
            "expected a model of bert_pretraining, which fills masks, got one of dcgan",
        ),
    ):
        assert main(["fill-mask", *words, "--device", "cpu"]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_export_writes_what_the_pretrained_key_reads_again(learnt, tmp_path, capsys):
    from genlab.cli import main
    from genlab.models.bert_weights import read_weights

    assert main(["export-bert", str(learnt[0]), str(tmp_path / "out")]) == 0
    names = {"model.safetensors", "config.json", "tokenizer_config.json", "vocab.txt"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    trainer = load_bundle(learnt[0]).trainer
    assert (facts["num_attention_heads"], facts["hidden_size"], facts["vocab_size"]) == (4, 48, len(trainer.codec))
    written = read_weights(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[n], value) for n, value in trainer.networks["model"].state_dict().items())
    config = load_config("bert_tiny", [f"model.bert.pretrained={tmp_path / 'out'}"])
    assert config.model.bert.shape() == trainer.config.model.bert.shape() and config.data.lowercase
    dataset = data.build(config.data)
    assert dataset.codecs["tokens"] == trainer.codec
    ALGORITHMS.get("sentence_classifier")(config, DataSpec.of(dataset)).begin()
    capsys.readouterr()
    for words, message in (
        ([str(learnt[0]), str(tmp_path / "out")], "expected a new or empty folder"),
        ([str(tmp_path / "none"), str(tmp_path / "two")], "no such file or folder"),
    ):
        assert main(["export-bert", *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "two").exists()


def test_fill_mask_of_a_text_of_unknown_words_still_answers(learnt):
    (row,) = load_bundle(learnt[0]).trainer.fill_mask("ΩΩ [MASK] ΩΩ", 10_000)
    assert sum(chance for _, chance in row) == pytest.approx(1.0, abs=0.2)
    with pytest.raises(UserError, match="got none in ''"):
        load_bundle(learnt[0]).trainer.fill_mask("")
