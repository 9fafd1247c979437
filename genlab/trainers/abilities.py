"""What a trained model can be asked for: samples, latents, codes, reconstructions.

A command asks any algorithm; those without an answer refuse with a `UserError` that names those that have one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genlab.errors import UserError

if TYPE_CHECKING:
    from genlab.config import RunConfig
    from genlab.traversal import Code


class Abilities:
    """The questions; `Trainer` inherits them, and an algorithm overrides those that it can answer."""

    config: RunConfig

    def sample(self, count: int, generator: torch.Generator, labels: Tensor | None = None) -> Tensor:
        """`count` new images, (count, C, H, W) float32 in [-1, 1], from the averaged networks where there are some.

        Args:
            count: number of images, at least 1.
            generator: CPU generator that all randomness comes from.
            labels: int64 (count,), the class of each image; only where `label_count` is not None. Default: uniform.

        Raises:
            UserError: the model needs an input to make an image, or was trained without labels and got some.
        """
        if labels is None and self.label_count is not None:
            labels = torch.randint(self.label_count, (count,), generator=generator)
        return self.decode(self.latents(count, generator), labels)

    @property
    def label_count(self) -> int | None:
        """Number of classes that `sample` can be asked for; None for a model without conditions."""
        return None

    def latents(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` draws from the prior, (count, ...) on the device: what `interpolate` walks between."""
        raise self._without_latents("to draw from")

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) float32 in [-1, 1] of the latents, from the averaged networks where there are some."""
        raise self._without_latents("to decode from")

    def _without_latents(self, purpose: str) -> UserError:
        from genlab.trainers import ALGORITHMS

        able = [name for name in ALGORITHMS.names() if ALGORITHMS.get(name).latents is not Abilities.latents]
        return UserError(
            f"algorithm {self.config.algorithm}: has no latent space {purpose}; expected a model of {', '.join(able)}"
        )

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Codes (N, ...) float32 on the device of images (N, C, H, W) in [-1, 1].

        Args:
            images: any device.
            labels: int64 (N,), only where `label_count` is not None.
        """
        raise self.lacks("encode", "cannot encode images")

    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the model makes of images, (N, C, H, W) float32 in [-1, 1]; arguments as of `encode`."""
        raise self.lacks("reconstruct", "cannot reconstruct images")

    def corrupt(self, images: Tensor, generator: torch.Generator) -> Tensor | None:
        """Images as the model was trained to restore them, drawn from `generator`; None where it sees them clean."""
        return None

    def lacks(self, method: str, what: str) -> UserError:
        """The error of an algorithm without a method: says `what` it cannot do and which algorithms can."""
        from genlab.trainers import ALGORITHMS

        able = [name for name in ALGORITHMS if getattr(ALGORITHMS.get(name), method) is not getattr(Abilities, method)]
        return UserError(f"algorithm {self.config.algorithm}: {what}; those that can: {', '.join(able)}")

    def codes(self) -> list[Code]:
        """What single entries of a latent vector say, and through which values `genlab traverse` walks them."""
        raise UserError(f"algorithm {self.config.algorithm}: has no codes to traverse")

    def manifold(self, side: int, labels: Tensor | None = None) -> Tensor:
        """Pictures (side * side, C, H, W) over the plane of a latent space of two numbers, row by row."""
        raise UserError(f"algorithm {self.config.algorithm}: has no plane of latents to draw")

    def check_labels(self, labels: Tensor | None) -> None:
        """Refuses labels where the model has no conditions, and classes that it does not have."""
        if labels is None:
            return
        if self.label_count is None:
            raise UserError(
                f"algorithm {self.config.algorithm}: was trained without labels, so no class can be asked for; "
                "leave it out"
            )
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.label_count:
            raise UserError(
                f"class: expected 0 to {self.label_count - 1}, got {int(labels.min())} to {int(labels.max())}"
            )
