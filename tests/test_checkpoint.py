"""Checkpoint files: exact, atomic, verified, and never executed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from genlab import checkpoint as module
from genlab.checkpoint import (
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    mark_best,
    prune_checkpoints,
    remove_partial_files,
    save_checkpoint,
)
from genlab.errors import CheckpointError, RunError

STATE = {"step": 3, "algorithm": "dcgan", "pi": 3.141592653589793, "nested": {"tiny": 5e-324, "list": [1, None, True]}}


def example_tensors() -> dict[str, torch.Tensor]:
    shared = torch.randn(4)
    return {
        "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "zero_dim": torch.tensor(7, dtype=torch.int64),
        "empty": torch.empty(0, 3),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "half": torch.randn(3).half(),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
        "slice": torch.randn(6, 6)[::2, 1:4],
        "tied_a": shared,
        "tied_b": shared,
    }


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "step_00000003.safetensors"
    save_checkpoint(path, example_tensors(), STATE)
    return path


def test_what_is_saved_comes_back_exactly(tmp_path):
    tensors = example_tensors()
    save_checkpoint(tmp_path / "a.safetensors", tensors, STATE)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(loaded.tensors[name], tensor, rtol=0, atol=0, equal_nan=True)
        assert loaded.tensors[name].dtype == tensor.dtype
    assert {key: loaded.state[key] for key in STATE} == STATE
    assert loaded.step == 3


def test_a_file_cut_at_any_length_is_refused(file):
    content = file.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1]:
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"truncated or damaged|empty file|another kind of file"):
            load_checkpoint(file)


def test_a_flipped_bit_anywhere_is_refused(file):
    content = bytearray(file.read_bytes())
    for position in range(8, len(content), 37):
        content[position] ^= 4
        file.write_bytes(content)
        with pytest.raises(CheckpointError):
            load_checkpoint(file)
        content[position] ^= 4
    file.write_bytes(content)
    load_checkpoint(file)


class Attack:
    """A pickle that would create a file when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_with_code_in_it_is_refused_without_running_it(tmp_path, protocol):
    victim, path = tmp_path / "victim", tmp_path / "step_00000001.safetensors"
    path.write_bytes(pickle.dumps(Attack(victim), protocol=protocol))
    with pytest.raises(CheckpointError, match="a pickle, which can run code|another kind of file") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not victim.exists()
    pickle.loads(path.read_bytes())
    assert victim.exists(), "the attack is real"


def test_a_file_of_torch_save_with_code_in_it_is_refused_without_running_it(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "model.pt"
    torch.save({"weights": torch.zeros(2), "attack": Attack(victim)}, path)
    with pytest.raises(CheckpointError, match="a pickle, which can run code"):
        load_checkpoint(path)
    assert not victim.exists()


@pytest.mark.parametrize("content", [b"", b"hello world, this is text", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(64)])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(path)):
        load_checkpoint(path)


def test_a_header_that_claims_gigabytes_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b'{"a": 1}')
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_checkpoint(path)


def test_safetensors_of_others_are_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, str(tmp_path / "x.safetensors"))
    with pytest.raises(CheckpointError, match="got other safetensors"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_another_format_version_names_both_and_who_wrote_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FORMAT_VERSION", 99)
    save_checkpoint(tmp_path / "x.safetensors", {}, {**STATE, "versions": {"genlab": "7.0"}})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"expected format version 1, got 99; .*that wrote it \(7\.0\)"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="expected a file, got a folder"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_whole_and_nothing_else(file, monkeypatch, operation):
    before = file.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, operation, full)
    with pytest.raises(RunError, match="No space left on device.*--resume auto") as caught:
        save_checkpoint(file, {"other": torch.zeros(5)}, STATE)
    monkeypatch.undo()
    assert str(file) in str(caught.value)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "plain").write_text("a file where a folder is needed")
    with pytest.raises(RunError, match="cannot be written"):
        save_checkpoint(tmp_path / "plain" / "x.safetensors", {}, STATE)


@pytest.mark.parametrize("links", [True, False], ids=["hard-link", "copy"])
def test_best_becomes_the_marked_file_and_outlives_pruning(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(module.os, "link", refuse)
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / module.checkpoint_name(step), {"x": torch.tensor(step)}, {**STATE, "step": step})
    mark_best(tmp_path / module.checkpoint_name(2))
    mark_best(tmp_path / module.checkpoint_name(1))
    mark_best(tmp_path / module.checkpoint_name(1))
    prune_checkpoints(tmp_path, keep=1)
    assert sorted(os.listdir(tmp_path)) == ["best.safetensors", "step_00000003.safetensors"]
    assert load_checkpoint(find_checkpoint(tmp_path, "best")).step == 1
    assert load_checkpoint(find_checkpoint(tmp_path, "last")).step == 3


def test_checkpoints_are_found_by_run_step_and_name(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    for step in (5, 40, 300):
        save_checkpoint(folder / module.checkpoint_name(step), {}, {**STATE, "step": step})
    (folder / "step_00000999.safetensors.bak").write_text("not one of ours")
    assert [step for step, _ in list_checkpoints(folder)] == [5, 40, 300]
    assert find_checkpoint(tmp_path / "run").name == "step_00000300.safetensors"
    assert find_checkpoint(folder, 40).name == "step_00000040.safetensors"
    assert find_checkpoint(folder / "step_00000005.safetensors") == folder / "step_00000005.safetensors"
    with pytest.raises(CheckpointError, match="expected one of the steps 5, 40, 300, got 7"):
        find_checkpoint(tmp_path / "run", 7)
    with pytest.raises(CheckpointError, match="nothing was evaluated"):
        find_checkpoint(tmp_path / "run", "best")
    with pytest.raises(CheckpointError, match="no such file or folder"):
        find_checkpoint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="expected checkpoints, found none"):
        find_checkpoint(tmp_path / "empty")


def test_left_overs_of_killed_writers_are_removed_and_nothing_else(tmp_path, file):
    (file.parent / ".step_00000004.safetensors.partial").write_bytes(b"half")
    (file.parent / ".mine").write_text("mine")
    remove_partial_files(file.parent)
    assert sorted(os.listdir(file.parent)) == [".mine", file.name]


def test_the_metadata_is_readable_without_the_lab(file):
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header["__metadata__"]["genlab"])["algorithm"] == "dcgan"
