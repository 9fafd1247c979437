"""Semi-supervised GANs (Salimans et al. 2016, "Improved Techniques for Training GANs", sections 3.1 and 5; their code).

The discriminator is a classifier of K classes whose logits l also say how real an image is: with Z = sum_k exp(l_k) the
(K+1)-th class, "generated", has the logit 0, so that D(x) = Z / (Z + 1). One step takes

    labelled    -log p(y | x, real)             a few images with their labels (`sgan.labels` of them in all)
    unlabelled  -log D(x)                       the whole training set, without labels
    generated   -log(1 - D(G(z)))
    generator   |E f(x) - E f(G(z))|^2          feature matching: f = the discriminator's last hidden layer;
                -log D(G(z)) in its place or beside it: `sgan.generator_loss`

log Z is a critic's logit: `gan.loss` names other losses in place of these -log D, `gan.regularizers` what restrains the
game (the codes of manifold entropy are f). The test error is that of the averaged discriminator. Labels outside the
budget never leave the data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genlab.ema import EmaConfig
from genlab.errors import ConfigError
from genlab.models.sgan import SganConvGenerator, SganMlpGenerator, conv_discriminator, mlp_discriminator
from genlab.ops import cross_entropy
from genlab.optimizers import build_optimizer
from genlab.trainers.base import Batch, Metrics
from genlab.trainers.diagnosis import discriminator_signs
from genlab.trainers.game import GameTrainer
from genlab.trainers.graphs import Uncaptured
from genlab.trainers.sgan_config import SganGameConfig, SganRunConfig

if TYPE_CHECKING:
    from genlab.data import ImageDataset
    from genlab.data.joined import JoinedStream
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData


def feature_distance(kind: str, difference: Tensor) -> tuple[Tensor, Tensor]:
    """(distance, its derivative by the difference) of mean features (F,), as `sgan.generator_loss` names it."""
    if kind == "feature_matching_l1":
        return difference.abs().mean(), difference.sign() / len(difference)
    if kind == "adversarial_feature_matching":
        return difference.square().sum(), 2 * difference
    return difference.square().mean(), 2 * difference / len(difference)


class SganTrainer(GameTrainer):
    """Semi-supervised GAN: a classifier learns from few labels and a generator. One optimiser each."""

    config_class = SganRunConfig
    config: SganRunConfig
    own_score_names = ("test_error", "test_error_unaveraged")
    scored_split = "test"

    def begin(self) -> None:
        if self.config.sgan.supervised_only and self.config.gan != SganGameConfig():
            self.notes.append("gan: sgan.supervised_only plays no game, so these settings have no effect")

    def build_networks(self) -> dict[str, nn.Module]:
        model, shape, classes = self.config.model, self.data.shape, self.data.require_classes("algorithm sgan")
        try:
            if model.network == "mlp":
                noises = (model.input_noise, model.noise)
                discriminator = mlp_discriminator(shape, classes, model.discriminator_hidden, *noises)
                generator: nn.Module = SganMlpGenerator(shape, model.latent_dim, model.generator_hidden)
            else:
                discriminator = conv_discriminator(shape, classes, model.discriminator_channels)
                generator = SganConvGenerator(shape, model.latent_dim, model.generator_channels)
        except ValueError as error:
            raise ConfigError(f"model.network={model.network}: {error}") from None
        return {"generator": generator, "discriminator": discriminator}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        settings = {"generator": self.config.generator_optimizer, "discriminator": self.config.discriminator_optimizer}
        return {name: build_optimizer(each, self.networks[name].parameters()) for name, each in settings.items()}

    def averaged_networks(self) -> dict[str, EmaConfig]:
        return {"discriminator": self.config.sgan.ema}

    @property
    def graph_key(self) -> Hashable | Uncaptured:
        return () if self.config.sgan.supervised_only else self.regularizer.graph_key(self.step, 1)

    def open_stream(self, dataset: ImageDataset, **settings: Any) -> JoinedStream:
        """Batches of `labelled_image` with `labelled_label`, and of `real_image` and `matched_image` without labels."""
        from genlab.data import BatchStream, require_labels
        from genlab.data.budget import ChosenSamples, label_budget
        from genlab.data.joined import JoinedStream, Repeated, Unlabelled
        from genlab.seeding import derive_seed

        config, size = self.config.sgan, self.config.data.batch_size
        classes = require_labels(dataset, "algorithm sgan")
        chosen = label_budget(dataset.labels.numpy(), classes, config.labels, config.label_seed, "sgan.labels")
        labelled = ChosenSamples(dataset, chosen, f"{config.labels} labels of split {config.label_seed}")
        unlabelled, seed = Unlabelled(dataset), settings.pop("seed")
        streams = {
            "labelled": Repeated(labelled, math.ceil(size / config.labels)),
            "real": unlabelled,
            "matched": unlabelled,
        }
        return JoinedStream(
            {name: BatchStream(part, size, seed=derive_seed(seed, name), **settings) for name, part in streams.items()}
        )

    def train_step(self, batch: Batch) -> Metrics:
        if self.step == 0:
            self._initialise(torch.cat([batch["real_image"], batch["matched_image"]]))
        metrics = self._update_discriminator(batch)
        if not self.config.sgan.supervised_only:
            metrics.update(self._update_generator(batch["matched_image"]))
        return metrics

    def _initialise(self, images: Tensor) -> None:
        """Data-dependent scales, on the first step's unlabelled images (the code: on 500) and as many z."""
        mean = self.distributed.all_reduce_mean
        self.networks["discriminator"].initialise(images, mean)
        self.networks["generator"].initialise(self.noise.uniform(len(images), self.config.model.latent_dim), mean)

    def _update_discriminator(self, batch: Batch) -> Metrics:
        """Descends the classifier's loss on labelled images plus the real-or-generated loss on the others."""
        discriminator, config = self.networks["discriminator"], self.config.sgan
        parts = [batch["labelled_image"]]
        count = len(parts[0])
        if not config.supervised_only:
            parts += [batch["real_image"], self._generate(count).detach()]
        with self.update("discriminator") as update:
            with self.autocast():  # no statistics join the images of a batch: one pass serves all three
                features = discriminator.features(torch.cat(parts))
                labelled, *others = discriminator.classify(features).float().split(count)
            loss_labelled = cross_entropy(labelled, batch["labelled_label"])
            error = (labelled.argmax(1) != batch["labelled_label"]).float().mean()
            update.record(loss_labelled=loss_labelled, labelled_error=error)
            loss = loss_labelled
            if others:
                real, fake = (logits.logsumexp(1) for logits in others)  # log Z
                loss_unlabelled = 0.5 * self.loss.discriminator_loss(real, fake)
                codes = features.split(count)[1]
                penalties = self._penalties(*parts[1:], real, codes)
                loss = sum(penalties.values(), loss + config.unlabelled_weight * loss_unlabelled)
                update.record(loss_unlabelled=loss_unlabelled, real_logit=real.mean(), fake_logit=fake.mean())
                update.record(**discriminator_signs(real, fake, self.loss.boundary), **penalties)
            update.backward(loss)
        if others:
            self.regularizer.remember("real", [codes], self.distributed)
        return update.metrics

    def _penalties(self, real: Tensor, fake: Tensor, real_logits: Tensor, codes: Tensor) -> Metrics:
        """The terms of `gan.regularizers` that are due, of the critic log Z."""
        mixing = self.draw_mixing(real)
        return self.regularizer.penalties(
            self._log_z, real, fake, mixing, self.step, real_logits=real_logits, codes=[codes]
        )

    def _log_z(self, images: Tensor) -> Tensor:
        """log Z(x), the logit of being real, (N,), of images (N, C, H, W)."""
        return self.networks["discriminator"](images).float().logsumexp(1)

    def _update_generator(self, images: Tensor) -> Metrics:
        """Descends the distance of mean features, the adversarial loss, or both, through the frozen discriminator."""
        discriminator, kind = self.networks["discriminator"], self.config.sgan.generator_loss
        with self.update("generator") as update:
            with self.autocast():
                fake = self._generate(len(images))
                features = discriminator.features(fake)
                logits = discriminator.classify(features).float() if "adversarial" in kind else None
                if kind != "adversarial":
                    with torch.no_grad():
                        target = discriminator.features(images).float().mean(0)
            terms, descended = [], []
            if logits is not None:
                terms.append(self.loss.generator_loss(logits.logsumexp(1)))
                descended.append(terms[-1])
            if kind != "adversarial":
                moment = features.float().mean(0)
                # Over processes the means are those of the whole batch: d|m|^2 = 2 m dm, where m is averaged over all.
                difference = self.distributed.all_reduce_mean((moment - target).detach())
                distance, slope = feature_distance(kind, difference)
                terms.append(distance)
                descended.append((slope * moment).sum())
            penalties = self.regularizer.generator_penalties([features])
            update.backward(sum(penalties.values(), sum(descended)))
            update.record(loss_g=sum(terms), **penalties)
        self.regularizer.remember("generated", [features], self.distributed)
        return update.metrics

    def vital_signs(self, examples: Callable[[int], Batch]) -> Metrics:
        """None where the generator is not trained: it would be found to have collapsed."""
        return {} if self.config.sgan.supervised_only else super().vital_signs(examples)

    def _generate(self, count: int) -> Tensor:
        with self.autocast():
            return self.networks["generator"](self.noise.uniform(count, self.config.model.latent_dim))

    def latents(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, self.config.model.latent_dim, generator=generator).to(self.device)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_labels(labels)
        with self.inference():
            return self.inference_network("generator")(latents.to(self.device)).float()

    def classify(self, images: Tensor, averaged: bool = True) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [-1, 1], without noise, by the averaged or the present weights."""
        network = self.ema["discriminator"].module if averaged else self.networks["discriminator"]
        with self.inference():
            return network(images.to(self.device)).float()

    def scores(self, data: EvaluationData) -> list[Score]:
        """Share of the test images that are put into a wrong class, by the averaged and by the present weights."""
        from genlab.metrics.classification import classification_scores

        facts = self.config.sgan.model_dump(mode="json", include={"labels", "label_seed", "supervised_only"})
        averaged, _ = classification_scores(self.classify, data, facts)
        present, _ = classification_scores(partial(self.classify, averaged=False), data, facts)
        return [averaged, replace(present, name="test_error_unaveraged")]
