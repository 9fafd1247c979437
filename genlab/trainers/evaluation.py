"""Scores of a trainer's samples, as the loop takes them, and which checkpoint they call the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from genlab.trainers.base import Trainer

if TYPE_CHECKING:
    import torch

    from genlab.config import RunConfig
    from genlab.metrics import Score

Progress = Callable[[str, int, "int | None"], None]


class EvaluationStopped(Exception):
    """Raised from a progress function to leave an evaluation early, because somebody asked the run to stop."""


class Evaluator(Protocol):
    """Anything that scores a trainer at a step."""

    def __call__(self, trainer: Trainer, step: int) -> Sequence[Score]: ...


class DatasetEvaluator:
    """Scores samples against a split of the run's data set, as `config.evaluate` says.

    The feature extractor is resolved once, at the first evaluation; the offline ones are trained then and cached.

    Args:
        progress: called with (what, done, total); may raise `EvaluationStopped`.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._extractor: Any = None

    def check(self, config: RunConfig, device: torch.device) -> None:
        """Raises UserError where the evaluation that `config` asks for could not be done after the training."""
        from genlab.metrics import check_evaluation

        check_evaluation(config.data, config.evaluate, device=device)

    def __call__(self, trainer: Trainer, step: int) -> Sequence[Score]:
        from genlab import metrics  # imports scikit-learn and torchvision: only where something is evaluated

        config = trainer.config.evaluate
        if self._extractor is None:
            self._extractor = metrics.resolve_for(
                trainer.config.data, config.extractor, device=trainer.device, progress=self._progress
            )
        return metrics.evaluate_generator(
            trainer.sample,
            trainer.config.data,
            extractor=self._extractor,
            metrics=config.metrics,
            samples=config.samples,
            split=config.real_split,
            batch_size=config.batch_size,
            device=trainer.device,
            facts={"step": step, "weights": "ema" if trainer.ema and trainer.use_ema else "raw"},
            progress=self._progress,
        )


def selecting_score(scores: Sequence[Score], wanted: str | None) -> Score | None:
    """The score that decides which checkpoint is best: the one called `wanted` (with or without "[extractor]").

    Without a wish it is the first; "fid" also means a Frechet distance in other features. None where there are no
    scores or the value is not finite.
    """
    aliases = {"fid": "frechet"}
    for score in scores:
        kind = score.name.split("[")[0]
        if wanted is None or wanted in (score.name, kind) or aliases.get(wanted) == kind:
            return score if math.isfinite(score.value) else None
    return None
