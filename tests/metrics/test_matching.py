"""The best one-to-one matching of values to classes."""

from __future__ import annotations

import itertools

import pytest
import torch

from genlab.metrics.matching import matching_error


def test_a_permuted_perfect_code_has_no_error_and_names_the_permutation():
    labels = torch.randint(10, (500,))
    permutation = torch.randperm(10)
    error, matched = matching_error(permutation[labels], labels, 10, 10)
    assert error == 0
    assert matched == permutation.argsort().tolist()


def test_the_matching_is_the_best_of_all():
    values, labels = torch.randint(4, (60,)), torch.randint(4, (60,))
    error, _ = matching_error(values, labels, 4, 4)
    best = max(
        sum(int(((values == v) & (labels == c)).sum()) for v, c in enumerate(order))
        for order in itertools.permutations(range(4))
    )
    assert error == pytest.approx(1 - best / 60)


def test_values_without_a_class_and_classes_without_a_value_count_as_wrong():
    labels = torch.tensor([0, 0, 1, 1])
    error, matched = matching_error(torch.tensor([0, 1, 2, 2]), labels, 3, 2)
    assert (error, matched[2]) == (0.25, 1)
    assert sorted(map(str, matched)) == ["0", "1", "None"]
    assert matching_error(torch.zeros(4, dtype=torch.int64), labels, 1, 2)[0] == 0.5


def test_nothing_to_match_is_refused():
    with pytest.raises(ValueError, match=r"expected values and labels \(N >= 1,\)"):
        matching_error(torch.zeros(0), torch.zeros(0), 2, 2)
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2,\)"):
        matching_error(torch.zeros(3), torch.zeros(2), 2, 2)
