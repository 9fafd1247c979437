"""InfoGAN's networks for MNIST (Chen et al. 2016, appendix C.1, table 1), at any size that halves twice."""

from __future__ import annotations

from torch import Tensor, nn

from genlab.images import sigmoid_pixels
from genlab.nn import BatchNormAct1d, BatchNormAct2d, Conv2d, ConvTranspose2d
from genlab.nn.init import normal_init

DENSE_WIDTH, RECOGNITION_WIDTH = 1024, 128


def first_side(image_size: int) -> int:
    """Side of the map that two doublings bring to `image_size`.

    Raises:
        ValueError: the size is no multiple of 4.
    """
    if image_size < 8 or image_size % 4:
        raise ValueError(f"InfoGAN: expected image_size to be a multiple of 4 from 8 on, got {image_size}")
    return image_size // 4


class InfoGanGenerator(nn.Module):
    """Noise and codes through two dense layers and two transposed convolutions.

    Args:
        image_size: side in pixels, a multiple of 4.
        image_channels: channels of the image.
        latent_dim: length of noise and codes together (74 in the paper).
        base_channels: width of the last hidden map (64); the first has twice as many.
        dense_width: units of the first layer.
        pixels: "tanh" or "sigmoid", whose pixels in [0, 1] are brought to [-1, 1].
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        latent_dim: int = 74,
        base_channels: int = 64,
        dense_width: int = DENSE_WIDTH,
        *,
        pixels: str = "tanh",
    ) -> None:
        super().__init__()
        side = first_side(image_size)
        self.pixels = pixels
        last = "tanh" if pixels == "tanh" else None
        self.dense = nn.Sequential(
            nn.Linear(latent_dim, dense_width, bias=False),
            BatchNormAct1d(dense_width, activation="relu"),
            nn.Linear(dense_width, 2 * base_channels * side**2, bias=False),
            BatchNormAct1d(2 * base_channels * side**2, activation="relu"),
            nn.Unflatten(1, (2 * base_channels, side, side)),
        )
        self.layers = nn.Sequential(
            ConvTranspose2d(2 * base_channels, base_channels, 4, stride=2, padding=1, bias=False),
            BatchNormAct2d(base_channels, activation="relu"),
            ConvTranspose2d(base_channels, image_channels, 4, stride=2, padding=1, activation=last),
        )
        normal_init(self, std=0.02)

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent_dim) to (N, image_channels, image_size, image_size) in [-1, 1]."""
        images = self.layers(self.dense(z))
        return images if self.pixels == "tanh" else sigmoid_pixels(images)


class InfoGanDiscriminator(nn.Module):
    """D and Q on one trunk: two convolutions and a dense layer, then a head for each.

    Args:
        image_size: side in pixels, a multiple of 4.
        image_channels: channels of the image.
        statistics_width: numbers by which Q(c|x) is described (`genlab.codes.Codes.statistics_width`).
        base_channels: width of the first map (64); the second has twice as many.
        batch_norm: normalise the trunk; False where a gradient penalty is taken per sample.
        dense_width: units of the trunk's last layer.
        recognition_width: units of Q's own hidden layer.
        pixels: "tanh": the trunk reads images in [-1, 1]; "sigmoid": in [0, 1], so that MNIST's black ground is 0, as
            the convolutions' padding.
        negative_slope: of the leaky units.
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        statistics_width: int,
        base_channels: int = 64,
        *,
        batch_norm: bool = True,
        dense_width: int = DENSE_WIDTH,
        recognition_width: int = RECOGNITION_WIDTH,
        pixels: str = "tanh",
        negative_slope: float = 0.1,
    ) -> None:
        super().__init__()
        side = first_side(image_size)
        self.pixels = pixels
        leak = {"activation": "leaky_relu", "negative_slope": negative_slope}
        inner = leak if not batch_norm else {}
        self.trunk = nn.Sequential(
            Conv2d(image_channels, base_channels, 4, stride=2, padding=1, **leak),
            Conv2d(base_channels, 2 * base_channels, 4, stride=2, padding=1, bias=not batch_norm, **inner),
            BatchNormAct2d(2 * base_channels, **leak) if batch_norm else nn.Identity(),
            nn.Flatten(),
            nn.Linear(2 * base_channels * side**2, dense_width, bias=not batch_norm),
            BatchNormAct1d(dense_width, **leak) if batch_norm else nn.LeakyReLU(negative_slope),
        )
        self.recognition = nn.Sequential(
            nn.Linear(dense_width, recognition_width, bias=False),
            BatchNormAct1d(recognition_width, **leak),
            nn.Linear(recognition_width, statistics_width),
        )
        self.head = nn.Linear(dense_width, 1)  # the last layer: its input is what penalties on codes look at
        normal_init(self, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(N, image_channels, image_size, image_size) to D's logits (N,)."""
        return self.head(self._features(images)).flatten()

    def recognise(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The same to D's logits (N,) and the statistics of Q(c|x), (N, statistics_width)."""
        features = self._features(images)
        return self.head(features).flatten(), self.recognition(features)

    def _features(self, images: Tensor) -> Tensor:
        return self.trunk(images if self.pixels == "tanh" else (images + 1) / 2)
