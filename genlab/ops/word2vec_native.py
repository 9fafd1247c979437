"""What PyTorch must know of word2vec_step beside its kernel: the result's shape without data."""

from __future__ import annotations

import torch
from torch import Tensor


def register() -> None:
    """Registers the fake with the dispatcher."""
    torch.library.register_fake("genlab::word2vec_step", _fake)


def _fake(inputs: Tensor, *_: object) -> Tensor:
    return inputs.new_empty(3, dtype=torch.float64)
