"""A run that is stopped - politely, by kill -9, in the middle of a write - goes on as if it had not been."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from training_jobs import (
    assert_same_checkpoint,
    finish,
    processes,
    run_training,
    run_training_and_die,
    start,
    tiny_config,
)

from genlab.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from genlab.errors import CheckpointError, RunError
from genlab.trainers import train

KILLS = int(os.environ.get("GENLAB_TEST_KILLS", "8"))


def last(run_dir: Path) -> Path:
    return find_checkpoint(run_dir)


def losses(run_dir: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss_d"], row["loss_g"]) for row in rows if "event" not in row]


def wait_for_checkpoint(run_dir: Path, step: int, process) -> None:
    deadline = time.monotonic() + 60
    while not any(found >= step for found, _ in list_checkpoints(run_dir / "checkpoints")):
        assert process.is_alive(), "the job ended early"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["gan.ema=null", "generator_optimizer.name=rmsprop", "discriminator_optimizer.name=sgd"],
        ["gan.regularizers.r1.interval=3", "gan.regularizers.spectral_norm=true", "train.schedule.name=cosine"],
        ["gan.discriminator_steps=2", "gan.regularizers.gradient_penalty.weight=10", "train.grad_accumulation=2"],
        ["train.precision=bf16-mixed", "train.channels_last=false", "data.flip=true"],
        ["train.precision=fp16-mixed", "train.log_every=4"],
    ],
    ids=["default", "other-optimizers", "r1-spectral", "penalty-accumulation", "bf16", "fp16"],
)
def test_n_steps_and_resuming_equal_2n_steps_bit_for_bit(tmp_path, overrides):
    common = ["train.steps=6", "train.checkpoint_every=3", *overrides]
    train(tiny_config(*common), tmp_path / "whole", evaluator=None)

    class StopAtThree(BaseException):
        pass

    from genlab.trainers import Callback

    class Stopper(Callback):
        def on_checkpoint(self, step, path):
            if step == 3:
                raise StopAtThree

    with pytest.raises(StopAtThree):
        train(tiny_config(*common), tmp_path / "parts", evaluator=None, callbacks=[Stopper()])
    assert load_checkpoint(last(tmp_path / "parts")).step == 3
    train(tiny_config(*common), tmp_path / "parts", resume="auto", evaluator=None)
    assert_same_checkpoint(last(tmp_path / "whole"), last(tmp_path / "parts"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_kill_9_and_resuming_in_new_processes_equal_an_unbroken_run(tmp_path):
    overrides = ["train.steps=120", "train.checkpoint_every=10", "train.sample_every=1000"]
    assert finish(run_training, overrides, str(tmp_path / "whole")) == 0
    process = start(run_training, overrides, str(tmp_path / "killed"))
    wait_for_checkpoint(tmp_path / "killed", 20, process)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert load_checkpoint(last(tmp_path / "killed")).step < 120
    assert finish(run_training, overrides, str(tmp_path / "killed"), "auto") == 0
    assert_same_checkpoint(last(tmp_path / "whole"), last(tmp_path / "killed"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def test_kills_at_random_moments_always_leave_a_checkpoint_that_resumes(tmp_path):
    moments = random.Random(5)
    overrides = ["train.steps=2000", "train.checkpoint_every=1", "train.sample_every=7", "train.keep_last=2"]
    run_dir, reached = tmp_path / "run", 0
    for number in range(KILLS):
        process = start(run_training, overrides, str(run_dir), "auto")
        if number % 4:  # while it trains and writes; every fourth kill hits the start instead
            wait_for_checkpoint(run_dir, reached + 1, process)
        process.join(moments.uniform(0.0, 0.15))
        process.kill()
        process.join()
        if list_checkpoints(run_dir / "checkpoints"):
            step = load_checkpoint(last(run_dir)).step
            assert step >= reached
            reached = step
    assert reached > 0
    overrides[0] = f"train.steps={reached + 5}"
    assert finish(run_training, overrides, str(run_dir), "auto") == 0
    assert finish(run_training, overrides, str(tmp_path / "whole")) == 0
    assert_same_checkpoint(last(tmp_path / "whole"), last(run_dir))
    assert not list((run_dir / "checkpoints").glob(".*")), "left-overs of killed writers"


@pytest.mark.parametrize("fatal_call", range(1, 12))
def test_a_kill_at_any_file_operation_of_a_checkpoint_leaves_a_run_that_resumes(tmp_path, fatal_call):
    overrides = ["train.steps=3", "train.checkpoint_every=1", "train.keep_last=1", "train.sample_every=100"]
    run_dir = tmp_path / "run"
    assert finish(run_training_and_die, overrides, str(run_dir), None, fatal_call) == -signal.SIGKILL
    train(tiny_config(*overrides), run_dir, resume="auto", evaluator=None)
    assert [step for step, _ in list_checkpoints(run_dir / "checkpoints")] == [3]
    train(tiny_config(*overrides), tmp_path / "whole", evaluator=None)
    assert_same_checkpoint(last(tmp_path / "whole"), last(run_dir))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_a_checkpoint_of_the_step_it_was_in(tmp_path, signum):
    overrides = ["train.steps=100000", "train.checkpoint_every=100000", "train.log_every=1"]
    outcome = processes().Queue()
    process = start(run_training, overrides, str(tmp_path / "run"), None, outcome)
    deadline = time.monotonic() + 60
    while not losses(tmp_path / "run") if (tmp_path / "run" / "log.jsonl").exists() else True:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signum)
    kind, text, number = outcome.get(timeout=60)
    process.join()
    assert (kind, number) == ("Interrupted", signum)
    step = load_checkpoint(last(tmp_path / "run")).step
    assert step == losses(tmp_path / "run")[-1][0] > 0
    assert f"step_{step:08d}.safetensors" in text


def test_a_changed_configuration_is_refused_with_every_difference(tmp_path):
    train(tiny_config("train.steps=2"), tmp_path / "run", evaluator=None)
    before = last(tmp_path / "run").read_bytes()
    changed = tiny_config("train.steps=4", "data.batch_size=16", "gan.loss=hinge", "generator_optimizer.lr=0.001")
    with pytest.raises(RunError) as caught:
        train(changed, tmp_path / "run", resume="auto", evaluator=None)
    message = str(caught.value)
    assert "data.batch_size: 8 -> 16" in message
    assert "gan.loss: 'non_saturating' -> 'hinge'" in message
    assert "generator_optimizer.lr: 0.0002 -> 0.001" in message
    assert "train.steps" not in message
    assert last(tmp_path / "run").read_bytes() == before


def test_more_steps_and_other_intervals_are_no_changed_configuration(tmp_path):
    train(tiny_config("train.steps=2"), tmp_path / "run", evaluator=None)
    result = train(
        tiny_config("train.steps=4", "train.log_every=1", "evaluate.samples=100"),
        tmp_path / "run", resume="auto", evaluator=None,
    )  # fmt: skip
    assert result.step == 4
    train(tiny_config("train.steps=4"), tmp_path / "whole", evaluator=None)
    a, b = load_checkpoint(last(tmp_path / "whole")), load_checkpoint(last(tmp_path / "run"))
    weights = [name for name in a.tensors if not name.startswith("window/")]
    assert all(a.tensors[name].equal(b.tensors[name]) for name in weights)


def test_more_steps_are_refused_where_the_learning_rate_depends_on_them(tmp_path):
    train(tiny_config("train.steps=2", "train.schedule.name=linear"), tmp_path / "run", evaluator=None)
    with pytest.raises(RunError, match=r"train\.steps: 2 -> 4"):
        train(
            tiny_config("train.steps=4", "train.schedule.name=linear"),
            tmp_path / "run", resume="auto", evaluator=None,
        )  # fmt: skip


def write_pictures(folder, count):
    from PIL import Image

    folder.mkdir()
    for number in range(count):
        Image.new("L", (28, 28), 10 * number).save(folder / f"{number}.png")


def test_a_changed_data_set_is_refused_and_a_copied_one_is_not(tmp_path):
    folder, copy = tmp_path / "pictures", tmp_path / "copy"
    write_pictures(folder, 10)
    data = ["data.name=folder", "data.holdout=0", "data.batch_size=4"]
    train(tiny_config("train.steps=2", *data, f"data.root={folder}"), tmp_path / "run", evaluator=None)
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)  # new times of change, same names and sizes
    there = tiny_config("train.steps=4", *data, f"data.root={copy}")
    assert train(there, tmp_path / "run", resume="auto", evaluator=None).step == 4
    (copy / "3.png").unlink()
    with pytest.raises(RunError, match="holds other samples"):
        train(there, tmp_path / "run", resume="auto", evaluator=None)


def test_a_checkpoint_of_another_algorithm_is_refused(tmp_path):
    from genlab.checkpoint import save_checkpoint

    train(tiny_config("train.steps=2"), tmp_path / "run", evaluator=None)
    checkpoint = load_checkpoint(last(tmp_path / "run"))
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, checkpoint.tensors, {**checkpoint.state, "algorithm": "vae"})
    with pytest.raises(CheckpointError, match=r"is of algorithm 'vae', expected 'dcgan'"):
        train(tiny_config("train.steps=4"), tmp_path / "new", resume=other, evaluator=None)


def test_a_checkpoint_file_continues_into_a_new_run_directory(tmp_path):
    train(tiny_config("train.steps=4", "train.checkpoint_every=2"), tmp_path / "old", evaluator=None)
    source = find_checkpoint(tmp_path / "old", 2)
    result = train(tiny_config("train.steps=4"), tmp_path / "new", resume=source, evaluator=None)
    assert result.run_path == tmp_path / "new"
    assert_same_checkpoint(last(tmp_path / "old"), last(tmp_path / "new"))


def test_resuming_from_an_earlier_checkpoint_drops_what_came_after_it(tmp_path):
    run_dir = tmp_path / "run"
    overrides = ["train.steps=6", "train.checkpoint_every=2", "train.keep_last=9", "train.sample_every=2"]
    train(tiny_config(*overrides), run_dir, evaluator=None)
    source = find_checkpoint(run_dir, 2)

    from genlab.trainers import Callback

    class LookAtTheStart(Callback):
        def on_start(self, trainer, run_path, total_steps):
            self.steps = [step for step, _ in list_checkpoints(run_path / "checkpoints")]
            self.pictures = sorted(path.name for path in (run_path / "samples").iterdir())
            self.rows = [step for step, _, _ in losses(run_path)]

    seen = LookAtTheStart()
    train(tiny_config(*overrides), run_dir, resume=source, callbacks=[seen], evaluator=None)
    assert seen.steps == [0, 2]
    assert seen.pictures == ["step_00000002.png"]
    assert seen.rows == [2]
    assert [step for step, _ in list_checkpoints(run_dir / "checkpoints")] == [0, 2, 4, 6]


def test_auto_begins_anew_in_a_new_directory_and_after_a_death_before_the_first_checkpoint(tmp_path):
    assert train(tiny_config("train.steps=2"), tmp_path / "new", resume="auto", evaluator=None).step == 2
    dead = tmp_path / "dead"
    dead.mkdir()
    (dead / "config.yaml").write_text("algorithm: dcgan\n")
    (dead / "log.jsonl").write_text('{"event": "environment"}\n{"step": 1, "lo')
    assert train(tiny_config("train.steps=2"), dead, resume="auto", evaluator=None).step == 2
    assert [step for step, _, _ in losses(dead)] == [2]


def test_a_finished_run_resumes_to_the_same_result(tmp_path):
    first = train(tiny_config("train.steps=2"), tmp_path / "run", evaluator=None)
    content = first.last_checkpoint.read_bytes()
    again = train(tiny_config("train.steps=2"), tmp_path / "run", resume="auto", evaluator=None)
    assert again.step == 2
    assert again.last_checkpoint.read_bytes() == content
