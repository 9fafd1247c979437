"""Random numbers: one seed for everything, and the state of every generator in and out of a checkpoint."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that follows from `seed` and a path of names; different names give independent streams."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded with `derive_seed(seed, *names)`."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


def seed_everything(seed: int, *names: str | int) -> None:
    """Seeds python, numpy and torch (CPU and every CUDA device) with streams derived from `seed` and `names`."""
    random.seed(derive_seed(seed, *names, "python"))
    np.random.seed(derive_seed(seed, *names, "numpy") % 2**32)
    torch.manual_seed(derive_seed(seed, *names, "torch"))


def capture_rng(device: torch.device | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of the global generators.

    Returns:
        (tensors, plain): "torch", "numpy" and, for a CUDA device, "cuda" as integer tensors; what is left of python's
        and numpy's states as JSON-able values.
    """
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    tensors = {
        "torch": torch.get_rng_state().clone(),
        "python": torch.tensor(internal, dtype=torch.int64),
        "numpy": torch.from_numpy(keys.astype(np.int64)),
    }
    if device is not None and device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device).clone()
    plain = {
        "python": {"version": version, "gauss": gauss},
        "numpy": {"kind": kind, "position": int(position), "has_gauss": int(has_gauss), "cached": float(cached)},
    }
    return tensors, plain


def restore_rng(tensors: dict[str, Tensor], plain: dict[str, Any], device: torch.device | None = None) -> None:
    """Puts back what `capture_rng` returned; a CUDA state is used where the device is a CUDA device."""
    python, numpy_state = plain["python"], plain["numpy"]
    random.setstate((python["version"], tuple(tensors["python"].tolist()), python["gauss"]))
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(
        (numpy_state["kind"], keys, numpy_state["position"], numpy_state["has_gauss"], numpy_state["cached"])
    )
    torch.set_rng_state(tensors["torch"])
    if device is not None and device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)


@contextmanager
def preserved_rng(device: torch.device | None = None) -> Iterator[None]:
    """Leaves the global generators as they were, whatever runs inside (sampling, evaluation)."""
    state = capture_rng(device)
    try:
        yield
    finally:
        restore_rng(*state, device=device)


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Inside, torch uses only operations that give the same bits for the same input, or raises.

    cuBLAS reads its workspace setting when CUDA starts, hence the environment variable. Filling uninitialised memory is
    switched off: it costs time and only hides defects.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]
        torch.backends.cudnn.benchmark = before[3]
