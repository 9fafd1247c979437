"""DCGAN's own rules: who is frozen when, what a step computes, and that its options do what they say."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_jobs import tiny_config

from genlab import _extension, data
from genlab.errors import ConfigError
from genlab.ops import default_impl
from genlab.trainers import DataSpec
from genlab.trainers.dcgan import DcganTrainer


def build(*overrides: str) -> DcganTrainer:
    config = tiny_config(*overrides)
    spec = DataSpec("digits", "images", (1, *config.data.height_width), 10)
    return DcganTrainer(config, spec)


def images(count: int = 8, size: int = 28) -> dict[str, torch.Tensor]:
    return {"image": torch.rand(count, 1, size, size) * 2 - 1}


class ConvolutionGradients(TorchDispatchMode):
    """Counts which gradients the convolutions' backward passes are asked for: output_mask = (input, weight, bias)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_gradients = 0
        self.input_gradients = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            mask = args[-1]
            self.input_gradients += bool(mask[0])
            self.weight_gradients += bool(mask[1])
        return func(*args, **(kwargs or {}))


def convolutions(network: torch.nn.Module) -> int:
    return sum(isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)) for m in network.modules())


def test_the_generators_update_computes_no_weight_gradient_of_the_discriminator():
    trainer = build()
    z = trainer.latents(8, torch.Generator())
    with default_impl("torch"):
        fakes = trainer.generate(z, keep_graph=True)
    with default_impl("torch"), ConvolutionGradients() as counted:
        trainer.update_generator(z, fakes)
    assert counted.weight_gradients == convolutions(trainer.networks["generator"])
    assert all(p.grad is None for p in trainer.networks["discriminator"].parameters())
    assert all(p.grad is not None for p in trainer.networks["generator"].parameters())


def test_the_discriminators_update_computes_no_gradient_of_the_generator():
    trainer = build()
    fakes = trainer.generate(trainer.latents(8, torch.Generator()), keep_graph=True)
    with default_impl("torch"), ConvolutionGradients() as counted:
        trainer.update_discriminator(images()["image"], fakes, 0)
    # Twice: real and fake are separate batches. The first layer needs no gradient of its input, the images.
    layers = convolutions(trainer.networks["discriminator"])
    assert counted.weight_gradients == 2 * layers
    assert counted.input_gradients == 2 * (layers - 1)
    assert all(p.grad is None for p in trainer.networks["generator"].parameters())


def test_all_parameters_are_trainable_again_after_a_step():
    trainer = build()
    trainer.advance(images())
    assert all(p.requires_grad for network in trainer.networks.values() for p in network.parameters())


def test_a_step_equals_the_papers_box_written_in_plain_torch():
    """Real and fake as two batches, BCE with logits, the same fake for both updates, Adam 2e-4 with beta1 0.5."""
    import copy

    import torch.nn.functional as F

    trainer = build()
    generator, discriminator = (copy.deepcopy(trainer.networks[name]) for name in ("generator", "discriminator"))
    adam_g, adam_d = (
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)) for network in (generator, discriminator)
    )
    noise = torch.Generator()
    noise.set_state(trainer.noise.generator.get_state())
    for _ in range(3):
        batch = images()
        metrics = trainer.advance(batch)
        z = torch.randn(8, 4, generator=noise)
        fake = generator(z)
        real_logits, fake_logits = discriminator(batch["image"]), discriminator(fake.detach())
        loss_d = F.binary_cross_entropy_with_logits(real_logits, torch.ones(8)) + F.binary_cross_entropy_with_logits(
            fake_logits, torch.zeros(8)
        )
        adam_d.zero_grad()
        loss_d.backward()
        adam_d.step()
        loss_g = F.binary_cross_entropy_with_logits(discriminator(fake), torch.ones(8))
        adam_g.zero_grad()
        loss_g.backward()
        adam_g.step()
        torch.testing.assert_close(metrics["loss_d"], loss_d.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(metrics["loss_g"], loss_g.detach(), rtol=1e-5, atol=1e-6)
    for mine, plain in zip(trainer.networks["generator"].parameters(), generator.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-6)


def test_micro_batches_give_the_gradients_of_the_whole_batch():
    """Without batch statistics, which are those of a micro-batch, the numbers are the same."""
    losses = ["gan.loss=hinge", "model.discriminator_batch_norm=false", "gan.regularizers.gradient_penalty.weight=10"]
    whole, parts = build(*losses), build(*losses, "train.grad_accumulation=4")
    batch, fake = images()["image"], images()["image"]
    results = []
    for trainer in (whole, parts):
        fakes = list(fake.chunk(trainer.micro_batch_count))
        metrics = trainer.update_discriminator(batch, fakes, 0)
        results.append((metrics, [p.grad for p in trainer.networks["discriminator"].parameters()]))
    for name, value in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], value, rtol=1e-4, atol=1e-6)
    for one, several in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(several, one, rtol=1e-4, atol=1e-6)


def test_micro_batches_train_the_generator_too():
    trainer = build("train.grad_accumulation=4")
    before = [p.detach().clone() for p in trainer.networks["generator"].parameters()]
    metrics = trainer.advance(images())
    assert all(not torch.equal(a, b) for a, b in zip(before, trainer.networks["generator"].parameters(), strict=True))
    assert torch.isfinite(metrics["loss_g"])


def test_a_batch_that_micro_batches_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"data\.batch_size: expected a multiple of .*grad_accumulation=3, got 8"):
        build("train.grad_accumulation=3")


def test_several_discriminator_steps_take_as_many_batches():
    trainer = build("gan.discriminator_steps=3", "discriminator_optimizer.name=sgd", "generator_optimizer.name=sgd")
    assert trainer.batches_per_step == 3
    updates = []
    for name, optimizer in trainer.optimizers.items():
        optimizer.register_step_post_hook(lambda *_, name=name: updates.append(name))
    trainer.advance(images(), images(), images())
    assert updates == ["discriminator"] * 3 + ["generator"]


@pytest.mark.parametrize(
    ("loss", "size"),
    [
        ("non_saturating", 28),
        ("minimax", 28),
        ("lsgan", 28),
        ("wasserstein", 28),
        ("hinge", 32),
        ("hinge", 64),
        ("hinge", 128),
    ],
)
def test_every_loss_and_size_trains(loss, size):
    trainer = build(f"gan.loss={loss}", f"data.image_size={size}")
    metrics = trainer.advance(images(8, size))
    assert all(torch.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("precision", ["bf16-mixed", "fp16-mixed"])
def test_mixed_precision_keeps_weights_losses_and_penalties_in_float32(precision, monkeypatch):
    trainer = build(
        f"train.precision={precision}",
        "gan.regularizers.gradient_penalty.weight=10",
        "gan.regularizers.r1.weight=1",
    )
    seen = []
    original = trainer.regularizer.penalties

    def spy(*arguments, **keywords):
        terms = original(*arguments, **keywords)
        seen.extend(term.dtype for term in terms.values())
        return terms

    monkeypatch.setattr(trainer.regularizer, "penalties", spy)
    logits = []
    trainer.networks["discriminator"].register_forward_hook(lambda *call: logits.append(call[-1].dtype))
    reference = build("gan.regularizers.gradient_penalty.weight=10", "gan.regularizers.r1.weight=1")
    batch = images()
    mixed, full = trainer.advance(batch), reference.advance(batch)
    assert seen == [torch.float32, torch.float32]
    assert logits[0] == trainer.precision.dtype
    assert all(p.dtype == torch.float32 for n in trainer.networks.values() for p in n.parameters())
    torch.testing.assert_close(mixed["loss_d"], full["loss_d"], rtol=0.05, atol=0.05)


def test_fp16_skips_a_step_that_overflows_and_lowers_its_scale():
    trainer = build("train.precision=fp16-mixed")
    trainer.advance(images())
    scaler = trainer.scalers["generator"]
    assert scaler.is_enabled()
    before = [p.detach().clone() for p in trainer.networks["generator"].parameters()]
    scale = scaler.get_scale()
    with trainer.update("generator") as update:
        for parameter in trainer.networks["generator"].parameters():
            parameter.grad = torch.full_like(parameter, float("inf"))
        del update
    assert scaler.get_scale() < scale
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.networks["generator"].parameters(), strict=True))


def test_noise_follows_its_distribution():
    normal, uniform = build(), build("model.latent_distribution=uniform", "model.latent_dim=1000")
    draws = uniform.draw_noise(50)
    assert draws.min() >= -1
    assert draws.max() < 1
    assert draws.std().item() == pytest.approx(3**-0.5, rel=0.02)
    assert normal.draw_noise(5000).std().item() == pytest.approx(1, rel=0.05)
    assert uniform.latents(10, torch.Generator()).abs().max() <= 1


def test_learning_rates_follow_the_schedule():
    trainer = build("train.schedule={name: step, milestones: [1], gamma: 0.5}", "generator_optimizer.lr=0.01")
    rates = []
    for _ in range(2):
        trainer.advance(images())
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers.values()])
    assert rates == [[0.01, 0.0002], [0.005, 0.0001]]


def test_samples_come_from_the_average_unless_the_raw_weights_are_asked_for():
    trainer = build()
    trainer.advance(images())
    trainer.advance(images())
    average = trainer.sample(2, torch.Generator().manual_seed(0))
    trainer.use_ema = False
    raw = trainer.sample(2, torch.Generator().manual_seed(0))
    assert not torch.equal(average, raw)
    assert trainer.networks["generator"].training, "sampling leaves the training mode as it was"


def test_an_unsupported_size_and_kind_of_data_are_refused():
    with pytest.raises(ConfigError, match=r"data\.image_size: expected one of 28, 32, 64, 128 for dcgan, got 48"):
        tiny_config("data.image_size=48")
    with pytest.raises(ConfigError, match=r"got \(32, 64\)"):
        tiny_config("data.image_size=[32, 64]")
    with pytest.raises(ConfigError, match=r"gan\.loss: .*did you mean 'hinge'"):
        tiny_config("gan.loss=hing")
    with pytest.raises(ConfigError, match="expected a data set of images, got points"):
        DcganTrainer(tiny_config(), DataSpec("ring", "points", (2,)))


def test_digits_become_a_batch_of_the_trainer():
    config = tiny_config()
    dataset = data.build(config.data, "train")
    trainer = DcganTrainer(config, DataSpec.of(dataset))
    batch = trainer.to_device(next(data.BatchStream(dataset, 8, seed=0)))
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert all(
        p.is_contiguous(memory_format=torch.channels_last)
        for p in trainer.networks["discriminator"].parameters()
        if p.dim() == 4
    )


class FusedConvolutions(TorchDispatchMode):
    """Counts convolutions that normalise what they load."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name.startswith("genlab::norm_conv")
        return func(*args, **(kwargs or {}))


def test_fused_layers_give_the_curve_of_single_ones():
    if not _extension.status().available:
        pytest.skip("the compiled extension is not here")
    batches, curves = [images() for _ in range(3)], []
    for fuse in ("true", "false"):
        trainer = build(f"kernels.fuse={fuse}", "model.base_channels=8")
        with FusedConvolutions() as fused:
            curves.append([trainer.advance(batch) for batch in batches])
        assert (fused.count > 0) == (fuse == "true")
    for one, other in zip(*curves, strict=True):
        for name in ("loss_d", "loss_g"):
            assert one[name].item() == pytest.approx(other[name].item(), rel=1e-3)
