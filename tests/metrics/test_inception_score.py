import numpy as np
import pytest
import torch

from genlab.errors import MetricError
from genlab.metrics import InceptionScore


def score(logits, *, splits=10, batch=16, permutation_seed=None):
    accumulator = InceptionScore(len(logits), splits, permutation_seed)
    for part in logits.split(batch):
        accumulator.update(part)
    return accumulator.compute()


def written_out(logits, splits):
    """Salimans et al.'s formula over whole arrays."""
    p = torch.softmax(logits.double(), dim=1).numpy()
    scores = []
    for i in range(splits):
        part = p[i * len(p) // splits : (i + 1) * len(p) // splits]
        kl = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(np.exp(kl.sum(axis=1).mean()))
    return np.mean(scores), np.std(scores)


@pytest.mark.parametrize("classes", [2, 10, 1008])
def test_equal_predictions_score_one(classes):
    mean, std = score(torch.ones(50, classes))
    assert (mean, std) == (pytest.approx(1.0, abs=1e-12), pytest.approx(0.0, abs=1e-12))


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_certain_predictions_of_all_classes_score_their_number(classes):
    logits = 1e4 * torch.eye(classes).repeat(20, 1)
    mean, std = score(logits, splits=4)
    assert (mean, std) == (pytest.approx(classes, rel=1e-12), pytest.approx(0.0, abs=1e-9))


@pytest.mark.parametrize(("count", "splits"), [(200, 10), (203, 10), (50, 1), (10, 10)])
def test_agrees_with_the_formula_over_the_whole_array(count, splits):
    logits = 3 * torch.randn(count, 7)
    assert score(logits, splits=splits) == pytest.approx(written_out(logits, splits), rel=1e-10)


@pytest.mark.parametrize("permutation_seed", [None, 5])
def test_batch_size_does_not_matter(permutation_seed):
    logits = 3 * torch.randn(97, 5)
    whole = score(logits, batch=97, permutation_seed=permutation_seed)
    assert score(logits, batch=3, permutation_seed=permutation_seed) == pytest.approx(whole, rel=1e-12)


def test_images_sorted_by_class_need_the_permutation():
    logits = 1e3 * torch.eye(10).repeat_interleave(100, dim=0)
    assert score(logits)[0] == pytest.approx(1.0)
    assert score(logits, permutation_seed=0)[0] > 9.5


def test_a_repeated_run_gives_the_same_numbers():
    logits = torch.randn(60, 4)
    assert score(logits, permutation_seed=3) == score(logits, permutation_seed=3)
    assert score(logits, permutation_seed=3) != score(logits, permutation_seed=4)


def test_errors_name_the_counts():
    with pytest.raises(MetricError, match=r"per split \(10\), got 9"):
        InceptionScore(9, 10)
    accumulator = InceptionScore(20, 2)
    accumulator.update(torch.zeros(5, 3))
    with pytest.raises(MetricError, match="expected 20 images, got 5"):
        accumulator.compute()
    with pytest.raises(MetricError, match="got more"):
        accumulator.update(torch.zeros(16, 3))
    with pytest.raises(MetricError, match=r"got \(2, 4\)"):
        accumulator.update(torch.zeros(2, 4))
    with pytest.raises(MetricError, match="NaN or Inf"):
        accumulator.update(torch.full((1, 3), float("nan")))
