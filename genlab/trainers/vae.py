"""Variational autoencoders (Kingma and Welling 2014, "Auto-Encoding Variational Bayes") and their importance-weighted
kind (Burda, Grosse and Salakhutdinov 2016, "Importance Weighted Autoencoders").

Symbols of the papers: x = a picture, z = its latents, q(z|x) = encoder, p(x|z) = decoder, k = vae.importance_samples.
With k = 1 the loss is -E_q log p(x|z) + beta KL(q(z|x) || N(0, I)), the KL in closed form; with k > 1 it is -L_k.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genlab.ema import EmaConfig
from genlab.likelihood import (
    COLLAPSED_KL,
    gaussian_kl,
    importance_bound,
    kl_weight,
    latent_log_ratio,
    with_free_bits,
)
from genlab.ops import reparametrize_kl
from genlab.optimizers import build_optimizer
from genlab.trainers.base import Batch, Metrics
from genlab.trainers.graphs import Uncaptured
from genlab.trainers.vae_config import VaeRunConfig, build_decoder, build_encoder
from genlab.trainers.vae_latents import VaeLatents

if TYPE_CHECKING:
    from genlab.data import BatchStream, ImageDataset
    from genlab.metrics import Score
    from genlab.trainers.diagnosis import Finding
    from genlab.trainers.evaluation import EvaluationData


class VaeTrainer(VaeLatents):
    """Variational autoencoder, with IWAE's bound and classes. Networks "encoder" and "decoder", one optimiser."""

    config_class = VaeRunConfig
    config: VaeRunConfig
    own_score_names = ("nll", "elbo", "iwae_bound", "active_units")

    def build_networks(self) -> dict[str, nn.Module]:
        classes = self.data.require_classes("model.conditional=true") if self.config.model.conditional else 0
        return {
            "encoder": build_encoder(self.config, self.data.shape, classes),
            "decoder": build_decoder(self.config, self.data.shape, classes),
        }

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        parameters = [p for network in self.networks.values() for p in network.parameters()]
        return {"vae": build_optimizer(self.config.optimizer, parameters)}

    def averaged_networks(self) -> dict[str, EmaConfig]:
        ema = self.config.vae.ema
        return {"encoder": ema, "decoder": ema} if ema is not None else {}

    def open_stream(self, dataset: ImageDataset, **settings: Any) -> BatchStream:
        return super().open_stream(self.binarised(dataset), **settings)

    def binarised(self, dataset: ImageDataset) -> ImageDataset:
        """The data set as the likelihood wants it: see `vae.binarisation`."""
        from genlab.data.binarisation import BinarisedDataset

        mode = self.config.vae.binarisation
        return dataset if mode == "none" else BinarisedDataset(dataset, mode, self.config.vae.binarisation_seed)

    # One step.

    @property
    def graph_key(self) -> Hashable | Uncaptured:
        if self.step < self.config.vae.kl_warmup_steps:
            return Uncaptured("the weight of the KL term rises (vae.kl_warmup_steps)", passing=True)
        return ()

    def train_step(self, batch: Batch) -> Metrics:
        settings, images = self.config.vae, batch["image"]
        labels = batch["label"] if self.label_count else None
        noise = self.noise.normal(images.shape[0], settings.importance_samples, self.config.model.latent_dim)
        beta = settings.beta * kl_weight(self.step, settings.kl_warmup_steps)
        above = self._above_free_bits(images, labels) if settings.free_bits and self.micro_batch_count > 1 else None
        with self.update("vae") as update:
            for x, y, epsilon in update.micro_batches(self.pixels(images), labels, noise):
                mean, log_variance = self._posterior(x, y)
                z, kl = reparametrize_kl(mean, log_variance, epsilon)
                log_px = self._log_likelihood(x, z, y)
                elbo = (log_px.mean(1) - kl.sum(1)).mean()
                if settings.importance_samples > 1:
                    ratio = latent_log_ratio(z, epsilon, log_variance.unsqueeze(1))
                    bound = importance_bound(log_px + ratio).mean()
                    loss = -bound
                    update.record(iwae_bound=bound)
                else:
                    loss = beta * self._kl_term(kl, above) - log_px.mean()
                update.backward(loss)
                update.record(
                    loss=loss,
                    elbo=elbo,
                    reconstruction=log_px.mean(),
                    kl=kl.sum(1).mean(),
                    active_latents=(kl.mean(0) > COLLAPSED_KL).sum(),
                )
        return {**update.metrics, "beta": torch.full((), beta, device=self.device)}

    def _posterior(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        with self.autocast():
            mean, log_variance = self.networks["encoder"](x, labels)
        return mean.float(), log_variance.float()

    def _log_likelihood(self, x: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        """log p(x|z) of x (n, ...) under z (n, k, d), (n, k)."""
        repeated = None if labels is None else labels.repeat_interleave(z.shape[1])
        with self.autocast():
            raw = self.networks["decoder"](z.flatten(0, 1), repeated)
        return self.networks["decoder"].likelihood.log_prob(raw.float().unflatten(0, z.shape[:2]), x)

    def _kl_term(self, kl: Tensor, above: Tensor | None) -> Tensor:
        """Mean KL of a sample of (n, d), free bits taken off; `above` where the whole batch was asked before."""
        free = self.config.vae.free_bits
        return with_free_bits(kl, free, self._exceeds(kl) if above is None else above) if free else kl.sum(1).mean()

    def _exceeds(self, kl: Tensor) -> Tensor:
        """Latents whose KL, averaged over the samples of all processes, exceeds the free bits: bool (d,)."""
        return self.distributed.all_reduce_mean(kl.detach().mean(0)) > self.config.vae.free_bits

    @torch.no_grad()
    def _above_free_bits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """As `_exceeds` for a batch that is taken in micro-batches, which must all decide alike."""
        parts = self.micro_batch_count
        given = [None] * parts if labels is None else labels.chunk(parts)
        pairs = zip(self.pixels(images).chunk(parts), given, strict=True)
        return self._exceeds(torch.cat([gaussian_kl(*self._posterior(x, y)) for x, y in pairs]))

    def findings(self, values: dict[str, float]) -> list[Finding]:
        """Plain words where the decoder has stopped to listen to z."""
        from genlab.trainers.diagnosis import Finding

        found = super().findings(values)
        if self.step >= self.config.vae.kl_warmup_steps and values["active_latents"] < 0.5:
            text = (
                f"the posterior has collapsed: none of {self.config.model.latent_dim} latents carries more than "
                f"{COLLAPSED_KL} nats, so the decoder ignores z. What helps: a lower vae.beta, vae.free_bits, or a "
                "longer vae.kl_warmup_steps"
            )
            found.append(Finding("posterior", text))
        return found

    @property
    def scored_split(self) -> str:
        return self.config.evaluate.likelihood_split

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.trainers.vae_scores import likelihood_scores

        settings = self.config.evaluate
        dataset = data.dataset(settings.likelihood_split)
        return likelihood_scores(
            self, dataset, settings.importance_samples, settings.likelihood_images, data.seed, data.progress
        )
