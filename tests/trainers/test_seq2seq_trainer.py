"""Translators: they learn gender, case and order that no dictionary gives; tokens count alike; bad input is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genlab import data
from genlab.checkpoint import load_bundle
from genlab.config import load_config
from genlab.errors import ConfigError, RunError, UserError
from genlab.trainers import ALGORITHMS, DataSpec, train

QUICK = ["train.tensorboard=false", "train.log_every=100", "data.batch_size=64", "decoding.longest=20"]
QUICK += ["evaluate.samples=100", "train.sample_every=1000", "train.checkpoint_every=1000"]
CASES = {  # settings, steps, least BLEU
    "additive": (["model.embedding=32", "model.recurrent={hidden: 64, attention: additive}", "optimizer.lr=0.005"], 360,
                 50),
    "dot": (["model.embedding=32", "model.recurrent={hidden: 64, attention: dot}", "optimizer.lr=0.01"], 260, 70),
    "transformer": (["model.network=transformer", "model.embedding=64", "optimizer.lr=0.003", "model.dropout=0.0",
                     "model.transformer={layers: 2, heads: 4, feedforward: 128}", "label_smoothing=0.1",
                     "train.schedule={name: inverse_sqrt, warmup_steps: 60}"], 260, 70),
}  # fmt: skip


def build(*overrides: str):
    config = load_config("seq2seq_tiny", list(overrides))
    dataset = data.build(config.data)
    return ALGORITHMS.get("seq2seq")(config, DataSpec.of(dataset)), dataset


@pytest.mark.parametrize("name", CASES)
def test_learns_to_translate(tmp_path, name):
    """Word for word, with the partner that fits each best, gives 43 BLEU (the test below)."""
    pytest.importorskip("sacrebleu")
    overrides, steps, least = CASES[name]
    config = load_config("seq2seq_tiny", [*QUICK, *overrides, f"train.steps={steps}"])
    result = train(config, tmp_path / "run")
    scores = {row["name"]: row["value"] for row in result.last_scores}
    assert scores["test_bleu"] >= least
    assert (tmp_path / "run" / "samples" / f"step_{steps:08d}_attention.png").exists()


def test_word_for_word_stays_behind():
    pytest.importorskip("sacrebleu")
    from collections import Counter, defaultdict

    from genlab.metrics.bleu import corpus_bleu

    _, pairs = build()
    partners: dict[str, Counter] = defaultdict(Counter)
    totals: Counter = Counter()
    for _, german in pairs.texts:
        totals.update(set(german.lower().rstrip(".").split()))
    for english, german in pairs.texts:
        for word in english.lower().rstrip(".").split():
            partners[word].update(set(german.lower().rstrip(".").split()))
    count = len(pairs.texts)
    best = {
        word: max(found, key=lambda g: found[g] ** 2 / totals[g] if found[g] > 2 else found[g] / count)
        for word, found in partners.items()
    }
    test = data.build(load_config("seq2seq_tiny").data, "test").texts[:100]
    made = [" ".join(best.get(w, w) for w in english.lower().rstrip(".").split()) + "." for english, _ in test]
    value, signature = corpus_bleu(made, [german for _, german in test], True)
    assert value < 50
    assert "version:" in signature


def test_every_token_of_a_batch_counts_the_same_in_any_micro_batches():
    """Sentences of unequal length: the gradient of the whole batch, not of means of means."""
    gradients = []
    for parts in (1, 4):
        unclipped = ("optimizer.name=sgd", "optimizer.max_grad_norm=null")
        trainer, dataset = build(f"train.grad_accumulation={parts}", *unclipped)
        before = [p.detach().clone() for p in trainer.networks["translator"].parameters()]
        batch = dataset.fetch(torch.tensor([0, 5, 9, 30, 31, 70, 71, 99]).numpy())
        trainer.advance(batch)
        after = trainer.networks["translator"].parameters()
        gradients.append(torch.cat([(b - a).flatten() for a, b in zip(after, before, strict=True)]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-7)
    assert gradients[0].abs().max() > 1e-6


def test_the_loss_is_the_smoothed_cross_entropy_of_the_tokens_without_padding():
    trainer, dataset = build("label_smoothing=0.1")
    batch = dataset.fetch(torch.arange(8).numpy())
    network, pad = trainer.networks["translator"], 0
    with torch.no_grad():
        logs = network(batch["source"], batch["source_length"], trainer._given(batch["target"])).log_softmax(2)
    inside = batch["target"] != pad
    right = -logs.gather(2, batch["target"][:, :, None])[:, :, 0]
    expected = (0.9 * right + 0.1 * -logs.mean(2))[inside].mean()
    assert trainer.advance(batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.fixture(scope="module", params=["lstm", "transformer"])
def run(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "run"
    more = ["model.transformer={layers: 1, heads: 2, positions: 16}", "train.tensorboard=false"]
    train(load_config("seq2seq_tiny", [f"model.network={request.param}", *more]), path, evaluator=None)
    return path


def test_a_checkpoint_translates_without_its_data_and_shows_where_it_looked(run):
    trainer = load_bundle(run).trainer
    assert trainer.translate(["The dog sleeps."], beam=1) == trainer.translate(["the dog sleeps ."], beam=1)
    source, target, weights = trainer.attention("The dog sleeps.", "der hund schläft.")
    assert source == ["the", "dog", "sleeps", ".", "<eos>"] and target[:2] == ["der", "hund"]
    torch.testing.assert_close(weights.sum(1), torch.ones(len(target)))
    with pytest.raises(UserError, match="sentence 2: expected words, got ' '"):
        trainer.translate(["a dog", " "])


def test_translate_text_prints_a_line_each_and_refuses_in_one_line(run, capsys, tmp_path):
    from PIL import Image

    from genlab.cli import main

    picture = tmp_path / "map.png"
    words = ["translate-text", str(run), "The dog sleeps.", "--attention", str(picture), "--device", "cpu"]
    assert main(words) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert min(Image.open(picture).size) > 100
    file = tmp_path / "two.txt"
    file.write_text("a dog sleeps .\nthe cat laughs .\n")
    assert main(["translate-text", str(run), "--file", str(file), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("\n") == 2
    cases = [
        (["a", "b", "--attention", str(picture)], "--attention: expected one sentence, got 2"),
        (["a", "--attention", "map.txt"], "expected a name that ends in .png"),
        ([], "give one of the two"),
    ]
    if "transformer" in str(run):
        cases.append((["dog " * 30], "sentence 1: expected at most 15 tokens, the places that the model has, got 30"))
    for more, message in cases:
        assert main(["translate-text", str(run), *more, "--device", "cpu"]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_missing_sacrebleu_is_told(monkeypatch):
    import sys

    from genlab.metrics.bleu import corpus_bleu

    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(RunError, match="expected the package sacrebleu, got none; pip install"):
        corpus_bleu(["a"], ["a"], True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.recurrent.hidden=7"], "expected an even number, got 7"),
        (["model.network=transformer", "model.embedding=10"], r"expected a divisor of model\.embedding=10, got 4"),
        (["data.languages=[en, fr]"], "data.languages: expected en and de, got en, fr"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises((ConfigError, UserError), match=message):
        build(*overrides)


def test_the_schedule_of_the_paper_rises_and_falls_with_the_root():
    from genlab.config import ScheduleConfig
    from genlab.schedules import build_schedule

    factor = build_schedule(ScheduleConfig(name="inverse_sqrt", warmup_steps=100), 1000)
    assert factor(49) == pytest.approx(0.5) and factor(99) == pytest.approx(1.0)
    assert factor(399) == pytest.approx(0.5)


def own_pairs(folder: Path, test: str) -> list[str]:
    """Overrides for a Transformer of six places on pairs in files, the test part one pair of source `test`."""
    folder.mkdir()
    for part, source, times in (("train", "a dog runs", 40), ("val", "a dog", 1), ("test", test, 1)):
        (folder / f"{part}.en").write_text(f"{source}\n" * times)
        (folder / f"{part}.de").write_text("ein hund\n" * times)
    small = "{network: transformer, embedding: 16, transformer: {layers: 1, heads: 2, positions: 6}}"
    quick = ["train.steps=1", "train.tensorboard=false", "data.batch_size=4", f"model={small}"]
    return [*quick, "data.name=parallel", f"data.root={folder}"]


@pytest.mark.parametrize(("test", "part"), [("a dog " * 9, "test"), ("a dog", "train")])
def test_sentences_longer_than_the_places_are_told_before_the_training(test, part, tmp_path):
    overrides = own_pairs(tmp_path / "own", test)
    if part == "train":
        (tmp_path / "own" / "train.de").write_text("ein hund und noch ein hund und noch einer\n" * 40)
    longest = {"test": 19, "train": 10}[part]
    message = rf"positions: expected at least {longest}, .*of the {part} part, got 6; .*data\.max_length=6"
    with pytest.raises(ConfigError, match=message):
        train(load_config("seq2seq_tiny", overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sentences_cut_to_the_places_are_trained_on_shown_and_scored(tmp_path):
    """Also where the model never ends a translation, which then has as many tokens as there are places."""
    pytest.importorskip("sacrebleu")
    overrides = [*own_pairs(tmp_path / "own", "a dog " * 9), "data.max_length=6"]
    result = train(load_config("seq2seq_tiny", overrides), tmp_path / "run")
    assert {row["name"] for row in result.last_scores} == {"val_bleu", "test_bleu"}
    trainer = load_bundle(tmp_path / "run").trainer
    trainer.networks["translator"].output.bias.data[trainer.target.special("end")] = -100.0
    words, said, weights = trainer.attention("a dog runs")
    assert len(said) == 6 and weights.shape == (6, len(words))
