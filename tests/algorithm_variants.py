"""Trainings that the tests of every algorithm also run: presets in which an algorithm takes another of its paths."""

from __future__ import annotations

from genlab.config import RunConfig, load_config
from genlab.trainers import ALGORITHMS

# "algorithm+variant" -> what it sets over the algorithm's tiny preset.
VARIANTS: dict[str, list[str]] = {
    "cgan+projection": ["model.discriminator_conditioning=projection", "model.generator_conditioning=batch_norm"],
    "cgan+resnet": [
        "model.network=resnet", "data.image_size=32", "data.batch_size=8",
        "model.discriminator_conditioning=projection", "model.generator_conditioning=batch_norm",
    ],
    "cyclegan+unet": ["model.network=unet"],
    "pix2pix+resnet": ["model.network=resnet", "model.blocks=1"],
    "sgan+conv": [
        "model.network=conv", "data.image_size=16", "data.batch_size=8", "model.discriminator_channels=4",
        "model.generator_channels=4",
        "train.channels_last=false",  # dropout's mask follows the memory order, which the kernels may choose otherwise
    ],
    "sgan+restrained": [
        "gan.loss=hinge", "sgan.generator_loss=adversarial_feature_matching", "gan.regularizers.gradient_penalty={}",
        "gan.regularizers.consistency={shift: 1}", "gan.regularizers.manifold_entropy={buffer: 64}",
    ],
    "wgan_gp+resnet": ["model.network=resnet", "data.image_size=32", "data.batch_size=8"],
}  # fmt: skip
CASES = [*ALGORITHMS.names(), *VARIANTS]


def algorithm_of(case: str) -> str:
    """The algorithm of one of `CASES`."""
    return case.split("+")[0]


def tiny_preset(case: str, *overrides: str) -> RunConfig:
    """The tiny preset of one of `CASES`."""
    return load_config(f"{algorithm_of(case)}_tiny", [*VARIANTS.get(case, []), *overrides])
