"""All scores of one set of images against another, from a single pass over each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from genlab.errors import MetricError
from genlab.metrics.extractors.base import ExtractorFacts, FeatureExtractor
from genlab.metrics.inception_score import InceptionScore
from genlab.metrics.opening import as_source
from genlab.metrics.reservoir import Reservoir
from genlab.metrics.score import Score
from genlab.metrics.scorers import METRICS, Features, Protocol
from genlab.metrics.sources import AnySource, StatisticsSource
from genlab.metrics.statistics import FeatureStatistics, check_comparable, load_arrays, save_arrays
from genlab.paths import cache_dir
from genlab.registry import nearest

# Names under which a metric is also known.
ALIASES = {"frechet": "fid", "inception_score": "is"}
Progress = Callable[[str, int, "int | None"], None]


def check_metrics(metrics: Sequence[str]) -> list[str]:
    """Canonical metric names, each once, in the order given.

    Raises:
        MetricError: an unknown name (the nearest is named), or none at all.
    """
    result = []
    for metric in metrics:
        name = ALIASES.get(metric, metric)
        if name not in METRICS:
            guess = nearest(name, METRICS)
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise MetricError(f"metrics: expected some of {', '.join(METRICS)}, got {metric!r}{hint}")
        if name not in result:
            result.append(name)
    if not result:
        raise MetricError(f"metrics: expected some of {', '.join(METRICS)}, got none")
    return result


def evaluate(
    real: Any,
    fake: Any,
    extractor: FeatureExtractor,
    metrics: Sequence[str] = ("fid",),
    *,
    batch_size: int = 100,
    protocol: Protocol | None = None,
    progress: Progress | None = None,
    cache: bool = True,
) -> list[Score]:
    """Scores of `fake` against `real`.

    One pass over `fake` serves all metrics. Statistics of `real` are cached on disk under its fingerprint, the
    extractor's hash and the limit. Memory does not depend on the number of images.

    Args:
        real: source, ImageDataset, tensor, iterable of batches or path; None where only "is" is asked.
        fake: the same; for a model a `GeneratorSource`.
        extractor: what features are taken with.
        metrics: of "fid" (or "frechet"), "is", "kid", "prdc", and "modes" of points or of classes.
        batch_size: images per pass through the extractor.
        protocol: splits, subsets, seeds and limits.
        progress: called with (what, images done, images in all or None).
        cache: read and write statistics of `real` in the cache directory.

    Returns:
        Scores in the order of the metrics; "prdc" gives four, "modes" three (of points) or two.

    Raises:
        MetricError: an unknown metric, too few images, saved statistics where images are needed or of another
            extractor, logits that do not name classes where "is" is asked, or features that are not finite.
    """
    protocol = protocol or Protocol()
    metrics = check_metrics(metrics)
    check_suitable(metrics, extractor)
    compared = [metric for metric in metrics if METRICS[metric].compares]
    if compared and real is None:
        raise MetricError(f"{compared[0]}: expected real images to compare with, got none")
    # The real side comes first, so that an unusable reference is known before a model is sampled.
    real_features = None
    if compared:
        real_features = _real_features(as_source(real), extractor, compared, batch_size, protocol, progress, cache)
    fake_features = extract(as_source(fake), extractor, metrics, "fake", batch_size, protocol, progress)
    scores: list[Score] = []
    for metric in metrics:
        scores.extend(METRICS[metric].score(real_features, fake_features, extractor, protocol))
    return scores


def check_suitable(metrics: Sequence[str], extractor: FeatureExtractor | ExtractorFacts) -> None:
    """Refuses metrics that the extractor's features cannot give.

    Raises:
        MetricError: "is" without class logits, or "modes" without them and without points.
    """
    if "is" in metrics and extractor.num_classes is None:
        raise MetricError(
            f"is: expected an extractor whose logits name classes, got {extractor.name}; use 'classifier' or "
            "'inception', or leave 'is' out"
        )
    if "modes" in metrics and not (extractor.of_points or _names_own_classes(extractor)):
        raise MetricError(
            f"modes: expected points with known modes or a classifier of the data set, got features of {extractor.name}"
        )


def default_metrics(extractor: FeatureExtractor | ExtractorFacts) -> list[str]:
    """What is scored where nobody says: FID and, by what the extractor knows, IS, KID, and modes or classes missed."""
    if extractor.of_points:
        return ["modes", "fid"]
    if extractor.num_classes is None:
        return ["fid", "kid"]
    return ["fid", "is", "modes"] if _names_own_classes(extractor) else ["fid", "is"]


def _names_own_classes(extractor: FeatureExtractor | ExtractorFacts) -> bool:
    """Whether the classes are the data set's own; Inception's are ImageNet's."""
    return extractor.num_classes is not None and extractor.name != "inception"


def extract(
    source: AnySource,
    extractor: FeatureExtractor,
    metrics: Sequence[str],
    what: str,
    batch_size: int,
    protocol: Protocol,
    progress: Progress | None = None,
) -> Features:
    """One pass over a source, collecting what `metrics` need.

    Raises:
        MetricError: too few images for the covariance, or saved statistics where features are needed.
    """
    if isinstance(source, StatisticsSource):
        return _saved_features(source, extractor, metrics, what)
    total = source.count if protocol.limit is None or source.count is None else min(source.count, protocol.limit)
    statistics = FeatureStatistics(extractor.dim, extractor=extractor.name, hash=extractor.hash)
    if "fid" in metrics and total is not None:
        FeatureStatistics.require_full_rank(_announced(statistics, total), what)
    needs_sample = _keep_features(metrics) or ("modes" in metrics and extractor.of_points)
    sample = Reservoir(protocol.reservoir, extractor.dim, protocol.seed) if needs_sample else None
    inception_score = None
    if "is" in metrics:
        if total is None:
            raise MetricError(
                f"is: expected a known number of {what} images; wrap them in IterableSource(images, count)"
            )
        inception_score = InceptionScore(total, protocol.is_splits, protocol.seed)
    count_classes = "modes" in metrics and not extractor.of_points
    class_counts = torch.zeros(extractor.num_classes, dtype=torch.int64) if count_classes else None
    seen = 0
    for batch in source.batches(batch_size, protocol.limit):
        features, logits = extractor(batch, logits=inception_score is not None or class_counts is not None)
        if "fid" in metrics or not torch.isfinite(features).all():
            statistics.update(features)  # raises for values that are not finite
        if sample is not None:
            sample.update(features)
        if inception_score is not None:
            inception_score.update(logits)
        if class_counts is not None:
            class_counts += torch.bincount(logits.argmax(1).cpu(), minlength=len(class_counts))
        seen += len(features)
        if progress is not None:
            progress(f"{what} images", seen, total)
    if seen == 0:
        raise MetricError(f"{what}: expected images, got none")
    if "fid" in metrics:
        statistics.require_full_rank(what)
    kept = None if sample is None else sample.features()
    used = statistics if "fid" in metrics else None
    return Features(source.describe(), seen, used, kept, inception_score, class_counts)


def _keep_features(metrics: Sequence[str]) -> bool:
    """Whether one of the metrics looks at single features."""
    return any(METRICS[metric].keeps_features for metric in metrics)


def _announced(statistics: FeatureStatistics, total: int) -> FeatureStatistics:
    """Empty statistics that carry the count to come, to refuse too few images before any is read."""
    announced = FeatureStatistics(statistics.dim, extractor=statistics.extractor)
    announced.count = total
    return announced


def _saved_features(
    source: StatisticsSource, extractor: FeatureExtractor, metrics: Sequence[str], what: str
) -> Features:
    others = [metric for metric in metrics if metric != "fid"]
    if others:
        raise MetricError(
            f"{source.path}: expected images for {others[0]}, got saved statistics, which serve fid only; "
            "give the folder or archive of the images"
        )
    expected = FeatureStatistics(extractor.dim, extractor=extractor.name, hash=extractor.hash)
    try:
        check_comparable(expected, source.statistics)
    except MetricError as error:
        raise MetricError(f"{source.path}: {error}") from None
    source.statistics.require_full_rank(what)
    return Features(source.describe(), source.count, source.statistics)


def _real_features(
    source: AnySource,
    extractor: FeatureExtractor,
    metrics: Sequence[str],
    batch_size: int,
    protocol: Protocol,
    progress: Progress | None,
    cache: bool,
) -> Features:
    """As `extract`, with statistics and sampled features kept in the cache directory."""
    if isinstance(source, StatisticsSource) or not cache or source.fingerprint is None:
        return extract(source, extractor, metrics, "real", batch_size, protocol, progress)
    wants_statistics, wants_sample = "fid" in metrics, _keep_features(metrics)
    statistics_path = _cache_path("statistics", source.fingerprint, extractor, {"limit": protocol.limit})
    sample_path = _cache_path(
        "sample", source.fingerprint, extractor,
        {"limit": protocol.limit, "size": protocol.reservoir, "seed": protocol.seed},
    )  # fmt: skip
    found = Features(source.describe(), None)
    try:
        if wants_statistics and statistics_path.is_file():
            found.statistics = FeatureStatistics.load(statistics_path)
            found.count = found.statistics.count
        if wants_sample and sample_path.is_file():
            arrays = load_arrays(sample_path)
            found.sample, found.count = torch.from_numpy(arrays["features"]), int(arrays["n"])
    except (MetricError, KeyError):
        # A damaged cache file is only a missing one: it is computed and written again.
        found = Features(source.describe(), None)
    if (found.statistics is not None) == wants_statistics and (found.sample is not None) == wants_sample:
        return found
    fresh = extract(source, extractor, metrics, "real", batch_size, protocol, progress)
    if fresh.statistics is not None:
        fresh.statistics.save(statistics_path)
    if fresh.sample is not None:
        save_arrays(sample_path, {"features": fresh.sample.numpy(), "n": fresh.count})
    return fresh


def _cache_path(kind: str, fingerprint: str, extractor: FeatureExtractor, choices: dict[str, Any]) -> Path:
    key = json.dumps([fingerprint, extractor.name, extractor.hash, extractor.resize, choices], sort_keys=True)
    return cache_dir() / "statistics" / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
