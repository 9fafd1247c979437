"""Scores of a trainer's samples, as the loop takes them, and which checkpoint they call the best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from genlab.config import RunConfig
from genlab.errors import MetricError
from genlab.trainers.base import Trainer

if TYPE_CHECKING:
    from genlab.data import ImageDataset
    from genlab.data.text_vocabulary import TextCodec
    from genlab.metrics import FeatureExtractor, Score
    from genlab.trainers.class_watch import SetFacts

Progress = Callable[[str, int, "int | None"], None]


def _silent(what: str, done: int, total: int | None) -> None:
    """Progress that nobody watches."""


class EvaluationStopped(Exception):
    """Raised from a progress function to leave an evaluation early, because somebody asked the run to stop."""


class Evaluator(Protocol):
    """Anything that scores a trainer at a step."""

    def __call__(self, trainer: Trainer, step: int) -> Sequence[Score]: ...


@dataclass
class EvaluationData:
    """What an algorithm takes its own scores with.

    Attributes:
        config: of the run.
        device: where networks run.
        samples: images that a score may draw (`evaluate.samples`).
        seed: of everything random in the scores.
        progress: called with (what, done, total).
        extractor: name, or an extractor at hand, that a judge is to be; None: that of `config.evaluate`.
    """

    config: RunConfig
    device: torch.device
    samples: int
    seed: int = 0
    progress: Progress = _silent
    extractor: str | FeatureExtractor | None = None
    _judge: FeatureExtractor | None = None

    @property
    def batch_size(self) -> int:
        return self.config.evaluate.batch_size

    def dataset(self, split: str = "test", codec: TextCodec | None = None) -> ImageDataset:
        """A split of the run's data set, whole and unvaried.

        Args:
            split: part of the set.
            codec: of text, in place of the one that `data.vocabulary` names.

        Raises:
            DataError: the set has no such split.
        """
        from genlab import data

        config = self.config.data.model_copy(update={"limit": None})
        return data.build(config if codec is None else config.with_codec(codec), split)

    def generator(self) -> torch.Generator:
        """A CPU generator in the same state every time."""
        return torch.Generator().manual_seed(self.seed)

    def judge(self) -> FeatureExtractor:
        """The classifier that `judge_name` says; the data set's own is trained on its first use and cached.

        Calling it gives (features, logits); `accuracy`, `hash` and `describe()` belong into a score's protocol.

        Raises:
            UserError: an extractor that does not name the classes of the run's data set.
        """
        if self._judge is None:
            from genlab import metrics
            from genlab.metrics.extractors.run import RunExtractor
            from genlab.metrics.extractors.trained import TrainedExtractor

            given = self.extractor or self.config.evaluate.extractor
            name = judge_name(given)
            if isinstance(given, (RunExtractor, TrainedExtractor)):
                self._judge = given
            else:
                data, device = self.config.data, self.device
                self._judge = metrics.resolve_for(data, name, device=device, progress=self.progress)
        return self._judge

    def check_judge(self) -> None:
        """Raises UserError where `judge` would; trains nothing."""
        if judge_name(self.extractor or self.config.evaluate.extractor) != "classifier":
            self.judge()


def judge_name(extractor: str | FeatureExtractor) -> str:
    """Who names the classes of samples where features come from `extractor`: "classifier" or a classifier's run.

    Inception's classes are those of photographs: beside it the data set's own classifier judges.

    Raises:
        MetricError: an extractor without classes.
    """
    if isinstance(extractor, str):
        given, names_classes = extractor, extractor not in ("pixels", "rotation")
        judge = "classifier" if extractor in ("auto", "classifier", "inception") else extractor
    else:
        given, names_classes, judge = extractor.name, extractor.num_classes is not None, "classifier"
    if not names_classes:
        raise MetricError(
            f"extractor {given!r}: expected one that names the data set's classes (auto, classifier, or a run of "
            "algorithm classifier), because it is to judge samples, got one without classes; take another, or leave "
            "own out of the metrics"
        )
    return judge


def whole_training_set(config: RunConfig, dataset: ImageDataset) -> ImageDataset:
    """The train split that a judge is trained on: `dataset`, what the run is trained on, where that is all of it.

    Raises:
        UserError: a set without a train split.
    """
    from genlab import data

    if config.data.limit is None and config.data.split == "train":
        return dataset
    return data.build(config.data.model_copy(update={"limit": None}), "train")


def judge_at_hand(config: RunConfig, device: torch.device, train: SetFacts) -> FeatureExtractor | None:
    """The judge that `EvaluationData.judge` would give, where nothing has to be trained for it; else None.

    Args:
        config: of the run.
        device: where it runs.
        train: facts of `whole_training_set`.

    Raises:
        UserError: an extractor that does not name the classes of the data set.
    """
    from genlab.metrics import resolve
    from genlab.metrics.extractors.trained import classifier_at_hand

    name = judge_name(config.evaluate.extractor)
    return (
        classifier_at_hand(train, device=device) if name == "classifier" else resolve(name, train=train, device=device)
    )


def planned_metrics(config: RunConfig) -> tuple[list[str] | None, bool]:
    """(metrics of the samples, or None for the defaults; whether the algorithm's own scores are taken).

    Raises:
        MetricError: metrics of samples, of an algorithm that makes none from noise.
    """
    return split_metrics(config.evaluate.metrics, config.algorithm)


def split_metrics(wanted: Sequence[str] | None, algorithm: str) -> tuple[list[str] | None, bool]:
    """As `planned_metrics`, for a list of metrics that may hold "own"."""
    from genlab.trainers import ALGORITHMS

    draws_samples = ALGORITHMS.get(algorithm).draws_samples
    if wanted is None:
        return (None if draws_samples else []), True
    of_samples = [metric for metric in wanted if metric != "own"]
    if of_samples and not draws_samples:
        raise MetricError(
            f"evaluate.metrics: expected own, got {', '.join(of_samples)}: algorithm {algorithm} makes no images from "
            "noise alone"
        )
    return of_samples, "own" in wanted


def _is_judged(config: RunConfig) -> bool:
    from genlab.trainers import ALGORITHMS

    return "judge_agreement" in ALGORITHMS.get(config.algorithm).own_score_names


def score_trainer(
    trainer: Trainer,
    *,
    metrics: Sequence[str] | None = None,
    extractor: str | FeatureExtractor | None = None,
    inception_weights: Path | None = None,
    samples: int | None = None,
    split: str | None = None,
    seed: int = 0,
    facts: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[Score]:
    """Scores of a trainer's samples against its data, then the algorithm's own.

    Args:
        trainer: of a run or rebuilt from a checkpoint.
        metrics: of "fid", "is", "kid", "prdc", "modes" and "own"; default: the run's `evaluate.metrics`.
        extractor: name, or an extractor at hand; default: the run's.
        inception_weights: Inception's file.
        samples: images drawn; default: the run's.
        split: of the data set that samples are compared with; default: the run's.
        seed: of sampling, splits and subsets.
        facts: further entries of every protocol, such as step and checkpoint.
        progress: called with (what, done, total).
    """
    from genlab import metrics as scoring  # imports scikit-learn and torchvision: only where something is evaluated

    config = trainer.config
    settings = config.evaluate
    count = samples or settings.samples
    of_samples, own = split_metrics(settings.metrics if metrics is None else metrics, config.algorithm)
    data = EvaluationData(config, trainer.device, count, seed, progress or _silent, extractor)
    if own and _is_judged(config):
        data.check_judge()
    scores: list[Score] = []
    if of_samples != []:
        scores += scoring.evaluate_generator(
            trainer.sample,
            config.data,
            extractor=extractor or settings.extractor,
            metrics=of_samples,
            samples=count,
            split=split or settings.real_split,
            batch_size=settings.batch_size,
            weights=inception_weights,
            device=trainer.device,
            protocol=scoring.Protocol(seed=seed),
            facts=facts,
            progress=progress,
        )
    if own:
        for score in trainer.scores(data):
            scores.append(dataclasses.replace(score, protocol={**score.protocol, **(facts or {})}))
    return scores


class DatasetEvaluator:
    """Scores a trainer against its run's data set, as `config.evaluate` says.

    The feature extractor is resolved once, at the first evaluation; the offline ones are trained then and cached.

    Args:
        progress: called with (what, done, total); may raise `EvaluationStopped`.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._extractor: FeatureExtractor | None = None

    def check(self, trainer: Trainer) -> None:
        """Raises UserError where the evaluation that is asked for could not be done after the training."""
        from genlab.metrics import check_evaluation
        from genlab.trainers import ALGORITHMS

        config, device = trainer.config, trainer.device
        of_samples, own = planned_metrics(config)
        names = ALGORITHMS.get(config.algorithm).own_score_names if own else ()
        check_evaluation(config.data, config.evaluate, of_samples, own_names=names, device=device)
        if own:
            data = EvaluationData(config, device, config.evaluate.samples)
            trainer.check_scores(data)
            if _is_judged(config):
                data.check_judge()

    def __call__(self, trainer: Trainer, step: int) -> Sequence[Score]:
        from genlab import metrics

        config = trainer.config
        of_samples, _ = planned_metrics(config)
        if self._extractor is None and of_samples != []:
            self._extractor = metrics.resolve_for(
                config.data, config.evaluate.extractor, device=trainer.device, progress=self._progress
            )
        facts = {"step": step, "weights": "ema" if trainer.ema and trainer.use_ema else "raw"}
        return score_trainer(trainer, extractor=self._extractor, facts=facts, progress=self._progress)


def selecting_score(scores: Sequence[Score], wanted: str | None) -> Score | None:
    """The score that decides which checkpoint is best: the one called `wanted` (with or without "[extractor]").

    Without a wish it is the first; "fid" also means a Frechet distance in other features. None where "none" is wanted,
    where there are no scores, or the value is not finite.
    """
    if wanted == "none":
        return None
    aliases = {"fid": "frechet"}
    for score in scores:
        kind = score.name.split("[")[0]
        if wanted is None or wanted in (score.name, kind) or aliases.get(wanted) == kind:
            return score if math.isfinite(score.value) else None
    return None
