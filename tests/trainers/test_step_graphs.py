"""Captured steps: what is copied, what is told, and that the numbers are those of a training without graphs.

On the CPU a stand-in (recorded_steps.py) records the tensor operations of a step and replays them on the buffers; what
a replay on a GPU would leave out or take from the capture (anything that the step's Python does) gives other numbers.
"""

from __future__ import annotations

import json

import pytest
import torch
from recorded_steps import RecordingBackend, assert_same_rows, make_trainer, steps, tensors_of
from training_jobs import assert_same_checkpoint, tiny_config

from genlab.checkpoint import find_checkpoint
from genlab.config import load_config
from genlab.distributed import Distributed
from genlab.errors import ConfigError, RunError
from genlab.nn.dropout import exchange_dropout
from genlab.trainers import train
from genlab.trainers.graphs import WARMUP_STEPS, StepGraphs, Uncaptured, make_capturable

SMALL = ["train.steps=40", "data.batch_size=8"]
CONFIGS = {
    "dcgan": ("dcgan_tiny", ["gan.regularizers.r1.weight=1", "gan.regularizers.r1.interval=3"]),
    "wgan_gp": ("wgan_gp_tiny", ["wgan.long_critic_steps=3", "wgan.long_every=6", "gan.discriminator_steps=2"]),
    "vae": ("vae_tiny", ["vae.kl_warmup_steps=5"]),
    "infogan": ("infogan_tiny", []),
    "cgan": ("cgan_tiny", []),
    "sgan": ("sgan_tiny", ["gan.regularizers.r1.interval=3", "gan.regularizers.consistency.shift=1"]),
    "autoencoder": ("autoencoder_tiny", []),
    "classifier": ("classifier_tiny", []),
    # Not an LSTM: the last bit of oneDNN's depends on where its tensors lie.
    "language_model": ("language_model_tiny", ["model.network=gru", "model.dropout=0.2", "data.limit=700"]),
    "transformer": ("transformer_tiny", []),
    "pix2pix": ("pix2pix_tiny", []),
    "gan": ("gan_tiny", []),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_replayed_steps_give_the_numbers_of_plain_ones(name):
    preset, overrides = CONFIGS[name]
    config = load_config(preset, [*overrides, *SMALL])
    rows, ends = {}, {}
    for recorded in (False, True):
        trainer, backend, stream = make_trainer(config, recorded)
        rows[recorded] = steps(trainer, stream, 22)
        ends[recorded] = tensors_of(trainer)
        stream.close()
    assert_same_rows(rows[False], rows[True])
    assert all(torch.equal(a, b) for a, b in zip(ends[False], ends[True], strict=True))
    assert backend.replays == trainer.graphs.replayed >= 5
    assert backend.warmed >= WARMUP_STEPS * backend.captures
    assert any("replayed as CUDA graphs from step" in text for text in trainer.graphs.take_news())
    assert trainer.graphs.take_news() == []


def test_every_variant_of_a_step_has_its_own_graph():
    trainer, backend, stream = make_trainer(load_config("wgan_gp_tiny", [*CONFIGS["wgan_gp"][1], *SMALL]))
    trainer.watches_gradients = False
    for _ in range(26):
        trainer.advance(*(next(stream) for _ in range(trainer.batches_per_step)))
    assert backend.captures == 2 and backend.warmed == 2 * WARMUP_STEPS
    stream.close()


def test_a_lazy_penalty_is_a_variant_and_an_eager_one_is_not():
    config = tiny_config("gan.regularizers.r1.weight=1", "gan.regularizers.r1.interval=3", "gan.discriminator_steps=2")
    trainer, _, stream = make_trainer(config)
    keys = []
    for step in range(6):
        trainer.step = step
        keys.append(trainer.graph_key)
    assert keys[:3] == keys[3:] and len(set(keys)) == 3
    stream.close()
    trainer, _, stream = make_trainer(tiny_config("gan.regularizers.r1.weight=1"))
    assert trainer.graph_key == (1,)
    stream.close()


REASONS = {
    "manifold_entropy": ("dcgan_tiny", ["gan.regularizers.manifold_entropy.weight=1"], "keeps a memory"),
    "pool": ("cyclegan_tiny", [], r"pool of past pictures \(cycle.pool_size\)"),
    "schedule": ("dcgan_tiny", ["train.schedule.name=linear"], "rate of optimiser 'generator' changes and is not"),
    "scaler": ("dcgan_tiny", ["train.precision=fp16-mixed"], "gradient scaler of fp16-mixed"),
    "mixup": ("classifier_tiny", ["classifier.mixup=0.2"], r"share of mixup \(classifier.mixup\) is drawn on the host"),
    "lengths": ("tagger_tiny", [], "reads the lengths of the sentences on the host"),
}  # fmt: skip


@pytest.mark.parametrize("name", REASONS)
def test_a_run_that_cannot_be_captured_goes_on_with_a_reason_or_stops_where_on_is_asked(name):
    import re

    preset, overrides, reason = REASONS[name]
    for mode in ("auto", "on"):
        config = load_config(preset, [*overrides, f"train.cuda_graph={mode}", "train.steps=3"])
        trainer, backend, stream = make_trainer(config)
        if name == "scaler":
            trainer.scalers["generator"] = torch.amp.GradScaler("cpu")
        if mode == "on":
            with pytest.raises(RunError, match=f"train.cuda_graph=on: .*{reason}"):
                steps(trainer, stream, 1)
        else:
            steps(trainer, stream, 2)
            (news,) = trainer.graphs.take_news()
            assert re.search(reason, news)
        assert backend.warmed == backend.captures == 0
        stream.close()


def test_annealed_dropout_is_a_reason():
    trainer, _, stream = make_trainer(load_config("classifier_tiny", []))
    assert trainer.graph_key == ()
    exchange_dropout(trainer.networks["classifier"], "annealed")
    assert "annealed dropout" in trainer.graph_key.reason
    stream.close()


def test_several_processes_are_a_reason():
    trainer, _, stream = make_trainer(tiny_config())
    trainer.distributed = Distributed(rank=0, world_size=2)
    assert "2 processes" in trainer.graphs.refusal().reason
    stream.close()


def test_a_short_batch_passes_as_it_is_and_the_graph_stays():
    trainer, backend, stream = make_trainer(tiny_config("train.cuda_graph=on"))
    for index in range(8):
        batch = next(stream)
        trainer.watches_gradients = False
        trainer.advance({k: v[:5] for k, v in batch.items()} if index == 5 else batch)
    assert (backend.captures, backend.replays) == (1, 8 - WARMUP_STEPS - 1)
    stream.close()


def test_passing_reasons_let_on_go_ahead():
    config = load_config("vae_tiny", ["vae.kl_warmup_steps=2", "train.cuda_graph=on", *SMALL])
    trainer, backend, stream = make_trainer(config)
    assert isinstance(trainer.graph_key, Uncaptured) and trainer.graph_key.passing
    steps(trainer, stream, 2)
    assert backend.warmed == 0
    assert trainer.graph_key == ()
    stream.close()


def test_a_resolution_that_fades_in_is_not_captured_and_the_stable_ones_are():
    trainer, _, stream = make_trainer(load_config("progressive_tiny", []))
    schedule, keys = trainer.config.progressive, []
    for images in (0, schedule.stable_images, schedule.stable_images + schedule.fade_images):
        trainer.images = images
        keys.append(trainer.graph_key)
    growing = trainer.growth(schedule.stable_images + schedule.fade_images // 2)[1]
    assert not isinstance(keys[0], Uncaptured) and not isinstance(keys[2], Uncaptured) and keys[0] != keys[2]
    trainer.images = schedule.stable_images + schedule.fade_images // 2
    assert growing < 1 and trainer.graph_key == Uncaptured("a resolution is faded in", passing=True)
    stream.close()


def test_a_changing_rate_on_the_device_is_filled_in_place(monkeypatch):
    # On the CPU a rate is read; on a GPU it is handed on as it is.
    monkeypatch.setattr("genlab.ops.optimizer_step.number_of", lambda rate: (0.0, rate))
    config = tiny_config("train.schedule.name=linear", "train.steps=20")
    rows = {}
    for recorded in (False, True):
        trainer, backend, stream = make_trainer(config, recorded)
        for optimizer in trainer.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(group["lr"], dtype=torch.float32)
        rates = [group["lr"] for group in trainer.optimizers["generator"].param_groups]
        rows[recorded] = steps(trainer, stream, 8)
        assert trainer.optimizers["generator"].param_groups[0]["lr"] is rates[0]
        assert trainer.learning_rate == pytest.approx(config.generator_optimizer.lr * (1 - 7 / 20), rel=1e-6)
        stream.close()
    assert backend.replays > 0
    assert_same_rows(rows[False], rows[True])


def test_a_resumed_training_captures_anew_and_continues_bit_for_bit(tmp_path, monkeypatch):
    def with_backend(trainer, mode, backend=None):
        graphs = StepGraphs(trainer, mode, RecordingBackend(trainer))
        made.append(graphs)
        return graphs

    made: list[StepGraphs] = []
    monkeypatch.setattr("genlab.trainers.base.StepGraphs", with_backend)
    settings = ["train.checkpoint_every=6", "train.log_every=1"]
    train(tiny_config("train.steps=12", *settings), tmp_path / "whole", evaluator=None)
    train(tiny_config("train.steps=6", *settings), tmp_path / "parts", evaluator=None)
    train(tiny_config("train.steps=12", *settings), tmp_path / "parts", resume="auto", evaluator=None)
    assert [graphs.replayed for graphs in made] == [9, 3, 3]
    assert_same_checkpoint(find_checkpoint(tmp_path / "whole"), find_checkpoint(tmp_path / "parts"))
    monkeypatch.undo()
    train(tiny_config("train.steps=12", *settings), tmp_path / "plain", evaluator=None)
    assert_same_checkpoint(find_checkpoint(tmp_path / "whole"), find_checkpoint(tmp_path / "plain"))
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert log[0]["cuda_graphs"] == f"after {WARMUP_STEPS} steps of each kind (train.cuda_graph=auto)"
    notes = [row for row in log if row.get("event") == "note" and "CUDA graphs" in row["text"]]
    assert notes[0]["step"] == WARMUP_STEPS + 1 and "from step 4 on" in notes[0]["text"]


def test_a_restored_state_drops_the_graphs_and_warms_up_again(tmp_path):
    from genlab.trainers.state import capture_state, restore_state

    trainer, backend, stream = make_trainer(tiny_config())
    for count in (WARMUP_STEPS + 1, WARMUP_STEPS + 2):
        for _ in range(count):
            trainer.advance(next(stream))
        restore_state(trainer, *capture_state(trainer), "here")
    assert (backend.captures, backend.warmed) == (2, 2 * WARMUP_STEPS)
    stream.close()


def test_a_checkpoint_of_device_side_rates_goes_on_with_plain_ones():
    from genlab.trainers.state import capture_state, restore_state

    trainer, _, stream = make_trainer(tiny_config())
    for optimizer in trainer.optimizers.values():
        optimizer.param_groups[0].update(lr=torch.tensor(0.25))
    tensors, plain = capture_state(trainer)
    assert json.loads(json.dumps(plain["optimizers"]))["generator"]["param_groups"][0]["lr"] == 0.25
    other, _, again = make_trainer(tiny_config())
    restore_state(other, tensors, plain, "here")
    group = other.optimizers["generator"].param_groups[0]
    assert group["lr"] == 0.25 and not isinstance(group["lr"], torch.Tensor) and group["capturable"] is False
    restore_state(trainer, tensors, plain, "here")
    assert isinstance(trainer.optimizers["generator"].param_groups[0]["lr"], torch.Tensor)
    stream.close()
    again.close()


def test_off_and_the_cpu_say_nothing_and_on_needs_a_gpu(tmp_path):
    for mode, reason in (("off", "train.cuda_graph=off"), ("auto", "the device is cpu")):
        train(tiny_config("train.steps=2", f"train.cuda_graph={mode}"), tmp_path / mode, evaluator=None)
        log = [json.loads(line) for line in (tmp_path / mode / "log.jsonl").read_text().splitlines()]
        assert log[0]["cuda_graphs"] == f"none ({reason})"
        assert not [row for row in log if row.get("event") == "note" and "CUDA graph" in row["text"]]
    with pytest.raises(RunError, match="train.cuda_graph=on: steps cannot be captured: the device is cpu; use auto"):
        train(tiny_config("train.steps=2", "train.cuda_graph=on"), tmp_path / "on", evaluator=None)


def test_an_unknown_mode_names_the_choices():
    with pytest.raises(ConfigError, match="train.cuda_graph"):
        tiny_config("train.cuda_graph=always")


def test_optimisers_of_the_cpu_are_left_alone():
    trainer, _, stream = make_trainer(tiny_config())
    assert make_capturable(trainer) is None
    assert trainer.optimizers["generator"].param_groups[0]["capturable"] is False
    stream.close()
