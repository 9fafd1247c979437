"""How a training is judged: an algorithm's own scores, and the numbers of a log row that tell whether it is ill."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from genlab.errors import DataError
from genlab.trainers.diagnosis import (
    COLLAPSE_REMEDY,
    DIVERSITY_SAMPLES,
    Finding,
    Thresholds,
    collapse_finding,
    diversity_signs,
    fixed_samples,
    sample_values,
    saturation_finding,
)

if TYPE_CHECKING:
    from genlab.metrics import Score
    from genlab.trainers.base import Batch, Metrics
    from genlab.trainers.evaluation import EvaluationData


class Judged:
    """Scores and vital signs; `Trainer` inherits them, and an algorithm adds its own.

    Attributes:
        draws_samples: whether `sample` makes new images from noise alone, so that FID and the like can be taken.
        own_score_names: names that `scores` may give.
        scored_split: the part of the data set that `scores` reads in any case; None: none.
        thresholds: when `findings` calls a number ill.
        collapse_remedy: what helps samples that have collapsed, beside an earlier checkpoint.
    """

    draws_samples: ClassVar[bool] = True
    own_score_names: ClassVar[tuple[str, ...]] = ()
    scored_split: ClassVar[str | None] = None
    thresholds: ClassVar[Thresholds] = Thresholds()
    collapse_remedy: ClassVar[str] = COLLAPSE_REMEDY

    @property
    def samples_at_full_size(self) -> bool:
        """Whether the present samples have the data's resolution of themselves, and are not smaller ones enlarged."""
        return True

    def scores(self, data: EvaluationData) -> list[Score]:
        """The algorithm's own scores, beside those of its samples; their names are in `own_score_names`."""
        return []

    def check_scores(self, data: EvaluationData) -> None:
        """Raises UserError where `scores` could not be taken after the training: here, where their split is missing."""
        if self.scored_split is None:
            return
        try:
            data.dataset(self.scored_split)
        except DataError as error:
            raise DataError(f"{error}; to train without scores set evaluate.metrics=[]") from None

    def vital_signs(self, examples: Callable[[int], Batch]) -> Metrics:
        """Numbers that a log row has beside the averages of its interval, taken at the interval's last step.

        Here: how varied the samples are beside the data (`diversity_signs`). An algorithm may add its own.

        Args:
            examples: n -> n evenly spaced, unvaried samples of the training set on the device, the same every time.
        """
        if not self.draws_samples:
            return {}
        real = sample_values(examples(DIVERSITY_SAMPLES))
        if len(real) < 2:
            return {}
        return diversity_signs(fixed_samples(self, len(real)), real)

    def log_lists(self, examples: Callable[[int], Batch]) -> dict[str, list[float]]:
        """Lists of numbers that a log row has beside its averages and vital signs; `examples` as of `vital_signs`."""
        return {}

    def findings(self, values: dict[str, float]) -> list[Finding]:
        """What is wrong by the numbers of one log interval; the loop tells it once it has lasted.

        Args:
            values: the log's row: averages of what `train_step` returned, "grad_norm_<optimiser>", vital signs.
        """
        collapse = collapse_finding(values, self.thresholds, self.collapse_remedy)
        judged = (collapse, saturation_finding(values, self.thresholds))
        return [finding for finding in judged if finding is not None]
