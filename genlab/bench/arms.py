"""The contenders of `genlab bench step` and what a step of each does.

Every workload has the lab's networks and the same networks in plain torch with the same weights, on the same data. The
plain ones run as a user would write them, and as one who tunes them would: channels_last memory, torch.compile, and the
lab's allocator settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from genlab.bench.plain_dcgan import PlainDcgan, copy_in_order
from genlab.bench.plain_resnet import build_resnet_generator, norm_of_one_sample
from genlab.bench.supervised import TOLERANCES as SUPERVISED_TOLERANCES
from genlab.bench.supervised import lab_step, plain_step
from genlab.bench.workloads import WORKLOADS

LAB, FUSED, PLAIN = "genlab", "genlab, kernels.fuse", "plain torch"
PLAIN_KEPT = "plain torch, memory kept"
PLAIN_TUNED = "plain torch, channels_last, memory kept"
COMPILED = "torch.compile, channels_last, memory kept"
COMPILED_TEXT = "torch.compile, memory kept"

DCGAN, RESNET_9 = "dcgan", "cyclegan_resnet9"
RESNET_BLOCKS = 9

Losses = dict[str, torch.Tensor]  # 0-d tensors
Step = Callable[[], Losses]


@dataclass(frozen=True)
class ArmKind:
    """How an arm runs: with the lab's ops, in which memory order, through torch.compile, with freed memory kept.

    `fused`: of the lab's, convolution, normalisation and activation in one, for the memory of it.
    """

    name: str
    lab: bool = False
    fused: bool = False
    channels_last: bool = False
    compiled: bool = False
    kept: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        ArmKind(LAB, lab=True, kept=True),
        ArmKind(FUSED, lab=True, fused=True, kept=True),
        ArmKind(PLAIN),
        ArmKind(PLAIN_KEPT, kept=True),
        ArmKind(PLAIN_TUNED, channels_last=True, kept=True),
        ArmKind(COMPILED, channels_last=True, compiled=True, kept=True),
        ArmKind(COMPILED_TEXT, compiled=True, kept=True),
    )
}


def arms_of(workload: str, compiled: bool) -> list[str]:
    """Who takes part, the lab first.

    Args:
        workload: "dcgan", "cyclegan_resnet9" or a name of `WORKLOADS`.
        compiled: whether torch.compile does.
    """
    pictures = workload not in WORKLOADS or WORKLOADS[workload].channels > 0
    left_out = {COMPILED_TEXT} if pictures else {COMPILED, PLAIN_TUNED}  # only pictures have a channels_last order
    if workload != DCGAN:
        left_out.add(FUSED)  # no other workload has chains of convolution, batch normalisation and activation as one
    return [name for name, kind in KINDS.items() if name not in left_out and (compiled or not kind.compiled)]


# Largest relative difference to the lab's values in the first and the second step. DCGAN: from the second step on
# rounding is magnified: it turns some values over the kink of LeakyReLU, whose gradients Adam's first update divides by
# their own size. torch's two memory orders differ from each other just so. ResNet-9: no update, the same values twice;
# ReLU and the sign in the L1 loss magnify rounding, in torch's float32 against float64 as well.
TOLERANCES = {
    (DCGAN, "fp32"): (1e-4, 1e-2),
    (DCGAN, "bf16-mixed"): (5e-2, 5e-2),
    (RESNET_9, "fp32"): (1e-3, 1e-3),
    (RESNET_9, "bf16-mixed"): (5e-2, 5e-2),
    **{(name, precision): limits for name in WORKLOADS for precision, limits in SUPERVISED_TOLERANCES.items()},
}


def make_stepper(name: str, settings: Any) -> Step:
    """A function without arguments that takes one step of the arm `name` and returns what the arms must agree on."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    kind = KINDS[name]
    if settings.workload in WORKLOADS:
        workload = WORKLOADS[settings.workload]
        if kind.lab:
            return lab_step(workload, settings)
        return plain_step(workload, settings, _memory_format(kind), kind.compiled)
    make = _resnet_step if settings.workload == RESNET_9 else _dcgan_step
    return make(kind, settings)


def make_data(settings: Any) -> torch.Tensor:
    """The batch that every step of every arm sees: (N, C, H, W) in [-1, 1]. What is in it does not change the time."""
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (settings.batch, settings.channels, settings.size, settings.size)
    return torch.rand(shape, generator=generator) * 2 - 1


def _memory_format(kind: ArmKind) -> torch.memory_format:
    return torch.channels_last if kind.channels_last else torch.contiguous_format


# -- DCGAN: one update of each network ---------------------------------------------------------------------------------


def make_lab(settings: Any, *, fused: bool = False) -> Any:
    """The lab's trainer with the average of the generator switched off: the plain peer has none."""
    from genlab.config import parse_config
    from genlab.trainers.data_spec import DataSpec
    from genlab.trainers.dcgan import DcganTrainer

    tree = {
        "algorithm": "dcgan",
        "seed": settings.seed,
        "data": {"name": "shapes", "image_size": settings.size, "batch_size": settings.batch},
        "model": {"latent_dim": settings.latent_dim, "base_channels": settings.base_channels},
        "gan": {"ema": None},
        "train": {"precision": settings.precision, "deterministic": False},
        "kernels": {"fuse": fused},
    }
    spec = DataSpec("shapes", "images", (settings.channels, settings.size, settings.size))
    return DcganTrainer(parse_config(tree, "bench step"), spec, device=settings.device)


def _dcgan_step(kind: ArmKind, settings: Any) -> Step:
    from genlab.distributed import Distributed, ShardedNoise
    from genlab.seeding import generator

    real = make_data(settings).to(settings.device)
    if kind.lab:
        trainer = make_lab(settings, fused=kind.fused)
        return lambda: _only(trainer.advance({"image": real}))
    plain = _plain_dcgan(settings)  # the trainer that its weights come from is gone: no part of this arm's memory
    for network in (plain.generator, plain.discriminator):
        network.to(memory_format=_memory_format(kind))
        if kind.compiled:
            network.compile(dynamic=False)
    real = real.contiguous(memory_format=_memory_format(kind))
    # The very noise that the lab's trainer draws.
    noise = ShardedNoise(generator(settings.seed, "noise"), Distributed(), torch.device(settings.device))
    return lambda: _only(plain.step(real, noise.normal(settings.batch, settings.latent_dim)))


def _plain_dcgan(settings: Any) -> PlainDcgan:
    """The plain networks with the lab's weights and settings."""
    trainer = make_lab(settings)
    optimizer = trainer.config.generator_optimizer
    plain = PlainDcgan(
        settings.size, settings.channels, settings.latent_dim, settings.base_channels, lr=optimizer.lr,
        betas=optimizer.betas, precision=settings.precision, device=torch.device(settings.device),
    )  # fmt: skip
    copy_in_order(trainer.networks["generator"], plain.generator)
    copy_in_order(trainer.networks["discriminator"], plain.discriminator)
    return plain


def _only(taken: Losses) -> Losses:
    return {name: taken[name] for name in ("loss_d", "loss_g")}


# -- CycleGAN's ResNet-9 generator: forward and backward ---------------------------------------------------------------


def _resnet_step(kind: ArmKind, settings: Any) -> Step:
    from genlab.models.cyclegan import ResnetGenerator

    torch.manual_seed(settings.seed)
    network = ResnetGenerator(settings.channels, settings.base_channels, RESNET_BLOCKS)
    if not kind.lab:
        norm = norm_of_one_sample if kind.channels_last and settings.batch == 1 else nn.InstanceNorm2d
        plain = build_resnet_generator(settings.channels, settings.base_channels, RESNET_BLOCKS, norm)
        copy_in_order(network, plain)
        network = plain
    # The lab's trainers run in channels_last too.
    layout = torch.channels_last if kind.lab else _memory_format(kind)
    network.to(settings.device, memory_format=layout)
    if kind.compiled:
        network.compile(dynamic=False)
    images = make_data(settings).to(settings.device, memory_format=layout)
    target = images.flip(0, 2).contiguous(memory_format=layout)
    first = next(network.parameters())
    device = torch.device(settings.device).type

    def step() -> Losses:
        network.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
            output = network(images)
        loss = (output.float() - target).abs().mean()
        loss.backward()
        # The gradient of the first layer has come through all others.
        return {"loss": loss.detach(), "first_gradient": first.grad.norm()}

    return step
