"""Feature extractors by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from genlab.errors import MetricError
from genlab.metrics.extractors.base import ExtractorFacts, FeatureExtractor
from genlab.registry import nearest

EXTRACTORS = {
    "inception": "FID's Inception network; needs pytorch-fid's weights (--inception-weights or a download)",
    "classifier": "small CNN trained on the set's classes, cached; offline default of sets with classes",
    "rotation": "small CNN trained to tell rotations apart, cached; offline default of sets without classes",
    "pixels": "grey 8x8 pixels, no network; for checks",
}

__all__ = ["EXTRACTORS", "ExtractorFacts", "FeatureExtractor", "announce", "choose", "resolve"]


def resolve(
    name: str = "auto",
    *,
    train: Any | None = None,
    held_out: Any | None = None,
    weights: str | os.PathLike[str] | None = None,
    dims: int = 2048,
    device: str | torch.device = "cpu",
    seed: int = 0,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> FeatureExtractor:
    """The feature extractor called `name`.

    Args:
        name: "inception", "classifier", "rotation", "pixels", the path of a run of algorithm classifier, or "auto":
            "classifier" for a data set with classes, "rotation" for one without, the points themselves for points.
        train: ImageDataset that classifier and rotation learn from, on the first use of that data.
        held_out: ImageDataset that their accuracy is measured on.
        weights: Inception's file.
        dims: Inception's feature length, 64, 192, 768 or 2048.
        device: where the extractor runs.
        seed: of training.
        progress: called with (what, done, total) while training.

    Raises:
        MetricError: an unknown name, or what the extractor needs is missing.
    """
    kind = choose(name, train)
    if kind == "inception":
        from genlab.metrics.extractors.inception import InceptionExtractor

        return InceptionExtractor(weights, dims=dims, device=device)
    if kind == "pixels":
        from genlab.metrics.extractors.pixels import PixelExtractor

        return PixelExtractor(device=device)
    if kind == "run":
        from genlab.metrics.extractors.run import RunExtractor

        return RunExtractor(name, train, device=device)
    if kind == "points":
        from genlab.metrics.extractors.points import PointExtractor

        return PointExtractor(train.modes, train.std, device=device)
    from genlab.metrics.extractors.trained import classifier_extractor, rotation_extractor

    make = classifier_extractor if kind == "classifier" else rotation_extractor
    return make(train, held_out, device=device, seed=seed, progress=progress)


def choose(name: str, train: Any | None) -> str:
    """The kind of extractor that `name` means for a data set: one of EXTRACTORS, "run" or "points".

    Raises:
        MetricError: as `resolve`.
    """
    if name not in EXTRACTORS and name != "auto":
        if Path(name).exists():
            return "run"
        guess = nearest(name, [*EXTRACTORS, "auto"])
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise MetricError(
            f"extractor: expected one of auto, {', '.join(EXTRACTORS)}, or a classifier's run, got {name!r}{hint}"
        )
    if name in ("inception", "pixels"):
        return name
    if train is None:
        raise MetricError(
            f"extractor {name!r}: expected a data set to learn from, got none; name one, or use 'inception' with "
            "--inception-weights PATH"
        )
    if train.kind == "points":
        if name != "auto":
            raise MetricError(
                f"extractor {name!r}: expected a data set of images, got points ({train.name}); use 'auto'"
            )
        return "points"
    labelled = train.kind == "images" and bool(train.num_classes)
    return name if name != "auto" else "classifier" if labelled else "rotation"


def announce(name: str, train: Any | None, **options: Any) -> ExtractorFacts:
    """What `resolve` would give, without training a network.

    Args:
        name, train: as for `resolve`.
        options: `weights`, `dims` and `device` of `resolve`.

    Raises:
        MetricError: as `resolve`; weights of Inception that are missing or damaged are found here too.
    """
    kind = choose(name, train)
    if kind in ("classifier", "rotation"):
        from genlab.metrics.extractors.trained import announce_trained

        return announce_trained(kind, train)
    extractor = resolve(name, train=train, **options)
    return ExtractorFacts(extractor.name, extractor.dim, extractor.num_classes, kind == "points")
