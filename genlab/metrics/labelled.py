"""Scores of a classifier's probabilities: counts by scikit-learn, calibration by torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from genlab.errors import MetricError


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of labelled samples.

    Attributes:
        probabilities: float64 (N, K), rows that sum to 1.
        labels: int64 (N,) in [0, K).
        class_names: K names.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = self.probabilities.shape
        if len(shape) != 2 or shape[0] != len(self.labels) or shape[1] != len(self.class_names) or shape[0] == 0:
            raise MetricError(
                f"predictions: expected probabilities (N, {len(self.class_names)}) of N = {len(self.labels)} samples, "
                f"at least 1, got {shape}"
            )
        if not np.isfinite(self.probabilities).all():
            raise MetricError("predictions: expected finite probabilities, got NaN or Inf; the network has diverged")
        if self.labels.min() < 0 or self.labels.max() >= shape[1]:
            raise MetricError(
                f"predictions: expected labels from 0 to {shape[1] - 1}, got {self.labels.min()} to {self.labels.max()}"
            )

    @property
    def predicted(self) -> np.ndarray:
        """The likeliest class of each sample, int64 (N,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def present(self) -> np.ndarray:
        """The classes that some sample has, rising."""
        return np.unique(self.labels)

    def accuracy(self) -> float:
        return float((self.predicted == self.labels).mean())

    def top_accuracy(self, k: int) -> float:
        """Share of samples whose label is among the k likeliest classes; ties count against it."""
        of_label = self.probabilities[np.arange(len(self.labels)), self.labels]
        above = (self.probabilities >= of_label[:, None]).sum(axis=1)  # itself included
        return float((above <= k).mean())

    def loss(self) -> float:
        """Mean of -log p(label), in nats; probabilities below 1e-12 count as that."""
        of_label = self.probabilities[np.arange(len(self.labels)), self.labels]
        return float(-np.log(np.maximum(of_label, 1e-12)).mean())

    def confusion(self) -> np.ndarray:
        """Counts (K, K): row = label, column = predicted class."""
        from sklearn.metrics import confusion_matrix

        return confusion_matrix(self.labels, self.predicted, labels=np.arange(len(self.class_names)))

    def precision_recall_f1(self) -> np.ndarray:
        """(3, K): precision, recall and F1 of each class; NaN where nothing was predicted, or no sample is of it."""
        from sklearn.metrics import precision_recall_fscore_support

        every = np.arange(len(self.class_names))
        parts = precision_recall_fscore_support(self.labels, self.predicted, labels=every, zero_division=np.nan)
        return np.stack([np.asarray(part, dtype=np.float64) for part in parts[:3]])

    def macro_f1(self) -> float:
        """Mean F1 of the classes that occur; a class that is never rightly predicted counts 0."""
        return float(np.nan_to_num(self.precision_recall_f1()[2])[self.present].mean())

    def auc(self) -> np.ndarray:
        """Area under the ROC curve of each class against the rest, (K,); NaN where only one of both occurs."""
        from sklearn.metrics import roc_auc_score

        return self._of_each_class(roc_auc_score)

    def average_precision(self) -> np.ndarray:
        """Average precision (area under the precision-recall curve) of each class, (K,); NaN as of `auc`."""
        from sklearn.metrics import average_precision_score

        return self._of_each_class(average_precision_score)

    def _of_each_class(self, score) -> np.ndarray:
        values = np.full(len(self.class_names), np.nan)
        for number in self.present:
            positive = self.labels == number
            if not positive.all():
                values[number] = score(positive, self.probabilities[:, number])
        return values

    def macro_auc(self) -> float:
        """Mean `auc` of the classes that occur; NaN with a single one."""
        values = self.auc()
        return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan

    def calibration_error(self, bins: int = 15) -> float:
        """Expected calibration error: |accuracy - confidence| averaged over bins of confidence (Guo et al. 2017)."""
        import torch
        from torchmetrics.functional.classification import multiclass_calibration_error

        probabilities = torch.from_numpy(self.probabilities)
        labels = torch.from_numpy(self.labels)
        return float(multiclass_calibration_error(probabilities, labels, len(self.class_names), n_bins=bins, norm="l1"))

    def reliability(self, bins: int = 15) -> np.ndarray:
        """(bins, 3): mean confidence, accuracy and count of the samples in each bin of confidence; NaN where empty."""
        confidence, right = self.probabilities.max(axis=1), self.predicted == self.labels
        place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
        rows = np.full((bins, 3), np.nan)
        for number in range(bins):
            inside = place == number
            rows[number, 2] = inside.sum()
            if inside.any():
                rows[number, :2] = confidence[inside].mean(), right[inside].mean()
        return rows


@dataclass(frozen=True)
class Rates:
    """How a class is told from the rest, with the share of it where the classifier will be used.

    Attributes:
        sensitivity: share of its samples that are found (recall, true positive rate).
        specificity: share of the others that are not taken for it.
        ppv, npv: chance that a positive (negative) verdict is right at that prevalence.
        prevalence: share of the class.
    """

    sensitivity: float
    specificity: float
    ppv: float
    npv: float
    prevalence: float


def rates(confusion: np.ndarray, number: int, prevalence: float | None = None) -> Rates:
    """`Rates` of one class against the rest.

    PPV and NPV follow from sensitivity and specificity by Bayes' rule at any prevalence, which is why the share of the
    class among the test samples need not be that of the world.

    Args:
        confusion: (K, K), row = label.
        number: the class.
        prevalence: in (0, 1); None: that of the samples.

    Raises:
        MetricError: a prevalence outside (0, 1).
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise MetricError(f"prevalence: expected a share between 0 and 1, got {prevalence}")
    total, of_class, taken = confusion.sum(), confusion[number].sum(), confusion[:, number].sum()
    hits = confusion[number, number]
    others = total - of_class
    share = of_class / total if prevalence is None else prevalence
    sensitivity = hits / of_class if of_class else math.nan
    specificity = 1 - (taken - hits) / others if others else math.nan
    positive = sensitivity * share + (1 - specificity) * (1 - share)
    negative = specificity * (1 - share) + (1 - sensitivity) * share
    return Rates(
        float(sensitivity),
        float(specificity),
        float(sensitivity * share / positive) if positive else math.nan,
        float(specificity * (1 - share) / negative) if negative else math.nan,
        float(share),
    )


def class_table(predictions: Predictions, prevalences: Mapping[int, float] | None = None) -> list[dict[str, float]]:
    """A row for each class: count, precision, recall, F1, AUC, average precision, and its `Rates`."""
    confusion = predictions.confusion()
    precision, recall, f1 = predictions.precision_recall_f1()
    areas, averages = predictions.auc(), predictions.average_precision()
    rows = []
    for number, name in enumerate(predictions.class_names):
        own = rates(confusion, number, (prevalences or {}).get(number))
        rows.append(
            {
                "class": name,
                "count": int(confusion[number].sum()),
                "precision": precision[number],
                "recall": recall[number],
                "f1": f1[number],
                "auc": areas[number],
                "average_precision": averages[number],
                "sensitivity": own.sensitivity,
                "specificity": own.specificity,
                "ppv": own.ppv,
                "npv": own.npv,
                "prevalence": own.prevalence,
            }
        )
    return rows
