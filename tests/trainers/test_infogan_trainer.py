"""InfoGAN: who learns from the information term, what is logged, its pictures and scores, codes that must add up."""

from __future__ import annotations

import math

import pytest
import torch

from genlab import data
from genlab.config import load_config
from genlab.errors import ConfigError
from genlab.trainers import DataSpec
from genlab.trainers.evaluation import EvaluationData
from genlab.trainers.infogan import InfoGanTrainer


def build(*overrides: str) -> InfoGanTrainer:
    config = load_config("infogan_tiny", list(overrides))
    return InfoGanTrainer(config, DataSpec("digits", "images", (1, *config.data.height_width), 10))


def batch(count: int = 16) -> dict[str, torch.Tensor]:
    return {"image": torch.rand(count, 1, 28, 28) * 2 - 1}


def gradients(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


OFF, ON = (f"information={{categorical: {weight}, uniform: {weight}, gaussian: {weight}}}" for weight in (0, 1))


def test_the_information_term_reaches_q_and_trunk_in_one_update_and_the_generator_in_the_other():
    found = []
    for weight in (OFF, ON):
        trainer = build(weight)
        z = trainer.draw_noise(16)
        fakes = trainer.generate(z, keep_graph=True)
        trainer.update_discriminator_and_q(batch()["image"], fakes, z, 0)
        assert all(p.grad is None for p in trainer.networks["generator"].parameters())
        first = gradients(trainer.networks["discriminator"])
        trainer.optimizers["discriminator"].zero_grad(set_to_none=True)
        trainer.update_generator(z)
        assert all(p.grad is None for p in trainer.networks["discriminator"].parameters())
        found.append((first, gradients(trainer.networks["generator"])))
        torch.manual_seed(0)
    (without_d, without_g), (with_d, with_g) = found
    recognition = [name for name in with_d if name.startswith("recognition")]
    assert recognition
    assert not any(without_d[name].any() for name in recognition)
    assert all(with_d[name].any() for name in recognition)
    assert all(not torch.equal(with_d[name], without_d[name]) for name in with_d if name.startswith("trunk"))
    assert all(not torch.equal(with_g[name], without_g[name]) for name in with_g)


def test_the_generator_is_judged_on_codes_that_q_was_not_fitted_on():
    trainer, seen = build(), []
    trainer.information = lambda statistics, z, known=trainer.information: seen.append(z) or known(statistics, z)
    trainer.advance(batch())
    assert len(seen) == 2
    assert not torch.equal(*seen)


def test_the_trained_bound_rises_towards_the_entropy_of_the_codes():
    """On noise, where the game teaches nothing, G and Q agree on the codes: L_I comes near H(c), never above."""
    trainer = build(
        "model.latent_dim=14", "model.noise_dim=4", "model.uniform=0", "model.gaussian=0",
        "generator_optimizer.lr=4e-3", "discriminator_optimizer.lr=4e-3",
    )  # fmt: skip
    images, bounds = batch(64)["image"], []
    for step in range(60):
        z = trainer.draw_noise(64)
        fakes = trainer.generate(z, keep_graph=True)
        metrics = trainer.update_discriminator_and_q(images, fakes, z, step)
        trainer.update_generator(z)
        bounds.append(float(metrics["mi_bound"]))
    entropy = math.log(10)
    assert metrics["code_entropy"] == pytest.approx(entropy)
    assert metrics["mi_bound"] == metrics["mi_categorical"]
    assert bounds[0] < 0.15 * entropy
    assert 0.4 * entropy < bounds[-1] <= entropy


def test_penalties_and_signs_are_those_of_every_gan():
    penalties = "{gradient_penalty: {weight: 1}, drift: {weight: 1}, manifold_entropy: {weight: 1}}"
    trainer = build(f"gan.regularizers={penalties}", "model.discriminator_batch_norm=false")
    trainer.advance(batch())
    metrics = trainer.advance(batch())
    assert {
        "gradient_penalty",
        "drift",
        "manifold_entropy",
        "manifold_entropy_g",
        "accuracy",
        "margin",
    } <= metrics.keys()
    memories = trainer.regularizer.manifold_entropy.memories
    assert {codes.shape[1] for codes in memories.values()} == {trainer.config.model.dense_width}


def test_noise_and_codes_follow_the_specification_and_do_not_depend_on_who_draws():
    trainer = build("model.latent_distribution=uniform_positive")
    for z in (trainer.draw_noise(500), trainer.latents(500, torch.Generator().manual_seed(0))):
        assert z.shape == (500, 24)
        assert z[:, :10].min() >= 0
        assert z[:, :10].max() < 1
        codes = trainer.codes_of(z)
        assert codes.shape == (500, 14)
        assert torch.equal(codes[:, :10].sum(1), torch.ones(500))
        assert -1 <= codes[:, 10:12].min() < -0.9
        assert codes[:, 12:].abs().max() > 1.5
    assert build().draw_noise(500)[:, :10].min() < -1


def test_codes_name_places_that_hold_them():
    trainer = build("model.latent_dim=27", "model.categorical=[10, 3]")
    codes = trainer.codes()
    assert [(c.name, c.start, c.categories, c.ends) for c in codes] == [
        ("c1", 10, 10, None), ("c2", 20, 3, None), ("c3", 23, 1, (-1.0, 1.0)), ("c4", 24, 1, (-1.0, 1.0)),
        ("c5", 25, 1, (-3.0, 3.0)), ("c6", 26, 1, (-3.0, 3.0)),
    ]  # fmt: skip
    walk = codes[0].walk(trainer.latents(1, torch.Generator())[0], 5)
    assert torch.equal(trainer.codes_of(walk)[:, :10], torch.eye(10))


def test_the_preview_has_a_grid_for_each_code_in_which_it_alone_varies():
    trainer = build()
    samples, *walks = trainer.preview(16, torch.Generator().manual_seed(0), lambda n: {})
    assert len(samples.images) == 16
    assert [(p.name, p.columns, len(p.images)) for p in walks] == [(f"c{i}", 10, 100) for i in range(1, 6)]


def test_a_perfect_code_has_no_error_whatever_its_order(monkeypatch):
    trainer = build("data.image_size=28")
    permutation = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    test = data.build(trainer.config.data, "test")
    lookup = {tuple(image.flatten().tolist()): int(label) for image, label in _pairs(test)}

    def recognise(images):
        labels = torch.tensor([lookup.get(tuple(image.flatten().tolist()), 0) for image in images])
        logits = torch.nn.functional.one_hot(permutation[labels], 10).float()
        return torch.cat([logits, torch.zeros(len(images), trainer.spec.statistics_width - 10)], dim=1)

    monkeypatch.setattr(trainer, "recognise", recognise)
    error, bound = trainer.scores(EvaluationData(trainer.config, torch.device("cpu"), samples=50))
    assert (error.name, error.value) == ("code_error", 0)
    assert error.protocol["classes"] == permutation.argsort().tolist()
    assert error.protocol["real"]["count"] == len(test)
    assert not error.higher_is_better
    assert bound.name == "information_bound"


def _pairs(dataset):
    for batch in data.iterate(dataset, 100):
        yield from zip(batch["image"], batch["label"], strict=True)


@pytest.mark.filterwarnings("error")
def test_data_without_labels_has_no_matching_error_but_a_bound(monkeypatch):
    config = load_config("infogan_tiny")
    trainer = InfoGanTrainer(config, DataSpec("faces", "images", (1, 28, 28)))
    monkeypatch.setattr(trainer, "recognise", lambda images: torch.zeros(len(images), trainer.spec.statistics_width))
    (bound,) = trainer.scores(EvaluationData(config, torch.device("cpu"), samples=40))
    assert bound.protocol["bound_by_kind"]["categorical"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.latent_dim=70"], r"model.latent_dim: expected 24 = noise_dim 10 \+ .* \+ gaussian 2, got 70"),
        (["model.categorical=[1]"], r"expected categorical codes of at least 2 values, got \[1\]"),
        (["model={categorical: [], uniform: 0, gaussian: 0}"], "at least one categorical, uniform or gaussian code"),
        (["data.image_size=30"], "data.image_size: expected a multiple of 4 from 8 on for infogan, got 30"),
        (["model.network=dcgan"], "model.network"),
    ],
)  # fmt: skip
def test_what_does_not_add_up_is_refused_in_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(*overrides)
    assert "\n" not in str(caught.value)


def test_the_papers_settings_build_with_their_rates():
    trainer = InfoGanTrainer(load_config("infogan_mnist"), DataSpec("mnist", "images", (1, 28, 28), 10))
    assert trainer.optimizers["discriminator"].param_groups[0]["lr"] == 2e-4
    assert trainer.optimizers["generator"].param_groups[0]["lr"] == 1e-3
    networks = trainer.networks.values()
    assert [network.pixels for network in networks] == ["sigmoid", "sigmoid"]
    in_d = {id(p) for group in trainer.optimizers["discriminator"].param_groups for p in group["params"]}
    assert {id(p) for p in trainer.networks["discriminator"].recognition.parameters()} <= in_d


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.mlp.pieces=2", "model.mlp"),
        ("model.discriminator=mlp", "model.discriminator"),
    ],
)
def test_keys_of_other_networks_are_unknown(override, key):
    with pytest.raises(ConfigError, match=f"unknown key '{key}'"):
        load_config("infogan_tiny", [override])
