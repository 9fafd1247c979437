"""Scores of paths and of data configurations: what the command line's fid, is and evaluate call."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from genlab.config import DataConfig
from genlab.errors import DataError, MetricError
from genlab.metrics.evaluate import default_metrics, evaluate, extract
from genlab.metrics.extractors import EXTRACTORS, FeatureExtractor, resolve
from genlab.metrics.opening import as_source, open_source
from genlab.metrics.score import Score
from genlab.metrics.scorers import METRICS, Protocol
from genlab.metrics.sources import GeneratorSource, StatisticsSource
from genlab.outputs import check_place

Progress = Callable[[str, int, "int | None"], None]
PathLike = str | os.PathLike[str]


def fid(
    a: PathLike,
    b: PathLike,
    *,
    inception_weights: PathLike | None = None,
    dims: int = 2048,
    extractor: FeatureExtractor | None = None,
    metrics: Sequence[str] = ("fid",),
    samples: int = 50_000,
    batch_size: int = 50,
    device: str | torch.device = "cpu",
    protocol: Protocol | None = None,
    progress: Progress | None = None,
    cache: bool = True,
) -> list[Score]:
    """Scores of the images in `b` against those in `a`: `genlab fid A B`.

    Args:
        a: reference: folder, zip, npz of statistics or images, run or checkpoint.
        b: what is judged: the same.
        inception_weights: file of pytorch-fid's weights; see `InceptionExtractor` for where it is looked for.
        dims: 64, 192, 768 or 2048; only 2048 is called FID.
        extractor: another extractor in place of Inception.
        metrics: of "fid", "is", "kid", "prdc".
        samples: images drawn from a run.
        batch_size: images per pass.
        device: where the networks run.
        protocol: splits, subsets, seeds and limits.
        progress: called with (what, done, total).
        cache: keep statistics of `a` in the cache directory.

    Raises:
        UserError: a path, file, weight file or number of images that will not do; names it and the remedy.
    """
    protocol = protocol or Protocol()
    # Sources first: a mistyped path should not wait for a network to load.
    real = open_source(a, samples=samples, batch_size=batch_size, seed=protocol.seed, device=device)
    fake = open_source(b, samples=samples, batch_size=batch_size, seed=protocol.seed, device=device)
    extractor = extractor or resolve("inception", weights=inception_weights, dims=dims, device=device)
    return evaluate(
        real, fake, extractor, metrics, batch_size=batch_size, protocol=protocol, progress=progress, cache=cache
    )


def inception_score(
    path: PathLike,
    *,
    inception_weights: PathLike | None = None,
    extractor: FeatureExtractor | None = None,
    samples: int = 50_000,
    batch_size: int = 50,
    device: str | torch.device = "cpu",
    protocol: Protocol | None = None,
    progress: Progress | None = None,
) -> Score:
    """The Inception Score of the images in a folder, zip, npz or run: `genlab is DIR`. Arguments as for `fid`."""
    protocol = protocol or Protocol()
    source = open_source(path, samples=samples, batch_size=batch_size, seed=protocol.seed, device=device)
    extractor = extractor or resolve("inception", weights=inception_weights, device=device)
    return evaluate(None, source, extractor, ("is",), batch_size=batch_size, protocol=protocol, progress=progress)[0]


def save_statistics(
    images: Any,
    out: PathLike,
    *,
    inception_weights: PathLike | None = None,
    dims: int = 2048,
    extractor: FeatureExtractor | None = None,
    samples: int = 50_000,
    batch_size: int = 50,
    device: str | torch.device = "cpu",
    protocol: Protocol | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes mean and covariance of the features of images to an npz that `fid` and pytorch-fid both read.

    Args:
        images: path as for `fid`, ImageDataset, or source.
        out: file to write, ending in .npz; an existing one is refused.

    Raises:
        UserError: `out` exists or cannot be written, or anything that `fid` refuses.
    """
    out, protocol = Path(out), protocol or Protocol()
    if out.exists():
        raise MetricError(f"{out}: expected a new file, got one that exists; remove it or choose another name")
    if out.suffix != ".npz":
        raise MetricError(f"{out}: expected a name that ends in .npz, got the suffix {out.suffix!r}")
    check_place(out)
    if isinstance(images, (str, os.PathLike)):
        source = open_source(images, samples=samples, batch_size=batch_size, seed=protocol.seed, device=device)
    else:
        source = as_source(images)
    if isinstance(source, StatisticsSource):
        raise MetricError(f"{source.path}: expected images, got an npz that already holds statistics")
    extractor = extractor or resolve("inception", weights=inception_weights, dims=dims, device=device)
    features = extract(source, extractor, ("fid",), "images", batch_size, protocol, progress)
    features.statistics.protocol = {**extractor.describe(), "images": features.source, "limit": protocol.limit}
    return features.statistics.save(out)


def resolve_for(
    data: DataConfig,
    name: str = "auto",
    *,
    weights: PathLike | None = None,
    dims: int = 2048,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> FeatureExtractor:
    """The extractor `name` for a data configuration.

    Classifier and rotation learn from the train split without the configuration's limit, so that runs on a part of a
    set are judged by the same network; their accuracy is that on the test split where the set has one.
    """
    if name in ("inception", "pixels"):
        return resolve(name, weights=weights, dims=dims, device=device)
    from genlab.data import build

    whole = data.model_copy(update={"limit": None})
    try:
        held_out = build(whole, "test")
    except DataError:
        held_out = None  # a set without a test split; the protocol then says that accuracy is on training images
    return resolve(name, train=build(whole, "train"), held_out=held_out, device=device, progress=progress)


def evaluate_generator(
    sample: Callable[[int, torch.Generator], torch.Tensor],
    data: DataConfig,
    *,
    extractor: str | FeatureExtractor = "auto",
    metrics: Sequence[str] | None = None,
    samples: int = 2000,
    split: str = "train",
    batch_size: int = 100,
    weights: PathLike | None = None,
    device: str | torch.device = "cpu",
    protocol: Protocol | None = None,
    facts: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[Score]:
    """Scores of a generator against a split of its data set: `genlab evaluate RUN` and the trainer's own evaluation.

    Args:
        sample: called as sample(n, generator), returns images in [-1, 1], shape (n, c, h, w), or points (n, 2).
        data: the run's data configuration.
        extractor: name, or an extractor that is at hand.
        metrics: of "fid", "is", "kid", "prdc", "modes"; default: `default_metrics` of the extractor.
        samples: images drawn.
        split: of the data set that is compared with.
        batch_size: images drawn and judged at a time.
        weights: Inception's file where `extractor` is "inception".
        device: where the extractor runs.
        protocol: splits, subsets, seeds and limits; its seed also draws the samples.
        facts: further entries of the protocol, such as checkpoint, step and "best" or "last".
        progress: called with (what, done, total).
    """
    from genlab.data import build

    protocol = protocol or Protocol()
    if isinstance(extractor, str):
        extractor = resolve_for(data, extractor, weights=weights, device=device, progress=progress)
    fake = GeneratorSource(sample, samples, batch_size=batch_size, seed=protocol.seed, facts=facts)
    real = build(data, split)
    metrics = default_metrics(extractor) if metrics is None else metrics
    return evaluate(real, fake, extractor, metrics, batch_size=batch_size, protocol=protocol, progress=progress)


def describe() -> list[dict[str, str]]:
    """Rows for a listing: kind, name and summary of every metric and extractor."""
    rows = [{"kind": "metric", "name": name, "summary": metric.summary} for name, metric in METRICS.items()]
    return rows + [{"kind": "extractor", "name": name, "summary": text} for name, text in EXTRACTORS.items()]
