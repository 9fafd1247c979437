"""Autoencoders: plain, denoising, stacked.

Hinton and Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks"; Vincent et al. 2010, "Stacked
Denoising Autoencoders". Symbols of the latter: x an image of intensities in [0, 1], x~ its corrupted version, y the
code, z the reconstruction. The loss compares z with the clean x; without corruption x~ = x.

With `pretraining.steps` the layers are first trained one after the other, each to reconstruct its own input, which is
the code of the layers below it (section 3.4 there; those are frozen). Then all are trained together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.models.autoencoder import Autoencoder
from genlab.optimizers import build_optimizer
from genlab.trainers.autoencoder_config import AutoencoderConfig
from genlab.trainers.base import Batch, Metrics, Picture, Trainer
from genlab.trainers.diagnosis import DIVERSITY_SAMPLES, Finding, Thresholds, collapse_finding, diversity_signs
from genlab.trainers.stack import to_images, to_intensities

if TYPE_CHECKING:
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData

PICTURE_COLUMNS = 16
LATENT_EXAMPLES = 1000  # codes in the scatter plot at the end of a training


class AutoencoderTrainer(Trainer):
    """Autoencoders: plain, denoising, tied, stacked. One optimiser, whose state begins anew in each phase."""

    config_class = AutoencoderConfig
    config: AutoencoderConfig
    draws_samples = False
    own_score_names = ("reconstruction_mse",)
    scored_split = "test"
    # Codes of a few numbers put reconstructions close to their neighbours.
    thresholds: ClassVar[Thresholds] = Thresholds(nearest=0.0)

    def build_networks(self) -> dict[str, nn.Module]:
        model = self.config.model
        return {"autoencoder": Autoencoder(model.build(self.data.shape), tied=model.tied)}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"autoencoder": build_optimizer(self.config.optimizer, self.networks["autoencoder"].parameters())}

    @property
    def layer_in_training(self) -> int | None:
        """Index of the layer that the next step pre-trains; None: the next step trains the whole."""
        ends = list(accumulate(self.config.layer_steps))
        layer = bisect_right(ends, self.step)
        return layer if layer < len(ends) else None

    @property
    def graph_key(self) -> Hashable:
        layer = self.layer_in_training
        return () if layer is None else (layer,)

    def train_step(self, batch: Batch) -> Metrics:
        network, layer = self.networks["autoencoder"], self.layer_in_training
        if self.step in accumulate(self.config.layer_steps):
            self.optimizers["autoencoder"].state.clear()  # moments of a layer trained alone say nothing of the whole
        x = to_intensities(batch["image"])
        noise = self._draw_noise(len(x), x.shape[1:] if layer is None else network.encoder.layers[layer].input_shape)
        with self.update("autoencoder") as update:
            for part, *drawn in update.micro_batches(x, *noise):
                if layer is None:
                    loss, error = self._whole_loss(part, drawn)
                    update.record(loss=loss, mse=error)
                else:
                    loss = self._layer_loss(part, drawn, layer)
                    update.record(**{f"loss_layer{layer + 1}": loss})
                update.backward(loss)
        return update.metrics

    def _whole_loss(self, x: Tensor, noise: list[Tensor | None]) -> tuple[Tensor, Tensor]:
        """(loss, mean squared error of a pixel) of z = g(f(x~)) against x."""
        with self.autocast():
            output = self.networks["autoencoder"](self._corrupt(x, noise))
        return self._image_loss(output, x), (self._intensities(output) - x).square().mean()

    def _layer_loss(self, x: Tensor, noise: list[Tensor | None], layer: int) -> Tensor:
        """The loss of layer number `layer` alone as an autoencoder of its input, the code of the frozen ones below."""
        network = self.networks["autoencoder"]
        for below in network.encoder.layers[:layer]:
            below.eval()  # running statistics, which stay as they are
            with torch.no_grad(), self.autocast():
                x = below(x)
            below.train()
        x = x.float()
        with self.autocast():
            output = network.decode_layer(network.encoder.layers[layer](self._corrupt(x, noise)), layer)
        if layer == 0:
            return self._image_loss(output, x)
        z = output.float()  # of the range of the hidden units: their activation ends the decoding layer
        if self.config.reconstruction == "cross_entropy" and self.config.model.activation == "sigmoid":
            return F.binary_cross_entropy(z, x, reduction="sum") / len(x)
        return 0.5 * (z - x).square().sum() / len(x)

    def _image_loss(self, output: Tensor, x: Tensor) -> Tensor:
        """Sum over the pixels, mean over the images."""
        if self.config.reconstruction == "cross_entropy":
            return F.binary_cross_entropy_with_logits(output.float(), x, reduction="sum") / len(x)
        return 0.5 * (self._intensities(output) - x).square().sum() / len(x)

    def _draw_noise(self, count: int, shape: tuple[int, ...]) -> list[Tensor | None]:
        """Normal and uniform numbers for `_corrupt`; None for a corruption that is off."""
        corruption = self.config.corruption
        if corruption.pretraining_only and self.layer_in_training is None:
            return [None, None]
        return [
            self.noise.normal(count, *shape) if corruption.gaussian else None,
            self.noise.uniform(count, *shape) if corruption.masking else None,
        ]

    def _corrupt(self, x: Tensor, noise: list[Tensor | None]) -> Tensor:
        """x~: Gaussian noise added, then components set to 0."""
        normal, uniform = noise
        if normal is not None:
            x = x + self.config.corruption.gaussian * normal
        return x if uniform is None else x * (uniform >= self.config.corruption.masking)

    def _intensities(self, output: Tensor) -> Tensor:
        """z, float32, from what the decoder gives."""
        return torch.sigmoid(output.float()) if self.config.model.output == "sigmoid" else output.float()

    def vital_signs(self, examples: Callable[[int], Batch]) -> Metrics:
        """How varied the reconstructions of training pictures are beside the pictures; nothing before all layers train.

        A decoder that has died gives one picture for all.
        """
        x = examples(DIVERSITY_SAMPLES)["image"]
        return {} if self.layer_in_training is not None or len(x) < 2 else diversity_signs(self.reconstruct(x), x)

    def findings(self, values: dict[str, float]) -> list[Finding]:
        alike = collapse_finding(values, self.thresholds)
        if alike is None:
            return []
        text = (
            f"the autoencoder gives nearly the same for all pictures: its reconstructions lie at "
            f"{values['diversity']:.0%} of the distance between the pictures from one another. What helps: a lower "
            "learning rate, model.activation without dead units (tanh, leaky_relu), less corruption, a longer code"
        )
        return [Finding(alike.what, text)]

    # What a trained one is asked for.

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_labels(labels)
        with self.inference():
            return self.networks["autoencoder"].encode(to_intensities(images.to(self.device))).float()

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_labels(labels)
        with self.inference():
            return to_images(self._intensities(self.networks["autoencoder"].decode(latents.to(self.device))))

    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.decode(self.encode(images, labels))

    def corrupt(self, images: Tensor, generator: torch.Generator) -> Tensor | None:
        corruption = self.config.corruption
        if corruption.pretraining_only or not (corruption.gaussian or corruption.masking):
            return None
        noise = [torch.randn(images.shape, generator=generator), torch.rand(images.shape, generator=generator)]
        wanted = [corruption.gaussian, corruption.masking]
        drawn = [value.to(images.device) if on else None for value, on in zip(noise, wanted, strict=True)]
        return to_images(self._corrupt(to_intensities(images), drawn))

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Picture]:
        from genlab.latents import latent_picture
        from genlab.reconstruction import reconstruction_rows

        rows = reconstruction_rows(self, examples(min(count, PICTURE_COLUMNS)), generator)
        pictures = [Picture(torch.cat(rows), columns=len(rows[0]))]
        if self.step >= self.config.train.steps:
            batch = examples(LATENT_EXAMPLES)
            pictures.append(Picture(latent_picture(self, batch["image"], batch.get("label")), name="latents"))
        return pictures

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.reconstruction import reconstruction_score

        return [reconstruction_score(self, data, self.config.model.code)]
