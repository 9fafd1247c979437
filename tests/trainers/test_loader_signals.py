"""Ctrl-C reaches a terminal's whole process group, loader processes included; only the training may react to it."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from training_jobs import processes, run_training

from genlab.checkpoint import find_checkpoint, load_checkpoint
from genlab.images import save_image


def train_as_group_leader(overrides, run_dir, outcome) -> None:
    os.setsid()
    run_training(overrides, run_dir, None, outcome)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_still_ends_with_a_checkpoint(tmp_path, signum):
    for number in range(16):
        save_image(torch.rand(1, 28, 28) * 2 - 1, tmp_path / "pictures" / f"{number}.png")
    overrides = [
        "data={name: folder, workers: 2, image_size: 28, channels: 1, batch_size: 8}",
        f"data.root={tmp_path / 'pictures'}",
        "train.steps=100000",
        "train.checkpoint_every=100000",
        "train.log_every=1",
    ]
    outcome = processes().Queue()
    process = processes().Process(target=train_as_group_leader, args=(overrides, str(tmp_path / "run"), outcome))
    process.start()
    log, deadline = tmp_path / "run" / "log.jsonl", time.monotonic() + 60
    while not (log.exists() and len(log.read_text().splitlines()) > 3):
        assert time.monotonic() < deadline
        assert process.is_alive()
        time.sleep(0.02)
    os.killpg(process.pid, signum)
    kind, text, number = outcome.get(timeout=60)
    process.join()
    assert (kind, number) == ("Interrupted", signum), text
    assert load_checkpoint(find_checkpoint(tmp_path / "run")).step > 0
