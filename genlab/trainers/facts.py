"""Software, hardware and kernels that a run's results depend on, as its log and its first lines tell them."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import torch

from genlab.config import RunConfig

_DTYPES = {"fp32": "float32", "bf16-mixed": "bfloat16", "fp16-mixed": "float16"}


def environment_facts(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """The "environment" row of a log."""
    from genlab import __version__

    facts = {
        "genlab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "precision": config.train.precision,
        "kernels": describe_kernels(config, device.type),
        "command": " ".join(sys.argv),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def describe_kernels(config: RunConfig, device: str) -> str:
    """Which implementation of the ops runs, and why, in one line."""
    from genlab import _extension, ops

    status = _extension.status()
    impl = config.kernels.impl
    if impl in {"torch", "reference"}:
        return f"{impl}, as kernels.impl asks"
    if not status.available:
        return f"plain PyTorch, because {status.reason}"
    dtype = _DTYPES[config.train.precision]
    rows = [row for row in ops.describe() if row.device == device and row.dtype == dtype]
    chosen: dict[str, list[str]] = {}
    for row in rows:
        native = impl == "native" and "native" in row.implementations
        auto = " or ".join(sorted({row.auto, *row.elsewhere})) + (" by shape" if row.elsewhere else "")
        chosen.setdefault("native" if native else auto, []).append(row.op)
    listed = "; ".join(f"{name} for {', '.join(names)}" for name, names in sorted(chosen.items()))
    why = "as kernels.impl asks" if impl == "native" else "the measured choice, see `genlab list ops`"
    return f"{listed} ({why})"
