"""Captures that fail: the step is done as it is, the reason is told, and nothing of the capture is left behind."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from recorded_steps import assert_same_rows, make_trainer, steps, tensors_of
from training_jobs import tiny_config

from genlab.errors import RunError
from genlab.trainers.graphs import WARMUP_STEPS, CudaBackend


def test_what_the_host_reads_ends_the_capturing_and_the_step_is_done_as_it_is():
    config = tiny_config("train.steps=12")
    plain, _, stream = make_trainer(config, recorded=False)
    expected = steps(plain, stream, 7)
    stream.close()
    trainer, backend, stream = make_trainer(config)
    saved = []

    def capture(step):
        saved[:] = [t.detach().clone() for t in tensors_of(trainer)]
        try:
            step()
        finally:
            with torch.no_grad():
                for tensor, before in zip(tensors_of(trainer), saved, strict=True):
                    tensor.copy_(before)
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    backend.capture = capture
    assert_same_rows(expected, steps(trainer, stream, 7))
    news = trainer.graphs.take_news()
    assert news == [
        f"steps are not captured as CUDA graphs: step {WARMUP_STEPS} could not be captured: operation not permitted "
        "when stream is capturing"
    ]
    assert trainer.graphs.describe().startswith("none (step 3 could not be captured")
    stream.close()


def test_the_reason_is_the_error_that_spoilt_the_capture_and_not_that_of_its_end():
    trainer, backend, stream = make_trainer(tiny_config())

    def capture(step):
        try:
            raise RuntimeError("the first")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    backend.capture = capture
    steps(trainer, stream, WARMUP_STEPS + 1)
    assert trainer.graphs.take_news()[0].endswith("could not be captured: the first")
    stream.close()


class Gpu:
    """What CudaBackend asks of torch.cuda, without one: the current stream, a capture that spoils it, a generator."""

    def __init__(self, monkeypatch):
        self.current, self.drawn_from = "the trainer's", "captured"
        for name in ("Stream", "graph_pool_handle", "CUDAGraph", "current_device"):
            monkeypatch.setattr(torch.cuda, name, lambda *arguments: 0)
        monkeypatch.setattr(torch.cuda, "default_generators", (self,))
        monkeypatch.setattr(torch.cuda, "graph", lambda *arguments, **options: self.spoilt())
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: self.selected())

    @contextmanager
    def selected(self):
        before, self.current = self.current, "the capture's"
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def spoilt(self):
        self.current = "left behind"  # as torch.cuda.graph does where the end of a capture raises
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    def clone_state(self):
        return "free"

    def graphsafe_set_state(self, state):
        self.drawn_from = state


def test_a_capture_that_fails_leaves_neither_its_stream_nor_a_captured_generator_behind(monkeypatch):
    gpu = Gpu(monkeypatch)
    with pytest.raises(RuntimeError, match="previous error"):
        CudaBackend(torch.device("cuda")).capture(dict)
    assert (gpu.current, gpu.drawn_from) == ("the trainer's", "free")


def test_gradient_norms_are_safe_from_the_replays_of_other_graphs():
    trainer, _, stream = make_trainer(tiny_config())
    trainer.watches_gradients = True
    for _ in range(WARMUP_STEPS + 1):
        trainer.advance(next(stream))
    (variant,) = trainer.graphs._variants.values()
    before = {name: float(norm) for name, norm in trainer.gradient_norms.items()}
    for norm in variant.gradient_norms.values():
        norm.fill_(torch.nan)
    assert {name: float(norm) for name, norm in trainer.gradient_norms.items()} == before
    stream.close()


def test_a_failed_capture_stops_the_run_where_on_is_asked():
    trainer, backend, stream = make_trainer(tiny_config("train.cuda_graph=on"))
    backend.fail = True
    with pytest.raises(RunError, match="could not be captured: operation not permitted when stream"):
        steps(trainer, stream, WARMUP_STEPS + 1)
    stream.close()
