"""The configuration of `algorithm: autoencoder`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from genlab.config import RunConfig, Section
from genlab.trainers.stack import AdamConfig, StackConfig


class AutoencoderModelConfig(StackConfig):
    """The encoder's sizes and what its mirror image is like."""

    tied: bool = Field(False, description="each decoding layer's weight is the transpose of its encoding layer's")
    output: Literal["sigmoid", "linear"] = Field("sigmoid", description="of the pixels' intensities")


class CorruptionConfig(Section):
    """What is done to an image before it is encoded; both may act, the Gaussian noise first."""

    gaussian: float = Field(0.0, ge=0, le=10, description="standard deviation, in units of the intensities' range")
    masking: float = Field(0.0, ge=0, lt=1, description="share of the components set to 0, drawn anew each time")
    pretraining_only: bool = Field(False, description="the whole is then trained on clean images")


class PretrainingConfig(Section):
    """Greedy layer-wise training before that of the whole."""

    steps: int | list[int] = Field(0, description="steps of each layer: one number for all, or a list; 0: none")


class AutoencoderConfig(RunConfig):
    """`algorithm: autoencoder`. `train.steps` counts the pre-training too."""

    model: AutoencoderModelConfig = Field(default_factory=AutoencoderModelConfig)
    reconstruction: Literal["mse", "cross_entropy"] = Field("mse", description="the loss, summed over the pixels")
    corruption: CorruptionConfig = Field(default_factory=CorruptionConfig)
    pretraining: PretrainingConfig = Field(default_factory=PretrainingConfig)
    optimizer: AdamConfig = Field(default_factory=AdamConfig)

    @property
    def layer_steps(self) -> list[int]:
        """Steps of each layer's pre-training, from the image inwards."""
        steps, depth = self.pretraining.steps, len(self.model.hidden) + 1
        return [steps] * depth if isinstance(steps, int) else steps

    @model_validator(mode="after")
    def _fits_together(self) -> AutoencoderConfig:
        self.model.check_size(self.data.height_width)
        if self.reconstruction == "cross_entropy" and self.model.output != "sigmoid":
            raise ValueError(
                f"model.output: expected sigmoid with reconstruction=cross_entropy, got {self.model.output}"
            )
        steps, depth = self.layer_steps, len(self.model.hidden) + 1
        if len(steps) != depth or min(steps) < 0:
            raise ValueError(
                f"pretraining.steps: expected a number of at least 0 for each of the {depth} layers, got {steps}"
            )
        if sum(steps) >= self.train.steps:
            raise ValueError(
                f"train.steps: expected more than the {sum(steps)} steps of pre-training, which it counts too, "
                f"got {self.train.steps}"
            )
        return self
