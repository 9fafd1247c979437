"""Any GAN may take any adversarial loss, regulariser and fitting networks; what each step then returns."""

from __future__ import annotations

import itertools

import pytest
import torch

from genlab.config import load_config
from genlab.errors import ConfigError
from genlab.losses import ADVERSARIAL_LOSSES
from genlab.models.gan_networks import GAN_NETWORKS
from genlab.trainers import ALGORITHMS, DataSpec
from genlab.trainers.gan import GanTrainer

REGULARIZERS = {
    "none": [],
    "gradient_penalty": ["gan.regularizers.gradient_penalty={}"],
    "r1": ["gan.regularizers.r1={}"],
    "drift": ["gan.regularizers.drift={}"],
    "consistency": ["gan.regularizers.consistency={shift: 2}"],
    "manifold_entropy": ["gan.regularizers.manifold_entropy={buffer: 8, norm_weight: 0.01}"],
    "spectral_norm": ["gan.regularizers.spectral_norm=true"],
}
ALL_AT_ONCE = [override for overrides in REGULARIZERS.values() for override in overrides]
POINTS = DataSpec("grid", "points", (2,))


def build(algorithm: str, network: str, loss: str, overrides: list[str], points: bool = False) -> GanTrainer:
    small = [
        f"data.image_size={32 if network == 'resnet' else 28}", "data.batch_size=4", "model.latent_dim=3",
        "model.base_channels=2", f"model.network={network}", "model.discriminator_batch_norm=false",
        "model.mlp.generator_hidden=[6]", "model.mlp.discriminator_hidden=[6]", "gan.discriminator_steps=1",
        f"gan.loss={loss}", *(["data.name=grid"] if points else []),
    ]  # fmt: skip
    config = load_config(f"{algorithm}_tiny", [*small, *overrides])
    spec = POINTS if points else DataSpec("digits", "images", (1, *config.data.height_width), 10)
    return ALGORITHMS.get(algorithm)(config, spec)


def step(trainer: GanTrainer) -> dict[str, torch.Tensor]:
    key = "point" if trainer.data.kind == "points" else "image"
    batches = [
        {key: torch.randn(4, *trainer.data.shape).clamp(-1, 1), "label": torch.arange(4)}
        for _ in range(trainer.batches_per_step)
    ]
    return trainer.advance(*batches)


def assert_trained(trainer: GanTrainer) -> dict[str, torch.Tensor]:
    before = {name: [p.detach().clone() for p in network.parameters()] for name, network in trainer.networks.items()}
    step(trainer)
    metrics = step(trainer)  # the second has codes of earlier updates
    assert all(torch.isfinite(value) for value in metrics.values())
    for name, network in trainer.networks.items():
        changed = [not torch.equal(a, b) for a, b in zip(before[name], network.parameters(), strict=True)]
        assert any(changed), name
        assert all(torch.isfinite(p).all() for p in network.parameters()), name
    return metrics


@pytest.mark.parametrize("loss", ADVERSARIAL_LOSSES.names())
@pytest.mark.parametrize("network", ["dcgan", "mlp", "resnet"])
@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_every_loss_trains_with_every_regulariser_and_network(regularizer, network, loss):
    metrics = assert_trained(build("dcgan", network, loss, REGULARIZERS[regularizer]))
    if regularizer not in ("none", "spectral_norm"):
        assert regularizer in metrics
    assert ("manifold_entropy_g" in metrics) == (regularizer == "manifold_entropy")
    assert ("accuracy" in metrics) == (loss != "wasserstein")


def test_the_product_covers_every_registered_network():
    assert {"dcgan", "mlp", "resnet"} == set(GAN_NETWORKS.names())


@pytest.mark.parametrize(
    ("algorithm", "network"), list(itertools.product(["dcgan", "gan", "wgan"], ["dcgan", "mlp", "resnet"]))
)
def test_all_regularisers_work_together(algorithm, network):
    overrides = [*ALL_AT_ONCE, *(["wgan.clip=null", "wgan.long_first_steps=0"] if algorithm == "wgan" else [])]
    metrics = assert_trained(build(algorithm, network, "hinge", overrides))
    assert set(REGULARIZERS) - {"none", "spectral_norm"} <= set(metrics)


@pytest.mark.parametrize("algorithm", ["gan", "wgan", "wgan_gp"])
@pytest.mark.parametrize("regularizer", [name for name in REGULARIZERS if name != "consistency"])
def test_points_take_every_regulariser_but_consistency(algorithm, regularizer):
    assert_trained(build(algorithm, "mlp", "wasserstein", REGULARIZERS[regularizer], points=True))


def test_consistency_of_points_is_refused():
    with pytest.raises(ConfigError, match=r"gan\.regularizers\.consistency: expected images.*got points"):
        build("gan", "mlp", "hinge", REGULARIZERS["consistency"], points=True)


def test_a_generator_of_one_family_meets_a_discriminator_of_another():
    assert_trained(build("dcgan", "dcgan", "hinge", ["model.discriminator=mlp"]))
    assert_trained(build("dcgan", "mlp", "hinge", ["model.discriminator=dcgan"]))


@pytest.mark.parametrize("regularizer", ["drift", "consistency", "manifold_entropy"])
def test_micro_batches_give_the_gradients_of_the_whole_batch(regularizer):
    overrides = [*REGULARIZERS[regularizer], "generator_optimizer.name=sgd", "discriminator_optimizer.name=sgd"]
    results = []
    for parts in (1, 2):
        torch.manual_seed(0)
        trainer = build("dcgan", "mlp", "hinge", [*overrides, f"train.grad_accumulation={parts}"])
        torch.manual_seed(1)
        step(trainer)
        metrics = step(trainer)
        results.append((metrics, [p.detach() for network in trainer.networks.values() for p in network.parameters()]))
    for name, value in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], value, rtol=1e-4, atol=1e-5, msg=name)
    for one, several in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(several, one, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("algorithm", "parts"), [*itertools.product(["dcgan", "gan", "wgan", "infogan"], [1, 2]), ("progressive", 1)]
)
def test_no_samples_are_generated_that_no_update_looks_at(algorithm, parts):
    preset = load_config(f"{algorithm}_tiny", ["gan.discriminator_steps=1", f"train.grad_accumulation={parts}"])
    trainer = ALGORITHMS.get(algorithm)(preset, DataSpec("digits", "images", (1, *preset.data.height_width), 10))
    made = []
    trainer.networks["generator"].register_forward_hook(lambda module, given, images: made.append(len(images)))
    batches = trainer.batches_per_step
    trainer.advance(*({"image": torch.zeros(preset.data.batch_size, *trainer.data.shape)} for _ in range(batches)))
    # DCGAN's one draw serves both updates where its graph is kept; progressive growing joins its batches into one.
    updates = {"dcgan": parts, "progressive": 2}.get(algorithm, batches + 1)
    assert made == [made[0]] * (updates * parts)


@pytest.mark.parametrize("algorithm", ["dcgan", "gan", "infogan", "cgan"])
def test_a_step_logs_all_updates_of_the_discriminator_and_not_the_last_alone(algorithm, monkeypatch):
    lazy = ["gan.discriminator_steps=3", "gan.regularizers.r1={interval: 3}"]
    preset = load_config(f"{algorithm}_tiny", ["data.batch_size=4", *lazy])
    trainer = ALGORITHMS.get(algorithm)(preset, DataSpec("digits", "images", (1, *preset.data.height_width), 10))
    name = "update_discriminator_and_q" if algorithm == "infogan" else "update_discriminator"
    update, logged = getattr(trainer, name), []
    monkeypatch.setattr(trainer, name, lambda *a, **k: logged.append(update(*a, **k)) or logged[-1])
    metrics = step(trainer)
    assert ["r1" in values for values in logged] == [True, False, False]
    assert torch.equal(metrics["r1"], logged[0]["r1"]) and metrics["r1"] > 0
    for key in logged[1]:
        assert torch.equal(metrics[key], torch.stack([values[key] for values in logged]).mean()), key
    assert len({float(values["loss_d"]) for values in logged}) == 3 and "loss_g" in metrics


def test_a_critics_log_is_of_its_last_update_and_of_the_one_a_lazy_penalty_was_due_in(monkeypatch):
    """The estimate of the distance is the best critic's."""
    lazy = ["gan.discriminator_steps=3", "gan.regularizers.r1={interval: 3}"]
    preset = load_config("wgan_gp_tiny", ["data.batch_size=4", *lazy])
    trainer = ALGORITHMS.get("wgan_gp")(preset, DataSpec("digits", "images", (1, *preset.data.height_width), 10))
    update, logged = trainer.update_discriminator, []
    monkeypatch.setattr(trainer, "update_discriminator", lambda *a, **k: logged.append(update(*a, **k)) or logged[-1])
    metrics = step(trainer)
    assert torch.equal(metrics["r1"], logged[0]["r1"])
    assert torch.equal(metrics["wasserstein"], logged[2]["margin"])
    assert torch.equal(metrics["loss_d"], logged[2]["loss_d"])


def test_a_single_update_of_the_discriminator_is_logged_as_it_is(monkeypatch):
    trainer = build("gan", "mlp", "non_saturating", ["gan.regularizers.r1={}"])
    update, logged = trainer.update_discriminator, []
    monkeypatch.setattr(trainer, "update_discriminator", lambda *a, **k: logged.append(update(*a, **k)) or logged[-1])
    metrics = step(trainer)
    assert list(metrics)[: len(logged[0])] == list(logged[0])
    assert all(metrics[key] is value for key, value in logged[0].items())


def test_manifold_entropy_keeps_generated_samples_apart_from_a_collapse():
    """A generator that the discriminator does not push at all spreads its samples by the term alone."""
    overrides = [
        "gan.regularizers.manifold_entropy={weight: 5, real: false, buffer: 64}",
        "generator_optimizer.lr=0.01",
    ]
    spread = []
    for term in (overrides, overrides[1:]):
        trainer = build(
            "gan", "mlp", "minimax", [*term, "discriminator_optimizer.lr=1e-12", "data.batch_size=16"], points=True
        )
        with torch.no_grad():
            trainer.networks["discriminator"].head.weight.zero_()
            trainer.networks["generator"].head.weight.mul_(0.01)
        for _ in range(60):
            trainer.advance({"point": torch.randn(16, 2)})
        trainer.use_ema = False
        spread.append(trainer.sample(64, torch.Generator()).std(dim=0).mean().item())
    assert spread[0] > 5 * spread[1]
