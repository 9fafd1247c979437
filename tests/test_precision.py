"""Precisions: what autocast computes in, what stays float32, and which scaler is active."""

from __future__ import annotations

import pytest
import torch

from genlab.errors import ConfigError
from genlab.precision import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dtype", "scaled"),
    [("fp32", torch.float32, False), ("bf16-mixed", torch.bfloat16, False), ("fp16-mixed", torch.float16, True)],
)
def test_matrix_products_run_in_the_dtype_and_only_float16_is_scaled(name, dtype, scaled):
    precision = Precision(name, CPU)
    with precision.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
        with precision.full():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert precision.new_scaler().is_enabled() is scaled
    assert precision.new_scaler() is not precision.new_scaler()


def test_another_name_is_refused():
    with pytest.raises(ConfigError, match="expected fp32, bf16-mixed or fp16-mixed, got 'int8'"):
        Precision("int8", CPU)


def test_a_gpu_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    with pytest.raises(ConfigError, match="Old GPU has no bfloat16; use fp16-mixed or fp32"):
        Precision("bf16-mixed", torch.device("cuda", 0))
