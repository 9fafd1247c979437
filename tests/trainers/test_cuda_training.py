"""Training on a GPU: every precision, the losses of the CPU, and resuming bit for bit."""

from __future__ import annotations

import json

import pytest
import torch
from training_jobs import assert_same_checkpoint, tiny_config

from genlab.checkpoint import find_checkpoint, load_bundle
from genlab.config import load_config
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


def rows_of(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("dcgan_tiny", ["gan.regularizers.r1.weight=1", "gan.regularizers.r1.interval=2"]),
        ("dcgan_tiny", ["train.schedule.name=linear", "train.precision=bf16-mixed"]),
        ("wgan_gp_tiny", ["gan.discriminator_steps=2"]),
        ("wgan_tiny", ["wgan.long_first_steps=0"]),
        ("vae_tiny", []),
        ("infogan_tiny", []),
        ("pix2pix_tiny", []),
        ("autoencoder_tiny", []),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_captured_steps_give_the_curve_of_plain_ones(tmp_path, preset, overrides):
    common = ["train.steps=24", "train.log_every=2", "train.tensorboard=false", *overrides]
    curves = {}
    for mode in ("off", "on"):
        config = load_config(preset, [*common, f"train.cuda_graph={mode}"])
        train(config, tmp_path / mode, device="cuda", evaluator=None)
        rows = rows_of(tmp_path / mode)
        notes = [row["text"] for row in rows if row.get("event") == "note"]
        assert any("replayed as CUDA graphs" in text for text in notes) == (mode == "on")
        names = [name for name in rows[-1] if name.startswith("loss")]
        curves[mode] = torch.tensor([[row[name] for name in names] for row in rows if "event" not in row])
    torch.testing.assert_close(curves["on"], curves["off"], rtol=1e-3, atol=1e-4)


def test_a_captured_training_resumes_bit_for_bit(tmp_path):
    settings = ["train.checkpoint_every=8", "train.cuda_graph=on"]
    train(tiny_config("train.steps=16", *settings), tmp_path / "whole", device="cuda", evaluator=None)
    train(tiny_config("train.steps=8", *settings), tmp_path / "parts", device="cuda", evaluator=None)
    train(tiny_config("train.steps=16", *settings), tmp_path / "parts", device="cuda", resume="auto", evaluator=None)
    assert_same_checkpoint(find_checkpoint(tmp_path / "whole"), find_checkpoint(tmp_path / "parts"))


@pytest.mark.parametrize("preset", ["tagger_tiny", "seq2seq_tiny", "sentence_classifier_tiny", "captioning_tiny"])
def test_trainings_on_text_run_on_a_gpu(tmp_path, preset):
    overrides = ["model.network=lstm"] if preset == "sentence_classifier_tiny" else []
    config = load_config(preset, ["train.steps=6", "train.tensorboard=false", *overrides])
    assert train(config, tmp_path / "run", device="cuda", evaluator=None).step == 6


def test_a_state_goes_on_from_replay_to_replay(tmp_path):
    """Of a language model: what a row remembers is written and read by the graph."""
    losses = {}
    for mode in ("off", "on"):
        config = load_config(
            "language_model_tiny",
            ["train.steps=24", "train.log_every=2", "train.tensorboard=false", "model.dropout=0",
             f"train.cuda_graph={mode}"],
        )  # fmt: skip
        train(config, tmp_path / mode, device="cuda", evaluator=None)
        losses[mode] = torch.tensor([row["loss"] for row in rows_of(tmp_path / mode) if "event" not in row])
    torch.testing.assert_close(losses["on"], losses["off"], rtol=1e-4, atol=1e-5)


def test_a_capture_that_fails_leaves_the_stream_and_the_generator_as_they_were():
    from genlab.trainers.graphs import CudaBackend

    before, x = torch.cuda.current_stream(), torch.ones(64, device="cuda")
    with pytest.raises(RuntimeError):
        CudaBackend(torch.device("cuda")).capture(lambda: {"sum": float(torch.nn.functional.dropout(x).sum())})
    assert torch.cuda.current_stream() == before
    assert torch.nn.functional.dropout(x).sum().item() > 0


def test_what_cannot_be_captured_says_why(tmp_path):
    train(tiny_config("train.steps=3", "train.precision=fp16-mixed"), tmp_path / "run", device="cuda", evaluator=None)
    first, *rest = rows_of(tmp_path / "run")
    assert first["cuda_graphs"].startswith("none (the gradient scaler")
    assert any("steps are not captured as CUDA graphs: the gradient scaler" in row.get("text", "") for row in rest)


def test_dropout_inside_a_graph_is_new_in_every_replay():
    """torch registers the device's generator with a capture; a step's dropout must not repeat."""
    from genlab.trainers.graphs import CudaBackend

    backend, x = CudaBackend(torch.device("cuda")), torch.ones(4096, device="cuda")
    step = lambda: {"kept": torch.nn.functional.dropout(x, 0.5)}  # noqa: E731
    backend.warm_up(step)
    captured = backend.capture(step)
    first = captured.replay()["kept"].clone()
    assert not torch.equal(first, captured.replay()["kept"])
