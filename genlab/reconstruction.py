"""How well a model gives back what it is shown: errors of single images, the score of a set, rows of pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genlab.images import to_float

if TYPE_CHECKING:
    from genlab.data import ImageDataset
    from genlab.metrics import Score
    from genlab.trainers.base import Batch, Trainer
    from genlab.trainers.evaluation import EvaluationData

LARGEST_PCA = 4096  # components of an image: the covariance is a matrix of that side
PCA_SAMPLES = 20_000


def reconstruct(trainer: Trainer, batch: Batch) -> Tensor:
    """Reconstructions of batch["image"], with its labels where the model was trained with conditions."""
    if trainer.label_count is not None:
        return trainer.reconstruct(batch["image"], batch["label"])
    return trainer.reconstruct(batch["image"])


def reconstruction_rows(trainer: Trainer, batch: Batch, generator: torch.Generator) -> list[Tensor]:
    """What a grid shows, each (N, C, H, W) in [-1, 1] on the CPU: the images, their corrupted versions (where the model
    was trained to undo a corruption), the reconstructions of the latter.

    Args:
        batch: "image" and, where there are classes, "label".
        generator: CPU generator that the corruption is drawn from.
    """
    images = batch["image"]
    corrupted = trainer.corrupt(images, generator)
    seen = images if corrupted is None else corrupted
    rows = [images, *([] if corrupted is None else [corrupted]), reconstruct(trainer, {**batch, "image": seen})]
    return [row.float().cpu() for row in rows]


def squared_errors(images: Tensor, again: Tensor) -> Tensor:
    """Mean squared error of each image over its components, (N,), in units of intensities in [0, 1]."""
    return (to_float(images) - to_float(again)).flatten(1).square().mean(1) / 4


def pca_error(training: Iterable[Tensor], test: Iterable[Tensor], components: int) -> float:
    """Mean squared error of a pixel (intensities in [0, 1]) when images are projected on principal components.

    Args:
        training: batches (N, C, H, W) in [-1, 1] that the components are of.
        test: batches that are projected.
        components: how many.
    """
    count, total, products = 0, None, None
    for batch in training:
        x = batch.flatten(1).double()
        count += len(x)
        total = x.sum(0) if total is None else total + x.sum(0)
        products = x.T @ x if products is None else products + x.T @ x
    assert total is not None and products is not None
    mean = total / count
    _, axes = torch.linalg.eigh(products / count - torch.outer(mean, mean))  # rising eigenvalues
    axes = axes[:, max(0, axes.shape[1] - components) :]
    error, seen = 0.0, 0
    for batch in test:
        x = batch.flatten(1).double() - mean
        error += float((x - x @ axes @ axes.T).square().mean(1).sum()) / 4
        seen += len(x)
    return error / seen


def reconstruction_score(trainer: Trainer, data: EvaluationData, code_length: int) -> Score:
    """ "reconstruction_mse": the mean squared error of a test image's intensities, without corruption.

    The protocol holds the error of as many principal components of the training images (`pca_mse`), the best that a
    linear code of that length can do; images of more than 4,096 numbers go without.
    """
    from genlab.data import iterate
    from genlab.metrics import Score

    dataset = data.dataset("test")
    error, seen = 0.0, 0
    for batch in iterate(dataset, data.batch_size):
        again = reconstruct(trainer, trainer.to_device(batch)).cpu()
        error += float(squared_errors(batch["image"], again).double().sum())
        seen += len(again)
        data.progress("reconstruction", seen, len(dataset))
    source = {"source": dataset.name, "split": dataset.split, "count": seen, "fingerprint": dataset.fingerprint}
    protocol: dict[str, Any] = {"real": source, "units": "intensities in [0, 1]", "code": code_length}
    if math.prod(dataset.image_shape) <= LARGEST_PCA:
        training = data.dataset(trainer.config.data.split)
        protocol["pca_samples"] = min(len(training), PCA_SAMPLES)
        protocol["pca_mse"] = pca_error(
            _images(training, data.batch_size, PCA_SAMPLES), _images(dataset, data.batch_size), code_length
        )
    return Score("reconstruction_mse", error / seen, None, protocol, lower_is_better=True)


def _images(dataset: ImageDataset, batch_size: int, limit: int | None = None) -> Iterator[Tensor]:
    """Batches of images: all, or `limit` evenly spaced ones."""
    from genlab.data import evenly_spaced

    for rows in np.array_split(evenly_spaced(len(dataset), limit), math.ceil(len(dataset) / batch_size)):
        if len(rows):
            yield dataset.fetch(rows)["image"]
