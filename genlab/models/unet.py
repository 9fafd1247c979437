"""Pix2Pix's generator (Isola et al. 2017, appendix 6.1.1): a U-Net down to one pixel, with dropout as its noise.

Encoder C64-C128-C256-C512-C512-C512-C512-C512 at 256 px, one halving more or less per doubling of the size; decoder
CD512-CD512-CD512-C512-C256-C128-C64. The decoder's layer i sees the encoder's map of its size beside its own.

The dropout masks come in as uniform numbers: they are the model's z, so the caller draws them like any other noise, the
same for any number of processes and any device, and a picture can be made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.models.normalization import picture_normalization
from genlab.nn import Conv2d, ConvTranspose2d
from genlab.nn.init import normal_init

SIZES = (32, 64, 128, 256, 512)
DROPOUT_LAYERS = 3
Normalization = Literal["batch", "instance"]


def check_size(height: int, width: int) -> None:
    """Raises ValueError for a size that cannot be halved down to one pixel."""
    if height != width or height not in SIZES:
        raise ValueError(f"U-Net: expected a square of {', '.join(map(str, SIZES))} px, got {height}x{width}")


class UnetGenerator(nn.Module):
    """Pictures to pictures through an encoder and a decoder with skip connections.

    The papers' "ReLU(dropout(norm))" is written dropout(ReLU(norm)), which is the same number: dropout scales by a
    factor that is not negative. So the activation rides on the normalisation.

    Args:
        image_size: 32, 64, 128, 256 or 512 px.
        image_channels: channels of input and output.
        base_channels: width of the first map (64 in the paper); doubles up to eight times that.
        normalization: "batch", or "instance", which is what the paper's batches of one image amount to.
        running_statistics: whether batch normalisation follows its statistics and uses them in evaluation mode. False
            takes those of the images at hand at test time too, as the paper does.
        affine: whether instance normalisation has a scale and a shift; batch normalisation always does.
        dropout: share of features put out in the first three decoder layers, where `forward` gets noise.

    Attributes:
        noise_shapes: (C, H, W) of each tensor of noise; empty without dropout.

    Example:
        >>> generator = UnetGenerator(256, 3)
        >>> images = torch.randn(1, 3, 256, 256)
        >>> generator(images, [torch.rand(1, *shape) for shape in generator.noise_shapes]).shape
        torch.Size([1, 3, 256, 256])
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        base_channels: int = 64,
        *,
        normalization: Normalization = "batch",
        running_statistics: bool = False,
        affine: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_size(image_size, image_size)
        if not 0 <= dropout < 1:
            raise ValueError(f"U-Net: expected dropout in [0, 1), got {dropout}")
        depth = image_size.bit_length() - 1
        widths = [base_channels * min(2**level, 8) for level in range(depth)]
        self.dropout = dropout
        self._norm = {"kind": normalization, "running_statistics": running_statistics, "affine": affine}
        self.encoder = nn.ModuleList(self._encoder_layers(image_channels, widths))
        self.decoder = nn.ModuleList(self._decoder_layers(image_channels, widths))
        dropped = list(enumerate(reversed(widths[:-1])))[:DROPOUT_LAYERS]
        self.noise_shapes = [(width, 2 ** (i + 1), 2 ** (i + 1)) for i, width in dropped] if dropout else []
        normal_init(self, std=0.02)

    def _encoder_layers(self, image_channels: int, widths: list[int]) -> list[nn.Module]:
        """No normalisation in the first layer, and none at the bottleneck: of one value it would leave 0."""
        halving = {"kernel_size": 4, "stride": 2, "padding": 1}
        leaky = {"activation": "leaky_relu", "negative_slope": 0.2}
        layers: list[nn.Module] = [Conv2d(image_channels, widths[0], **halving, **leaky)]
        for c_in, c_out in zip(widths[:-2], widths[1:-1], strict=True):
            convolution = Conv2d(c_in, c_out, **halving, bias=False)
            layers.append(nn.Sequential(convolution, picture_normalization(channels=c_out, **self._norm, **leaky)))
        layers.append(Conv2d(widths[-2], widths[-1], **halving, activation="relu"))
        return layers

    def _decoder_layers(self, image_channels: int, widths: list[int]) -> list[nn.Module]:
        """Each layer but the first takes the map before it and the encoder's map of that size."""
        doubling = {"kernel_size": 4, "stride": 2, "padding": 1}
        layers: list[nn.Module] = []
        c_in = widths[-1]
        for c_out in reversed(widths[:-1]):
            convolution = ConvTranspose2d(c_in, c_out, **doubling, bias=False)
            layers.append(
                nn.Sequential(convolution, picture_normalization(channels=c_out, **self._norm, activation="relu"))
            )
            c_in = 2 * c_out
        layers.append(ConvTranspose2d(c_in, image_channels, **doubling, activation="tanh"))
        return layers

    def forward(self, images: Tensor, noise: Sequence[Tensor] = ()) -> Tensor:
        """(N, C, H, W) to the same shape, in [-1, 1].

        Args:
            images: of the size that the network was built for.
            noise: uniform numbers in [0, 1), one (N, *shape) for each of `noise_shapes`; empty: no dropout.
        """
        check_size(*images.shape[-2:])
        if len(noise) not in (0, len(self.noise_shapes)):
            raise ValueError(f"U-Net: expected {len(self.noise_shapes)} tensors of noise or none, got {len(noise)}")
        maps = []
        hidden = images
        for layer in self.encoder:
            hidden = layer(hidden)
            maps.append(hidden)
        skips = reversed(maps[:-1])
        for index, layer in enumerate(self.decoder[:-1]):
            hidden = layer(hidden)
            if index < len(noise):
                hidden = hidden * (noise[index] >= self.dropout) / (1 - self.dropout)
            hidden = torch.cat([hidden, F.relu(next(skips))], dim=1)
        return self.decoder[-1](hidden)
