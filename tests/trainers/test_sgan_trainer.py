"""Semi-supervised GANs: the losses of the K-logit form, which labels are read, and that it learns from few of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from genlab import data
from genlab.config import load_config
from genlab.errors import ConfigError, DataError
from genlab.losses import ADVERSARIAL_LOSSES
from genlab.trainers import DataSpec, train
from genlab.trainers.evaluation import EvaluationData
from genlab.trainers.sgan import SganTrainer


def build(*overrides: str) -> tuple[SganTrainer, data.ImageDataset]:
    config = load_config("sgan_tiny", list(overrides))
    dataset = data.build(config.data)
    return SganTrainer(config, DataSpec.of(dataset)), dataset


def test_the_real_or_generated_loss_is_that_of_a_class_more():
    trainer, dataset = build("model.noise=0", "model.input_noise=0")
    batch = next(trainer.open_stream(dataset, seed=0))
    trainer.networks["discriminator"].initialise(batch["real_image"], lambda value: value)
    noise = trainer.noise.generator.get_state()
    with torch.no_grad():
        fake = trainer._generate(32)
        padded = [F.pad(trainer.networks["discriminator"](images), (0, 1)) for images in (batch["real_image"], fake)]
        labelled = trainer.networks["discriminator"](batch["labelled_image"])
    real, generated = (logits.log_softmax(1)[:, -1] for logits in padded)  # log p(generated) with its logit at 0
    expected = -0.5 * torch.log1p(-real.exp()).mean() - 0.5 * generated.mean()
    trainer.noise.generator.set_state(noise)
    metrics = trainer._update_discriminator(batch)
    told = ((real.exp() < 0.5).float().mean() + (generated.exp() > 0.5).float().mean()) / 2  # shares rightly called
    assert metrics["accuracy"].item() == pytest.approx(told.item())
    assert metrics["margin"].item() == pytest.approx((metrics["real_logit"] - metrics["fake_logit"]).item())
    assert metrics["loss_unlabelled"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert metrics["loss_labelled"].item() == pytest.approx(
        F.cross_entropy(labelled, batch["labelled_label"]).item(), rel=1e-4
    )


GENERATOR_LOSSES = {  # of the difference of mean features and the logits of generated images
    "feature_matching": lambda difference, logits: difference.square().mean(),
    "feature_matching_l1": lambda difference, logits: difference.abs().mean(),
    "adversarial": lambda difference, logits: F.softplus(-logits.logsumexp(1)).mean(),
    "adversarial_feature_matching": lambda difference, logits: (
        F.softplus(-logits.logsumexp(1)).mean() + difference.square().sum()
    ),
}


@pytest.mark.parametrize("kind", list(GENERATOR_LOSSES))
def test_the_generator_descends_the_loss_that_is_named(kind):
    trainer, dataset = build("model.noise=0", "model.input_noise=0", f"sgan.generator_loss={kind}")
    batch = next(trainer.open_stream(dataset, seed=0))
    noise = trainer.noise.generator.get_state()
    generator, discriminator = trainer.networks["generator"], trainer.networks["discriminator"]
    fake = trainer._generate(32)
    difference = discriminator.features(fake).mean(0) - discriminator.features(batch["matched_image"]).mean(0)
    loss = GENERATOR_LOSSES[kind](difference, discriminator(fake))
    learned = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(loss, learned)
    trainer.noise.generator.set_state(noise)
    generator_state = {name: value.clone() for name, value in generator.state_dict().items()}
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    metrics = trainer._update_generator(batch["matched_image"])
    assert metrics["loss_g"].item() == pytest.approx(loss.item(), rel=1e-4)
    for parameter, gradient in zip(learned, expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-7)
    assert all(torch.equal(before[name], value) for name, value in discriminator.state_dict().items())
    assert any(not torch.equal(generator_state[name], value) for name, value in generator.state_dict().items())


QUIET = ["model.noise=0", "model.input_noise=0"]


@pytest.mark.parametrize("loss", ADVERSARIAL_LOSSES.names())
def test_both_players_take_any_adversarial_loss_of_log_z(loss):
    trainer, dataset = build(*QUIET, f"gan.loss={loss}", "sgan.generator_loss=adversarial", "sgan.unlabelled_weight=2")
    batch = next(trainer.open_stream(dataset, seed=0))
    discriminator, game = trainer.networks["discriminator"], ADVERSARIAL_LOSSES.get(loss)
    noise = trainer.noise.generator.get_state()
    fake = trainer._generate(32).detach()
    real_logit, fake_logit = (discriminator(images).logsumexp(1) for images in (batch["real_image"], fake))
    both = game.discriminator_loss(real_logit, fake_logit)  # the weight 2 undoes the half
    labelled = F.cross_entropy(discriminator(batch["labelled_image"]), batch["labelled_label"])
    gradient = torch.autograd.grad(labelled + both, discriminator.head.direction)[0]
    trainer.noise.generator.set_state(noise)
    metrics = trainer._update_discriminator(batch)
    assert metrics["loss_unlabelled"].item() == pytest.approx(both.item() / 2, rel=1e-4)
    torch.testing.assert_close(discriminator.head.direction.grad, gradient, rtol=1e-3, atol=1e-6)
    assert ("accuracy" in metrics) == (loss != "wasserstein")
    noise = trainer.noise.generator.get_state()
    with torch.no_grad():
        expected = game.generator_loss(discriminator(trainer._generate(32)).logsumexp(1))
    trainer.noise.generator.set_state(noise)
    assert trainer._update_generator(batch["matched_image"])["loss_g"].item() == pytest.approx(
        expected.item(), rel=1e-4
    )


CONV = [
    "model.network=conv", "data.image_size=16", "data.batch_size=8", "model.discriminator_channels=4",
    "model.generator_channels=4",
]  # fmt: skip
REGULARIZERS = {
    "gradient_penalty": "{centre: real, target: 0.5, weight: 3}",
    "r1": "{weight: 3}",
    "drift": "{weight: 3}",
    "consistency": "{weight: 3, shift: 0, flip: false}",
    "manifold_entropy": "{weight: 3, norm_weight: 0.1}",
}


@pytest.mark.parametrize("network", [[], CONV], ids=["mlp", "conv"])
@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_regulariser_is_of_the_critic_log_z_and_teaches_the_discriminator(name, network):
    weights, metrics = [], {}
    for overrides in ([], [f"gan.regularizers.{name}={REGULARIZERS[name]}"]):
        trainer, dataset = build(*QUIET, *network, *overrides)
        discriminator = trainer.networks["discriminator"]
        for module in discriminator.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        stream = trainer.open_stream(dataset, seed=0)
        trainer.advance(next(stream))  # has no codes of earlier updates
        batch = next(stream)
        images = batch["real_image"].clone().requires_grad_(True)
        features, memory = discriminator.features(images), None
        log_z = discriminator.classify(features).logsumexp(1)
        squares = torch.autograd.grad(log_z.sum(), images, retain_graph=True)[0].flatten(1).square().sum(1)
        if name == "manifold_entropy" and overrides:
            memory = trainer.regularizer.manifold_entropy.memories["real"]
            assert memory.shape == features.shape
        metrics = trainer.advance(batch)
        weights.append([parameter.detach() for parameter in discriminator.parameters()])
    expected = {
        "gradient_penalty": lambda: 3 * (squares.sqrt() - 0.5).square().mean(),
        "r1": lambda: 1.5 * squares.mean(),
        "drift": lambda: 3 * log_z.square().mean(),
        "consistency": lambda: torch.zeros(()),  # neither moved nor mirrored
        "manifold_entropy": lambda: (
            3 * F.cosine_similarity(features[:, None], memory[None], dim=2).amax(1).mean()
            + 0.3 * features.norm(dim=1).mean()
        ),
    }[name]()
    assert metrics[name].item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
    assert ("manifold_entropy_g" in metrics) == (name == "manifold_entropy")
    if name != "consistency":
        assert any(not torch.equal(plain, restrained) for plain, restrained in zip(*weights, strict=True))


def test_consistency_sees_what_the_critic_says_of_moved_images():
    trainer, dataset = build(*QUIET, "gan.regularizers.consistency={shift: 2, flip: true}")
    assert trainer.advance(next(trainer.open_stream(dataset, seed=0)))["consistency"] > 0


def test_a_lazy_penalty_comes_with_its_interval():
    trainer, dataset = build("gan.regularizers.r1={interval: 3}")
    stream = trainer.open_stream(dataset, seed=0)
    keys, told = [], []
    for _ in range(6):
        keys.append(trainer.graph_key)
        told.append("r1" in trainer.advance(next(stream)))
    assert told == [True, False, False] * 2
    assert keys[:3] == keys[3:] and keys[0] != keys[1]


def test_labels_alone_play_no_game_and_the_log_tells_it(tmp_path):
    small = ["train.steps=2", "train.log_every=1", "train.tensorboard=false"]
    game = ["gan.loss=hinge", "gan.regularizers.r1={}"]
    for overrides in ([], game):
        run = tmp_path / str(len(overrides))
        config = load_config("sgan_tiny", [*small, *overrides, "sgan.supervised_only=true"])
        train(config, run, evaluator=None)
        rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        steps = [row for row in rows if "event" not in row]
        assert all("loss_labelled" in row for row in steps)
        # The generator never learns: that its samples are alike is no collapse.
        assert not any(name.startswith(("diversity", "r1", "loss_g")) for row in steps for name in row)
        told = "gan: sgan.supervised_only plays no game" in (run / "log.jsonl").read_text()
        assert told == bool(overrides)
    trainer, dataset = build(*small)
    assert "diversity" in trainer.vital_signs(lambda count: {"image": torch.randn(count, *dataset.image_shape)})


def test_labels_outside_the_budget_are_never_read():
    trainers, curves = [], []
    for poison in (False, True):
        trainer, dataset = build()
        stream = trainer.open_stream(dataset, seed=0)
        if poison:
            chosen = stream.streams["labelled"].dataset._dataset.indices
            outside = np.setdiff1d(np.arange(len(dataset)), chosen)
            dataset.labels[torch.from_numpy(outside)] = 10**9  # cross-entropy would fail on it, or the curve differ
        batches = [next(stream) for _ in range(4)]
        assert set(batches[0]) == {"labelled_image", "labelled_label", "real_image", "matched_image"}
        curves.append([trainer.advance(batch) for batch in batches])
        trainers.append(trainer)
    assert curves[0] == curves[1]


@pytest.mark.parametrize(("labels", "each"), [(20, {2}), (25, {2, 3}), (100, {10})])
def test_the_budget_has_as_many_labels_of_each_class_and_its_seed_names_the_split(labels, each):
    splits = []
    for seed in (0, 0, 1):
        trainer, dataset = build(f"sgan.labels={labels}", f"sgan.label_seed={seed}")
        labelled = trainer.open_stream(dataset, seed=0).streams["labelled"].dataset._dataset
        counts = np.bincount(dataset.labels[torch.from_numpy(labelled.indices)].numpy(), minlength=10)
        assert counts.sum() == labels
        assert set(counts.tolist()) == each
        splits.append(labelled.indices.tolist())
    assert splits[0] == splits[1] != splits[2]


def test_the_two_streams_of_real_images_come_in_different_orders():
    trainer, dataset = build()
    batch = next(trainer.open_stream(dataset, seed=0))
    assert not torch.equal(batch["real_image"], batch["matched_image"])


@pytest.mark.parametrize(
    ("override", "error", "parts"),
    [
        ("sgan.labels=9", DataError, ["sgan.labels", "at least 10", "9"]),
        ("sgan.labels=100000", DataError, ["sgan.labels", "at most", "100000"]),
        ("data.limit=12", DataError, ["sgan.labels", "all 10 classes", "12 samples with none of class"]),
        ("data.name=two_domains", ConfigError, ["sgan", "unpaired"]),
        ("data.classes=[3]", DataError, ["at least 2 classes", "algorithm sgan", "only 3"]),
        ("train.grad_accumulation=2", ConfigError, ["grad_accumulation", "2"]),
        ("gan.regularizers.spectral_norm=true", ConfigError, ["gan.regularizers", "spectral_norm", "r1", "normalised"]),
        ("gan.loss=hinges", ConfigError, ["gan.loss", "did you mean 'hinge'"]),
        ("gan.discriminator_steps=2", ConfigError, ["gan.discriminator_steps"]),
        ("gan.ema.decay=0.9", ConfigError, ["gan.ema"]),
    ],
)
def test_a_budget_or_set_that_will_not_do_is_one_clear_line(tmp_path, override, error, parts):
    with pytest.raises(error) as caught:
        train(load_config("sgan_tiny", [override]), tmp_path / "run")
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_learns_from_few_labels_more_than_the_labels_alone_tell(tmp_path):
    errors = {}
    for supervised in ("false", "true"):
        config = load_config(
            "sgan_tiny",
            [
                "sgan.labels=30", f"sgan.supervised_only={supervised}", "train.steps=400", "sgan.ema.decay=0.98",
                "model.discriminator_hidden=[128, 64]", "model.generator_hidden=[64]", "train.sample_every=400",
                "train.checkpoint_every=400", "train.tensorboard=false", "data.batch_size=64",
            ],
        )  # fmt: skip
        result = train(config, tmp_path / supervised)
        errors[supervised] = {row["name"]: row["value"] for row in result.last_scores}["test_error"]
    assert errors["false"] < 0.2
    assert errors["false"] < errors["true"]


def test_scores_are_the_shares_of_wrong_answers():
    trainer, _ = build()
    trainer.classify = lambda images, averaged=True: F.one_hot(torch.full((len(images),), 3), 10).float()
    scores = trainer.scores(EvaluationData(trainer.config, trainer.device, 10))
    test = data.build(trainer.config.data, "test")
    share = sum(int(test[i]["label"] != 3) for i in range(len(test))) / len(test)
    assert [score.value for score in scores] == [share, share]
    assert all(not score.higher_is_better and score.protocol["labels"] == 20 for score in scores)
