"""What a run leaves behind: logs, pictures, scores, the best checkpoint, and what observers hear."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
import torch
from PIL import Image
from training_jobs import tiny_config

from genlab.checkpoint import find_checkpoint, load_checkpoint
from genlab.errors import CheckpointError, UserError
from genlab.trainers import Callback, train
from genlab.trainers.evaluation import selecting_score

pytestmark = pytest.mark.usefixtures("empty_cache")  # a judge at hand would change the log


@dataclass
class Score:
    name: str
    value: float
    higher_is_better: bool = False
    std: float | None = None
    protocol: dict = field(default_factory=dict)

    def to_json(self) -> dict:
        return {"name": self.name, "value": self.value, "std": self.std, "protocol": self.protocol}


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def scripted(values: dict[int, float], name: str = "frechet[x]", higher: bool = False):
    return lambda trainer, step: [Score(name, values[step], higher), Score("is[x]", 1.0, True)]


def test_a_run_leaves_its_files_and_its_result_names_them(tmp_path):
    config = tiny_config("train.keep_last=2", "train.tensorboard=true")
    result = train(config, tmp_path / "run", evaluator=scripted({8: 3.0}))
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock") == [
        "checkpoints", "config.yaml", "log.jsonl", "metrics.jsonl", "samples", "tensorboard",
    ]  # fmt: skip
    log = rows(tmp_path / "run" / "log.jsonl")
    assert log[0]["event"] == "environment"
    assert {"genlab", "torch", "device", "threads", "batch_size", "parameters"} <= log[0].keys()
    assert [row["step"] for row in log if "event" not in row] == [2, 4, 6, 8]
    assert log[-1]["images"] == 64
    assert {"time", "loss_d", "loss_g", "learning_rate", "images_per_second"} <= log[-1].keys()
    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir()) == [
        "step_00000004.png", "step_00000008.png",
    ]  # fmt: skip
    assert Image.open(result.samples).mode == "L"
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "best.safetensors", "step_00000004.safetensors", "step_00000008.safetensors",
    ]  # fmt: skip
    assert (result.step, result.best_step) == (8, 8)
    assert result.last_checkpoint == find_checkpoint(tmp_path / "run")
    assert result.best_checkpoint == find_checkpoint(tmp_path / "run", "best")
    assert result.last_scores == rows(tmp_path / "run" / "metrics.jsonl")
    assert result.last_scores[0] == {
        "step": 8, "checkpoint": "step_00000008.safetensors", "name": "frechet[x]", "value": 3.0, "std": None,
        "protocol": {},
    }  # fmt: skip


@pytest.mark.parametrize(("higher", "best"), [(False, 4), (True, 6)])
def test_the_best_checkpoint_is_that_of_the_best_score_and_outlives_the_others(tmp_path, higher, best):
    values = {2: 5.0, 4: 1.0, 6: 9.0, 8: 3.0}
    config = tiny_config("evaluate.every=2", "train.keep_last=1", "train.checkpoint_every=8")
    result = train(config, tmp_path / "run", evaluator=scripted(values, higher=higher))
    assert result.best_step == best
    assert load_checkpoint(result.best_checkpoint).step == best
    assert load_checkpoint(result.last_checkpoint).step == 8
    assert result.best_scores[0]["value"] == values[best]
    assert result.last_scores[0]["value"] == values[8]


def test_no_checkpoint_is_called_the_best_where_none_is_to_be_selected(tmp_path):
    config = tiny_config("evaluate.every=4", "evaluate.select=none")
    result = train(config, tmp_path / "run", evaluator=scripted({4: 2.0, 8: 1.0}))
    assert (result.best_step, result.best_checkpoint, result.best_scores) == (None, None, [])
    assert result.last_scores[0]["value"] == 1.0
    with pytest.raises(CheckpointError, match="expected a best checkpoint, found none.*evaluate.select is none"):
        find_checkpoint(tmp_path / "run", "best")


def test_a_best_checkpoint_of_before_is_forgotten_where_none_is_selected_any_more(tmp_path):
    assert train(tiny_config("train.steps=2"), tmp_path / "run", evaluator=scripted({2: 1.0})).best_step == 2
    config = tiny_config("train.steps=4", "evaluate.select=none")
    result = train(config, tmp_path / "run", resume="auto", evaluator=scripted({4: 2.0}))
    assert (result.best_step, result.best_checkpoint) == (None, None)
    assert not (tmp_path / "run" / "checkpoints" / "best.safetensors").exists()


def test_a_kill_between_the_best_checkpoint_and_its_mark_is_mended_on_resuming(tmp_path):
    config = tiny_config("train.steps=2")
    train(config, tmp_path / "run", evaluator=scripted({2: 1.0}))
    best = tmp_path / "run" / "checkpoints" / "best.safetensors"
    best.unlink()
    result = train(config, tmp_path / "run", resume="auto", evaluator=scripted({2: 1.0}))
    assert result.best_checkpoint == best
    assert load_checkpoint(best).step == 2


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_lost_best_checkpoint_does_not_stop_a_resume_and_is_told(tmp_path, damage):
    config = tiny_config("train.steps=4", "evaluate.every=2", "train.keep_last=1")
    values = {2: 1.0, 4: 5.0, 6: 7.0}
    best = train(config, tmp_path / "run", evaluator=scripted(values)).best_checkpoint
    content = best.read_bytes()
    best.unlink()
    if damage == "truncated":
        best.write_bytes(content[: len(content) // 2])
    more = tiny_config("train.steps=6", "evaluate.every=2", "train.keep_last=1")
    result = train(more, tmp_path / "run", resume="auto", evaluator=scripted(values))
    assert result.best_step == load_checkpoint(best).step == 6, "the next evaluation names a new one"
    notes = [row["text"] for row in rows(tmp_path / "run" / "log.jsonl") if row.get("event") == "note"]
    assert len([text for text in notes if "best checkpoint, of step 2, is lost" in text]) == 1


def test_a_missed_last_evaluation_is_made_up_for(tmp_path):
    config = tiny_config("train.steps=2")
    assert train(config, tmp_path / "run", evaluator=None).last_scores == []
    result = train(config, tmp_path / "run", resume="auto", evaluator=scripted({2: 1.5}))
    assert result.last_scores[0]["value"] == 1.5
    asked = []
    train(config, tmp_path / "run", resume="auto", evaluator=lambda *_: asked.append(1))
    assert asked == [], "and is not taken twice"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(None, "frechet[x]"), ("fid", "frechet[x]"), ("is", "is[x]"), ("is[x]", "is[x]"), ("kid", None), ("none", None)],
)
def test_the_selecting_score_is_found_by_metric_or_name(wanted, expected):
    found = selecting_score([Score("frechet[x]", 1.0), Score("is[x]", 2.0)], wanted)
    assert (found.name if found else None) == expected


def test_a_score_that_is_not_finite_selects_nothing():
    assert selecting_score([Score("fid", float("nan"))], None) is None


def test_samples_use_the_same_noise_at_every_step(tmp_path, monkeypatch):
    latents = []
    from genlab.trainers.dcgan import DcganTrainer

    decode = DcganTrainer.decode
    monkeypatch.setattr(DcganTrainer, "decode", lambda self, z, labels=None: (latents.append(z), decode(self, z))[1])
    train(tiny_config(), tmp_path / "run", evaluator=None)
    latents = [z for z in latents if len(z) == 4]  # the diagnosis draws more of them
    assert len(latents) == 2
    assert torch.equal(latents[0], latents[1])


def test_looking_does_not_change_the_training(tmp_path):
    """Samples, scores, logs and checkpoints at other times, with an evaluator that uses up random numbers."""

    def greedy(trainer, step):
        torch.manual_seed(step)
        torch.rand(100)
        trainer.sample(4, torch.Generator().manual_seed(step))
        return [Score("fid", 1.0)]

    quiet = train(tiny_config("train.sample_every=100", "train.log_every=100"), tmp_path / "a", evaluator=None)
    busy = train(
        tiny_config("train.sample_every=1", "train.log_every=1", "evaluate.every=1", "train.checkpoint_every=1"),
        tmp_path / "b",
        evaluator=greedy,
    )
    a, b = load_checkpoint(quiet.last_checkpoint), load_checkpoint(busy.last_checkpoint)
    names = [name for name in a.tensors if not name.startswith("window/")]
    assert [name for name in names if not torch.equal(a.tensors[name], b.tensors[name])] == []


def test_observers_hear_everything_in_order(tmp_path):
    heard = []

    class Recorder(Callback):
        def on_start(self, trainer, run_path, total_steps):
            heard.append(("start", trainer.step, total_steps))

        def on_step(self, step, metrics):
            heard.append(("step", step, None if metrics is None else "loss_d" in metrics))

        def on_samples(self, step, path):
            assert path.exists()
            heard.append(("samples", step))

        def on_scores(self, step, scores):
            heard.append(("scores", step))

        def on_checkpoint(self, step, path):
            load_checkpoint(path)
            heard.append(("checkpoint", step))

        def on_end(self, trainer):
            heard.append(("end", trainer.step))

    config = tiny_config("train.steps=2", "train.log_every=2", "train.sample_every=2", "train.checkpoint_every=2")
    train(config, tmp_path / "run", evaluator=scripted({2: 1.0}), callbacks=[Recorder()])
    assert heard == [
        ("start", 0, 2), ("checkpoint", 0), ("step", 1, None), ("step", 2, True), ("samples", 2), ("checkpoint", 2),
        ("scores", 2), ("checkpoint", 2), ("end", 2),
    ]  # fmt: skip


def test_no_metrics_mean_no_evaluation(tmp_path):
    result = train(tiny_config("train.steps=1", "evaluate.metrics=[]"), tmp_path / "run")
    assert result.last_scores == []
    assert result.best_checkpoint is None
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_evaluation_that_cannot_be_done_is_refused_before_the_run_begins(tmp_path):
    with pytest.raises(UserError, match="evaluate.samples: expected at least 65"):
        train(tiny_config("train.steps=1", "evaluate.samples=20"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_the_data_set_decided_is_in_the_log(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(20):
        Image.new("L", (28, 28), 10 * number).save(folder / f"{number}.png")
    train(tiny_config("train.steps=1", "data.name=folder", f"data.root={folder}"), tmp_path / "run", evaluator=None)
    notes = [row["text"] for row in rows(tmp_path / "run" / "log.jsonl") if row.get("event") == "note"]
    assert len(notes) == 1 and "test" in notes[0]


def test_the_log_says_which_kernels_run(tmp_path):
    train(tiny_config("train.steps=1", "kernels.impl=torch"), tmp_path / "run", evaluator=None)
    environment = rows(tmp_path / "run" / "log.jsonl")[0]
    assert environment["kernels"] == "torch, as kernels.impl asks"
    assert environment["precision"] == "fp32"


def test_speed_is_that_of_training_without_evaluations(tmp_path, monkeypatch):
    from genlab.trainers import recorder

    clock = [0.0]
    monkeypatch.setattr(recorder.time, "monotonic", lambda: clock[0])

    class Clock(Callback):
        def on_step(self, step, metrics):
            clock[0] += 1.0

    def slow_evaluator(trainer, step):
        clock[0] += 1000.0
        return [Score("frechet[x]", 1.0)]

    config = tiny_config("train.steps=4", "train.log_every=2", "evaluate.every=2")
    train(config, tmp_path / "run", evaluator=slow_evaluator, callbacks=[Clock()])
    last = rows(tmp_path / "run" / "log.jsonl")[-1]
    assert last["images_per_second"] == 8.0, "two steps of eight images in two seconds"
    assert last["time"] > 1000


def test_a_resumed_run_records_its_environment_again(tmp_path):
    train(tiny_config("train.steps=2"), tmp_path / "run", evaluator=None)
    train(tiny_config("train.steps=4"), tmp_path / "run", resume="auto", evaluator=None)
    log = rows(tmp_path / "run" / "log.jsonl")
    assert [row.get("event", row.get("step")) for row in log] == ["environment", "note", 2, "resume", "environment", 4]


def test_logged_losses_are_the_means_of_their_interval(tmp_path):
    train(tiny_config("train.log_every=1"), tmp_path / "each", evaluator=None)
    train(tiny_config("train.log_every=4"), tmp_path / "four", evaluator=None)
    each, four = (
        [row["loss_g"] for row in rows(tmp_path / name / "log.jsonl") if "event" not in row]
        for name in ("each", "four")
    )
    assert four == pytest.approx([sum(each[:4]) / 4, sum(each[4:]) / 4], rel=1e-12)


def test_the_runs_own_data_are_the_default_reference(tmp_path):
    config = tiny_config("train.steps=1", "evaluate.samples=120", "evaluate.extractor=pixels", "evaluate.metrics=[kid]")
    result = train(config, tmp_path / "run")
    assert [row["name"].split("[")[0] for row in result.last_scores] == ["kid"]
    assert result.last_scores[0]["protocol"]["fake"]["step"] == 1
    assert result.best_step == 1
