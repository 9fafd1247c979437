"""Trainings that the tests of every algorithm also run: presets in which an algorithm takes another of its paths."""

from __future__ import annotations

from genlab.config import RunConfig, load_config
from genlab.trainers import ALGORITHMS

# Adam's steps are as long for a gradient that is only rounding, such as that of a bias which a normalisation takes out
# again, as for any other; so large an eps holds those back where two ways of computing one training are compared.
SHORT_OF_ROUNDING = "generator_optimizer.eps=1e-4"

# "algorithm+variant" -> what it sets over the algorithm's tiny preset.
VARIANTS: dict[str, list[str]] = {
    "cgan+projection": ["model.discriminator_conditioning=projection", "model.generator_conditioning=batch_norm"],
    "cgan+resnet": [
        "model.network=resnet", "data.image_size=32", "data.batch_size=8",
        "model.discriminator_conditioning=projection", "model.generator_conditioning=batch_norm",
        SHORT_OF_ROUNDING,
    ],
    "cyclegan+unet": ["model.network=unet"],
    # By seed 0 a unit comes within rounding of its ReLU's kink in the first step, and its gradient is there or not.
    "pix2pix+resnet": ["model.network=resnet", "model.blocks=1", "seed=2", SHORT_OF_ROUNDING],
    "sgan+conv": [
        "model.network=conv", "data.image_size=16", "data.batch_size=8", "model.discriminator_channels=4",
        "model.generator_channels=4",
        "train.channels_last=false",  # dropout's mask follows the memory order, which the kernels may choose otherwise
    ],
    "sgan+restrained": [
        "gan.loss=hinge", "sgan.generator_loss=adversarial_feature_matching", "gan.regularizers.gradient_penalty={}",
        "gan.regularizers.consistency={shift: 1}", "gan.regularizers.manifold_entropy={buffer: 64}",
    ],
    "wgan_gp+resnet": ["model.network=resnet", "data.image_size=32", "data.batch_size=8", SHORT_OF_ROUNDING],
}  # fmt: skip
CASES = [*ALGORITHMS.names(), *VARIANTS]


def algorithm_of(case: str) -> str:
    """The algorithm of one of `CASES`."""
    return case.split("+")[0]


def tiny_preset(case: str, *overrides: str) -> RunConfig:
    """The tiny preset of one of `CASES`."""
    return load_config(f"{algorithm_of(case)}_tiny", [*VARIANTS.get(case, []), *overrides])
