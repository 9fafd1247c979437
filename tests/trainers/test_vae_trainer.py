"""The VAE trainer against the papers' formulas, and trainings that must reach what broken ones cannot."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from training_jobs import assert_same_checkpoint, finish, run_ranks

from genlab import _extension, data, ops
from genlab.config import load_config
from genlab.errors import ConfigError, DataError, UserError
from genlab.likelihood import gaussian_kl
from genlab.trainers import DataSpec, train
from genlab.trainers.evaluation import EvaluationData
from genlab.trainers.vae import VaeTrainer
from genlab.trainers.vae_scores import likelihood_scores, measure_likelihood

GREY = DataSpec("digits", "images", (1, 8, 8), 10, tuple(map(str, range(10))))


def build(*overrides: str, spec: DataSpec = GREY) -> VaeTrainer:
    return VaeTrainer(load_config("vae_tiny", list(overrides)), spec)


def batch(count: int = 32) -> dict[str, torch.Tensor]:
    indices = torch.arange(count).numpy()
    dataset = data.build(load_config("vae_tiny").data, "train")
    return build().binarised(dataset).fetch(indices)


def metrics_of(trainer: VaeTrainer, given: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.advance(given).items()}


# The bound.


def test_a_step_equals_the_papers_box_written_in_plain_torch():
    trainer = build()
    encoder, decoder = (copy.deepcopy(trainer.networks[name]) for name in ("encoder", "decoder"))
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    noise = torch.Generator()
    noise.set_state(trainer.noise.generator.get_state())
    given = batch()
    x = (given["image"] + 1) / 2
    for _ in range(3):
        metrics = trainer.advance(given)
        mean, log_variance = encoder(x)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn(32, 1, 4, generator=noise).squeeze(1)
        reconstruction = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") / 32
        kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / 32
        adam.zero_grad()
        (kl - reconstruction).backward()
        adam.step()
        torch.testing.assert_close(metrics["reconstruction"], reconstruction.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(metrics["kl"], kl.detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(metrics["loss"], (kl - reconstruction).detach(), rtol=1e-5, atol=1e-5)
    for mine, plain in zip(trainer.networks["decoder"].parameters(), decoder.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("overrides", [[], ["vae.beta=4"], ["vae.free_bits=0.5"], ["vae.importance_samples=5"]])
def test_the_logged_elbo_is_the_sum_of_its_parts(overrides):
    metrics = metrics_of(build(*overrides), batch())
    assert metrics["elbo"] == pytest.approx(metrics["reconstruction"] - metrics["kl"], rel=1e-5)


def test_beta_and_warm_up_weigh_the_kl_term():
    trainer = build("vae.beta=4", "vae.kl_warmup_steps=4")
    for step in range(6):
        metrics = metrics_of(trainer, batch())
        assert metrics["beta"] == 4 * min(1, (step + 1) / 4)
        expected = metrics["beta"] * metrics["kl"] - metrics["reconstruction"]
        assert metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_free_bits_leave_the_encoder_without_a_kl_gradient_below_them():
    """No latent of an untrained encoder exceeds 100 nats: the loss is the reconstruction, up to a constant."""
    free, none = build("vae.free_bits=100"), build("vae.beta=0")
    given = batch()
    one, other = metrics_of(free, given), metrics_of(none, given)
    assert one["loss"] == pytest.approx(100 * 4 + other["loss"], rel=1e-5)
    for a, b in zip(free.networks["encoder"].parameters(), none.networks["encoder"].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    full = build()
    metrics_of(full, given)
    assert not torch.allclose(full.networks["encoder"].moments.weight, none.networks["encoder"].moments.weight)


def test_micro_batches_give_the_step_of_the_whole_batch_with_free_bits_too():
    for overrides in ([], ["vae.free_bits=0.01"], ["vae.importance_samples=3"]):
        whole, parts = build(*overrides), build(*overrides, "train.grad_accumulation=4")
        given = batch()
        one, several = metrics_of(whole, given), metrics_of(parts, given)
        assert several["loss"] == pytest.approx(one["loss"], rel=1e-5)
        for a, b in zip(whole.networks["encoder"].parameters(), parts.networks["encoder"].parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)


def test_free_bits_of_the_test_above_divide_the_latents():
    """Its 0.01 nats lie between the KLs of single latents, and micro-batches alone would decide otherwise."""
    trainer = build()
    kl = gaussian_kl(*trainer._posterior(trainer.pixels(batch()["image"]), None)).detach()
    above = kl.mean(0) > 0.01
    assert above.any()
    assert not above.all()
    assert any(not torch.equal(part.mean(0) > 0.01, above) for part in kl.chunk(4))


def test_importance_weights_make_the_bound_of_burda_et_al():
    trainer = build("vae.importance_samples=6")
    encoder, decoder = (copy.deepcopy(trainer.networks[name]) for name in ("encoder", "decoder"))
    noise = torch.Generator()
    noise.set_state(trainer.noise.generator.get_state())
    given = batch()
    metrics = metrics_of(trainer, given)
    x = (given["image"] + 1) / 2
    mean, log_variance = encoder(x)
    z = mean[:, None] + torch.exp(0.5 * log_variance)[:, None] * torch.randn(32, 6, 4, generator=noise)
    posterior = torch.distributions.Normal(mean[:, None], torch.exp(0.5 * log_variance)[:, None])
    prior = torch.distributions.Normal(0.0, 1.0)
    likelihood = torch.distributions.Bernoulli(logits=decoder(z.flatten(0, 1)).view(32, 6, -1))
    weights = (
        likelihood.log_prob(x.flatten(1)[:, None]).sum(2) + prior.log_prob(z).sum(2) - posterior.log_prob(z).sum(2)
    )
    bound = (torch.logsumexp(weights, 1) - math.log(6)).mean().detach()
    assert metrics["iwae_bound"] == pytest.approx(float(bound), rel=1e-5)
    assert metrics["loss"] == pytest.approx(-float(bound), rel=1e-5)
    assert metrics["elbo"] < metrics["iwae_bound"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.network=conv", "model.base_channels=4", "model.activation=silu"],
        ["vae.decoder=gaussian", "vae.binarisation=none", "vae.variance=shared"],
        ["vae.decoder=gaussian", "vae.binarisation=none", "vae.variance=per_pixel", "model.network=conv"],
        ["vae.binarisation=threshold", "data.flip=true", "vae.ema={decay: 0.5}"],
        ["vae.binarisation=none", "model.conditional=true", "model.hidden=[16, 8]"],
        ["model.network=conv", "model.conditional=true", "vae.importance_samples=3"],
    ],
    ids=["conv", "shared", "per-pixel", "threshold-ema", "conditional", "conditional-conv-iwae"],
)
def test_every_kind_trains_resumes_bit_for_bit_and_shows_pictures(tmp_path, overrides):
    common = [
        "train.steps=4",
        "train.checkpoint_every=2",
        "train.sample_every=4",
        "train.tensorboard=false",
        *overrides,
    ]
    config = load_config("vae_tiny", common)
    whole = train(config, tmp_path / "whole")
    assert {row["name"] for row in whole.last_scores} == set(VaeTrainer.own_score_names)
    assert (tmp_path / "whole" / "samples" / "step_00000004_reconstruction.png").exists()
    middle = tmp_path / "whole" / "checkpoints" / "step_00000002.safetensors"
    rest = train(config, tmp_path / "rest", resume=middle, evaluator=None)
    assert_same_checkpoint(whole.last_checkpoint, rest.last_checkpoint)


def train_tiny(overrides: list[str], run_dir: str) -> None:
    torch.set_num_threads(1)
    train(load_config("vae_tiny", overrides), run_dir, evaluator=None)


@pytest.mark.parametrize("overrides", [["vae.free_bits=0.01"], ["vae.importance_samples=3", "model.conditional=true"]])
def test_two_processes_give_the_loss_curve_of_one(tmp_path, overrides):
    overrides = [*overrides, "train.steps=12", "train.log_every=1", "train.tensorboard=false", "train.sample_every=99"]
    assert finish(train_tiny, overrides, str(tmp_path / "one")) == 0
    assert run_ranks(2, train_tiny, overrides, str(tmp_path / "two")) == [0, 0]
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 12
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-4, atol=1e-5)


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "event" not in row]


# What is measured.


def linear_trainer() -> tuple[VaeTrainer, data.ImageDataset, torch.Tensor]:
    """A linear decoder N(Wz + b, 0.3^2) with its exact posterior as encoder, and log p(x) of the test digits."""
    overrides = ["vae.decoder=gaussian", "vae.deviation=0.3", "vae.binarisation=none", "model.hidden=[]"]
    trainer = build(*overrides, "model.latent_dim=3")
    encoder, decoder = trainer.networks["encoder"], trainer.networks["decoder"]
    # Orthogonal columns: the posterior is then a diagonal Gaussian, as q(z|x) is.
    weight = torch.linalg.qr(torch.randn(64, 3)).Q * torch.tensor([2.0, 1.0, 0.1])
    bias, noise = 0.1 * torch.randn(64), 0.3**2
    precision = 1 + weight.square().sum(0) / noise
    with torch.no_grad():
        decoder.out.weight.copy_(weight)
        decoder.out.bias.copy_(bias)
        encoder.moments.weight.copy_(torch.cat([(weight / noise / precision).t(), torch.zeros(3, 64)]))
        encoder.moments.bias.copy_(torch.cat([-(weight / noise / precision).t() @ bias, -precision.log()]))
    dataset = data.build(trainer.config.data, "test")
    x = dataset.fetch(data.evenly_spaced(len(dataset), 50))["image"].flatten(1)
    marginal = torch.distributions.MultivariateNormal(bias, weight @ weight.t() + noise * torch.eye(64))
    return trainer, dataset, marginal.log_prob(x).double()


def test_nll_and_elbo_of_a_linear_gaussian_vae_are_the_analytic_likelihood():
    trainer, dataset, exact = linear_trainer()
    found = measure_likelihood(trainer, dataset, draws=20, images=50)
    torch.testing.assert_close(found.bounds[20], exact, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(found.elbo, exact, rtol=0.02, atol=1.0)  # its reconstruction is an average of 20 draws
    with torch.no_grad():
        trainer.networks["encoder"].moments.bias[3:] += 1.0  # a posterior that is too wide costs the ELBO, not the nll
    wide = measure_likelihood(trainer, dataset, draws=5000, images=50)
    assert (wide.elbo < exact - 0.5).all()
    torch.testing.assert_close(wide.bounds[5000], exact, rtol=0, atol=0.25)


def test_scores_name_everything_that_they_depend_on():
    trainer, dataset, exact = linear_trainer()
    scores = {score.name: score for score in likelihood_scores(trainer, dataset, 100, 50, seed=3)}
    assert set(scores) == set(VaeTrainer.own_score_names)
    nll = scores["nll"]
    assert nll.value == pytest.approx(-float(exact.mean()), rel=1e-3)
    assert (nll.protocol["k"], nll.protocol["count"], nll.protocol["split"], nll.protocol["seed"]) == (
        100,
        50,
        "test",
        3,
    )
    assert nll.protocol["decoder"] == "gaussian, fixed variance, pixels in [-1, 1]"
    assert scores["iwae_bound"].protocol["k"] == 50
    assert [scores[name].higher_is_better for name in VaeTrainer.own_score_names] == [False, True, True, True]
    assert scores["active_units"].value == 3 == len(scores["active_units"].protocol["kl_per_latent"])
    elbo = scores["elbo"]
    assert elbo.value == pytest.approx(elbo.protocol["reconstruction"] - elbo.protocol["kl"], abs=1e-3)


def test_scores_are_of_the_whole_test_split_in_its_own_bits():
    trainer = build("data.limit=40", "evaluate.likelihood_images=null", "vae.binarisation=static")
    scores = trainer.scores(EvaluationData(trainer.config, trainer.device, samples=10))
    assert scores[0].protocol["count"] == len(data.build(load_config("vae_tiny").data, "test"))
    assert scores[0].protocol["binarisation"] == "static, drawn once for evaluation with seed 0"
    again = trainer.scores(EvaluationData(trainer.config, trainer.device, samples=10))
    assert [score.value for score in scores] == [score.value for score in again]


def test_a_short_training_beats_what_pixels_alone_could_tell(tmp_path):
    """Independent pixels with the training set's own frequencies: no use of z can be better than that without z."""
    overrides = ["train.steps=600", "optimizer.lr=0.005", "train.tensorboard=false", "train.log_every=100"]
    config = load_config("vae_tiny", [*overrides, "train.sample_every=999", "train.checkpoint_every=600"])
    result = train(config, tmp_path / "run")
    scores = {row["name"]: row["value"] for row in result.last_scores}
    trainer = build()
    parts = [trainer.binarised(data.build(config.data, split)) for split in ("train", "test")]
    fit, seen = (part.fetch(torch.arange(len(part)).numpy())["image"].flatten(1) > 0 for part in parts)
    share = (fit.float().mean(0) * len(fit) + 1) / (len(fit) + 2)
    seen = seen[data.evenly_spaced(len(seen), 100)]  # as the score picks them
    floor = -(seen * share.log() + ~seen * (1 - share).log()).sum(1).mean()
    assert scores["nll"] < float(floor) - 2
    assert scores["nll"] < -scores["elbo"]
    assert scores["active_units"] == 4


def test_conditional_decoding_learns_the_class(tmp_path):
    overrides = ["model.conditional=true", "train.steps=500", "optimizer.lr=0.005", "train.tensorboard=false"]
    config = load_config("vae_tiny", [*overrides, "train.sample_every=999", "train.checkpoint_every=500"])
    train(config, tmp_path / "run", evaluator=None)
    from genlab.checkpoint import load_bundle

    trainer = load_bundle(tmp_path / "run").trainer
    dataset = data.build(config.data, "train")
    everything = dataset.fetch(torch.arange(len(dataset)).numpy())
    means = torch.stack([everything["image"][everything["label"] == digit].mean(0) for digit in range(10)])
    labels = torch.arange(10).repeat_interleave(20)
    images = trainer.sample(200, torch.Generator().manual_seed(0), labels)
    nearest = torch.cdist(images.flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == labels).float().mean() > 0.9
    again = trainer.reconstruct(everything["image"][:50], everything["label"][:50])
    assert F.mse_loss(again, everything["image"][:50]) < 0.7 * everything["image"][:50].var(0).mean()
    for call in (lambda: trainer.decode(torch.zeros(2, 4)), lambda: trainer.encode(everything["image"][:2])):
        with pytest.raises(UserError, match="expected a class for each image"):
            call()


# Latents.


def test_encode_gives_posterior_means_of_bits_and_reconstruct_decodes_them():
    trainer = build("vae.binarisation=static")
    grey = torch.rand(5, 1, 8, 8) * 2 - 1
    codes = trainer.encode(grey)
    bits = (grey > 0).float()
    torch.testing.assert_close(codes, trainer.networks["encoder"](bits)[0].detach())
    again = trainer.reconstruct(grey)
    torch.testing.assert_close(again, trainer.decode(codes))
    assert again.shape == grey.shape
    plain = build("vae.binarisation=none")
    torch.testing.assert_close(plain.encode(grey), plain.networks["encoder"](grey / 2 + 0.5)[0].detach())


def test_the_manifold_of_two_latents_is_a_preview_and_refused_for_others():
    def examples(count):
        return {"image": batch(count)["image"]}

    plane = build("model.latent_dim=2")
    pictures = plane.preview(16, torch.Generator().manual_seed(0), examples)
    assert [picture.name for picture in pictures] == ["", "reconstruction", "manifold", "kl"]
    assert pictures[2].images.shape == (400, 1, 8, 8)
    assert pictures[1].columns == 10
    assert [picture.name for picture in build().preview(16, torch.Generator(), examples)] == [
        "",
        "reconstruction",
        "kl",
    ]
    with pytest.raises(UserError, match=r"expected a model with model\.latent_dim=2, got 4"):
        build().manifold(5)
    assert [code.name for code in build().codes()] == ["z0", "z1", "z2", "z3"]


def test_a_conditional_preview_shows_a_class_a_row_from_the_same_latents():
    trainer = build("model.conditional=true")
    picture = trainer._samples(64, torch.Generator().manual_seed(0))
    assert picture.columns == 6
    assert len(picture.images) == 60
    z = trainer.latents(6, torch.Generator().manual_seed(0))
    torch.testing.assert_close(picture.images[54:], trainer.decode(z, torch.full((6,), 9)))


# Bad input.


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["vae.decoder=gaussian"], "binarisation: expected none with decoder gaussian.*got 'dynamic'"),
        (["vae.variance=shared"], "variance: expected decoder gaussian for variance 'shared', got bernoulli"),
        (["vae.importance_samples=5", "vae.beta=2"], "importance_samples: expected 1 with beta, .*got 5"),
        (["vae.importance_samples=5", "vae.free_bits=1"], "importance_samples: expected 1 with beta, .*got 5"),
        (["vae.binarisation=static", "data.flip=true"], "expected dynamic or threshold with data.flip"),
        (["model.network=conv", "data.image_size=9"], "data.image_size: expected even sides of at least 8 .*got 9"),
        (["model.network=conv", "model.hidden=[8, 8]"], r"hidden: expected one width.*got \[8, 8\]"),
        (["model.hidden=[0]"], r"model\.hidden\.0: .*got 0"),
        (["vae.deviation=0"], "vae.deviation: .*got 0"),
        (["evaluate.importance_samples=0"], "evaluate.importance_samples: .*got 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config("vae_tiny", overrides)


@pytest.mark.parametrize(("classes", "names", "got"), [(None, None, "none"), (1, ("smiles",), "only smiles")])
def test_a_conditional_model_of_data_without_two_classes_is_refused(classes, names, got):
    message = rf"'faces': expected at least 2 classes, which model\.conditional=true needs, got {got};"
    with pytest.raises(DataError, match=message):
        build("model.conditional=true", spec=DataSpec("faces", "images", (1, 8, 8), classes, names))


def test_learning_rates_default_to_adams_own_also_where_one_is_given():
    optimizer = load_config("vae_tiny", ["optimizer.lr=0.01"]).optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.eps) == (0.01, (0.9, 0.999), 1e-8)


# Collapse.


def test_a_posterior_that_says_nothing_is_told_in_plain_words_after_the_warm_up(tmp_path):
    """beta = 1000 makes any information too dear: the decoder learns to do without z."""
    overrides = ["vae.beta=1000", "train.steps=260", "train.log_every=10", "train.tensorboard=false"]
    config = load_config("vae_tiny", [*overrides, "train.sample_every=999", "train.checkpoint_every=999"])
    train(config, tmp_path / "run", evaluator=None)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    told = [row for row in rows if row.get("event") == "diagnosis" and row["what"] == "posterior"]
    assert len(told) == 1
    lists = [row["kl_per_latent"] for row in rows if "event" not in row]
    assert all(len(values) == 4 for values in lists)
    assert max(lists[-1]) < 0.01
    assert (tmp_path / "run" / "samples" / "step_00000260_kl.png").is_file()
    assert "none of 4 latents carries more than 0.01 nats, so the decoder ignores z" in told[0]["text"]


def test_the_kl_of_each_latent_is_the_closed_form_of_the_whole_batch():
    trainer = build("model.conditional=true")
    batch = {"image": torch.rand(6, 1, 8, 8) * 2 - 1, "label": torch.arange(6)}
    with torch.no_grad():
        pixels = trainer.likely_pixels(batch["image"])
        mean, log_variance = trainer.networks["encoder"].eval()(pixels, batch["label"])
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (log_variance / 2).exp()), prior)
    torch.testing.assert_close(trainer.kl_per_latent(batch), expected.mean(0), rtol=1e-4, atol=1e-6)


def test_no_collapse_is_told_while_the_kl_is_still_warming_up_or_a_latent_is_in_use():
    trainer = build("vae.kl_warmup_steps=100")
    silent, busy = {"active_latents": 0.0}, {"active_latents": 1.0}
    trainer.step = 99
    assert trainer.findings(silent) == []
    trainer.step = 100
    assert [finding.what for finding in trainer.findings(silent)] == ["posterior"]
    assert trainer.findings(busy) == []


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_convolutions_give_the_same_curve_natively_and_in_torch(precision):
    if not _extension.status().available:
        pytest.skip("the compiled extension is not here")
    curves = []
    for impl in ("native", "torch"):
        with ops.default_impl(impl):
            trainer = build("model.network=conv", "model.base_channels=8", f"train.precision={precision}")
            curves.append([metrics_of(trainer, batch())["loss"] for _ in range(4)])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4 if precision == "fp32" else 2e-2)
