"""The configuration of a variational autoencoder, and the networks that it describes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import nn

from genlab.config import EvaluateConfig, OptimizerConfig, RunConfig, Section
from genlab.ema import EmaConfig
from genlab.models.vae import (
    BernoulliLikelihood,
    ConvDecoder,
    ConvEncoder,
    DenseDecoder,
    DenseEncoder,
    GaussianLikelihood,
    ImageShape,
    halvings,
)

Width = Annotated[int, Field(ge=1, le=65536)]


class VaeModelConfig(Section):
    """Sizes of the networks."""

    network: Literal["dense", "conv"] = Field("dense", description="dense layers, or 4x4 convolutions with stride 2")
    latent_dim: int = Field(40, ge=1, le=4096, description="length of z")
    hidden: list[Width] = Field([400], description="widths from the image inwards; conv: of its one dense layer")
    base_channels: int = Field(32, ge=1, le=1024, description="conv: channels next to the image; doubles inwards")
    activation: Literal["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu"] = "relu"
    conditional: bool = Field(False, description="labels into encoder and decoder")

    @model_validator(mode="after")
    def _one_dense_layer(self) -> VaeModelConfig:
        if self.network == "conv" and len(self.hidden) != 1:
            raise ValueError(f"hidden: expected one width, of the dense layer of network conv, got {self.hidden}")
        return self


class VaeConfig(Section):
    """The likelihood and the bound."""

    decoder: Literal["bernoulli", "gaussian"] = Field("bernoulli", description="p(x|z) of a pixel")
    variance: Literal["fixed", "shared", "per_pixel"] = Field(
        "fixed", description="gaussian: fixed, one learned for all pixels, or an output of the decoder"
    )
    deviation: float = Field(
        1.0, gt=0, description="gaussian: standard deviation, fixed or to begin with; pixels are in [-1, 1]"
    )
    binarisation: Literal["none", "threshold", "static", "dynamic"] = Field(
        "none", description="bits of grey pixels: at one half, drawn once, drawn in every epoch"
    )
    binarisation_seed: int = Field(0, ge=0, lt=2**32, description="of the bits that are drawn once")
    beta: float = Field(1.0, ge=0, description="weight of the KL term (Higgins et al. 2017)")
    free_bits: float = Field(0.0, ge=0, description="nats of KL that each latent has for nothing")
    kl_warmup_steps: int = Field(0, ge=0, description="steps over which the KL's weight rises linearly")
    importance_samples: int = Field(1, ge=1, le=5000, description="k of the bound L_k; 1 is the VAE")
    ema: EmaConfig | None = Field(None, description="average of both networks; null: none")

    @model_validator(mode="after")
    def _settings_that_go_together(self) -> VaeConfig:
        if self.decoder == "gaussian" and self.binarisation != "none":
            raise ValueError(
                f"binarisation: expected none with decoder gaussian, whose density of bits has no bound, "
                f"got {self.binarisation!r}"
            )
        if self.decoder == "bernoulli" and self.variance != "fixed":
            raise ValueError(f"variance: expected decoder gaussian for variance {self.variance!r}, got bernoulli")
        weighed = self.beta != 1 or self.free_bits > 0 or self.kl_warmup_steps > 0
        if self.importance_samples > 1 and weighed:
            raise ValueError(
                "importance_samples: expected 1 with beta, free_bits or kl_warmup_steps, because L_k has no KL term "
                f"to weigh, got {self.importance_samples}"
            )
        return self


class VaeOptimizerConfig(OptimizerConfig):
    """Adam with its own defaults (Kingma and Ba 2015)."""

    lr: float = Field(1e-3, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Adam's decay rates, each in [0, 1)")


class VaeEvaluateConfig(EvaluateConfig):
    """Scores, with those of the likelihood."""

    importance_samples: int = Field(100, ge=1, le=100_000, description="k of the importance-sampled nll")
    likelihood_images: int | None = Field(
        1000, ge=2, description="pictures that nll is taken of, evenly spaced; null: all of the split"
    )
    likelihood_split: str = Field("test", description="part of the data set that nll is taken of")


class VaeRunConfig(RunConfig):
    """`algorithm: vae`."""

    model: VaeModelConfig = Field(default_factory=VaeModelConfig)
    vae: VaeConfig = Field(default_factory=VaeConfig)
    optimizer: VaeOptimizerConfig = Field(default_factory=VaeOptimizerConfig)
    evaluate: VaeEvaluateConfig = Field(default_factory=VaeEvaluateConfig)

    @model_validator(mode="after")
    def _network_and_data(self) -> VaeRunConfig:
        if self.model.network == "conv":
            try:
                halvings((1, *self.data.height_width))
            except ValueError:
                raise ValueError(
                    "data.image_size: expected even sides of at least 8 for model.network=conv, "
                    f"got {self.data.image_size}"
                ) from None
        if self.vae.binarisation == "static" and (self.data.flip or self.data.jitter is not None):
            raise ValueError(
                "vae.binarisation: expected dynamic or threshold with data.flip or data.jitter, "
                "which vary the picture whose bits static draws once, got 'static'"
            )
        return self


def build_encoder(config: VaeRunConfig, shape: ImageShape, label_count: int) -> nn.Module:
    """The encoder that `config.model` describes."""
    model = config.model
    if model.network == "conv":
        return ConvEncoder(shape, model.latent_dim, model.base_channels, model.hidden[0], model.activation, label_count)
    return DenseEncoder(shape, model.latent_dim, model.hidden, model.activation, label_count)


def build_decoder(config: VaeRunConfig, shape: ImageShape, label_count: int) -> nn.Module:
    """The decoder that `config.model` describes, with the likelihood of `config.vae`."""
    model, vae = config.model, config.vae
    likelihood = (
        BernoulliLikelihood() if vae.decoder == "bernoulli" else GaussianLikelihood(vae.variance, vae.deviation)
    )
    if model.network == "conv":
        return ConvDecoder(
            shape, model.latent_dim, model.base_channels, model.hidden[0], model.activation, label_count,
            likelihood=likelihood,
        )  # fmt: skip
    return DenseDecoder(
        shape, model.latent_dim, model.hidden[::-1], model.activation, label_count, likelihood=likelihood
    )
