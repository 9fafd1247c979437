"""Random variations of training pictures by torchvision's transforms, drawn anew in every epoch.

What happens to a sample is a function of (seed, epoch, index), as everything random in the data is: torch's generator
is seeded with their hash before each picture and put back afterwards, so that neither workers nor processes nor a
resumed run change it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torchvision.transforms import v2

from genlab.config import Section
from genlab.data.base import ImageDataset
from genlab.data.randomness import EpochKey, hash64
from genlab.errors import ConfigError
from genlab.images import to_float, to_uint8

_AUGMENT_SALT = 0x61756774  # keeps this hash apart from every other draw
Picture = Callable[[Tensor], Tensor]


class AugmentConfig(Section):
    """Variations in the order in which they are done; mirroring is `data.flip`."""

    crop_padding: int = Field(0, ge=0, le=512, description="pad by so many pixels, then cut the size out at random")
    rotate: float = Field(0.0, ge=0, le=180, description="turn by up to so many degrees either way")
    translate: float = Field(0.0, ge=0, lt=1, description="move by up to this share of the side")
    scale: float = Field(0.0, ge=0, lt=1, description="enlarge or shrink by up to this share")
    color_jitter: float = Field(0.0, ge=0, le=1, description="brightness, contrast and saturation by up to this share")
    policy: Literal["none", "auto_cifar10", "auto_imagenet", "auto_svhn", "rand", "trivial", "augmix"] = Field(
        "none", description="AutoAugment's learnt policies, RandAugment, TrivialAugment or AugMix"
    )
    erasing: float = Field(0.0, ge=0, le=1, description="probability of a random rectangle put out")
    cutout: int | None = Field(None, ge=1, description="side of a square put out around a random pixel")

    @property
    def does_anything(self) -> bool:
        return self != type(self)()


class Cutout:
    """Puts out a square around a random pixel; over the border it is cut off (DeVries and Taylor 2017, section 3).

    Args:
        side: pixels.
        value: what the square is filled with.
    """

    def __init__(self, side: int, value: float = 0.0) -> None:
        self.side, self.value = side, value

    def __call__(self, image: Tensor) -> Tensor:
        """(C, H, W) to a copy with the square in every channel."""
        height, width = image.shape[-2:]
        row, column = (int(torch.randint(extent, ())) for extent in (height, width))
        top, left = row - self.side // 2, column - self.side // 2
        image = image.clone()
        image[..., max(0, top) : max(0, top + self.side), max(0, left) : max(0, left + self.side)] = self.value
        return image


def build_pipeline(config: AugmentConfig, image_shape: tuple[int, ...]) -> tuple[list[Picture], list[Picture]]:
    """(transforms of uint8 pictures, then those of floats in [-1, 1]) that `config` describes.

    Args:
        image_shape: (C, H, W) of the pictures.

    Raises:
        ConfigError: a policy or colours for pictures that are neither grey nor RGB, or a square larger than they are.
    """
    channels, height, width = image_shape
    if channels not in (1, 3) and (config.policy != "none" or config.color_jitter):
        raise ConfigError(f"augment: expected pictures of 1 or 3 channels for policy and colours, got {channels}")
    if config.cutout is not None and config.cutout > min(height, width):
        raise ConfigError(f"augment.cutout: expected at most {min(height, width)}, a side, got {config.cutout}")
    steps: list[Picture] = []
    if config.crop_padding:
        steps.append(v2.RandomCrop((height, width), padding=config.crop_padding))
    if config.rotate or config.translate or config.scale:
        steps.append(
            v2.RandomAffine(
                config.rotate,
                (config.translate, config.translate) if config.translate else None,
                (1 - config.scale, 1 + config.scale) if config.scale else None,
                interpolation=v2.InterpolationMode.BILINEAR,
            )
        )
    if config.color_jitter:
        share = config.color_jitter
        steps.append(v2.ColorJitter(share, share, share if channels == 3 else 0.0))
    if config.policy != "none":
        steps.append(_policy(config.policy))
    floats: list[Picture] = []
    if config.erasing:
        floats.append(v2.RandomErasing(config.erasing))
    if config.cutout is not None:
        floats.append(Cutout(config.cutout))
    return steps, floats


def _policy(name: str) -> Picture:
    if name.startswith("auto_"):
        return v2.AutoAugment(v2.AutoAugmentPolicy[name.removeprefix("auto_").upper()])
    return {"rand": v2.RandAugment, "trivial": v2.TrivialAugmentWide, "augmix": v2.AugMix}[name]()


class AugmentedSamples(ImageDataset):
    """The samples of a set of images, varied in training passes and as they are in others.

    Args:
        dataset: images, float in [-1, 1].
        config: how they are varied.
    """

    def __init__(self, dataset: ImageDataset, config: AugmentConfig) -> None:
        super().__init__(
            name=dataset.name,
            split=dataset.split,
            image_shape=dataset.image_shape,
            fingerprint=dataset.fingerprint,
            contents=dataset.contents,
            class_names=dataset.class_names,
            notes=dataset.notes,
        )
        self.kind = dataset.kind
        self.labels = getattr(dataset, "labels", None)
        self.lengths = getattr(dataset, "lengths", None)  # of captions
        self._dataset = dataset
        self._steps, self._floats = build_pipeline(config, dataset.image_shape)

    def __len__(self) -> int:
        return len(self._dataset)

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Any]:
        batch = self._dataset.fetch(indices, key)
        if key is None:
            return batch
        seeds = hash64(_AUGMENT_SALT, key.seed, key.epoch, indices) >> np.uint64(1)  # a seed is an int64
        images = to_uint8(batch["image"]) if self._steps else batch["image"]
        state = torch.default_generator.get_state()
        try:
            varied = [self._vary(image, int(seed)) for image, seed in zip(images, seeds, strict=True)]
        finally:
            torch.default_generator.set_state(state)
        return {**batch, "image": torch.stack(varied)}

    def _vary(self, image: Tensor, seed: int) -> Tensor:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed a GPU too
        for step in self._steps:
            image = step(image)
        image = to_float(image)
        for step in self._floats:
            image = step(image)
        return image
