"""Losses that are not finite, full disks, directories in use: one clear line, and the last checkpoint is whole."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess

import pytest
import torch
from training_jobs import assert_same_checkpoint, tiny_config

from genlab import data
from genlab.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from genlab.errors import RunError, UserError
from genlab.trainers import Callback, train


@pytest.fixture
def poison(monkeypatch):
    """Makes the batches with the given numbers hold a NaN, as a broken file would."""

    def spoil(*numbers: int) -> None:
        original = data.BatchStream.__next__

        def next_batch(stream):
            number = stream.batches_consumed
            batch = original(stream)
            if number in numbers:
                batch["image"] = batch["image"].clone()
                batch["image"][0, 0, 0, 0] = float("nan")
            return batch

        monkeypatch.setattr(data.BatchStream, "__next__", next_batch)

    return spoil


def rows(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


def finite(path) -> bool:
    return all(torch.isfinite(t).all() for t in load_checkpoint(path).tensors.values() if t.is_floating_point())


def test_a_nan_stops_the_run_naming_step_batch_and_loss(tmp_path, poison):
    poison(5)
    with pytest.raises(RunError) as caught:
        train(tiny_config("train.checkpoint_every=2"), tmp_path / "run", evaluator=None)
    message = str(caught.value)
    assert message.startswith("step 6, batch 5: ")
    assert "loss_d" in message
    assert "train.on_nan=rollback" in message
    assert "\n" not in message
    last = find_checkpoint(tmp_path / "run")
    assert str(last) in message
    assert load_checkpoint(last).step == 4
    assert finite(last)


def test_rollback_goes_back_leaves_the_batch_out_and_finishes(tmp_path, poison):
    poison(5)
    events = []

    class Watch(Callback):
        def on_event(self, row):
            events.append(row)

    config = tiny_config("train.checkpoint_every=2", "train.on_nan=rollback", "train.log_every=1")
    result = train(config, tmp_path / "run", evaluator=None, callbacks=[Watch()])
    assert result.step == 8
    assert finite(result.last_checkpoint)
    checkpoint = load_checkpoint(result.last_checkpoint)
    assert checkpoint.state["progress"]["skipped"] == [5]
    assert checkpoint.state["stream"]["batches_consumed"] == 9, "eight batches were trained on and one was left out"
    rollback = [row for row in events if row["event"] == "rollback"]
    assert [(row["step"], row["fault_step"], row["batches"]) for row in rollback] == [(4, 6, [5])]
    assert [row["step"] for row in rows(tmp_path / "run") if "event" not in row] == list(range(1, 9))


def test_rollback_gives_up_after_its_limit(tmp_path, poison):
    poison(*range(3, 50))
    config = tiny_config("train.checkpoint_every=2", "train.on_nan=rollback", "train.max_rollbacks=2")
    with pytest.raises(RunError, match=r"step 4, batch 5: .*after 2 rollbacks \(train\.max_rollbacks\)"):
        train(config, tmp_path / "run", evaluator=None)
    assert finite(find_checkpoint(tmp_path / "run"))


def test_a_nan_between_log_steps_is_found_before_a_checkpoint_of_it_is_written(tmp_path, poison, monkeypatch):
    """On a GPU the losses are read only where something is written; the step is named all the same."""
    from genlab.trainers.loop import Loop

    poison(2)
    original = Loop._rolled_back

    def as_on_a_gpu(loop, check_weights):
        return original(loop, check_weights) if loop.trainer.step % 4 == 0 else False

    monkeypatch.setattr(Loop, "_rolled_back", as_on_a_gpu)
    with pytest.raises(RunError, match="step 3, batch 2: "):
        train(tiny_config("train.log_every=4", "train.checkpoint_every=4"), tmp_path / "run", evaluator=None)
    assert [step for step, _ in list_checkpoints(tmp_path / "run" / "checkpoints")] == [0]


def test_weights_that_broke_under_finite_losses_are_found_before_a_checkpoint_of_them_is_written(tmp_path, monkeypatch):
    from genlab.trainers.dcgan import DcganTrainer

    original = DcganTrainer.advance

    def overflow(trainer, *batches):
        metrics = original(trainer, *batches)
        if trainer.step == 4:
            next(trainer.networks["generator"].parameters()).data[0] = float("inf")
        return metrics

    monkeypatch.setattr(DcganTrainer, "advance", overflow)
    with pytest.raises(RunError, match="step 4, batch 3: weights of generator: expected a finite number"):
        train(tiny_config("train.checkpoint_every=2"), tmp_path / "run", evaluator=None)
    assert load_checkpoint(find_checkpoint(tmp_path / "run")).step == 2
    assert finite(find_checkpoint(tmp_path / "run"))


def test_a_used_run_directory_is_refused_before_anything_is_computed(tmp_path):
    train(tiny_config("train.steps=2"), tmp_path / "run", evaluator=None)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="got one in use; continue that run with --resume auto"):
        train(tiny_config("train.steps=2"), tmp_path / "run", evaluator=None)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_file_size_limit_of_the_system_leaves_the_last_checkpoint_whole(tmp_path):
    """A write that the kernel really refuses, in the middle of a checkpoint."""
    run_dir = tmp_path / "run"
    train(tiny_config("train.steps=2"), run_dir, evaluator=None)
    before = find_checkpoint(run_dir).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(RunError, match="checkpoint .*step_00000004.safetensors: cannot be written"):
            train(tiny_config("train.steps=4"), run_dir, resume="auto", evaluator=None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert find_checkpoint(run_dir).read_bytes() == before
    assert not list((run_dir / "checkpoints").glob(".*"))
    assert train(tiny_config("train.steps=4"), run_dir, resume="auto", evaluator=None).step == 4


def test_a_full_file_system_leaves_a_checkpoint_that_resumes_when_there_is_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        config = tiny_config("train.steps=40", "train.checkpoint_every=1", "train.keep_last=40")
        with pytest.raises(RunError, match="No space left on device"):
            train(config, disk / "run", evaluator=None)
        step = load_checkpoint(find_checkpoint(disk / "run")).step
        assert step >= 1
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert train(config, disk / "run", resume="auto", evaluator=None).step == 40
        train(config, tmp_path / "whole", evaluator=None)
        assert_same_checkpoint(find_checkpoint(tmp_path / "whole"), find_checkpoint(disk / "run"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("victim", ["save_grid", "JsonLines.append"])
def test_a_full_disk_under_pictures_and_logs_is_a_users_error(tmp_path, monkeypatch, victim):
    import builtins

    import genlab.trainers.recorder as recorder

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if victim == "save_grid":
        monkeypatch.setattr(recorder, "save_grid", full)
    else:
        genuine = builtins.open
        monkeypatch.setattr(
            builtins, "open", lambda file, *a, **k: full() if "log.jsonl" in str(file) else genuine(file, *a, **k)
        )
    with pytest.raises(RunError, match="No space left on device.*--resume auto"):
        train(tiny_config(), tmp_path / "run", evaluator=None)
    for _, path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        load_checkpoint(path)


def test_a_run_directory_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file/run: cannot be written"):
        train(tiny_config(), tmp_path / "file" / "run", evaluator=None)


def test_missing_kernels_are_an_error_where_they_are_required(tmp_path, monkeypatch):
    from genlab import _extension

    monkeypatch.setattr(_extension, "_module", None)
    monkeypatch.setattr(_extension, "_failure", "genlab._C is not built; run `genlab build`")
    for setting in ("kernels.require=true", "kernels.impl=native"):
        with pytest.raises(RunError, match=f"{setting}: genlab._C is not built; run `genlab build`"):
            train(tiny_config(setting), tmp_path / "run", evaluator=None)
    assert not (tmp_path / "run").exists()
    assert train(tiny_config("train.steps=1"), tmp_path / "run", evaluator=None).step == 1


def test_a_batch_larger_than_the_set_is_refused_before_a_run_directory_is_made(tmp_path):
    with pytest.raises(UserError, match=r"data\.batch_size: expected 1 to 1500"):
        train(tiny_config("data.batch_size=4000"), tmp_path / "run", evaluator=None)
    assert not (tmp_path / "run").exists()


def test_a_signal_in_the_last_seconds_of_an_evaluation_stops_it(tmp_path):
    """The evaluation's progress is where a wish to stop is heard; the run then resumes and makes up for it."""
    import signal

    from genlab.runs import Interrupted

    class Score:
        name, value, std, higher_is_better, protocol = "fid", 1.0, None, False, {}

        def to_json(self):
            return {"name": self.name, "value": self.value, "std": None, "protocol": {}}

    def evaluator(trainer, step):
        os.kill(os.getpid(), signal.SIGTERM)
        return [Score()]

    with pytest.raises(Interrupted) as caught:
        train(tiny_config("train.steps=4", "evaluate.every=2"), tmp_path / "run", evaluator=evaluator)
    assert caught.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    config = tiny_config("train.steps=4", "evaluate.every=2")
    result = train(config, tmp_path / "run", resume="auto", evaluator=lambda *_: [Score()])
    assert result.step == 4
    assert [row["step"] for row in result.last_scores] == [4]
