"""Supervised classification: a network from `genlab.models.classifiers` descends the cross-entropy of its labels.

    repeat: draw a batch (x, y) of the training part, varied by `data.flip` and `augment`
            g = gradient of L(w) = mean cross-entropy(f_w(x), y)
            with SAM: g = gradient of L at w + rho g / |g|
            w <- optimiser(w, g)

The best checkpoint is the one of highest accuracy on the validation part, which is never trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from genlab.ema import EmaConfig
from genlab.errors import ConfigError
from genlab.models.classifiers import build_classifier
from genlab.nn.dropout import DROPOUTS, AnnealedDropout, anneal
from genlab.ops import cross_entropy
from genlab.optimizers import build_optimizer
from genlab.sharpness import at_worst_neighbour
from genlab.trainers.base import Batch, Metrics, Picture, Trainer
from genlab.trainers.classifier_config import (
    ClassifierRunConfig,
    as_imagenet,
    check_pictures,
    head_of,
    load_weights,
)
from genlab.trainers.graphs import Uncaptured
from genlab.trainers.update import Update

if TYPE_CHECKING:
    from genlab.data import BatchStream, ImageDataset
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData


class ClassifierTrainer(Trainer):
    """A classifier of pictures from random or given weights. Network "classifier", one optimiser."""

    config_class = ClassifierRunConfig
    config: ClassifierRunConfig
    draws_samples = False
    own_score_names: ClassVar[tuple[str, ...]] = (
        "validation_accuracy", "validation_loss", "test_accuracy", "test_top5_accuracy", "test_loss", "test_f1",
        "test_auc", "test_calibration_error",
    )  # fmt: skip

    def build_networks(self) -> dict[str, nn.Module]:
        classes = self.data.require_classes("a classifier")
        try:
            network = build_classifier(self.data.shape, classes, self.config.model)
        except ValueError as error:
            raise ConfigError(f"model.network={self.config.model.network}: {error}") from None
        if self.config.model.normalize == "imagenet" and self.data.shape[0] != 3:
            raise ConfigError(f"model.normalize=imagenet: expected 3 channels, got {self.data.shape[0]}")
        return {"classifier": network}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"classifier": build_optimizer(self.config.optimizer, self.networks["classifier"].parameters())}

    def averaged_networks(self) -> dict[str, EmaConfig]:
        return {"classifier": self.config.ema} if self.config.ema is not None else {}

    def begin(self) -> None:
        model = self.config.model
        self.notes += [
            f"model.{name}={getattr(model, name)}: network {model.network} has none" for name in model.unused
        ]
        if model.weights is not None:
            load_weights(self.networks["classifier"], model.weights, new_head=model.new_head)

    def open_stream(self, dataset: ImageDataset, **settings: Any) -> BatchStream:
        from genlab.data.augmentation import AugmentedSamples
        from genlab.data.partition import part_of

        samples = part_of(dataset, self.config.split, "train")
        if self.config.split.has_validation:
            part_of(dataset, self.config.split, "validation")  # a class that it lacks is told before the training
        if self.config.augment.does_anything:
            samples = AugmentedSamples(samples, self.config.augment)
        return super().open_stream(samples, **settings)

    @property
    def graph_key(self) -> Hashable | Uncaptured:
        if self.config.classifier.mixup:
            return Uncaptured("the share of mixup (classifier.mixup) is drawn on the host")
        if any(isinstance(module, AnnealedDropout) for module in self.networks["classifier"].modules()):
            return Uncaptured("the probability of annealed dropout falls on the host")
        return ()

    def train_step(self, batch: Batch) -> Metrics:
        network, settings = self.networks["classifier"], self.config.classifier
        anneal(network, self.step / self.config.train.steps)
        x, y, partner, share = self._mixed(batch["image"], batch["label"])
        with self.update("classifier") as update:
            self._add_gradient(update, x, y, partner, share, record=True)
            if settings.sam_rho is not None:
                self.distributed.average_gradients(list(network.parameters()))  # of the whole batch, on every process
                with at_worst_neighbour(network, settings.sam_rho, settings.sam_adaptive):
                    self._add_gradient(update, x, y, partner, share, record=False)
        return update.metrics

    def _mixed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        """lambda x + (1 - lambda) x', y, y' and lambda (Zhang et al. 2018, equation 1); x' is the next in the batch."""
        alpha = self.config.classifier.mixup
        if alpha == 0:
            return x, y, y, 1.0
        share = float(np.random.default_rng((self.config.seed, self.step)).beta(alpha, alpha))
        return share * x + (1 - share) * x.roll(1, 0), y, y.roll(1, 0), share

    def _add_gradient(
        self, update: Update, x: Tensor, y: Tensor, partner: Tensor, share: float, *, record: bool
    ) -> None:
        """Adds the gradient of the loss at the present weights."""
        network, settings = self.networks["classifier"], self.config.classifier
        for images, labels, others in update.micro_batches(x, y, partner):
            with self.autocast():
                outputs = network(self.inputs_of(images))
            logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = total = self._cross_entropy(logits, labels, others, share)
            for others_logits in auxiliary:
                extra = self._cross_entropy(others_logits, labels, others, share)
                total = total + settings.auxiliary_weight * extra
            if settings.l1:
                total = total + settings.l1 * sum(p.abs().sum() for p in network.parameters() if p.dim() > 1)
            update.backward(total)
            if record:
                update.record(loss=loss, accuracy=(logits.argmax(1) == labels).float().mean())

    def _cross_entropy(self, logits: Tensor, labels: Tensor, others: Tensor, share: float) -> Tensor:
        smoothing = self.config.classifier.label_smoothing
        loss = cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        if share == 1.0:
            return loss
        return share * loss + (1 - share) * cross_entropy(logits.float(), others, label_smoothing=smoothing)

    def inputs_of(self, images: Tensor) -> Tensor:
        """Pictures in [-1, 1] as the network takes them."""
        return images if self.config.model.normalize == "none" else as_imagenet(images)

    # What a trained one is asked for.

    def predict(self, images: Tensor) -> Tensor:
        """Probabilities of the classes, (N, K) float32 on the device, of pictures (N, C, H, W) in [-1, 1].

        Raises:
            DataError: another number of channels than the network's, or values that are not finite.
        """
        check_pictures(images, self.data.shape[0])
        with self.inference():
            return self.inference_network("classifier")(self.inputs_of(images.to(self.device))).float().softmax(1)

    def predict_samples(self, images: Tensor, passes: int) -> Tensor:
        """Probabilities (passes, N, K) with dropout drawn anew in each pass (Gal and Ghahramani 2016, section 4).

        Raises:
            ConfigError: the network has no dropout, so that every pass would be the same.
        """
        check_pictures(images, self.data.shape[0])
        network = self.inference_network("classifier")
        dropping = [module for module in network.modules() if isinstance(module, DROPOUTS) and module.p > 0]
        if not dropping:
            raise ConfigError(
                f"model.network={self.config.model.network}: expected a network with dropout, which Monte Carlo "
                "passes vary, got none; train one with model.dropout above 0"
            )
        images = self.inputs_of(images.to(self.device))
        with self.inference():
            for module in dropping:
                module.train()
            try:
                return torch.stack([network(images).float().softmax(1) for _ in range(passes)])
            finally:
                for module in dropping:
                    module.eval()

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the last linear layer sees of pictures, (N, D) float32."""
        self.check_labels(labels)
        return self.encode_and_classify(images)[0]

    def encode_and_classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(codes (N, D), logits (N, K)) of one pass, float32 on the device."""
        check_pictures(images, self.data.shape[0])
        network = self.inference_network("classifier")
        seen: list[Tensor] = []
        hook = head_of(network).register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
        with hook, self.inference():  # leaving a hook removes it
            logits = network(self.inputs_of(images.to(self.device)))
        return seen[-1].float(), logits.float()

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Picture]:
        """Examples in the order of the class that they are taken for: a mistake stands among others."""
        images = examples(count)["image"]
        return [Picture(images[self.predict(images).argmax(1).argsort(stable=True)])]

    def check_scores(self, data: EvaluationData) -> None:
        from genlab.classification import part_dataset

        part_dataset(self, "test")

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.classification import part_scores

        return part_scores(self, data)
