"""What every feature extractor shares: value range, channels, sizes, precision and a hash of its weights."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genlab.errors import MetricError
from genlab.images import to_uint8


class ExtractorFacts(NamedTuple):
    """What is known of an extractor before it is trained or loaded."""

    name: str
    dim: int
    num_classes: int | None
    of_points: bool = False


class FeatureExtractor(ABC):
    """Maps images to features (and class logits where the network has classes).

    Images are quantised to uint8 first, so a picture and the file it is saved to have the same features.

    Attributes:
        name: stands in the names of scores, ``frechet[<name>]``.
        hash: hex sha256 that identifies the weights.
        dim: length of a feature.
        num_classes: classes of the logits, or None where logits do not name classes of images.
        channels: channels the network takes, 1 or 3.
        resize: how images are brought to the network's size, in words.
        device: where the network runs.
    """

    name: str
    hash: str
    dim: int
    num_classes: int | None
    channels: int
    resize: str
    device: torch.device
    of_points = False

    def __call__(self, images: Tensor | Sequence[Tensor], *, logits: bool = True) -> tuple[Tensor, Tensor | None]:
        """Features and logits of a batch in one pass.

        Args:
            images: uint8 in [0, 255] or float in [-1, 1], shape (n, c, h, w) with 1 to 4 channels; or a sequence of
                (c, h, w) images of any sizes, each resized by itself.
            logits: False spares the layers that only the logits need.

        Returns:
            features float32 (n, dim) and logits float32 (n, num_classes), or None in place of the logits where they
            were not asked for or the network names no classes. Both on `device`.

        Raises:
            MetricError: wrong number of dimensions or channels, empty images, or float values that are not finite.
        """
        with torch.inference_mode(), full_precision():
            if isinstance(images, Tensor):
                prepared = self._prepare(images)
            else:
                sized = groupby(images, key=lambda image: tuple(image.shape))
                prepared = torch.cat([self._prepare(torch.stack(list(group))) for _, group in sized])
            return self.forward(prepared, logits and self.num_classes is not None)

    def _prepare(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise MetricError(f"{self.name}: expected images of shape (n, c, h, w), got {tuple(images.shape)}")
        if images.dtype.is_floating_point and not torch.isfinite(images).all():
            raise MetricError(f"{self.name}: expected finite images in [-1, 1], got NaN or Inf")
        return self.prepare(with_channels(to_uint8(images.to(self.device)), self.channels))

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (n, channels, h, w) of one size to the network's float input (n, channels, H, W)."""

    @abstractmethod
    def forward(self, images: Tensor, logits: bool) -> tuple[Tensor, Tensor | None]:
        """Prepared images to features and, when asked, logits."""

    def describe(self) -> dict[str, Any]:
        """What a score's protocol says about the extractor; JSON values only."""
        return {
            "extractor": self.name,
            "extractor_hash": self.hash,
            "dims": self.dim,
            "resize": self.resize,
            "dtype": "float32 features, float64 statistics",
            "quantisation": "uint8",
        }


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Brings uint8 (n, c, h, w), c = 1 to 4, to 1 or 3 channels as Pillow's convert does: alpha is dropped.

    Raises:
        MetricError: another number of channels.
    """
    given = images.shape[1]
    if given not in (1, 2, 3, 4):
        raise MetricError(f"expected images with 1 to 4 channels, got {given}")
    if given in (2, 4):
        images = images[:, : given - 1]
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    # ITU-R 601 luma with Pillow's 16-bit integer weights and rounding.
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32, device=images.device)[:, None, None]
    return (((images.int() * weights).sum(dim=1, keepdim=True) + 0x8000) >> 16).to(torch.uint8)


def hash_weights(network: nn.Module) -> str:
    """Hex sha256 over names, shapes and bytes of every tensor of the state dict, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 convolutions and products without TF32 rounding, with deterministic algorithms, restored afterwards."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
                yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = matmul
