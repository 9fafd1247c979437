"""What the algorithms on autoencoders share: the section that describes an encoder, the optimiser, and intensities."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from genlab.config import OptimizerConfig, Section
from genlab.models.autoencoder import Encoder, most_halvings

Activation = Literal["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu"]
Width = Annotated[int, Field(ge=1, le=65_536)]


class AdamConfig(OptimizerConfig):
    """One optimiser. Defaults are Adam's own (Kingma and Ba 2015)."""

    lr: float = Field(1e-3, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Adam's decay rates, each in [0, 1)")


class StackConfig(Section):
    """Sizes of an encoder."""

    network: Literal["dense", "conv"] = Field(
        "dense", description="conv: each layer halves the sides; the code is dense"
    )
    hidden: list[Width] = Field(
        default_factory=lambda: [1000, 500, 250],
        max_length=16,
        description="units (dense) or channels (conv) of each hidden layer, from the image inwards",
    )
    code: Width = Field(30, description="length of the code")
    activation: Activation = Field("relu", description="of the hidden layers")
    code_activation: Activation | None = Field(None, description="of the code; null: linear")
    batch_norm: bool = Field(True, description="of feature maps (conv)")

    def check_size(self, height_width: tuple[int, int]) -> None:
        """Raises ValueError where the image is too small for that many convolutions."""
        most = most_halvings((1, *height_width))
        if self.network == "conv" and len(self.hidden) > most:
            height, width = height_width
            raise ValueError(
                f"model.hidden: expected at most {most} convolutions, each of which halves the {height}x{width} px, "
                f"got {len(self.hidden)}; shorten model.hidden or raise data.image_size"
            )

    def build(self, image_shape: tuple[int, ...]) -> Encoder:
        """The encoder of images (C, H, W)."""
        return Encoder(
            image_shape, self.hidden, self.code, network=self.network, activation=self.activation,
            code_activation=self.code_activation, batch_norm=self.batch_norm,
        )  # fmt: skip


def to_intensities(images: Tensor) -> Tensor:
    """Images in [-1, 1] to intensities in [0, 1], float32."""
    return images.float().add(1.0).mul(0.5)


def to_images(intensities: Tensor) -> Tensor:
    """Intensities to images, cut to [-1, 1]: noise and a linear output go beyond."""
    return intensities.mul(2.0).sub(1.0).clamp(-1.0, 1.0)
