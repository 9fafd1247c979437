"""How well values that were found without labels match classes: the best assignment of one to the other."""

from __future__ import annotations

import torch
from torch import Tensor


def matching_error(
    values: Tensor, labels: Tensor, value_count: int, num_classes: int
) -> tuple[float, list[int | None]]:
    """Share of samples that the best one-to-one matching of values to classes names wrongly.

    The matching is the assignment with the most right samples (Hungarian method). Samples whose value has no class, as
    where there are more values than classes, count as wrong.

    Args:
        values: int64 (N,), what was found in each sample, below `value_count`.
        labels: int64 (N,), its class, below `num_classes`.
        value_count, num_classes: how many of each there are.

    Returns:
        (error in [0, 1], class of each value or None).

    Raises:
        ValueError: no samples, or tensors of two lengths.

    Example:
        >>> matching_error(torch.tensor([1, 1, 0, 2]), torch.tensor([0, 0, 2, 1]), 3, 3)
        (0.0, [2, 0, 1])
    """
    from scipy.optimize import linear_sum_assignment

    if values.shape != labels.shape or values.dim() != 1 or not len(values):
        raise ValueError(
            f"matching_error: expected values and labels (N >= 1,), got {tuple(values.shape)} and {tuple(labels.shape)}"
        )
    pairs = torch.bincount(values.long() * num_classes + labels.long(), minlength=value_count * num_classes)
    counts = pairs.reshape(value_count, num_classes)
    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    matched = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    right = sum(int(counts[value, label]) for value, label in matched.items())
    return 1 - right / len(values), [matched.get(value) for value in range(value_count)]
