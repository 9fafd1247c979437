"""What a trained variational autoencoder can be asked: pictures of latents, latents of pictures, walks between."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from genlab.errors import UserError
from genlab.likelihood import COLLAPSED_KL, gaussian_kl
from genlab.trainers.base import Batch, Picture, Trainer
from genlab.trainers.diagnosis import Thresholds
from genlab.trainers.vae_config import VaeRunConfig
from genlab.traversal import Code, gaussian_codes, gaussian_plane

WATCHED_EXAMPLES = 256  # pictures that the KL of each latent is averaged over


class VaeLatents(Trainer):
    """A trainer with networks "encoder" and "decoder" and the prior N(0, I)."""

    config: VaeRunConfig
    # Means of pixels over few latents lie closer together than pictures do.
    thresholds: ClassVar[Thresholds] = Thresholds(nearest=0.0)
    collapse_remedy: ClassVar[str] = "a lower learning rate, a lower vae.beta, or more latents (model.latent_dim)"

    @property
    def label_count(self) -> int | None:
        return self.data.num_classes if self.config.model.conditional else None

    def latents(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, self.config.model.latent_dim, generator=generator).to(self.device)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        labels = self._given(labels)
        with self.inference():
            decoder = self.inference_network("decoder")
            return decoder.likelihood.picture(decoder(latents.to(self.device), labels).float())

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Posterior means (N, d) float32 of images (N, C, H, W) in [-1, 1].

        Grey pixels become bits where the model was trained on bits; a conditional model needs the labels (N,).
        """
        labels = self._given(labels)
        with self.inference():
            x = self.likely_pixels(images.to(self.device))
            return self.inference_network("encoder")(x, labels)[0].float()

    def _given(self, labels: Tensor | None) -> Tensor | None:
        self.check_labels(labels)
        if labels is None and self.label_count is not None:
            raise UserError(
                f"algorithm {self.config.algorithm}: expected a class for each image, because the model was trained "
                f"with labels (0 to {self.label_count - 1}), got none"
            )
        return None if labels is None else labels.to(self.device)

    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Decoded posterior means, (N, C, H, W) float32 in [-1, 1]; a conditional model needs the labels."""
        return self.decode(self.encode(images, labels), labels)

    def pixels(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] on the scale of the likelihood: [0, 1] for Bernoulli's, as they are for Gauss's."""
        return images * 0.5 + 0.5 if self.config.vae.decoder == "bernoulli" else images

    def likely_pixels(self, images: Tensor) -> Tensor:
        """`pixels` of pictures from anywhere, at their most probable bits where the model was trained on bits."""
        from genlab.data.binarisation import threshold

        return self.pixels(images if self.config.vae.binarisation == "none" else threshold(images))

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Picture]:
        """Samples, one class a row where there are classes; pictures above what becomes of them; KLs; the plane."""
        from genlab.latents import kl_picture

        batch = examples(min(10, count))
        again = self.reconstruct(batch["image"], batch["label"] if self.label_count else None)
        pictures = [
            self._samples(count, generator),
            Picture(torch.cat([batch["image"], again]), len(again), "reconstruction"),
        ]
        if self.config.model.latent_dim == 2 and self.label_count is None:
            pictures.append(Picture(self.manifold(20), 20, "manifold"))
        kl = self.kl_per_latent(examples(WATCHED_EXAMPLES))
        return [*pictures, Picture(kl_picture(kl, COLLAPSED_KL), name="kl")]

    def kl_per_latent(self, batch: Batch) -> Tensor:
        """KL(q(z_i|x) || N(0, 1)) in nats, averaged over a batch as the data set gives it, float32 (d,)."""
        labels = batch["label"] if self.label_count else None
        with self.inference():
            return gaussian_kl(*self.networks["encoder"](self.likely_pixels(batch["image"]), labels)).mean(0).float()

    def log_lists(self, examples: Callable[[int], Batch]) -> dict[str, list[float]]:
        return {"kl_per_latent": [round(value, 4) for value in self.kl_per_latent(examples(WATCHED_EXAMPLES)).tolist()]}

    def _samples(self, count: int, generator: torch.Generator) -> Picture:
        if self.label_count is None:
            return Picture(self.sample(count, generator))
        in_row = max(1, count // self.label_count)
        labels = torch.arange(self.label_count).repeat_interleave(in_row)
        z = self.latents(in_row, generator).repeat(self.label_count, 1)  # a column has one z, in every class
        return Picture(self.decode(z, labels), in_row)

    def codes(self) -> list[Code]:
        return gaussian_codes(self.config.model.latent_dim)

    def manifold(self, side: int, labels: Tensor | None = None) -> Tensor:
        """Pictures (side^2, C, H, W) over the plane of a 2-d latent space (Kingma and Welling 2014, figure 4)."""
        if self.config.model.latent_dim != 2:
            raise UserError(f"manifold: expected a model with model.latent_dim=2, got {self.config.model.latent_dim}")
        return self.decode(gaussian_plane(side), labels)
