"""Classification on a pre-trained encoder, with all labels or few (Hinton and Salakhutdinov 2006; Vincent et al. 2010).

An autoencoder is trained on every image, without labels. Its encoder, with a perceptron on the code, then learns to
classify from `classifier.labels` labelled images. `classifier.freeze` says whether only the perceptron learns (the code
is a fixed feature) or the encoder too (fine-tuning). Labels outside the budget are never read in training.
Without `model.encoder` everything starts from random weights: the baseline that pre-training is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from genlab.config import RunConfig, Section
from genlab.errors import CheckpointError
from genlab.models.autoencoder import CodeClassifier
from genlab.ops import cross_entropy
from genlab.optimizers import build_optimizer
from genlab.trainers.base import Batch, Metrics, Picture, Trainer
from genlab.trainers.pretrained import load_encoder, read_architecture
from genlab.trainers.stack import AdamConfig, StackConfig, Width, to_intensities

if TYPE_CHECKING:
    from genlab.data import BatchStream, ImageDataset
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData


class EncoderClassifierModelConfig(StackConfig):
    """The encoder, which `encoder` describes where it is given, and the perceptron on its code."""

    encoder: Path | None = Field(None, description="run or checkpoint of an autoencoder; null: random weights")
    trained_on: tuple[int, int, int] | None = Field(None, description="C, H, W of its images; read from `encoder`")
    head: list[Width] = Field(default_factory=list, description="units of each hidden layer on the code")

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_the_checkpoint(cls, values: Any) -> Any:
        # Once read they stand in config.yaml and in checkpoints, which then need the autoencoder's file no more.
        if isinstance(values, dict) and values.get("encoder") is not None and values.get("trained_on") is None:
            return {**values, **read_architecture(Path(values["encoder"]))}
        return values


class ClassifierConfig(Section):
    """What is learnt from which labels."""

    labels: int | None = Field(None, ge=1, description="labelled images, as many of each class; null: all")
    label_seed: int = Field(0, ge=0, description="which images those are")
    freeze: bool | int = Field(False, description="the encoder stays as it is; a number: for so many first steps")

    @field_validator("freeze", mode="before")
    @classmethod
    def _switch_or_steps(cls, value: Any) -> bool | int:
        if not isinstance(value, int) or value < 0:
            raise ValueError("expected true, false or a number of steps of at least 0")
        return value


class EncoderClassifierConfig(RunConfig):
    """`algorithm: encoder_classifier`."""

    model: EncoderClassifierModelConfig = Field(default_factory=EncoderClassifierModelConfig)
    classifier: ClassifierConfig = Field(default_factory=ClassifierConfig)
    optimizer: AdamConfig = Field(default_factory=AdamConfig)

    @model_validator(mode="after")
    def _fits_together(self) -> EncoderClassifierConfig:
        self.model.check_size(self.data.height_width)
        if self.model.encoder is None and self.classifier.freeze:
            raise ValueError(
                "classifier.freeze: expected false without model.encoder, as random weights would stay random, "
                f"got {self.classifier.freeze}"
            )
        return self


class EncoderClassifierTrainer(Trainer):
    """A classifier on a trained encoder, frozen or fine-tuned. Networks "encoder" and "head", one optimiser."""

    config_class = EncoderClassifierConfig
    config: EncoderClassifierConfig
    draws_samples = False
    own_score_names = ("test_error", "test_accuracy")
    scored_split = "test"

    def build_networks(self) -> dict[str, nn.Module]:
        model = self.config.model
        if model.trained_on is not None and model.trained_on != self.data.shape:
            given, expected = ("x".join(map(str, shape)) for shape in (self.data.shape, model.trained_on))
            raise CheckpointError(
                f"model.encoder {model.encoder}: was trained on images of {expected} (channels x height x width), got "
                f"{given}; set data.image_size and data.channels to its own"
            )
        classes = self.data.require_classes("a classifier")
        return {
            "encoder": model.build(self.data.shape),
            "head": CodeClassifier(model.code, classes, model.head, activation=model.activation),
        }

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        parameters = [p for network in self.networks.values() for p in network.parameters()]
        return {"classifier": build_optimizer(self.config.optimizer, parameters)}

    def begin(self) -> None:
        if self.config.model.encoder is not None:
            load_encoder(self.networks["encoder"], self.config.model.encoder)

    def open_stream(self, dataset: ImageDataset, **settings: Any) -> BatchStream:
        from genlab.data.budget import ChosenSamples, label_budget

        config = self.config.classifier
        if config.labels is None:
            return super().open_stream(dataset, **settings)
        labels = dataset.labels.numpy()
        chosen = label_budget(labels, self.data.num_classes, config.labels, config.label_seed, "classifier.labels")
        return super().open_stream(ChosenSamples(dataset, chosen, f"{config.labels} labels"), **settings)

    @property
    def frozen(self) -> bool:
        """Whether the next step leaves the encoder as it is."""
        freeze = self.config.classifier.freeze
        return freeze if isinstance(freeze, bool) else self.step < freeze

    @property
    def graph_key(self) -> Hashable:
        return (self.frozen,) if self.config.classifier.freeze else ()

    def train_step(self, batch: Batch) -> Metrics:
        encoder, head = self.networks["encoder"], self.networks["head"]
        encoder.train(not self.frozen)  # running statistics belong to the frozen encoder too
        with self.update("classifier") as update:
            for images, labels in update.micro_batches(batch["image"], batch["label"]):
                with self.autocast():
                    with torch.no_grad() if self.frozen else nullcontext():
                        code = encoder(to_intensities(images))
                    logits = head(code)
                loss = cross_entropy(logits.float(), labels)
                update.backward(loss)
                update.record(loss=loss, accuracy=(logits.argmax(1) == labels).float().mean())
        encoder.train()
        return update.metrics

    # What a trained one is asked for.

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_labels(labels)
        with self.inference():
            return self.networks["encoder"](to_intensities(images.to(self.device))).float()

    def predict(self, images: Tensor) -> Tensor:
        """Probabilities of the classes, (N, K), of images (N, C, H, W) in [-1, 1]."""
        with self.inference():
            return self.networks["head"](self.networks["encoder"](to_intensities(images.to(self.device)))).softmax(1)

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Picture]:
        """Examples in the order of the class that they are taken for: a mistake stands among others."""
        images = examples(count)["image"]
        return [Picture(images[self.predict(images).argmax(1).argsort(stable=True)])]

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.metrics.classification import classification_scores

        facts = self.config.classifier.model_dump(mode="json")
        encoder = self.config.model.encoder
        return classification_scores(
            self.predict, data, {**facts, "pretrained": encoder is not None, "encoder": str(encoder or "")}
        )
