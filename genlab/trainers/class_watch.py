"""Which classes the samples of a training are of, as a judge that is at hand names them.

The judge is the classifier of the data set that evaluations use too (`genlab.trainers.evaluation.judge_name`): it is
taken from the cache or from the run that `evaluate.extractor` names, and never trained here. In the first row of the
log after each `train.sample_every` steps, "class_counts" tells how many of the same draws of noise it puts into each
class. A generator that grows is judged once the data's resolution is faded in: a judge knows no enlarged pictures.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from genlab.errors import UserError
from genlab.seeding import generator
from genlab.trainers.diagnosis import DIVERSITY_SAMPLES, Finding, fixed_samples, missing_classes

if TYPE_CHECKING:
    from genlab.data import ImageDataset
    from genlab.metrics import FeatureExtractor
    from genlab.trainers.base import Trainer

PER_CLASS = 16  # samples for each class, of which chance leaves none out: (1 - 1/K)^(16 K) = 1e-7
MOST_SAMPLES = 512
MISSING_FROM = 8  # samples for each class from which one may be called missing


@dataclass(frozen=True)
class SetFacts:
    """What looking for a judge asks of the set that it is trained on, without the set's pictures."""

    name: str
    kind: str
    image_shape: tuple[int, ...]
    num_classes: int | None
    class_names: list[str] | None
    fingerprint: str
    count: int

    @classmethod
    def of(cls, dataset: ImageDataset) -> SetFacts:
        names = (field.name for field in fields(cls) if field.name != "count")
        return cls(**{name: getattr(dataset, name) for name in names}, count=len(dataset))

    def __len__(self) -> int:
        return self.count


class ClassWatch:
    """Counts the classes of a trainer's samples.

    Args:
        trainer: what is watched.
        dataset: what it is trained on; None: nothing is counted.
    """

    def __init__(self, trainer: Trainer, dataset: ImageDataset | None) -> None:
        self.trainer, self._dataset = trainer, dataset
        labelled = dataset is not None and trainer.data.kind == "images" and (trainer.data.num_classes or 0) > 1
        self.watches = labelled and trainer.draws_samples
        self._judge: FeatureExtractor | None = None

    @property
    def sample_count(self) -> int:
        """How many samples are judged at a time."""
        return min(MOST_SAMPLES, max(DIVERSITY_SAMPLES, PER_CLASS * (self.trainer.data.num_classes or 0)))

    def note(self) -> str | None:
        """Why there are no counts and what helps, in words; None where there are some, or nothing to count."""
        if not self.watches:
            return None
        try:
            if self.judge() is not None:
                return None
            reason = f"no judge of {self.trainer.data.name} has been trained yet"
        except UserError as error:
            reason = str(error)
        return (
            f"class_counts: {reason}, so the rows of the log do not say which classes the samples are of. `genlab "
            "evaluate RUN --metrics modes` trains the judge once for all runs, as does an evaluation "
            "(evaluate.every); or name a classifier's run as evaluate.extractor"
        )

    def due(self) -> bool:
        """Whether samples are judged, and `train.sample_every` steps have passed since the last row that could say."""
        train, step = self.trainer.config.train, self.trainer.step
        passed = step // train.sample_every > max(0, step - train.log_every) // train.sample_every
        return self.watches and self.trainer.samples_at_full_size and (passed or step >= train.steps)

    def lists(self) -> dict[str, list[float]]:
        """{"class_counts": samples of each class}, or {} where they are not due or no judge is at hand."""
        if not self.due():
            return {}
        try:
            judge = self.judge()
        except UserError:  # which `note` has told
            return {}
        if judge is None:
            return {}
        counts = torch.zeros(self.trainer.data.num_classes or 0, dtype=torch.int64)
        draws, left = generator(self.trainer.config.seed, "diagnosis"), self.sample_count
        while left:
            images = fixed_samples(self.trainer, min(left, DIVERSITY_SAMPLES), draws)
            _, logits = judge(images)
            assert logits is not None
            counts += torch.bincount(logits.argmax(dim=1).cpu(), minlength=len(counts))
            left -= len(images)
        return {"class_counts": counts.tolist()}

    def judge(self) -> FeatureExtractor | None:
        """The judge, or None while the data set's own has not been trained; looked for again at each call.

        Raises:
            UserError: `evaluate.extractor` names one that cannot judge this data set.
        """
        if self._judge is None:
            from genlab.trainers.evaluation import judge_at_hand

            self._judge = judge_at_hand(self.trainer.config, self.trainer.device, self._training_set_facts)
        return self._judge

    @functools.cached_property
    def _training_set_facts(self) -> SetFacts:
        """Of what the judge is trained on: read once, though the judge is looked for many times, and then let go."""
        from genlab.trainers.evaluation import whole_training_set

        return SetFacts.of(whole_training_set(self.trainer.config, self._dataset))

    def finding(self, history: list[list[int]]) -> Finding | None:
        """What the counts leave out.

        Args:
            history: the last counts and those before them, oldest first.
        """
        if not history or sum(history[-1]) < MISSING_FROM * len(history[-1]):
            return None
        counts, names = history[-1], self.trainer.data.class_names
        total = sum(counts)
        called = [names[number] if names else str(number) for number in range(len(counts))]
        helps = "a regulariser of the discriminator, gan.regularizers.manifold_entropy, or a Wasserstein loss"
        if len(history) > 1 and max(counts) == total and _only(counts) == _only(history[-2]):
            text = (
                f"the samples have collapsed to one class: the judge calls all {total} of them {called[_only(counts)]}"
            )
            return Finding("collapse", f"{text}, as it did the time before. What helps: {helps}")
        missing = missing_classes(counts, names, self.trainer.thresholds)
        if not missing:
            return None
        seen = f"hardly any of classes {', '.join(missing)} among {total} samples, says the judge"
        return Finding("classes", f"classes are missing: {seen}. What helps: {helps}", serious=False, patience=1)


def _only(counts: list[int]) -> int:
    """The class that all samples are of; -1 where they are of several."""
    return counts.index(max(counts)) if max(counts) == sum(counts) else -1


def evaluation_row(step: int, protocol: dict[str, Any]) -> dict[str, Any]:
    """The row of the log that tells the histogram of an evaluation's samples, of the protocol of "class_kl"."""
    facts = {"class_counts": protocol["histogram"], "judge": protocol.get("extractor")}
    return {"event": "classes", "step": step, **facts, "samples": sum(protocol["histogram"])}
