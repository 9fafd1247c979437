"""Scores of picture-to-picture models: distance to the target beside two baselines, and the way there and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.errors import DataError
from genlab.metrics import Score

if TYPE_CHECKING:
    from genlab.data import ImageDataset
    from genlab.trainers.cyclegan import CycleGanTrainer
    from genlab.trainers.evaluation import EvaluationData
    from genlab.trainers.pix2pix import Pix2PixTrainer

LEAST_IMAGES = 2  # of a domain, without which no variance is to be had
LOOKUP_SIDE = 64  # px that inputs are shrunk to before neighbours are looked for
UNIT = "mean absolute difference of pixels in [-1, 1]"


def paired_scores(trainer: Pix2PixTrainer, data: EvaluationData) -> list[Score]:
    """L1 to the targets of the test split: of the outputs, of the inputs themselves, and of the nearest neighbours'.

    The nearest neighbour of a test input is the training input of least Euclidean distance, both shrunk to 64 px; its
    target is what a model that looks answers up would give.
    """
    from genlab.data import iterate

    test, train = data.dataset("test"), data.dataset("train")
    count = min(len(test), data.samples)
    draws = data.generator()
    sums = torch.zeros(2, dtype=torch.float64)
    inputs, targets = [], []
    for batch in iterate(test, data.batch_size, limit=count):
        x, y = batch["input"], batch["target"]
        output = trainer.translate(x, draws).cpu()
        sums += torch.stack([_distances(image, y).sum() for image in (output, x)])
        inputs.append(_shrunk(x))
        targets.append(y)
        data.progress("translate the test split", sum(len(part) for part in targets), count)
    nearest = nearest_inputs(torch.cat(inputs), train, data)
    answers = _fetch(train, nearest, "target", data.batch_size)
    looked_up = sum(_distances(next(answers), y).sum() for y in _batches(torch.cat(targets), data.batch_size))
    model = trainer.config.model
    facts = {"split": "test", "count": count, "unit": UNIT, "seed": data.seed, "direction": trainer.directions[0]}
    settings = {"dropout": model.dropout if model.test_dropout else 0.0, "statistics": model.test_statistics}
    lookup = {"train_count": len(train), "distance": f"Euclidean, inputs at most {LOOKUP_SIDE} px"}
    return [
        _score("l1", sums[0] / count, {**facts, **settings}),
        _score("l1_identity", sums[1] / count, facts),
        _score("l1_nearest", looked_up / count, {**facts, **lookup}),
    ]


def nearest_inputs(queries: Tensor, train: ImageDataset, data: EvaluationData) -> Tensor:
    """Index of the training sample whose shrunk input is nearest to each query, int64 (N,).

    Args:
        queries: (N, D), from `_shrunk`.
    """
    from genlab.data import iterate

    best = torch.full((len(queries),), float("inf"))
    index = torch.zeros(len(queries), dtype=torch.int64)
    seen = 0
    for batch in iterate(train, data.batch_size):
        distance, place = torch.cdist(queries, _shrunk(batch["input"])).min(dim=1)
        closer = distance < best
        best = torch.where(closer, distance, best)
        index = torch.where(closer, place + seen, index)
        seen += len(batch["input"])
        data.progress("look up nearest training inputs", seen, len(train))
    return index


def check_unpaired(data: EvaluationData) -> None:
    """Raises DataError where a domain has fewer test images than a distribution is compared by."""
    test = data.dataset("test")
    if min(test.lengths) < LEAST_IMAGES:
        raise DataError(
            f"data set {test.name!r}: expected at least {LEAST_IMAGES} test images of each domain for frechet and kid, "
            f"got {test.lengths[0]} and {test.lengths[1]}; add some, or set evaluate.metrics=[]"
        )


def unpaired_scores(trainer: CycleGanTrainer, data: EvaluationData) -> list[Score]:
    """Cycle L1 in both domains of the test split, and how near translations come to the other domain's pictures.

    Nearness is the Frechet distance in the features of `evaluate.extractor`, or the kernel distance where a domain has
    too few test pictures for a covariance of full rank.
    """
    from genlab import metrics
    from genlab.metrics.sources import DatasetSource

    test = data.dataset("test")
    config = trainer.config
    extractor = metrics.resolve_for(
        config.data, config.evaluate.extractor, device=trainer.device, progress=data.progress
    )
    forth, back = trainer.directions
    counts = {domain: min(length, data.samples) for domain, length in zip("ab", test.lengths, strict=True)}
    metric = "fid" if min(counts.values()) > extractor.dim else "kid"
    scores = []
    for domain, other, there, home in (("a", "b", forth, back), ("b", "a", back, forth)):
        facts = {"split": "test", "count": counts[domain], "seed": data.seed, "direction": there}
        draws = data.generator()
        translations, total = [], 0.0
        for images in _domain(test, domain, counts[domain], data.batch_size):
            translated = trainer.translate(images, draws, there)
            total += float(_distances(trainer.translate(translated, draws, home).cpu(), images).sum())
            translations.append(translated.cpu())
        scores.append(_score(f"cycle_l1_{domain}", total / counts[domain], {**facts, "unit": UNIT}))
        real = DatasetSource(test, key=other)
        found = metrics.evaluate(real, torch.cat(translations), extractor, (metric,), batch_size=data.batch_size)
        for score in found:
            name, bracket, rest = score.name.partition("[")
            named = f"{name}_{domain}{other}{bracket}{rest}"
            scores.append(Score(named, score.value, score.std, {**score.protocol, **facts}, lower_is_better=True))
    return scores


def _score(name: str, value: Any, protocol: dict[str, Any]) -> Score:
    return Score(name, float(value), None, protocol, lower_is_better=True)


def _distances(images: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute difference of each picture, float64 (N,)."""
    return (images - targets).abs().flatten(1).mean(dim=1, dtype=torch.float64)


def _shrunk(images: Tensor) -> Tensor:
    """(N, D): area averages at 64 px or the pictures as they are."""
    side = min(LOOKUP_SIDE, *images.shape[2:])
    return F.adaptive_avg_pool2d(images, side).flatten(1)


def _batches(values: Tensor, size: int) -> Iterator[Tensor]:
    return iter(values.split(size))


def _fetch(dataset: ImageDataset, indices: Tensor, key: str, size: int) -> Iterator[Tensor]:
    for part in indices.split(size):
        yield dataset.fetch(part.numpy())[key]


def _domain(dataset: ImageDataset, domain: str, count: int, size: int) -> Iterator[Tensor]:
    """The first `count` pictures of one domain, unvaried."""
    from genlab.data import iterate

    for batch in iterate(dataset, size, limit=count):
        yield batch[domain]
