"""Configuration of InfoGAN: noise and codes, whose numbers must add up, and lambda of each kind of code."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from genlab.codes import Codes
from genlab.config import Section
from genlab.trainers.gan_config import GanRunConfig, LatentConfig


class InfoGanModelConfig(LatentConfig):
    """`model` of `algorithm: infogan`: latent_dim = noise_dim + categories + uniform + gaussian."""

    network: Literal["infogan"] = "infogan"
    latent_dim: int = Field(74, ge=1, le=4096, description="noise and codes together")
    noise_dim: int = Field(62, ge=0, le=4096, description="numbers of z that carry no code")
    categorical: list[int] = Field(
        default_factory=lambda: [10], description="number of values of each categorical code"
    )
    uniform: int = Field(2, ge=0, description="codes from U(-1, 1)")
    gaussian: int = Field(0, ge=0, description="codes from N(0, 1)")
    fixed_variance: bool = Field(False, description="Q of uniform and gaussian codes has variance 1, not a learned one")
    base_channels: int = Field(64, ge=1, le=1024, description="channels of the map next to the image; doubles inwards")
    discriminator_batch_norm: bool = Field(True, description="false where a gradient penalty is taken per sample")
    dense_width: int = Field(1024, ge=1, le=65_536, description="units of G's first and the trunk's last layer")
    recognition_width: int = Field(128, ge=1, le=65_536, description="units of Q's own hidden layer")
    pixels: Literal["tanh", "sigmoid"] = Field(
        "tanh", description="G's output; sigmoid: it makes and D reads pixels in [0, 1], as in the authors' code"
    )
    negative_slope: float = Field(0.1, ge=0, lt=1, description="of D's leaky units: 0.1 in the paper, 0.01 in its code")

    @model_validator(mode="after")
    def _codes_exist(self) -> InfoGanModelConfig:
        _ = self.codes  # raises where there is none, or one of fewer than two values
        return self

    @property
    def codes(self) -> Codes:
        return Codes(tuple(self.categorical), self.uniform, self.gaussian, self.fixed_variance)


class InformationConfig(Section):
    """lambda of equation 6 for each kind of code."""

    categorical: float = Field(1.0, ge=0)
    uniform: float = Field(0.1, ge=0)
    gaussian: float = Field(0.1, ge=0)


class InfoGanConfig(GanRunConfig):
    """`algorithm: infogan`."""

    model: InfoGanModelConfig = Field(default_factory=InfoGanModelConfig)
    information: InformationConfig = Field(default_factory=InformationConfig, description="lambda by kind of code")

    @model_validator(mode="after")
    def _codes_add_up(self) -> InfoGanConfig:
        model = self.model
        total = model.noise_dim + model.codes.width
        if total != model.latent_dim:
            parts = [f"noise_dim {model.noise_dim}", f"categorical {'+'.join(map(str, model.categorical)) or 0}"]
            parts += [f"uniform {model.uniform}", f"gaussian {model.gaussian}"]
            raise ValueError(f"model.latent_dim: expected {total} = {' + '.join(parts)}, got {model.latent_dim}")
        return self

    @model_validator(mode="after")
    def _size_of_the_architecture(self) -> InfoGanConfig:
        height, width = self.data.height_width
        if height != width or height < 8 or height % 4:
            raise ValueError(
                f"data.image_size: expected a multiple of 4 from 8 on for infogan, got {self.data.image_size}"
            )
        return self
