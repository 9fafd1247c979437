"""Configuration of semi-supervised GANs: the networks, which labels are read, and the game beside them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from genlab.config import OptimizerConfig, RunConfig, Section
from genlab.ema import EmaConfig
from genlab.regularizers import RegularizersConfig
from genlab.trainers.gan_config import GameConfig


class SganModelConfig(Section):
    """The authors' networks: perceptrons (MNIST) or convolutions (CIFAR-10)."""

    network: Literal["mlp", "conv"] = "mlp"
    latent_dim: int = Field(100, ge=1, le=4096, description="length of z, uniform on [0, 1)")
    discriminator_hidden: list[int] = Field([1000, 500, 250, 250, 250], min_length=1, description="mlp: widths")
    generator_hidden: list[int] = Field([500, 500], min_length=1, description="mlp: widths")
    input_noise: float = Field(0.3, ge=0, description="mlp: deviation of the noise on pixels in [0, 1]")
    noise: float = Field(0.5, ge=0, description="mlp: deviation of the noise on hidden layers")
    discriminator_channels: int = Field(96, ge=1, le=1024, description="conv: width of the first layers")
    generator_channels: int = Field(128, ge=1, le=1024, description="conv: width of the last hidden map")


class SganConfig(Section):
    """What is learnt from which labels."""

    labels: int = Field(100, ge=1, description="labelled images, as many of each class")
    label_seed: int = Field(0, ge=0, description="which images those are: the number of the split")
    unlabelled_weight: float = Field(
        1.0, ge=0, description="of half of gan.loss, the mean of its unlabelled and generated term; 2: of their sum"
    )
    generator_loss: Literal[
        "feature_matching", "feature_matching_l1", "adversarial", "adversarial_feature_matching"
    ] = Field(
        "feature_matching",
        description="distance of mean features: mean square, mean magnitude (the code's for CIFAR-10), or gan.loss, "
        "or that plus the squared length of the distance",
    )
    supervised_only: bool = Field(
        False,
        description="train the classifier on its labels alone: the baseline; then gan, unlabelled_weight and "
        "generator_loss have no effect, and the generator stays as it was initialised",
    )
    ema: EmaConfig = Field(default_factory=lambda: EmaConfig(decay=0.9999), description="of the discriminator")


class SganGameConfig(GameConfig):
    """The game on log Z(x) as the critic's logit. The average, of the discriminator, is `sgan.ema`."""

    @field_validator("regularizers")
    @classmethod
    def _weights_are_normalised(cls, value: RegularizersConfig) -> RegularizersConfig:
        if value.spectral_norm:
            raise ValueError(
                "expected no spectral_norm for sgan, whose discriminator's weights are normalised already (each unit "
                "to length 1), got spectral_norm=true; take gradient_penalty, r1, drift or consistency"
            )
        return value


class SganRunConfig(RunConfig):
    """`algorithm: sgan`."""

    model: SganModelConfig = Field(default_factory=SganModelConfig)
    sgan: SganConfig = Field(default_factory=SganConfig)
    gan: SganGameConfig = Field(default_factory=SganGameConfig)
    generator_optimizer: OptimizerConfig = Field(default_factory=lambda: OptimizerConfig(lr=3e-3))
    discriminator_optimizer: OptimizerConfig = Field(default_factory=lambda: OptimizerConfig(lr=3e-3))

    @model_validator(mode="after")
    def _whole_batches(self) -> SganRunConfig:
        if self.train.grad_accumulation > 1:
            raise ValueError(
                "train.grad_accumulation: expected 1 for sgan, whose feature matching is of a whole batch, got "
                f"{self.train.grad_accumulation}"
            )
        return self
