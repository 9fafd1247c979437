"""The class histogram of a training's samples: counted live by a judge that is at hand and never trained."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_jobs import tiny_config

from genlab import data
from genlab.checkpoint import load_checkpoint
from genlab.config import load_config
from genlab.errors import MetricError
from genlab.metrics import Score
from genlab.metrics.extractors import trained
from genlab.metrics.extractors.base import FeatureExtractor
from genlab.report import write_report
from genlab.trainers import DataSpec, train
from genlab.trainers.autoencoder import AutoencoderTrainer
from genlab.trainers.cgan import CganTrainer
from genlab.trainers.class_watch import ClassWatch, SetFacts
from genlab.trainers.dcgan import DcganTrainer
from genlab.trainers.diagnosis import Diagnosis, Thresholds
from genlab.trainers.evaluation import DatasetEvaluator, EvaluationData, judge_name, score_trainer
from genlab.trainers.progressive import ProgressiveTrainer

EAGER = Thresholds(warmup_steps=0, late_steps=0, nearest=0.0, diversity=0.0)
ROWS = ["train.log_every=2", "train.sample_every=4", "train.steps=8", "train.checkpoint_every=4"]
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
DIGITS = DataSpec("digits", "images", (1, 28, 28), 10, tuple(NAMES))


class Threes(FeatureExtractor):
    """Calls every picture a three, or each by the share of its bright pixels."""

    name, hash, dim, num_classes, channels, resize, device = "threes", "0", 1, 10, 1, "none", torch.device("cpu")
    accuracy = 1.0

    def __init__(self, always: bool = True) -> None:
        self.always = always

    def prepare(self, images):
        return images.float()

    def forward(self, images, logits):
        means = images.flatten(1).mean(1)
        numbers = torch.full((len(images),), 3) if self.always else (means * 7919).long() % 10
        return means[:, None], torch.nn.functional.one_hot(numbers, 10).float()


@pytest.fixture
def at_hand(monkeypatch):
    """A judge in the cache, without its training."""

    def put(judge: FeatureExtractor | None) -> None:
        monkeypatch.setattr(trained, "classifier_at_hand", lambda train, device, seed=0: judge)

    monkeypatch.setattr(trained, "_train", lambda *_: pytest.fail("a judge was trained"))
    return put


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def watch_of(names: tuple[str, ...] | None = DIGITS.class_names) -> ClassWatch:
    trainer = DcganTrainer(tiny_config(), replace(DIGITS, class_names=names))
    return ClassWatch(trainer, data.build(trainer.config.data, "train"))


def test_rows_hold_the_counts_at_every_grid_of_samples_and_at_the_end(tmp_path, at_hand):
    at_hand(Threes(always=False))
    train(tiny_config(*ROWS, "train.steps=10"), tmp_path / "run", evaluator=None)
    rows = [row for row in log_of(tmp_path / "run") if "event" not in row]
    assert [row["step"] for row in rows if "class_counts" in row] == [4, 8, 10]
    for row in rows:
        if "class_counts" in row:
            assert sum(row["class_counts"]) == 160 and len(row["class_counts"]) == 10
    assert not [row for row in log_of(tmp_path / "run") if "class_counts:" in row.get("text", "")]


def test_rows_that_no_grid_falls_on_hold_the_counts_of_the_grid_before_them(tmp_path, at_hand):
    at_hand(Threes(always=False))
    train(tiny_config(*ROWS, "train.log_every=3", "train.steps=9"), tmp_path / "run", evaluator=None)
    assert [row["step"] for row in log_of(tmp_path / "run") if "class_counts" in row] == [6, 9]


def test_without_a_judge_the_log_says_once_how_to_get_one_and_none_is_trained(tmp_path, at_hand):
    at_hand(None)
    train(tiny_config(*ROWS), tmp_path / "run", evaluator=None)
    train(tiny_config(*ROWS, "train.steps=10"), tmp_path / "run", resume="auto", evaluator=None)
    log = log_of(tmp_path / "run")
    (note,) = [row["text"] for row in log if row.get("event") == "note" and row["text"].startswith("class_counts")]
    assert "no judge of digits has been trained yet" in note
    assert "`genlab evaluate RUN --metrics modes` trains the judge" in note
    assert not [row for row in log if "class_counts" in row]


def test_the_cached_classifier_is_the_judge_once_an_evaluation_has_trained_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    config = tiny_config("data.limit=500")
    trainer = DcganTrainer(config, DIGITS)
    watch = ClassWatch(trainer, data.build(config.data, "train"))
    assert watch.judge() is None and "no judge" in watch.note()
    recipe = trained._recipe
    monkeypatch.setattr(trained, "_recipe", lambda *args: replace(recipe(*args), images_seen=640))
    judge = EvaluationData(config, torch.device("cpu"), 10).judge()
    assert watch.judge().hash == judge.hash, "of the whole set, though the run sees a part of it"
    assert watch.note() is None


def test_the_whole_training_set_is_read_once_for_the_judge_and_not_kept(at_hand, monkeypatch):
    config = tiny_config("data.limit=500")
    watch = ClassWatch(DcganTrainer(config, DIGITS), data.build(config.data, "train"))
    build, whole = data.build, []

    def remember(*arguments):
        dataset = build(*arguments)
        whole.append((weakref.ref(dataset), len(dataset)))
        return dataset

    monkeypatch.setattr(data, "build", remember)
    at_hand(None)
    assert watch.judge() is None and watch.judge() is None
    gc.collect()
    ((kept, count),) = whole
    assert kept() is None and count > 500
    at_hand(Threes())
    assert watch.judge() is not None and len(whole) == 1


def test_the_facts_of_a_set_say_which_judge_is_its_own():
    dataset = data.build(tiny_config().data, "train")
    facts = SetFacts.of(dataset)
    assert len(facts) == len(dataset)
    whole, known = (trained._plan("classifier", one, 0) for one in (dataset, facts))
    assert whole == known and trained._place(*whole, dataset) == trained._place(*known, facts)


def test_pictures_that_are_enlarged_are_not_judged(tmp_path, at_hand, monkeypatch):
    """Growing ends with step 7: two steps at 4 px, four of the fade to 8 px, the data's."""
    at_hand(Threes())
    monkeypatch.setattr(ProgressiveTrainer, "thresholds", EAGER)
    often = ["train.log_every=1", "train.sample_every=1", "train.steps=12", "train.on_collapse=stop"]
    config = load_config("progressive_tiny", [*often, "train.tensorboard=false"])
    with pytest.raises(Exception, match="collapsed to one class"):
        train(config, tmp_path / "run", evaluator=None)
    rows = [row for row in log_of(tmp_path / "run") if "event" not in row]
    counted = [row for row in rows if "class_counts" in row]
    assert [row["step"] for row in counted][:2] == [7, 8]
    assert all((row["resolution"], row["fade_in"]) == (8, 1) for row in counted)
    assert {(row["resolution"], row["fade_in"]) for row in rows} >= {(4, 1), (8, 0.5)}


def test_counting_changes_nothing_of_the_training(tmp_path, at_hand):
    for name, judge in (("counted", Threes(always=False)), ("not", None)):
        at_hand(judge)
        train(tiny_config(*ROWS), tmp_path / name, evaluator=None)
    one, other = (
        load_checkpoint(tmp_path / name / "checkpoints" / "step_00000008.safetensors") for name in ("counted", "not")
    )
    assert [name for name in one.tensors if not torch.equal(one.tensors[name], other.tensors[name])] == []


def test_classes_that_are_missing_are_named_and_are_not_serious():
    finding = watch_of().finding([[20, 20, 0, 20, 20, 20, 1, 20, 20, 19]])
    assert (finding.what, finding.serious) == ("classes", False)
    assert "hardly any of classes two, six among 160 samples, says the judge" in finding.text
    assert watch_of().finding([[16] * 10]) is None
    assert "classes 2, 6 among" in watch_of(None).finding([[20, 20, 0, 20, 20, 20, 1, 20, 20, 19]]).text


def test_too_few_samples_for_each_class_say_nothing_of_the_rare_ones():
    assert watch_of().finding([[0, *[8] * 9]]) is None
    assert watch_of().finding([[0, *[9] * 9]]) is not None


def test_one_class_alone_is_a_serious_collapse_when_it_is_seen_twice():
    threes, ones, mixed = [0, 0, 0, 160, *[0] * 6], [0, 160, *[0] * 8], [80, 80, *[0] * 8]
    finding = watch_of().finding([threes, threes])
    assert (finding.what, finding.serious) == ("collapse", True)
    assert "the judge calls all 160 of them three, as it did the time before" in finding.text
    for history in ([threes], [ones, threes], [mixed, threes], [threes, mixed]):
        assert not watch_of().finding(history).serious


def test_a_training_that_makes_one_class_is_told_and_stopped(tmp_path, at_hand, monkeypatch):
    at_hand(Threes())
    monkeypatch.setattr(DcganTrainer, "thresholds", EAGER)
    train(tiny_config(*ROWS, "train.steps=20"), tmp_path / "run", evaluator=None)
    told = [(row["step"], row["what"]) for row in log_of(tmp_path / "run") if row.get("event") == "diagnosis"]
    assert told == [(4, "classes"), (12, "collapse")]
    with pytest.raises(Exception, match="step 12: the samples have collapsed to one class: the judge calls all 160"):
        train(tiny_config(*ROWS, "train.steps=20", "train.on_collapse=stop"), tmp_path / "stopped", evaluator=None)


def test_a_generator_that_has_not_come_to_life_is_not_judged(at_hand):
    trainer = DcganTrainer(tiny_config(), DIGITS)
    diagnosis = Diagnosis(trainer, None, data.build(trainer.config.data, "train"))
    diagnosis.state["classes"] = [[0, 0, 0, 160, *[0] * 6]]
    assert diagnosis.judge(400, {"diversity": 0.2, "diversity_nearest": 0.2}) == []
    assert diagnosis.judge(4000, {"loss_labelled": 0.2}) == [], "no part of a training that has labels alone"
    assert [found.what for found in diagnosis.judge(420, {"diversity": 0.8, "diversity_nearest": 0.8})] == ["classes"]


def test_evaluations_leave_their_histogram_in_the_log_and_the_report(tmp_path, at_hand):
    at_hand(Threes(always=False))
    histogram = [5] * 9 + [55]

    def evaluator(trainer, step):
        return [Score("class_kl[judge]", 0.3, None, {"histogram": histogram, "extractor": "judge"})]

    train(tiny_config(*ROWS, "evaluate.every=4"), tmp_path / "run", evaluator=evaluator)
    rows = [row for row in log_of(tmp_path / "run") if row.get("event") == "classes"]
    assert [(row["step"], row["class_counts"], row["judge"], row["samples"]) for row in rows] == [
        (step, histogram, "judge", 100) for step in (4, 8)
    ]
    page = write_report(tmp_path / "run").read_text()
    assert "class_counts at evaluations" in page
    assert "<title>step 8, 9: 55</title>" in page


def test_sets_without_classes_and_trainers_without_samples_are_not_watched():
    dataset = data.build(tiny_config().data, "train")
    assert not ClassWatch(DcganTrainer(tiny_config(), replace(DIGITS, num_classes=None)), dataset).watches
    config = load_config("autoencoder_tiny", [])
    assert not ClassWatch(AutoencoderTrainer(config, replace(DIGITS, shape=(1, 16, 16))), dataset).watches


# Who judges.


def cgan_config(*overrides: str):
    return load_config("cgan_tiny", ["train.steps=1", "evaluate.samples=20", "evaluate.metrics=[own]", *overrides])


def test_features_without_classes_are_no_judge(tmp_path):
    for name in ("pixels", "rotation"):
        with pytest.raises(MetricError, match=rf"extractor '{name}': expected one that names the data set's classes"):
            train(cgan_config(f"evaluate.extractor={name}"), tmp_path / name)
        assert not (tmp_path / name).exists(), "before the training"
    assert judge_name("auto") == judge_name("inception") == "classifier"


def test_the_extractor_that_is_asked_for_judges_the_agreement(tmp_path):
    settings = ["train.steps=2", "data.image_size=28", "train.tensorboard=false", "evaluate.metrics=[own]"]
    train(load_config("classifier_tiny", settings), tmp_path / "judge")
    config = cgan_config(f"evaluate.extractor={tmp_path / 'judge'}")
    trainer = CganTrainer(config, DIGITS)
    DatasetEvaluator().check(trainer)
    (score,) = DatasetEvaluator()(trainer, 0)
    assert (score.name, score.protocol["run"]) == ("judge_agreement", "judge")
    (score,) = score_trainer(CganTrainer(cgan_config(), DIGITS), extractor=str(tmp_path / "judge"))
    assert score.protocol["run"] == "judge"


def test_a_judge_of_other_classes_is_refused(tmp_path):
    settings = ["train.steps=2", "data.image_size=28", "data.classes=[0,1,2]", "evaluate.metrics=[own]"]
    train(load_config("classifier_tiny", [*settings, "train.tensorboard=false"]), tmp_path / "judge")
    with pytest.raises(MetricError, match=r"expected a classifier of the .*classes of digits"):
        train(cgan_config(f"evaluate.extractor={tmp_path / 'judge'}"), tmp_path / "run")
