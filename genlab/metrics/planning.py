"""Whether an evaluation will be possible, asked before a model is trained for hours."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genlab.config import DataConfig, EvaluateConfig
from genlab.errors import MetricError
from genlab.metrics.evaluate import check_metrics, check_suitable, default_metrics
from genlab.metrics.extractors import announce
from genlab.metrics.scorers import METRICS


def check_evaluation(
    data: DataConfig,
    settings: EvaluateConfig,
    of_samples: Sequence[str] | None = None,
    *,
    own_names: Sequence[str] = (),
    device: str | torch.device = "cpu",
) -> list[str]:
    """Refuses an evaluation that could not be done once the model is trained; trains and draws nothing.

    Args:
        data: the run's data configuration.
        settings: its `evaluate` section.
        of_samples: the metrics of samples that will be taken; None: those of `settings`, or the data's defaults.
        own_names: names of the algorithm's own scores, which `select` may name too.
        device: where the extractor is to run.

    Returns:
        The metrics of samples that will be taken.

    Raises:
        UserError: an unknown extractor or one that this data set cannot have, Inception's weights missing, a metric
            that the features cannot give, a split that the set does not have, too few images, or a `select` that no
            metric gives.
    """
    if of_samples is None and settings.metrics is not None:
        of_samples = [metric for metric in settings.metrics if metric != "own"]
    metrics = [] if of_samples == [] else _check_metrics_of_samples(data, settings, of_samples, device)
    names = [name for metric in metrics for name in METRICS[metric].names] + [*own_names, "none"]
    selected = settings.select
    if selected is not None and selected not in names and selected.split("[")[0] not in names:
        raise MetricError(f"evaluate.select: expected one of {', '.join(names)}, got {selected!r}")
    return metrics


def _check_metrics_of_samples(
    data: DataConfig, settings: EvaluateConfig, wanted: Sequence[str] | None, device: str | torch.device
) -> list[str]:
    from genlab.data import build

    extractor = announce(settings.extractor, build(data.model_copy(update={"limit": None}), "train"), device=device)
    metrics = check_metrics(default_metrics(extractor) if wanted is None else wanted)
    try:
        check_suitable(metrics, extractor)
    except MetricError as error:
        raise MetricError(f"evaluate.metrics: {error}") from None
    real_count = len(build(data, settings.real_split))
    for metric in metrics:
        real, fake = METRICS[metric].fewest(extractor.dim)
        for key, least, count in (
            (f"evaluate.real_split={settings.real_split}", real, real_count),
            ("evaluate.samples", fake, settings.samples),
        ):
            if count < least:
                raise MetricError(
                    f"{key}: expected at least {least} images for {metric} in the {extractor.dim} features of "
                    f"{extractor.name}, got {count}; use more, or set "
                    "evaluate.metrics (kid needs few, [] takes no scores)"
                )
    return metrics
