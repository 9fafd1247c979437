"""A trained classifier of the lab as the judge: features are what its last layer sees, logits its classes'.

Its weights come out of one command (`genlab train small_cnn_mnist`), and their hash stands in every score.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.checkpoint import BEST_NAME, load_bundle
from genlab.errors import MetricError
from genlab.metrics.extractors.base import FeatureExtractor, hash_weights


class RunExtractor(FeatureExtractor):
    """Features and logits of a run of algorithm classifier, of its best checkpoint where it has one.

    Args:
        path: run directory or checkpoint.
        train: ImageDataset that is judged; None: not known. Its classes must be the classifier's where it has some.
        device: where the network runs.

    Attributes:
        accuracy: on the test part, as its own evaluation found it; None where it was not evaluated.

    Raises:
        CheckpointError: no checkpoint there, or a damaged one.
        MetricError: a run of another algorithm, other classes, or pictures of neither 1 nor 3 channels.
    """

    def __init__(
        self, path: str | os.PathLike[str], train: Any | None = None, *, device: str | torch.device = "cpu"
    ) -> None:
        from genlab.trainers.classifier import ClassifierTrainer
        from genlab.trainers.classifier_config import head_of

        has_best = (Path(path) / "checkpoints" / BEST_NAME).exists()
        bundle = load_bundle(path, "best" if has_best else "last", device=device)
        if not isinstance(bundle.trainer, ClassifierTrainer):
            raise MetricError(
                f"extractor {path}: expected a run of algorithm classifier, got one of {bundle.config.algorithm}"
            )
        self.trainer = bundle.trainer
        data = bundle.trainer.data
        names = tuple(getattr(train, "class_names", None) or ())
        if names and names != tuple(data.class_names or ()):
            raise MetricError(
                f"extractor {path}: expected a classifier of the classes of {train.name} "
                f"({', '.join(names[:4])}, ...), got one of {data.name}; train one on the same data"
            )
        expected = getattr(train, "num_classes", None)
        if expected and expected != data.num_classes:
            raise MetricError(
                f"extractor {path}: expected a classifier of the {expected} classes of {train.name}, got one of "
                f"{data.num_classes} ({data.name}); train one on the same data"
            )
        if data.shape[0] not in (1, 3):
            raise MetricError(f"extractor {path}: expected a classifier of 1 or 3 channels, got {data.shape[0]}")
        network = bundle.trainer.inference_network("classifier")
        self.name = f"{data.name}_{bundle.config.model.network}"
        self.hash = hash_weights(network)
        self.dim = head_of(network).in_features
        self.num_classes = data.num_classes
        self.channels, self._size = data.shape[0], (data.shape[1], data.shape[2])
        self.resize = f"bilinear with antialiasing to {self._size[0]}x{self._size[1]}"
        self.device = torch.device(device)
        scores = (bundle.state.get("progress") or {}).get("last_scores") or []
        found = [row["value"] for row in scores if row["name"] == "test_accuracy"]
        self.accuracy: float | None = found[0] if found else None
        self._facts = {"run": Path(path).name, "checkpoint": bundle.path.name, "step": bundle.step}

    def prepare(self, images: Tensor) -> Tensor:
        scaled = images.to(torch.float32).div(127.5).sub(1.0)
        if tuple(scaled.shape[-2:]) == self._size:
            return scaled
        return F.interpolate(scaled, size=self._size, mode="bilinear", align_corners=False, antialias=True)

    def forward(self, images: Tensor, logits: bool) -> tuple[Tensor, Tensor | None]:
        features, scores = self.trainer.encode_and_classify(images)
        return features, scores if logits else None

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "task": "classify", "accuracy": self.accuracy, **self._facts}
