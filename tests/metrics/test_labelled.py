"""Scores of labelled predictions against counts by hand, and against torchmetrics where scikit-learn gives them."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch
from torchmetrics.functional import classification as torchmetrics

from genlab.classification import parse_prevalences, scores_of, uncertainty, write_tables
from genlab.classification_figures import evaluation_pictures
from genlab.errors import DataError, MetricError
from genlab.metrics.labelled import Predictions, class_table, rates

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 6, 400)
    logits = draws.normal(size=(400, 6))
    logits[np.arange(400), labels] += 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(probabilities, labels, NAMES)


def by_hand() -> Predictions:
    """Two classes: 4 of 5 positives found, 2 of 10 negatives taken for one."""
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.4, *[0.55, 0.52], *[0.3] * 8])
    return Predictions(np.stack([1 - scores, scores], 1), np.array([1] * 5 + [0] * 10), ("well", "ill"))


def test_counts_by_hand():
    found = by_hand()
    assert found.accuracy() == 12 / 15
    assert found.confusion().tolist() == [[8, 2], [1, 4]]
    precision, recall, f1 = found.precision_recall_f1()
    assert precision.tolist() == pytest.approx([8 / 9, 4 / 6])
    assert recall.tolist() == pytest.approx([8 / 10, 4 / 5])
    assert f1[1] == pytest.approx(2 * (2 / 3) * 0.8 / (2 / 3 + 0.8))
    # Pairs (ill, well) in the right order: four above all ten, 0.4 above eight.
    assert found.auc()[1] == pytest.approx((40 + 8) / 50)


def test_ppv_and_npv_follow_the_prevalence_by_bayes():
    confusion = by_hand().confusion()
    own = rates(confusion, 1)
    assert (own.sensitivity, own.specificity) == pytest.approx((0.8, 0.8))
    assert (own.ppv, own.npv, own.prevalence) == pytest.approx((4 / 6, 8 / 9, 1 / 3))
    rare = rates(confusion, 1, 0.01)
    assert rare.ppv == pytest.approx(0.008 / (0.008 + 0.198))
    assert rare.npv == pytest.approx(0.792 / (0.792 + 0.002))
    assert (rare.sensitivity, rare.specificity) == (own.sensitivity, own.specificity)
    for wrong in (0.0, 1.0, -0.1):
        with pytest.raises(MetricError, match="prevalence: expected a share between 0 and 1"):
            rates(confusion, 1, wrong)


def test_they_are_torchmetrics_numbers(predictions):
    probabilities, labels = torch.from_numpy(predictions.probabilities), torch.from_numpy(predictions.labels)
    assert predictions.macro_f1() == pytest.approx(
        float(torchmetrics.multiclass_f1_score(probabilities, labels, 6, average="macro")), rel=1e-5
    )
    assert predictions.auc() == pytest.approx(
        torchmetrics.multiclass_auroc(probabilities, labels, 6, average=None).numpy(), rel=1e-5
    )
    assert predictions.average_precision() == pytest.approx(
        torchmetrics.multiclass_average_precision(probabilities, labels, 6, average=None).numpy(), rel=1e-5
    )
    for k in (1, 2, 5):
        expected = torchmetrics.multiclass_accuracy(probabilities, labels, 6, average="micro", top_k=k)
        assert predictions.top_accuracy(k) == pytest.approx(float(expected), rel=1e-6)
    assert predictions.top_accuracy(1) == predictions.accuracy()
    assert predictions.top_accuracy(6) == 1.0
    expected = torch.nn.functional.nll_loss(probabilities.log(), labels)
    assert predictions.loss() == pytest.approx(float(expected), rel=1e-9)


def test_calibration_is_the_mean_gap_between_confidence_and_accuracy(predictions):
    rows = predictions.reliability(15)
    filled = rows[:, 2] > 0
    gap = (np.abs(rows[filled, 0] - rows[filled, 1]) * rows[filled, 2]).sum() / 400
    assert predictions.calibration_error(15) == pytest.approx(gap, abs=1e-6)
    assert rows[:, 2].sum() == 400
    sure = np.full((100, 2), 0.0)
    sure[:, 0] = 1.0
    labels = np.array([0] * 70 + [1] * 30)
    assert Predictions(sure, labels, ("a", "b")).calibration_error() == pytest.approx(0.3, abs=1e-6)


def test_a_class_without_samples_is_left_out_of_means():
    found = Predictions(np.eye(3)[[0, 1, 1]] * 0.8 + 0.2 / 3, np.array([0, 1, 0]), ("a", "b", "c"))
    assert math.isnan(found.auc()[2])
    assert found.macro_f1() == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert class_table(found)[2]["count"] == 0
    alone = Predictions(np.eye(2)[[0, 0]], np.array([0, 0]), ("a", "b"))
    assert math.isnan(alone.macro_auc())
    assert "test_auc" not in {score.name for score in scores_of(alone, "test", {})}


def test_scores_carry_their_part_and_the_deviation_of_a_proportion(predictions):
    scores = {score.name: score for score in scores_of(predictions, "test", {"real": {"count": 400}})}
    accuracy = scores["test_accuracy"]
    assert accuracy.std == pytest.approx(math.sqrt(accuracy.value * (1 - accuracy.value) / 400))
    assert accuracy.higher_is_better
    assert not scores["test_loss"].higher_is_better
    assert scores["test_top5_accuracy"].value >= accuracy.value
    assert scores["test_calibration_error"].protocol["bins"] == 15


def test_tables_hold_the_matrix_and_a_row_for_each_class(predictions, tmp_path):
    matrix, classes = write_tables(predictions, tmp_path / "new" / "evaluation", {2: 0.05})
    rows = list(csv.reader(matrix.read_text().splitlines()))
    assert rows[0] == ["label", *NAMES]
    assert [[int(value) for value in row[1:]] for row in rows[1:]] == predictions.confusion().tolist()
    table = {row["class"]: row for row in csv.DictReader(classes.read_text().splitlines())}
    assert float(table["cat"]["prevalence"]) == 0.05
    assert float(table["ant"]["auc"]) == pytest.approx(predictions.auc()[0], rel=1e-5)


def test_the_pictures_differ_with_the_predictions(predictions):
    first = evaluation_pictures(predictions)
    assert set(first) == {"confusion", "roc", "precision_recall", "reliability"}
    turned = Predictions(predictions.probabilities[:, ::-1].copy(), predictions.labels, NAMES)
    for name, picture in evaluation_pictures(turned).items():
        assert picture.dtype == torch.uint8
        assert picture.shape[0] == 3
        assert picture.shape != first[name].shape or not torch.equal(picture, first[name]), name


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.ones((2, 3)), [0, 1], r"expected probabilities \(N, 2\)"),
        (np.ones((0, 2)), [], r"at least 1"),
        (np.full((1, 2), np.nan), [0], "expected finite probabilities"),
        (np.full((1, 2), 0.5), [2], "expected labels from 0 to 1, got 2 to 2"),
    ],
)
def test_what_cannot_be_scored_is_refused(probabilities, labels, message):
    with pytest.raises(MetricError, match=message):
        Predictions(probabilities, np.array(labels, dtype=np.int64), ("a", "b"))


def test_prevalences_are_read_by_name_or_number():
    assert parse_prevalences(["cat=0.01", "0=0.5"], NAMES) == {2: 0.01, 0: 0.5}
    for wrong, message in [
        ("cat", "expected CLASS=SHARE"), ("cat=2", "share between 0 and 1"), ("cow=0.1", "expected one of ant, bee"),
        ("9=0.1", "expected one of"),
    ]:  # fmt: skip
        with pytest.raises(DataError, match=message):
            parse_prevalences([wrong], NAMES)
    with pytest.raises(DataError, match="each class once"):
        parse_prevalences(["cat=0.1", "2=0.2"], NAMES)


def test_uncertainty_splits_into_the_datas_and_the_models():
    sure_but_at_odds = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    found = uncertainty(sure_but_at_odds)
    assert found["mean"].tolist() == [[0.5, 0.5]]
    assert found["entropy"].item() == pytest.approx(math.log(2))
    assert found["information"].item() == pytest.approx(math.log(2))
    assert found["variance"].tolist() == [[0.25, 0.25]]
    in_doubt = uncertainty(torch.full((4, 1, 2), 0.5))
    assert in_doubt["entropy"].item() == pytest.approx(math.log(2))
    assert in_doubt["information"].item() == pytest.approx(0, abs=1e-6)
