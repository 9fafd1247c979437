"""Conditional GANs: labels that are used, classes that are learnt, scores, pictures, and data that will not do."""

from __future__ import annotations

import pytest
import torch

from genlab import data
from genlab.config import load_config
from genlab.errors import ConfigError, DataError, UserError
from genlab.trainers import DataSpec
from genlab.trainers.cgan import CganTrainer
from genlab.trainers.evaluation import EvaluationData

KINDS = {
    "concat": [],
    "projection": ["model.discriminator_conditioning=projection", "model.generator_conditioning=batch_norm"],
    "mlp": ["model.network=mlp", "model.conditional_mlp={generator_joint_width: 32, image_width: 16}"],
    "mlp projection": ["model.network=mlp", "model.discriminator_conditioning=projection"],
    "mixed": ["model.network=dcgan", "model.discriminator=mlp"],
    "resnet": ["model.network=resnet", "data.image_size=32", "data.batch_size=8"],
    "resnet projection": [
        "model.network=resnet", "data.image_size=32", "data.batch_size=8",
        "model.discriminator_conditioning=projection", "model.generator_conditioning=batch_norm",
    ],
    "dcgan against resnet": ["model.discriminator=resnet", "data.image_size=32"],
}  # fmt: skip


def build(*overrides: str, classes: int | None = 10) -> CganTrainer:
    config = load_config("cgan_tiny", list(overrides))
    return CganTrainer(config, DataSpec("digits", "images", (1, *config.data.height_width), classes))


def batch(count: int = 16, size: int = 28) -> dict[str, torch.Tensor]:
    return {"image": torch.rand(count, 1, size, size) * 2 - 1, "label": torch.arange(count) % 10}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_change_samples_and_losses(kind):
    trainer, twin = build(*KINDS[kind]), build(*KINDS[kind])
    given = batch(size=trainer.data.shape[-1])
    for _ in range(2):
        trainer.advance(given)
        twin.advance(given)
    latents = trainer.latents(10, torch.Generator().manual_seed(0))
    asked = trainer.decode(latents, torch.arange(10))
    other = trainer.decode(latents, (torch.arange(10) + 1) % 10)
    assert all(not torch.equal(a, b) for a, b in zip(asked, other, strict=True))
    wrong = {**given, "label": (given["label"] + 1) % 10}
    assert trainer.advance(given)["real_logit"] != twin.advance(wrong)["real_logit"]


def test_real_and_generated_images_of_an_update_have_the_labels_of_the_data():
    trainer, seen = build(), []
    for name in ("generator", "discriminator"):
        hook = lambda module, inputs, name=name: seen.append((name, inputs[1]))  # noqa: E731
        trainer.networks[name].register_forward_pre_hook(hook)
    given = batch()
    trainer.advance(given)
    assert [name for name, _ in seen] == ["generator", "discriminator", "discriminator", "discriminator"]
    assert all(torch.equal(labels, given["label"]) for _, labels in seen)


def test_penalties_and_micro_batches_carry_their_labels():
    given = batch()
    whole = build("gan.regularizers={gradient_penalty: {weight: 10}}", "model.discriminator_batch_norm=false")
    parts = build(
        "gan.regularizers={gradient_penalty: {weight: 10}}", "model.discriminator_batch_norm=false",
        "train.grad_accumulation=4",
    )  # fmt: skip
    z = whole.latents(16, torch.Generator().manual_seed(0))
    results = []
    for trainer in (whole, parts):
        fakes = list((given["image"].roll(1, 0) * 0.5).chunk(trainer.micro_batch_count))
        metrics = trainer.update_discriminator(given["image"], fakes, 0, (given["label"],))
        results.append((metrics, [p.grad for p in trainer.networks["discriminator"].parameters()]))
        trainer.update_generator(z, trainer.generate(z, (given["label"],), keep_graph=True), (given["label"],))
    for name, value in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], value, rtol=1e-4, atol=1e-5)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("conditioning", ["concat", "projection"])
def test_manifold_entropy_looks_at_the_features_and_not_at_the_labels(conditioning):
    trainer = build(
        f"model.discriminator_conditioning={conditioning}", "gan.regularizers={manifold_entropy: {weight: 1}}"
    )
    trainer.advance(batch())
    assert "manifold_entropy_g" in trainer.advance(batch())
    memories = trainer.regularizer.manifold_entropy.memories
    assert {codes.shape[1] for codes in memories.values()} == {8 * 7 * 7}


def test_sampling_asks_for_every_class_equally_often(monkeypatch):
    trainer, asked = build(), []
    decode = trainer.decode
    monkeypatch.setattr(trainer, "decode", lambda z, labels=None: asked.append(labels) or decode(z[:1], labels[:1]))
    trainer.sample(20_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(asked[0], minlength=10)
    assert trainer.label_count == 10
    assert (counts - 2000).abs().max() < 200  # 4.7 standard deviations


def test_the_preview_shows_a_class_a_row_and_one_noise_a_column():
    trainer = build()
    for _ in range(2):
        trainer.advance(batch())
    (picture,) = trainer.preview(40, torch.Generator().manual_seed(0), lambda n: {})
    assert (len(picture.images), picture.columns) == (40, 4)
    latents = trainer.latents(4, torch.Generator().manual_seed(0))
    expected = torch.cat([trainer.decode(latents, torch.full((4,), label)) for label in range(10)])
    torch.testing.assert_close(picture.images, expected)


class Judge:
    """Reads the class that a test's samples carry in their first pixel."""

    num_classes = 10

    def __call__(self, images):
        return None, torch.nn.functional.one_hot((images[:, 0, 0, 0] * 10).round().long(), 10).float()

    def describe(self):
        return {"extractor": "first_pixel", "extractor_hash": "0", "accuracy": 1.0}


def test_judge_agreement_is_the_share_of_samples_of_the_asked_class():
    from genlab.metrics.agreement import judge_agreement

    config = load_config("cgan_tiny", ["evaluate.batch_size=30"])
    facts = EvaluationData(config, torch.device("cpu"), samples=100)

    def sample(count, generator, labels):
        made = torch.where(labels == 7, 3, labels)  # sevens come out as threes
        return (made / 10).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)

    score = judge_agreement(sample, Judge(), facts)
    assert score.value == pytest.approx(0.9)
    assert score.higher_is_better
    assert score.protocol["share_by_class"] == [1, 1, 1, 1, 1, 1, 1, 0, 1, 1]
    assert score.protocol["fake"]["count"] == 100
    assert {"extractor_hash", "accuracy", "seed"} <= score.protocol.keys()


def test_learns_to_make_the_class_that_is_asked_for():
    """Two classes of digits and a small network: zeros and ones come out where they are asked for."""
    overrides = ["data={name: digits, image_size: 28, batch_size: 32, classes: [0, 1]}", "model.base_channels=8"]
    overrides += ["generator_optimizer.lr=1e-3", "discriminator_optimizer.lr=1e-3", "gan.ema=null"]
    config = load_config("cgan_tiny", overrides)
    dataset = data.build(config.data, "train")
    trainer = CganTrainer(config, DataSpec.of(dataset))
    stream = trainer.open_stream(dataset, seed=0)
    for _ in range(110):  # after 80 the two players are still at odds, and the last bits of a loss decide
        trainer.advance(next(stream))
    batches = [next(stream) for _ in range(6)]
    pixels, labels = (torch.cat([b[key] for b in batches]) for key in ("image", "label"))
    means = torch.stack([pixels[labels == label].mean(0).flatten() for label in (0, 1)])
    asked = torch.arange(2).repeat(50)
    samples = trainer.sample(100, torch.Generator().manual_seed(0), asked).flatten(1)
    nearest = torch.cdist(samples, means).argmin(dim=1)
    assert (nearest == asked).float().mean() > 0.9


@pytest.mark.parametrize("classes", [None, 1])
def test_data_without_two_classes_is_refused(classes):
    with pytest.raises(DataError, match="expected at least 2 classes, which algorithm cgan needs"):
        build(classes=classes)


def test_what_does_not_fit_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="expected one of 28, 32, 64, 128 for network dcgan, got 40"):
        build("data.image_size=40")
    assert build("data.image_size=40", "model.network=mlp").data.shape == (1, 40, 40)
    with pytest.raises(ConfigError, match="expected model.generator_conditioning=concat, got batch_norm: the MLP"):
        build("model.network=mlp", "model.generator_conditioning=batch_norm")
    with pytest.raises(ConfigError, match="expected 'concat' or 'projection', got 'film'"):
        build("model.discriminator_conditioning=film")
    with pytest.raises(ConfigError, match="data.image_size: expected one of 32, 64 for network resnet, got 28; or "):
        build("model.network=resnet")
    with pytest.raises(ConfigError, match="or choose model.discriminator=dcgan or mlp"):
        build("model.network=dcgan", "model.discriminator=resnet")
    with pytest.raises(ConfigError, match="unknown key 'model.mlp'"):
        build("model.network=mlp", "model.mlp.generator_hidden=[7]")
    with pytest.raises(ConfigError, match="model.network: expected one of dcgan, mlp, resnet, got 'progressive'"):
        build("model.network=progressive")
    trainer = build()
    with pytest.raises(UserError, match="expected the class of each image, got none"):
        trainer.decode(trainer.latents(2, torch.Generator()))
    with pytest.raises(UserError, match="class: expected 0 to 9, got 3 to 10"):
        trainer.sample(2, torch.Generator(), torch.tensor([3, 10]))


@pytest.mark.parametrize("name", ["cgan_mnist", "cgan_conv_mnist", "cgan_projection_mnist"])
def test_the_papers_settings_build(name):
    trainer = CganTrainer(load_config(name), DataSpec("mnist", "images", (1, 28, 28), 10))
    assert trainer.latents(2, torch.Generator()).shape == (2, trainer.config.model.latent_dim)
