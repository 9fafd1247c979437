"""Training on a GPU: every precision, the losses of the CPU, and resuming bit for bit."""

from __future__ import annotations

import json

import pytest
import torch
from training_jobs import assert_same_checkpoint, tiny_config

from genlab.checkpoint import find_checkpoint, load_bundle
from genlab.trainers import train

pytestmark = pytest.mark.cuda


def losses(run_dir):
    rows = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return torch.tensor([[row["loss_d"], row["loss_g"]] for row in rows if "event" not in row])


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "fp16-mixed"])
def test_training_on_a_gpu_resumes_bit_for_bit(tmp_path, precision):
    settings = [f"train.precision={precision}", "train.checkpoint_every=3", "gan.regularizers.r1.weight=1"]
    train(tiny_config("train.steps=6", *settings), tmp_path / "whole", device="cuda", evaluator=None)
    train(tiny_config("train.steps=3", *settings), tmp_path / "parts", device="cuda", evaluator=None)
    train(tiny_config("train.steps=6", *settings), tmp_path / "parts", device="cuda", resume="auto", evaluator=None)
    assert_same_checkpoint(find_checkpoint(tmp_path / "whole"), find_checkpoint(tmp_path / "parts"))


def test_a_gpu_and_the_cpu_give_the_same_losses(tmp_path):
    """The noise comes from the CPU's generator on every device. TF32 convolutions explain the tolerance."""
    config = tiny_config("train.steps=5", "train.log_every=1", "gan.regularizers.gradient_penalty.weight=1")
    for device in ("cpu", "cuda"):
        train(config, tmp_path / device, device=device, evaluator=None)
    torch.testing.assert_close(losses(tmp_path / "cuda"), losses(tmp_path / "cpu"), rtol=2e-2, atol=2e-2)


def test_a_checkpoint_of_a_gpu_is_sampled_on_the_cpu(tmp_path):
    train(tiny_config("train.steps=2"), tmp_path / "run", device="cuda", evaluator=None)
    images = {
        device: load_bundle(tmp_path / "run", device=device).trainer.sample(3, torch.Generator().manual_seed(0)).cpu()
        for device in ("cpu", "cuda")
    }
    torch.testing.assert_close(images["cuda"], images["cpu"], rtol=1e-2, atol=1e-2)
