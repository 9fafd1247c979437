"""Captioners: they say what is drawn and look at what they name; losses, baseline and scores are the paper's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genlab import data
from genlab.captioning import places_of, read_captions
from genlab.checkpoint import load_bundle
from genlab.config import load_config
from genlab.data.drawn import SHAPES
from genlab.data.drawn_captions import COUNTS, boxes_of, captions_of
from genlab.errors import CheckpointError, ConfigError, DataError
from genlab.models.captioning_encoder import ImageEncoder
from genlab.nn import Conv2d
from genlab.trainers import ALGORITHMS, DataSpec, train
from genlab.trainers.evaluation import EvaluationData

PLAIN = ["optimizer.name=sgd", "optimizer.max_grad_norm=null", "optimizer.lr=1"]


def build(*overrides: str):
    config = load_config("captioning_tiny", list(overrides))
    dataset = data.build(config.data)
    return ALGORITHMS.get("captioning")(config, DataSpec.of(dataset)), dataset


def some(dataset, count: int = 8) -> dict[str, torch.Tensor]:
    return dataset.fetch(np.arange(count) * 7)


def test_the_soft_loss_is_the_papers(monkeypatch):
    trainer, dataset = build("model.attention=soft", "doubly_stochastic=0.7")
    batch, network = some(dataset), trainer.networks["captioner"]
    seen = []
    name = "genlab.trainers.update.Update.backward"
    monkeypatch.setattr(name, lambda self, loss: (seen.append(loss), loss.backward()))
    with torch.no_grad():
        reading = network(batch["image"], trainer.before(batch["caption"]))
    inside = batch["caption"] != 0
    logs = reading.logits.log_softmax(2).gather(2, batch["caption"][:, :, None])[:, :, 0]
    words = [float(row[here].sum()) for row, here in zip(logs, inside, strict=True)]
    uneven = [float(((1 - alpha[here].sum(0)) ** 2).sum()) for alpha, here in zip(reading.weights, inside, strict=True)]
    metrics = trainer.advance(batch)
    assert metrics["loss"].item() == pytest.approx(-np.mean(words), rel=1e-5)
    assert metrics["nats"].item() == pytest.approx(-sum(words) / int(inside.sum()), rel=1e-5)
    assert metrics["doubly_stochastic"].item() == pytest.approx(0.7 * np.mean(uneven), rel=1e-5)
    assert seen[0].item() == pytest.approx(-np.mean(words) + 0.7 * np.mean(uneven), rel=1e-5)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_batch_gives_the_same_gradient_in_any_micro_batches(kind):
    """Captions of unequal length, and the same places drawn for each."""
    moved = []
    for parts in (1, 4):
        trainer, dataset = build(f"model.attention={kind}", f"train.grad_accumulation={parts}", *PLAIN)
        network = trainer.networks["captioner"].eval()  # batch statistics are of a micro-batch
        before = [p.detach().clone() for p in network.parameters()]
        trainer.advance(some(dataset))
        moved.append(torch.cat([(b - p).flatten() for b, p in zip(before, network.parameters(), strict=True)]))
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-3, atol=1e-5)
    assert moved[0].abs().max() > 1e-3


def test_the_baseline_is_the_moving_average_of_the_likelihood_and_comes_back(tmp_path):
    trainer, dataset = build("hard.baseline_decay=0.8")
    words = float((some(dataset)["caption"] != 0).sum(1).float().mean())
    expected = -words * math.log(len(trainer.codec))  # of a model that knows nothing
    for _ in range(3):
        expected = 0.8 * expected + 0.2 * -trainer.advance(some(dataset))["loss"].item()
        assert trainer.baseline.tolist() == pytest.approx([expected, 1.0])
    again, _ = build()
    again.load_extra_state(*trainer.extra_state())
    assert again.baseline.tolist() == trainer.baseline.tolist()


def test_drawn_places_teach_where_to_look_and_expectation_is_soft_attention():
    """Without REINFORCE and expectation nothing reaches the attention; with either something does."""

    def lesson(**hard: float) -> float:
        settings = ", ".join(f"{name}: {value}" for name, value in {"entropy": 0, **hard}.items())
        trainer, dataset = build(f"hard={{{settings}}}", *PLAIN)
        trainer.baseline.copy_(torch.tensor([-10.0, 1.0]))
        weights = trainer.networks["captioner"].attention.score.weight
        before = weights.detach().clone()
        trainer.advance(some(dataset))
        return float((weights.detach() - before).norm())

    assert lesson(reinforce=0, expectation=0) == 0
    assert lesson(reinforce=1, expectation=0) > 1e-6
    assert lesson(reinforce=0, expectation=1) > 1e-6
    assert lesson(reinforce=0, expectation=0, entropy=1) > 1e-6


QUIET = ["train.tensorboard=false", "train.log_every=200", "train.sample_every=5000", "train.checkpoint_every=5000"]


def test_says_what_is_where_and_looks_at_what_it_names(tmp_path):
    """Two shapes of 25 kinds in either of two relations: one of 1,200 captions is right by chance.

    The word of a shape is looked for in the box of that shape, not in the other's, on pictures that it never saw.
    """
    config = load_config("captioning_shapes", QUIET)
    result = train(config, tmp_path / "run")
    scores = {row["name"]: row["value"] for row in result.last_scores}
    trainer, test = load_bundle(result.last_checkpoint).trainer, data.build(config.data, "test")
    numbers = np.arange(100)
    _, maps = read_captions(trainer, test.pictures(numbers), test.captions(numbers))
    fine = torch.nn.functional.interpolate(maps.flatten(0, 1)[:, None], scale_factor=8, mode="nearest")[:, 0] / 64
    fine = fine.unflatten(0, maps.shape[:2])
    boxes = boxes_of(numbers + COUNTS["train"] + COUNTS["val"], (32, 32)).round().astype(int)
    mass, area = np.zeros((2, 2, 100)), np.zeros((2, 100))
    for row, tokens in enumerate(test.captions(numbers).tolist()):
        words = [trainer.codec.tokens[token] for token in tokens]
        named = [number for number, word in enumerate(words) if word in SHAPES]
        for which, (left, top, right, bottom) in enumerate(boxes[row]):
            area[which, row] = (right - left) * (bottom - top) / 32**2
            for name, word in enumerate(named):
                mass[name, which, row] = fine[row, word, top:bottom, left:right].sum()
    assert scores["test_exact_match"] >= 0.8
    for which in (0, 1):
        own, other = mass[which, which].mean(), mass[which, 1 - which].mean()
        assert own > 1.5 * area[which].mean() and own > 3 * other


def test_emoji_in_two_hands_are_learnt_by_heart(shared_data, tmp_path):
    """Twelve real emoji of both styles and their names; whoever does not see the picture can name one of them."""
    few = ["data={name: emoji_captions, image_size: 32, channels: 3, batch_size: 12, limit: 12}", "model.dropout=0.0"]
    size = ["model.attention=soft", "model.embedding=32", "model.hidden=48", "train.steps=100", "optimizer.lr=0.006"]
    quiet = ["evaluate.metrics=[]", "train.sample_every=100", "train.checkpoint_every=100", "train.tensorboard=false"]
    config = load_config("captioning_tiny", [*few, *size, *quiet, f"data.root={shared_data}"])
    result = train(config, tmp_path / "run")
    trainer, dataset = load_bundle(result.last_checkpoint).trainer, data.build(config.data)
    said = trainer.caption(dataset.pictures(np.arange(12)))
    split = trainer.codec.split
    right = [split(text) == split(reference[0]) for text, reference in zip(said, dataset.references, strict=True)]
    assert sum(right) >= 10
    assert (tmp_path / "run" / "samples" / "step_00000100_attention.png").exists()
    assert "1. data:  " in (tmp_path / "run" / "samples" / "step_00000100.txt").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("captions") / "run"
    train(load_config("captioning_tiny", ["train.steps=2", "train.tensorboard=false"]), path, evaluator=None)
    return path


def test_scores_are_those_of_the_captions_said(run, monkeypatch):
    """Against references that are known: the model is made to repeat one of a picture's captions, or another's."""
    sacrebleu = pytest.importorskip("sacrebleu.metrics")
    trainer = load_bundle(run).trainer
    test = data.build(trainer.config.data, "test")
    references = captions_of(np.arange(COUNTS["train"] + COUNTS["val"], sum(COUNTS.values())))
    picked = data.evenly_spaced(400, 8)
    said = [references[row][number % 2] for number, row in enumerate(picked)]
    said[3] = references[picked[4]][0]
    monkeypatch.setattr(type(trainer), "caption", lambda self, images, beam=None: said)
    scores = {score.name: score for score in trainer.scores(EvaluationData(trainer.config, torch.device("cpu"), 8))}
    assert set(scores) == set(trainer.own_score_names)
    streams = [[references[row][side] for row in picked] for side in (0, 1)]
    for order in (1, 2, 3, 4):
        expected = sacrebleu.BLEU(max_ngram_order=order, lowercase=True).corpus_score(said, streams).score
        assert scores[f"test_bleu{order}"].value == pytest.approx(expected)
        assert 50 < expected < 100
    assert scores["test_exact_match"].value == 7 / 8
    assert scores["test_exact_match"].protocol["captions"] == 16
    assert scores["test_perplexity"].protocol["real"]["fingerprint"] == test.fingerprint


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(run):
    trainer = load_bundle(run).trainer
    output = trainer.networks["captioner"].output
    with torch.no_grad():
        output.weight.zero_()
        output.bias.zero_()
    data_ = EvaluationData(trainer.config, torch.device("cpu"), 8)
    scores = {score.name: score.value for score in trainer.scores(data_)}
    assert scores["test_perplexity"] == pytest.approx(len(trainer.codec), rel=1e-5)


def test_captions_of_different_numbers_of_references_are_scored():
    pytest.importorskip("sacrebleu")
    from genlab.metrics.bleu import caption_bleu

    value, signature = caption_bleu(["a red cat", "a dog"], [["a red cat", "the cat"], ["a dog"]], 2, True)
    assert value == pytest.approx(100) and "order:2" in signature


def test_what_is_read_is_what_was_decoded(run):
    trainer = load_bundle(run).trainer
    dataset = data.build(trainer.config.data, "test")
    image = dataset.pictures(np.arange(1))[0]
    (tokens,) = trainer.search(image[None], beam=1)
    words, maps = places_of(trainer, image, tokens)
    assert words == [*(trainer.codec.tokens[token] for token in tokens), "<eos>"]
    assert maps.shape == (len(words), 8, 8)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(len(words)))
    logs, _ = read_captions(trainer, image[None], torch.tensor([[*tokens, 3, 0, 0]]))
    assert logs[0, -2:].tolist() == [0, 0] and (logs[0, :-2] < 0).all()
    with pytest.raises(DataError, match=r"expected pictures \(N, 3, H, W\)"):
        trainer.caption(torch.zeros(1, 1, 32, 32))


def test_an_encoder_begins_with_a_classifiers_weights_and_stays_so_when_frozen(tmp_path):
    sizes = ["model={network: small_cnn, base_channels: 8, stages: 2, dropout: 0.0}", "data.batch_size=20"]
    shapes = ["data.name=shapes", "data.image_size=32", "data.channels=3", "train.steps=1", "evaluate.metrics=[]"]
    config = load_config("classifier_tiny", [*sizes, *shapes, "train.tensorboard=false"])
    judge = train(config, tmp_path / "classifier").last_checkpoint
    known = load_bundle(judge).trainer.networks["classifier"].features.state_dict()
    common = [f"model.encoder.weights={tmp_path / 'classifier'}", "train.steps=2", "train.tensorboard=false"]
    common += ["evaluate.metrics=[]"]
    for frozen in ("true", "false"):
        run = tmp_path / f"frozen_{frozen}"
        train(load_config("captioning_tiny", [*common, f"model.encoder.frozen={frozen}"]), run)
        found = load_bundle(run).trainer.networks["captioner"].encoder.layers.state_dict()
        same = [torch.equal(found[name], known[name]) for name in found]
        assert all(same) if frozen == "true" else not any(same)
    with pytest.raises(CheckpointError, match=r"^model\.encoder\.weights: .*expected features\.0\.weight of shape"):
        train(load_config("captioning_tiny", [*common, "model.encoder.base_channels=4"]), tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"^model\.encoder\.weights: .*a checkpoint of algorithm classifier, got"):
        weights = f"model.encoder.weights={tmp_path / 'frozen_true'}"
        train(load_config("captioning_tiny", [*common, weights]), tmp_path / "third")


def test_the_papers_encoder_is_vgg19_up_to_its_fifth_pooling():
    """14 x 14 places of 512 numbers (section 3.1.1), the fourth convolution of the last stage."""
    config = load_config("captioning_vgg19_emoji")
    with torch.device("meta"):
        encoder = ImageEncoder((3, 224, 224), config.model.encoder, config.model.encoder.grid)
    assert (encoder.channels, encoder.rows, encoder.columns) == (512, 14, 14)
    assert sum(isinstance(layer, Conv2d) for layer in encoder.layers) == 16


def test_vgg_captions_and_sees_what_torchvisions_sees_with_its_weights(tmp_path):
    vgg = pytest.importorskip("torchvision.models.vgg")
    features = vgg.make_layers(vgg.cfgs["A"], batch_norm=True).eval()
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    torch.save(
        {**state, "classifier.1.weight": torch.zeros(1, 512), "classifier.1.bias": torch.zeros(1)}, tmp_path / "vgg.pth"
    )
    small = ["data={name: captioned_shapes, image_size: 32, channels: 3, batch_size: 4}", "train.steps=1"]
    small += ["model.embedding=8", "model.hidden=16", "model.attention_size=8", "evaluate.metrics=[]"]
    small += ["model.encoder.network=vgg11", "model.encoder.grid=2", f"model.encoder.weights={tmp_path / 'vgg.pth'}"]
    small += ["model.encoder.normalize=imagenet", "model.encoder.frozen=true", "train.tensorboard=false"]
    train(load_config("captioning_vgg19_emoji", small), tmp_path / "run")
    trainer = load_bundle(tmp_path / "run").trainer
    images = data.build(trainer.config.data, "test").pictures(np.arange(2))
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        maps = features[:-1](((images + 1) / 2 - mean) / deviation)  # all but the fifth pooling
        seen = trainer.networks["captioner"].encoder(images)
    assert maps.shape == (2, 512, 2, 2)
    torch.testing.assert_close(seen, maps.flatten(2).transpose(1, 2), rtol=1e-3, atol=1e-4)
    assert len(trainer.caption(images)) == 2


def test_data_of_another_vocabulary_is_refused(tmp_path):
    root = tmp_path / "own"
    root.mkdir()
    for number in range(20):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(root / f"{number}.png")
    (root / "captions.tsv").write_text("".join(f"{number}.png\ta red one\n" for number in range(20)))
    overrides = ["data.name=captioned", f"data.root={root}", "train.steps=1", "evaluate.metrics=[]"]
    config = load_config("captioning_tiny", [*overrides, "train.tensorboard=false"])
    train(config, tmp_path / "run")
    (root / "captions.tsv").write_text("".join(f"{number}.png\ta blue one\n" for number in range(20)))
    trainer = load_bundle(tmp_path / "run").trainer
    with pytest.raises(DataError, match="expected the vocabulary of the model"):
        trainer.scores(EvaluationData(trainer.config, torch.device("cpu"), 10))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.encoder.frozen=true", r"frozen: expected model\.encoder\.weights beside it"),
        ("model.encoder.network=mlp", r"encoder\.network=mlp: expected a network of convolutions or patches, whose"),
        ("model.encoder.grid=64", r"encoder\.network=small_cnn: expected a map of at least 64 places a side, got 32"),
        ("model.encoder.network=smallcnn", r"did you mean 'small_cnn'\?"),
        ("model.encoder={network: alexnet, form: large}", "expected pictures of at least 63 px"),
        ("model.encoder.normalize=imagenet", "expected 3 channels, got 1; set data.channels=3"),
        ("model.attention=medium", "model.attention: expected 'soft', 'hard' or 'none', got 'medium'"),
        ("hard.glimpse=sample", "hard.glimpse: expected 'argmax' or 'expected', got 'sample'"),
        ("data.classes=[red]", "classes: means nothing to captions"),
        ("data.tested_by=styles", r"expected data\.styles, those that are trained on, beside it, got none"),
        ("data.name=digits", "expected a data set of captioned, got images"),
    ],
)
def test_settings_that_do_not_fit_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        build(override, *(["data.channels=1"] if "imagenet" in override else []))


def test_caption_prints_a_line_for_each_image_and_draws_where_it_looked(run, tmp_path, capsys):
    """Any size, any channels: they are brought to the model's."""
    from genlab.cli import main

    folder = tmp_path / "mine"
    folder.mkdir()
    Image.new("RGBA", (50, 40), (255, 0, 0, 128)).save(folder / "clear.png")
    Image.new("L", (9, 90), 40).save(folder / "grey.png")
    one = tmp_path / "one.jpg"
    Image.new("RGB", (32, 32), (0, 0, 255)).save(one)
    maps = tmp_path / "maps"
    words = ["caption", str(run), str(folder), str(one), "--maps", str(maps), "--beam", "1", "--device", "cpu"]
    assert main(words) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [file for file, _ in rows] == [str(folder / "clear.png"), str(folder / "grey.png"), str(one)]
    assert sorted(path.name for path in maps.iterdir()) == ["000_clear.png", "001_grey.png", "002_one.png"]
    assert min(Image.open(maps / "000_clear.png").size) > 100
    assert main(["caption", str(run), str(one), "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["image"] == str(one)


def test_caption_refuses_in_one_line(run, tmp_path, capsys):
    from genlab.cli import main

    picture, text, full, other = (tmp_path / name for name in ("a.png", "a.txt", "full", "other"))
    Image.new("RGB", (32, 32)).save(picture)
    text.write_text("no picture")
    full.mkdir()
    (full / "old.png").write_bytes(b"x")
    quick = ["train.steps=1", "evaluate.metrics=[]", "train.tensorboard=false"]
    train(load_config("tagger_tiny", quick), other)
    train(load_config("captioning_tiny", [*quick, "model.attention=none"]), tmp_path / "blind")
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:40])
    for words, message in (
        ([run, tmp_path / "none.png"], "expected an image, a folder or a zip archive of images, got nothing at that"),
        ([run, text], "a.txt"),
        ([run, broken], "broken.png"),
        ([run, picture, "--maps", full], "expected an empty or new folder"),
        ([run, picture, "--maps", tmp_path / "map.png"], "--maps: expected a folder, got the picture file"),
        ([run, picture, "--beam", "0"], "--beam"),
        ([other, picture], "expected a model of captioning, which says what pictures show, got one of tagger"),
        ([tmp_path / "blind", picture, "--maps", tmp_path / "m"], "--maps: expected a model with attention"),
        ([tmp_path / "nowhere", picture], "nowhere"),
    ):
        assert main(["caption", *map(str, words), "--device", "cpu"]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
