"""An evaluation that could not be done is refused before a model is trained, and by the same rules as afterwards."""

from __future__ import annotations

import pytest

from genlab.config import DataConfig, EvaluateConfig
from genlab.errors import UserError
from genlab.metrics import METRICS, Protocol, check_evaluation, extractors
from genlab.metrics.extractors import trained

DIGITS = DataConfig(name="digits", image_size=16)
DOMAINS = DataConfig(name="two_domains", image_size=16, limit=200)
RING = DataConfig(name="ring")


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    def refuse(*_):
        raise AssertionError("a check must not train")

    monkeypatch.setattr(trained, "_train", refuse)


@pytest.mark.parametrize(
    ("data", "metrics"), [(DIGITS, ["fid", "is", "modes"]), (DOMAINS, ["fid", "kid"]), (RING, ["modes", "fid"])]
)
def test_without_names_the_metrics_are_those_that_the_set_can_give(data, metrics):
    assert check_evaluation(data, EvaluateConfig()) == metrics


@pytest.mark.parametrize(
    ("data", "settings", "parts"),
    [
        (DOMAINS, {"metrics": ["is"]}, ["evaluate.metrics: is: expected", "leave 'is' out"]),
        (DOMAINS, {"metrics": ["modes"]}, ["modes: expected", "points"]),
        (RING, {"metrics": ["is"]}, ["is: expected"]),
        (RING, {"extractor": "classifier"}, ["'classifier'", "points"]),
        (DOMAINS, {"extractor": "classifier"}, ["'classifier'", "without"]),
        (DIGITS, {"extractor": "inceptoin"}, ["did you mean 'inception'"]),
        (DIGITS, {"samples": 64}, ["evaluate.samples", "at least 65", "got 64"]),
        (DIGITS, {"samples": 9, "metrics": ["is"]}, ["evaluate.samples", "at least 10"]),
        (DIGITS, {"samples": 5, "metrics": ["prdc"]}, ["evaluate.samples", "at least 6"]),
        (DIGITS.model_copy(update={"limit": 50}), {}, ["evaluate.real_split=train", "at least 65", "got 50"]),
        (DIGITS, {"real_split": "tset"}, ["split", "'tset'"]),
        (DIGITS, {"select": "kid"}, ["evaluate.select", "fid, frechet, is", "'kid'"]),
    ],
)
def test_an_evaluation_that_cannot_be_done_is_refused(data, settings, parts):
    with pytest.raises(UserError) as caught:
        check_evaluation(data, EvaluateConfig(**settings))
    assert all(part in str(caught.value) for part in parts), caught.value


def test_missing_inception_weights_are_found(monkeypatch, tmp_path):
    monkeypatch.setenv("GENLAB_INCEPTION_WEIGHTS", str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="none.pth"):
        check_evaluation(DIGITS, EvaluateConfig(extractor="inception"))


def test_every_metric_has_its_needs_and_names_and_a_place_in_the_configuration():
    assert all(metric.names and metric.fewest(64)[1] >= 1 for metric in METRICS.values())
    assert METRICS["is"].fewest(64) == (0, Protocol().is_splits)
    names = [name for metric in METRICS.values() for name in metric.names]
    assert len(set(names)) == len(names)
    assert EvaluateConfig(metrics=[*METRICS, "own"]).metrics == [*METRICS, "own"]


def test_what_is_announced_of_a_network_is_what_it_has(monkeypatch, classifier, digits):
    announced = extractors.announce("auto", digits[0])
    assert announced == (classifier.name, classifier.dim, classifier.num_classes, False)
