"""Choosing an implementation: the table, the switch, and the refusals that never fall back."""

from __future__ import annotations

import pytest
import torch

from genlab import _extension, ops
from genlab.ops import implementation, norm_tuning


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setattr(_extension, "_module", None)
    monkeypatch.setattr(_extension, "_failure", "genlab._C is not built; run `genlab build`")


CALL = (torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3))


def test_describe_covers_every_op_device_and_dtype():
    rows = ops.describe()
    assert {(row.op, row.device) for row in rows} == {(r.op, r.device) for r in implementation.RULES}
    assert {row.op for row in rows} == set(implementation.NATIVE)
    by_key = {(row.op, row.device, row.dtype): row for row in rows}
    assert by_key["conv2d", "cpu", "float32"].auto == "torch"
    assert "native" in by_key["conv2d", "cpu", "float32"].implementations
    assert "native" not in by_key["conv2d", "cpu", "float16"].implementations
    assert by_key["conv2d", "cpu", "float16"].missing[0].startswith("dtype float16 is not one of")
    assert by_key["batch_norm_act", "cpu", "float32"].auto == "native"
    assert by_key["batch_norm_act", "cpu", "float64"].auto == "torch"
    assert by_key["batch_norm_act", "cpu", "float16"].auto == "torch"
    assert all(row.reason and row.auto in row.implementations for row in rows)


def test_describe_without_the_library_says_how_to_get_it(no_library):
    row = ops.describe()[0]
    assert row.implementations == ("torch", "reference")
    assert row.missing == ("genlab._C is not built; run `genlab build`",)


def test_native_without_the_library_raises_the_command_and_auto_runs(no_library):
    with pytest.raises(RuntimeError, match="genlab._C is not built; run `genlab build`"):
        ops.conv2d(*CALL, impl="native")
    assert ops.conv2d(*CALL).shape == (1, 3, 2, 2)


def test_the_default_switch_reaches_every_call_and_is_restored(no_library):
    with ops.default_impl("native"), pytest.raises(RuntimeError, match="not built"):
        ops.conv2d(*CALL)
    assert ops.get_default_impl() == "auto"
    ops.conv2d(*CALL)


def test_an_explicit_implementation_wins_over_the_switch(no_library):
    with ops.default_impl("native"):
        assert ops.conv2d(*CALL, impl="torch").shape == (1, 3, 2, 2)


def test_auto_passes_over_native_rules_without_the_library(no_library):
    assert all(row.auto == "torch" for row in ops.describe())
    ops.batch_norm_act(torch.randn(2, 3, 4, 4), None, None, training=True)


def test_the_switch_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="auto, native, torch, reference, got 'quick'"):
        ops.set_default_impl("quick")


def test_default_reference_is_what_runs():
    input = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    with ops.default_impl("reference"):
        found = ops.conv2d(input, weight)
    assert torch.equal(found, ops.conv2d(input, weight, impl="reference"))


def test_native_on_a_device_without_kernels_says_which_devices_have_them(monkeypatch):
    assert implementation.native_reasons("conv2d", "xpu", torch.float32) == ["device xpu is not one of cpu, cuda"]


def test_cuda_native_without_a_cuda_build_names_the_command(monkeypatch):
    module = type("Module", (), {"with_cuda": False})()
    monkeypatch.setattr(_extension, "_module", module)
    with pytest.raises(RuntimeError, match="built without CUDA; run `genlab build --force` where nvcc is"):
        _extension.require(with_cuda=True)
    _extension.require()


def test_a_library_built_for_another_torch_is_refused_with_both_versions(monkeypatch):
    monkeypatch.setattr(_extension, "_module", None)
    monkeypatch.setattr(_extension, "_failure", None)
    monkeypatch.setattr(_extension, "metadata", lambda: {"torch": "1.0.0", "cuda": "9.0"})
    status = _extension.status()
    assert not status.available
    assert "built for torch 1.0.0 with CUDA 9.0, this is torch " + torch.__version__ in status.reason
    assert "run `genlab build`" in status.reason


def test_meta_tensors_give_shapes_without_data():
    output = ops.conv2d(torch.empty(2, 3, 8, 8, device="meta"), torch.empty(4, 3, 3, 3, device="meta"), impl="native")
    assert output.device.type == "meta"
    assert output.shape == (2, 4, 6, 6)


def test_auto_leaves_normalisations_to_torch_in_the_classes_where_it_is_quicker():
    def wins(*sizes, activation="relu", layout=torch.contiguous_format):
        return norm_tuning.torch_wins(torch.empty(sizes).contiguous(memory_format=layout), activation)

    assert not wins(2, 64, 8, 8) and not wins(2, 64, 8, 8, layout=torch.channels_last)
    assert wins(2, 64, 8, 8, activation="gelu")
    assert wins(2, 100, 8, 8, layout=torch.channels_last) and not wins(2, 100, 8, 8)
    assert wins(2, 64, 7, 7) and not wins(2, 64, 7, 7, layout=torch.channels_last)
    assert wins(64, 3) and not wins(64, 32)
