"""How generated images spread over the classes of their data, as a classifier names them."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.errors import MetricError


def class_coverage(counts: Tensor, reference: Tensor) -> tuple[int, float]:
    """Classes that occur among generated images, and how far their histogram is from the real one.

    As Che et al. 2017 ("Mode Regularized GANs", section 4.2) and Srivastava et al. 2017 ("VEEGAN", section 5.2) count
    the modes of (stacked) MNIST: a class is covered by one image that the judge puts into it; the distance is
    KL(generated || reference) in nats, 0 for equal histograms.

    Args:
        counts: generated images in each class, shape (num_classes,).
        reference: weights of the classes in the real data, shape (num_classes,), all above 0.

    Returns:
        (covered classes, divergence in nats).

    Raises:
        MetricError: shapes disagree, no images, or a class without weight.
    """
    if counts.ndim != 1 or counts.shape != reference.shape or counts.sum() <= 0 or reference.min() <= 0:
        raise MetricError(
            f"class_coverage: expected counts and positive weights of the same classes, got {counts.tolist()} and "
            f"{reference.tolist()}"
        )
    share, real = (values.double() / values.double().sum() for values in (counts, reference))
    divergence = float((torch.special.xlogy(share, share) - torch.special.xlogy(share, real)).sum())
    return int((counts > 0).sum()), max(0.0, divergence)
