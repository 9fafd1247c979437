"""Run directories: never shared, never mixed, cut back to the step that a run resumes from."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from genlab.config import load_config
from genlab.errors import RunError
from genlab.runs import JsonLines, RunDirectory, default_run_directory, latest_run_directory


@pytest.fixture
def config():
    return load_config("dcgan_tiny")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_new_run_has_its_configuration_and_folders(tmp_path, config):
    run = RunDirectory.create(tmp_path / "a" / "run", config)
    run.close()
    assert load_config(run.config_path) == config
    assert run.checkpoints.is_dir()
    assert (run.path / "samples").is_dir()


def test_a_used_directory_is_refused_and_left_alone(tmp_path, config):
    run = RunDirectory.create(tmp_path / "run", config)
    run.log.append({"step": 1})
    run.close()
    before = sorted(path.name for path in run.path.iterdir())
    with pytest.raises(RunError, match="expected a new or empty folder, got one in use.*--resume auto"):
        RunDirectory.create(tmp_path / "run", config)
    assert sorted(path.name for path in run.path.iterdir()) == before
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="got one in use"):
        RunDirectory.create(tmp_path / "home", config)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="expected a folder, got a file"):
        RunDirectory.create(tmp_path / "file", config)


def test_an_empty_directory_and_the_traces_of_a_dead_start_are_taken(tmp_path, config):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / ".config.yaml.partial").write_text("algo")
    RunDirectory.create(tmp_path / "run", config).close()


def test_two_processes_cannot_train_in_one_directory(tmp_path, config):
    first = RunDirectory.create(tmp_path / "run", config)
    with pytest.raises(RunError, match="another process trains in it"):
        RunDirectory.open(tmp_path / "run")
    first.close()
    RunDirectory.open(tmp_path / "run").close()


def test_opening_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"expected a run \(config\.yaml\), found none"):
        RunDirectory.open(tmp_path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path, config):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file/run: cannot be written"):
        RunDirectory.create(tmp_path / "file" / "run", config)


def test_rows_are_on_disk_when_append_returns(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    log.append({"event": "environment"})
    log.append({"step": 1, "loss": 0.1})
    assert rows(log.path) == [{"event": "environment"}, {"step": 1, "loss": 0.1}]


def test_a_full_disk_is_named(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"log\.jsonl: cannot be written \(No space left on device\)"):
        JsonLines(tmp_path / "log.jsonl").append({"step": 1})


def test_truncating_keeps_earlier_rows_and_events_and_drops_half_a_line(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    for row in ({"event": "environment"}, {"step": 2}, {"event": "note", "step": 4}, {"step": 4}, {"step": 6}):
        log.append(row)
    with open(log.path, "a") as file:
        file.write('{"step": 3, "lo')
    log.truncate_after(4)
    assert rows(log.path) == [{"event": "environment"}, {"step": 2}, {"event": "note", "step": 4}, {"step": 4}]


def test_rewinding_forgets_pictures_scores_and_checkpoints_of_later_steps(tmp_path, config):
    run = RunDirectory.create(tmp_path / "run", config)
    for step in (5, 10):
        run.sample_path(step).write_text("png")
        run.metrics.append({"step": step, "name": "fid"})
        (run.checkpoints / f"step_{step:08d}.safetensors").write_text("")
    (run.path / "samples" / "step_by_hand.png").write_text("mine")
    run.rewind(5)
    run.close()
    assert sorted(p.name for p in (run.path / "samples").iterdir()) == ["step_00000005.png", "step_by_hand.png"]
    assert rows(run.metrics.path) == [{"step": 5, "name": "fid"}]
    assert os.listdir(run.checkpoints) == ["step_00000005.safetensors"]


def test_tensorboard_gets_the_curves(tmp_path, config):
    run = RunDirectory.create(tmp_path / "run", config)
    assert not (run.path / "tensorboard").exists(), "the writer waits for its first number"
    run.add_scalars(3, {"loss_d": 1.25})
    run.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss_d")] == [(3, 1.25)]


def test_names_of_runs_count_up_and_the_latest_is_found(tmp_path):
    assert default_run_directory("dcgan_digits", tmp_path / "runs") == tmp_path / "runs" / "dcgan_digits-1"
    assert latest_run_directory("dcgan_digits", tmp_path) is None
    for name in ("dcgan_digits-2", "dcgan_digits-10", "dcgan_digits-x", "other-99"):
        (tmp_path / name).mkdir()
    assert default_run_directory("dcgan_digits", tmp_path) == tmp_path / "dcgan_digits-11"
    assert latest_run_directory("dcgan_digits", tmp_path) == tmp_path / "dcgan_digits-10"


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, config, monkeypatch):
    import fcntl

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    RunDirectory.create(tmp_path / "run", config).close()
