"""How generated images spread over classes: the divergence, and the metric "modes" with a classifier as the judge."""

from __future__ import annotations

import math

import pytest
import torch

from genlab.errors import MetricError
from genlab.metrics import FeatureExtractor, evaluate
from genlab.metrics.classes import class_coverage


class Brightness(FeatureExtractor):
    """Names four classes by the mean of a picture."""

    name, hash, dim, num_classes, channels = "brightness", "0" * 64, 2, 4, 1
    resize, device = "none", torch.device("cpu")

    def prepare(self, images):
        return images.float() / 256

    def forward(self, images, logits):
        mean = images.mean((1, 2, 3))
        features = torch.stack([mean, mean.square()], dim=1)
        return features, -(mean[:, None] * 4 - 0.5 - torch.arange(4)).abs() if logits else None


def test_the_divergence_is_that_of_the_histograms():
    covered, divergence = class_coverage(torch.tensor([30, 10, 0]), torch.tensor([1, 1, 2]))
    assert covered == 2
    assert divergence == pytest.approx(0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.25))
    assert class_coverage(torch.tensor([5, 5, 10]), torch.tensor([1, 1, 2])) == (3, 0.0)
    assert class_coverage(torch.tensor([0, 7]), torch.ones(2)) == (1, pytest.approx(math.log(2)))


@pytest.mark.parametrize(
    ("counts", "reference"), [([1, 2], [1, 1, 1]), ([0, 0], [1, 1]), ([1, 1], [1, 0])], ids=["shape", "none", "zero"]
)
def test_counts_that_say_nothing_are_refused(counts, reference):
    with pytest.raises(MetricError, match="class_coverage"):
        class_coverage(torch.tensor(counts), torch.tensor(reference))


def test_the_metric_counts_what_the_judge_names():
    shades = torch.tensor([0, 0, 70, 255, 255, 255], dtype=torch.uint8)  # classes 0, 0, 1, 3, 3, 3
    images = shades[:, None, None, None].expand(6, 1, 4, 4)
    modes, divergence = evaluate(None, images, Brightness(), ["modes"], batch_size=4)
    assert (modes.name, modes.value) == ("modes[brightness]", 3)
    assert modes.higher_is_better
    assert not divergence.higher_is_better
    assert divergence.protocol["histogram"] == [2, 1, 0, 3]
    share = torch.tensor([2, 1, 3]) / 6
    assert divergence.name == "class_kl[brightness]"
    assert divergence.value == pytest.approx(float((share * (share / 0.25).log()).sum()), abs=1e-6)
