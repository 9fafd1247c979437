"""From the features of two sides to scores: one function per metric, and the table of them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genlab.metrics.classes import class_coverage
from genlab.metrics.extractors.base import FeatureExtractor
from genlab.metrics.extractors.points import PointExtractor
from genlab.metrics.frechet import frechet_distance
from genlab.metrics.inception_score import InceptionScore
from genlab.metrics.kernel import kernel_distance
from genlab.metrics.points import mode_coverage
from genlab.metrics.prdc import prdc
from genlab.metrics.score import Score
from genlab.metrics.statistics import FeatureStatistics


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The choices that a score depends on beside the images and the extractor.

    Attributes:
        seed: of reservoirs, subsets and the permutation of the Inception Score's splits.
        limit: use the first so many images of each side, or all.
        is_splits: splits of the Inception Score.
        kid_subsets: subsets of KID.
        kid_subset_size: images in one of them.
        prdc_k: neighbour that sets the radius of a ball.
        reservoir: features kept for KID and PRDC at most; a seeded uniform sample where there are more images.
    """

    seed: int = 0
    limit: int | None = None
    is_splits: int = 10
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    prdc_k: int = 5
    reservoir: int = 10_000


@dataclasses.dataclass
class Features:
    """What one pass over a source leaves: each part only where a metric asked for it."""

    source: dict[str, Any]
    count: int | None
    statistics: FeatureStatistics | None = None
    sample: Tensor | None = None
    inception_score: InceptionScore | None = None
    class_counts: Tensor | None = None  # of a generated side: images that the extractor puts into each class


def score_name(metric: str, extractor: FeatureExtractor) -> str:
    """ "fid" for Inception's pool3; "frechet[<extractor>]" for any other features, and likewise for other metrics."""
    if extractor.name == "inception":
        return metric
    return f"{'frechet' if metric == 'fid' else metric}[{extractor.name}]"


def _facts(
    real: Features | None, fake: Features, extractor: FeatureExtractor, protocol: Protocol, **choices: Any
) -> dict[str, Any]:
    facts = extractor.describe()
    if real is not None:
        facts["real"] = {**real.source, "count": real.count}
        facts["split"] = real.source.get("split")
    facts["fake"] = {**fake.source, "count": fake.count}
    return {
        **facts,
        **choices,
        "limit": protocol.limit,
        "seed": protocol.seed,
        "device": str(extractor.device),
        "torch": torch.__version__,
    }


def _score_frechet(real: Features, fake: Features, extractor: FeatureExtractor, protocol: Protocol) -> list[Score]:
    a, b = real.statistics, fake.statistics
    value = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    return [Score(score_name("fid", extractor), value, None, _facts(real, fake, extractor, protocol))]


def _score_inception(
    real: Features | None, fake: Features, extractor: FeatureExtractor, protocol: Protocol
) -> list[Score]:
    mean, std = fake.inception_score.compute()
    order = f"permutation of seed {protocol.seed}"
    facts = _facts(None, fake, extractor, protocol, splits=protocol.is_splits, split_order=order)
    return [Score(score_name("is", extractor), mean, std, facts)]


def _score_kid(real: Features, fake: Features, extractor: FeatureExtractor, protocol: Protocol) -> list[Score]:
    size = min(protocol.kid_subset_size, len(real.sample), len(fake.sample))
    mean, std = kernel_distance(
        real.sample, fake.sample, subsets=protocol.kid_subsets, subset_size=size, seed=protocol.seed
    )
    facts = _facts(
        real, fake, extractor, protocol,
        subsets=protocol.kid_subsets, subset_size=size, features_kept=[len(real.sample), len(fake.sample)],
    )  # fmt: skip
    return [Score(score_name("kid", extractor), mean, std, facts)]


def _score_prdc(real: Features, fake: Features, extractor: FeatureExtractor, protocol: Protocol) -> list[Score]:
    values = prdc(real.sample, fake.sample, k=protocol.prdc_k)
    kept = [len(real.sample), len(fake.sample)]
    facts = _facts(real, fake, extractor, protocol, k=protocol.prdc_k, features_kept=kept)
    return [Score(score_name(name, extractor), value, None, facts) for name, value in values.items()]


def _score_modes(real: Features | None, fake: Features, extractor: FeatureExtractor, protocol: Protocol) -> list[Score]:
    if not isinstance(extractor, PointExtractor):
        return _score_classes(fake, extractor, protocol)
    values = mode_coverage(fake.sample, extractor.modes, extractor.std)
    facts = _facts(None, fake, extractor, protocol, threshold="3 standard deviations", points_kept=len(fake.sample))
    names = {"modes": "modes_covered", "high_quality": "high_quality", "balance": "balance"}
    return [Score(name, float(values[key]), None, facts) for name, key in names.items()]


def _score_classes(fake: Features, extractor: FeatureExtractor, protocol: Protocol) -> list[Score]:
    # The trained judges learn from balanced or nearly balanced sets; a uniform reference is what papers compare with.
    covered, divergence = class_coverage(fake.class_counts, torch.ones(extractor.num_classes))
    histogram = [int(count) for count in fake.class_counts]
    facts = _facts(None, fake, extractor, protocol, histogram=histogram, reference="uniform over classes")
    return [
        Score(score_name("modes", extractor), float(covered), None, facts),
        Score(score_name("class_kl", extractor), divergence, None, facts, lower_is_better=True),
    ]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of samples: what it needs, how it is taken and what its scores are called.

    Attributes:
        score: (real features, or None where it does not compare; generated ones; extractor; protocol) -> scores.
        summary: for listings.
        names: what the names of its scores begin with; `evaluate.select` may name one.
        fewest: length of the features -> least numbers of (real, generated) images.
        compares: whether it needs real images.
        keeps_features: whether it looks at single features, of which a seeded sample is kept (`Features.sample`).
    """

    score: Callable[[Any, Features, FeatureExtractor, Protocol], list[Score]]
    summary: str
    names: tuple[str, ...]
    fewest: Callable[[int], tuple[int, int]]
    compares: bool = True
    keeps_features: bool = False


METRICS: dict[str, Metric] = {
    "fid": Metric(
        _score_frechet,
        "Frechet distance of features; 'fid' with Inception, 'frechet[<extractor>]' otherwise; lower is better",
        ("fid", "frechet"),
        lambda dim: (dim + 1, dim + 1),  # a covariance of full rank
    ),
    "is": Metric(
        _score_inception,
        "Inception Score, mean and deviation over 10 splits; needs class logits; higher is better",
        ("is",),
        lambda dim: (0, Protocol().is_splits),
        compares=False,
    ),
    "kid": Metric(
        _score_kid,
        "kernel distance (unbiased cubic MMD), mean and deviation over 100 subsets; lower is better",
        ("kid",),
        lambda dim: (2, 2),
        keeps_features=True,
    ),
    "prdc": Metric(
        _score_prdc,
        "precision, recall, density, coverage of 5-nearest-neighbour balls; higher is better",
        ("precision", "recall", "density", "coverage"),
        lambda dim: (Protocol().prdc_k + 1, Protocol().prdc_k + 1),
        keeps_features=True,
    ),
    "modes": Metric(
        _score_modes,
        "modes of points covered, share of high-quality points; or classes covered, KL of their histogram",
        ("modes", "high_quality", "balance", "class_kl"),
        lambda dim: (0, 1),
        compares=False,
    ),
}
