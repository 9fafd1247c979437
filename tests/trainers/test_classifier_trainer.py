"""The supervised trainer: what is trained on, what is minimised, where weights come from, and that it learns."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision import models as torchvision_models

from genlab import data
from genlab.checkpoint import load_bundle, load_checkpoint
from genlab.classification import part_dataset, predictions_of
from genlab.config import load_config
from genlab.data.partition import partition
from genlab.errors import CheckpointError, ConfigError, DataError
from genlab.trainers import DataSpec, train
from genlab.trainers.classifier import ClassifierTrainer
from genlab.trainers.evaluation import EvaluationData

QUIET = ["train.tensorboard=false", "train.sample_every=1000", "train.log_every=100", "train.sample_count=4"]


def classifier(*overrides: str):
    return load_config("classifier_tiny", [*QUIET, *overrides])


def build(*overrides: str) -> tuple[ClassifierTrainer, data.BatchStream]:
    config = classifier(*overrides)
    dataset = data.build(config.data, config.data.split)
    trainer = ClassifierTrainer(config, DataSpec.of(dataset))
    trainer.begin()
    return trainer, trainer.open_stream(dataset, seed=0)


def weights_of(trainer: ClassifierTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.networks["classifier"].named_parameters()}


PLAIN = ["augment.crop_padding=0", "augment.cutout=null", "model.dropout=0", "optimizer.weight_decay=0"]


# What is trained on.


def test_the_validation_and_test_parts_are_never_trained_on():
    trainer, stream = build(*PLAIN, "data.split=all", "split.validation=0.2", "split.test=0.2", "data.batch_size=50")
    dataset = data.build(trainer.config.data, "all")
    parts = partition(dataset.labels.numpy(), trainer.config.split)
    # Some digits are drawn alike twice at 8 px; their index is what a part is made of.
    assert stream.dataset.indices.tolist() == parts["train"].tolist()
    for part in ("validation", "test"):
        found = part_dataset(trainer, part)
        assert found.indices.tolist() == parts[part].tolist()
        assert not set(found.indices.tolist()) & set(stream.dataset.indices.tolist())


def test_without_a_test_share_the_sets_own_test_split_judges():
    trainer, stream = build()
    test = part_dataset(trainer, "test")
    assert test.split == "test"
    assert len(test) == 297
    assert len(stream.dataset) + len(part_dataset(trainer, "validation")) == 1500


def test_scores_are_of_their_parts_and_the_best_is_by_validation_accuracy(tmp_path):
    config = classifier("train.steps=6", "train.checkpoint_every=2", "evaluate.every=2", "split.validation=0.2")
    result = train(config, tmp_path / "run")
    rows = {row["name"]: row for row in result.last_scores}
    assert list(rows)[0] == "validation_accuracy"
    assert set(rows) <= set(ClassifierTrainer.own_score_names)
    assert rows["validation_accuracy"]["protocol"]["real"]["count"] == 300
    assert rows["test_accuracy"]["protocol"]["real"]["count"] == 297
    best = load_checkpoint(result.best_checkpoint)
    assert best.state["progress"]["best"]["name"] == "validation_accuracy"
    trainer = load_bundle(tmp_path / "run").trainer
    predictions = predictions_of(trainer.predict, part_dataset(trainer, "test"))
    assert rows["test_accuracy"]["value"] == pytest.approx(predictions.accuracy())
    assert rows["test_loss"]["value"] == pytest.approx(predictions.loss(), rel=1e-5)


# What is minimised.


def test_a_step_descends_the_cross_entropy_of_the_batch():
    trainer, stream = build(*PLAIN, "optimizer.momentum=0", "optimizer.lr=0.1", "classifier.label_smoothing=0.2")
    batch = next(stream)
    twin = copy.deepcopy(trainer.networks["classifier"]).train()
    loss = F.cross_entropy(twin(batch["image"]), batch["label"], label_smoothing=0.2)
    loss.backward()
    before = weights_of(trainer)
    metrics = trainer.advance(batch)
    assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in twin.named_parameters():
        moved = trainer.networks["classifier"].get_parameter(name).detach() - before[name]
        torch.testing.assert_close(moved, -0.1 * parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("micro", [1, 2])
def test_sam_descends_the_gradient_at_the_worst_neighbour(micro):
    """Written out once more from equation 2 and algorithm 1 of the paper, on a network without normalisation."""
    trainer, stream = build(
        *PLAIN, "model.network=lenet5", "data.image_size=28", "optimizer.momentum=0", "optimizer.lr=0.1",
        "classifier.sam_rho=0.5", f"train.grad_accumulation={micro}",
    )  # fmt: skip
    batch = next(stream)
    twin = copy.deepcopy(trainer.networks["classifier"])
    parameters = list(twin.parameters())
    loss = F.cross_entropy(twin(batch["image"]), batch["label"])
    gradients = torch.autograd.grad(loss, parameters)
    length = torch.cat([g.flatten() for g in gradients]).norm()
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter += 0.5 * gradient / length
    expected = torch.autograd.grad(F.cross_entropy(twin(batch["image"]), batch["label"]), parameters)
    plain = [-0.1 * g for g in gradients]
    before = weights_of(trainer)
    trainer.advance(batch)
    for (name, old), gradient, other in zip(before.items(), expected, plain, strict=True):
        moved = trainer.networks["classifier"].get_parameter(name).detach() - old
        torch.testing.assert_close(moved, -0.1 * gradient, rtol=1e-3, atol=1e-6)
        assert not torch.allclose(moved, other, rtol=1e-2, atol=1e-6), name


def test_l1_pulls_weights_but_neither_biases_nor_normalisations():
    steps = []
    for weight in (0.0, 0.01):
        trainer, stream = build(*PLAIN, "optimizer.momentum=0", "optimizer.lr=0.1", f"classifier.l1={weight}")
        start = weights_of(trainer)
        trainer.advance(next(stream))
        steps.append(weights_of(trainer))
    for name, value in steps[0].items():
        expected = -0.001 * start[name].sign() if value.dim() > 1 else torch.zeros_like(value)
        torch.testing.assert_close(steps[1][name] - value, expected, rtol=1e-3, atol=1e-6)


def test_mixup_mixes_pictures_and_their_losses_by_one_share():
    trainer, stream = build(*PLAIN, "classifier.mixup=1.0", "optimizer.lr=1e-9")
    batch = next(stream)
    x, y, partner, share = trainer._mixed(batch["image"], batch["label"])
    assert 0 < share < 1
    torch.testing.assert_close(x[1], share * batch["image"][1] + (1 - share) * batch["image"][0])
    assert torch.equal(partner[1:], y[:-1])
    twin = copy.deepcopy(trainer.networks["classifier"]).train()
    logits = twin(x)
    expected = share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, partner)
    assert float(trainer.advance(batch)["loss"]) == pytest.approx(expected.item(), rel=1e-4)
    trainer.step = 5
    assert trainer._mixed(batch["image"], batch["label"])[3] != share


def test_the_heads_in_the_middle_count_as_the_paper_says():
    trainer, stream = build(*PLAIN, "model.network=googlenet", "model.auxiliary=true", "data.batch_size=2")
    batch = next(stream)
    seen = []
    trainer.networks["classifier"].register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
    trainer.networks["classifier"].eval()  # without dropout; the hook sees what the loss is made of
    trainer.networks["classifier"].training = True
    metrics = trainer.advance(batch)
    main, *auxiliary = seen[0]
    assert len(auxiliary) == 2
    assert float(metrics["loss"]) == pytest.approx(F.cross_entropy(main, batch["label"]).item(), rel=1e-5)
    for head in ("aux1", "aux2"):
        assert trainer.networks["classifier"].get_parameter(f"{head}.fc2.weight").grad is not None


# Where weights come from.


def test_torchvisions_file_begins_a_training_and_its_classes_may_be_others(tmp_path):
    twin = torchvision_models.resnet18(num_classes=10)
    torch.save(twin.state_dict(), tmp_path / "resnet18.pth")
    resnet = [
        "model.network=resnet18",
        "model.base_channels=null",
        "model.form=large",
        "data.channels=3",
        "data.image_size=32",
    ]
    trainer, _ = build(*resnet, f"model.weights={tmp_path}/resnet18.pth", "model.normalize=imagenet")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    inputs = ((images + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]
    expected = twin.eval()(inputs).softmax(1)
    torch.testing.assert_close(trainer.predict(images), expected.detach(), rtol=1e-3, atol=1e-5)
    save_file(torchvision_models.resnet18(num_classes=7).state_dict(), tmp_path / "seven.safetensors")
    with pytest.raises(CheckpointError, match=r"expected fc\.weight of shape \(10, 512\), got \(7, 512\).*new_head"):
        build(*resnet, f"model.weights={tmp_path}/seven.safetensors")
    fresh, _ = build(*resnet, f"model.weights={tmp_path}/seven.safetensors", "model.new_head=true")
    assert fresh.networks["classifier"].fc.weight.shape == (10, 512)


def test_a_run_begins_another_and_is_then_needed_no_more(tmp_path):
    first = train(classifier("train.steps=2"), tmp_path / "first", evaluator=None)
    trainer, _ = build(f"model.weights={tmp_path / 'first'}")
    saved = load_checkpoint(first.last_checkpoint).tensors
    for name, value in weights_of(trainer).items():
        assert torch.equal(value, saved[f"networks/classifier/{name}"])
    config = classifier(f"model.weights={tmp_path / 'first'}", "train.steps=1")
    train(config, tmp_path / "second", evaluator=None)
    (tmp_path / "first").rename(tmp_path / "gone")
    assert load_bundle(tmp_path / "second").step == 1


def test_a_vision_transformers_positions_are_interpolated_to_a_higher_resolution(tmp_path):
    vit = ["model.network=vit_cifar", "model.depth=1", "model.patch=4", "train.steps=1"]
    train(classifier(*vit), tmp_path / "small", evaluator=None)
    small = load_bundle(tmp_path / "small").trainer.networks["classifier"]
    trainer, _ = build(*vit, "data.image_size=16", f"model.weights={tmp_path / 'small'}")
    large = trainer.networks["classifier"]
    assert small.grid == (2, 2)
    assert large.encoder.pos_embedding.shape[1] == 17
    images = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(large.eval()(images), small.eval()(images))  # which interpolates as it sees them


def test_settings_that_the_network_lacks_are_noted_in_the_log(tmp_path):
    train(classifier("train.steps=1", "model.network=mlp", "model.hidden=[8]"), tmp_path / "run", evaluator=None)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    texts = [row["text"] for row in log if row.get("event") == "note"]
    assert texts == ["model.base_channels=8: network mlp has none", "model.stages=2: network mlp has none"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"not a pickle", "cannot be read as a state dict"),
        ({"fc.weight": torch.zeros(1)}, "expected weights of this architecture, got another's .*is missing"),
        ([1, 2], "expected a state dict of tensors, got list"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        build(f"model.weights={path}")
    assert "\n" not in str(caught.value)
    assert "model.weights" in str(caught.value)


def test_another_algorithms_run_has_no_classifier(tmp_path):
    config = load_config("dcgan_tiny", ["train.steps=1", "model.base_channels=2", *QUIET])
    train(config, tmp_path / "gan", evaluator=None)
    with pytest.raises(CheckpointError, match="expected a checkpoint of algorithm classifier, got dcgan"):
        build(f"model.weights={tmp_path / 'gan'}")


# That it learns.


ADAM = ["optimizer.name=adam", "optimizer.lr=3e-3", "train.schedule.name=cosine", *PLAIN]


@pytest.mark.parametrize(
    ("overrides", "bound"),
    [
        (["model.base_channels=16"], 0.94),
        (["model.network=resnet18", "model.base_channels=8", "model.squeeze=true"], 0.9),
        (["model.network=context", "model.base_channels=16"], 0.85),
        (["model.convolution=factorized", "model.base_channels=16", "classifier.sam_rho=0.05", "ema.decay=0.9"], 0.8),
        (["model.convolution=separable", "model.base_channels=24", "classifier.mixup=0.2"], 0.7),
        (["model.network=mlp", "model.activation=maxout", "model.hidden=[64,64]", "model.dropout=0.2"], 0.85),
        (["model.normalization=group", "model.activation=maxout", "model.base_channels=16"], 0.85),
    ],
    ids=["small_cnn", "se_resnet", "context", "factorized_sam_ema", "separable_mixup", "maxout", "maxout_channels"],
)
def test_a_family_learns_to_read_digits_that_it_has_not_seen(overrides, bound):
    settings = ["data.batch_size=50", "train.steps=90", "split.validation=0", *ADAM, *overrides]
    trainer, stream = build(*settings)
    for _ in range(trainer.config.train.steps):
        trainer.advance(next(stream))
    scores = {score.name: score for score in trainer.scores(EvaluationData(trainer.config, trainer.device, 10))}
    assert scores["test_accuracy"].value > bound
    assert "validation_accuracy" not in scores


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.network=lenet5", "data.image_size=28"],
        ["model.network=alexnet", "model.dropout_kind=max_pool", "model.dropout=0.1"],
        ["model.network=vgg11", "data.image_size=32", "model.batch_norm=true", "model.dropout=0"],
        ["model.network=googlenet", "model.auxiliary=true"],
        ["model.network=resnext50_32x4d", "model.base_channels=32"],
        ["model.network=mobilenet", "model.width=0.25"],
        ["model.network=mobilenet_v2", "model.width=0.25"],
        ["model.network=vit_tiny", "model.depth=2", "model.patch=4"],
    ],
    ids=["lenet5", "alexnet", "vgg_bn", "googlenet", "resnext", "mobilenet", "mobilenet_v2", "vit"],
)
def test_a_large_family_learns_twenty_digits_by_heart(overrides):
    """A quick bound for the slow ones: chance is 1 in 10, and a network whose gradient is wrong stays there."""
    settings = ["data.batch_size=20", "train.steps=40", "split.validation=0", *ADAM, "optimizer.lr=1e-3", *overrides]
    trainer, stream = build(*settings)
    labels = stream.dataset.labels
    rows = np.concatenate([np.flatnonzero(labels == number)[:2] for number in range(10)])
    batch = stream.dataset.fetch(rows)
    for _ in range(trainer.config.train.steps):
        if trainer.advance(batch)["accuracy"] >= 0.9:
            return
    pytest.fail("fewer than 18 of 20 digits known by heart")


# What a trained one is asked for.


def test_monte_carlo_passes_differ_and_their_mean_is_a_distribution():
    trainer, _ = build("model.dropout=0.5", "model.base_channels=16")
    images = torch.randn(3, 1, 8, 8).clamp(-1, 1)
    torch.manual_seed(0)
    samples = trainer.predict_samples(images, 20)
    assert samples.shape == (20, 3, 10)
    assert samples.var(0).max() > 1e-6
    torch.testing.assert_close(samples.sum(2), torch.ones(20, 3))
    torch.manual_seed(0)
    assert torch.equal(samples, trainer.predict_samples(images, 20))
    assert torch.equal(trainer.predict(images), trainer.predict(images))
    with pytest.raises(ConfigError, match="expected a network with dropout, which Monte Carlo passes vary, got none"):
        build("model.dropout=0")[0].predict_samples(images, 2)


def test_codes_are_what_the_last_layer_sees():
    trainer, _ = build()
    images = torch.randn(5, 1, 8, 8)
    network = trainer.networks["classifier"].eval()
    codes = trainer.encode(images)
    torch.testing.assert_close(network.fc(codes).softmax(1).detach(), trainer.predict(images))
    assert codes.shape == (5, network.fc.in_features)
    assert not network.fc._forward_pre_hooks


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"expected pictures \(N, 1, H, W\), got \(2, 3, 8, 8\)"),
        (torch.zeros(1, 8, 8), r"expected pictures \(N, 1, H, W\), got \(1, 8, 8\)"),
        (torch.full((1, 1, 8, 8), float("nan")), "expected finite pictures"),
    ],
)
def test_pictures_that_are_none_are_refused(images, message):
    trainer, _ = build()
    for ask in (trainer.predict, trainer.encode, lambda values: trainer.predict_samples(values, 2)):
        with pytest.raises(DataError, match=message):
            ask(images)


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (["model.network=resnet19"], ConfigError, r"model\.network: expected one of .*, got 'resnet19'; did you mean"),
        (["model.network=vgg11"], ConfigError, "model.network=vgg11: expected pictures of at least 32 px"),
        (["data.split=all"], ConfigError, "split.test: expected a share above 0 with data.split=all"),
        (["classifier.sam_adaptive=true"], ConfigError, "expected classifier.sam_rho beside it, got none"),
        (["classifier.sam_rho=0"], ConfigError, r"classifier\.sam_rho: expected greater than 0, got 0"),
        (["model.new_head=true"], ConfigError, "expected model.weights beside it, got none"),
        (["model.normalize=imagenet"], ConfigError, "model.normalize=imagenet: expected 3 channels, got 1"),
        (["split.folds=3", "split.fold=3"], ConfigError, r"split: fold: expected 0 to 2, got 3"),
        (["data.limit=60"], DataError, "expected samples of every class in the validation part, got none of"),
        (["augment.cutout=9"], ConfigError, r"augment\.cutout: expected at most 8"),
        (["model.network=lenet5", "data.image_size=28", "model.dropout_kind=spatial"], ConfigError, "a place for"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(overrides, kind, message):
    with pytest.raises(kind, match=message) as caught:
        build(*overrides)
    assert "\n" not in str(caught.value)


def test_a_set_without_classes_is_refused():
    with pytest.raises(DataError, match="expected at least 2 classes, which a classifier needs, got none"):
        ClassifierTrainer(classifier(), DataSpec("folder", "images", (1, 8, 8)))
    with pytest.raises(DataError, match="which a classifier needs, got only cats; widen data.classes"):
        ClassifierTrainer(classifier(), DataSpec("folder", "images", (1, 8, 8), 1, ("cats",)))


def test_annealed_dropout_is_told_how_far_the_training_is():
    trainer, stream = build("model.network=alexnet", "model.dropout_kind=annealed", "train.steps=4")
    layer = trainer.networks["classifier"].classifier[0]
    seen = []
    for _ in range(4):
        trainer.advance(next(stream))
        seen.append(layer.progress)
    assert np.allclose(seen, [0, 0.25, 0.5, 0.75])
