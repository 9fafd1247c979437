"""Loads the compiled kernels (genlab._C) on first use, and says why where it cannot.

Nothing happens at `import genlab`: without the extension every op still runs in plain PyTorch.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from genlab.build import METADATA_NAME

BUILD_COMMAND = "genlab build"

_module: ModuleType | None = None
_failure: str | None = None


@dataclass(frozen=True)
class Status:
    """Whether genlab._C can be used.

    `reason` is "" when available, else one line with the remedy; `metadata` is what the build wrote beside the library
    (torch, cuda, architectures, compiler, commit, source hash), empty when there is none.
    """

    available: bool
    reason: str
    with_cuda: bool
    metadata: dict[str, Any] = field(default_factory=dict)


def load() -> ModuleType | None:
    """genlab._C with its ops registered, or None (then `status().reason` says why). A failure is remembered."""
    global _module, _failure
    if _module is not None or _failure is not None:
        return _module
    if importlib.util.find_spec("genlab._C") is None:
        _failure = f"genlab._C is not built; run `{BUILD_COMMAND}`"
        return None
    if (mismatch := _mismatch()) is not None:
        _failure = f"genlab._C does not fit: {mismatch}; run `{BUILD_COMMAND}`"
        return None
    try:
        module = importlib.import_module("genlab._C")
    except (ImportError, OSError) as error:
        _failure = f"genlab._C does not load: {_first_line(error)} ({_versions()}); run `{BUILD_COMMAND} --force`"
        return None
    from genlab.ops import (
        attention_native,
        conv_act_native,
        conv_native,
        layer_norm_native,
        loss_native,
        norm_conv_native,
        norm_native,
        optimizer_step,
        recurrence_native,
        word2vec_native,
    )

    try:
        conv_native.register()
        conv_act_native.register()
        norm_native.register()
        norm_conv_native.register()
        layer_norm_native.register()
        optimizer_step.register()
        loss_native.register()
        attention_native.register()
        recurrence_native.register()
        word2vec_native.register()
    except RuntimeError as error:
        _failure = f"genlab._C was built from other sources: {_first_line(error)}; run `{BUILD_COMMAND}`"
        return None
    _module = module
    return module


def available(*, with_cuda: bool = False) -> bool:
    """Whether the extension is loaded, or can be, with CUDA where asked."""
    module = _module if _module is not None else load()
    return module is not None and (not with_cuda or bool(module.with_cuda))


def metadata() -> dict[str, Any]:
    """The build facts written beside the library; {} when there is no readable file."""
    try:
        return json.loads((Path(__file__).parent / METADATA_NAME).read_text())
    except (OSError, ValueError):
        return {}


def status() -> Status:
    """What `load` found, without raising."""
    module = load()
    with_cuda = bool(module is not None and module.with_cuda)
    return Status(module is not None, _failure or "", with_cuda, metadata())


def reasons(status: Status, *, with_cuda: bool) -> list[str]:
    """Why the extension of `status` cannot serve a CPU (or CUDA) tensor; empty where it can."""
    if not status.available:
        return [status.reason]
    if with_cuda and not status.with_cuda:
        return [f"genlab._C was built without CUDA; run `{BUILD_COMMAND} --force` where nvcc is"]
    return []


def require(*, with_cuda: bool = False) -> None:
    """Raises RuntimeError with the command that mends it unless the extension is loaded (with CUDA where asked)."""
    if _module is not None and (not with_cuda or _module.with_cuda):
        return
    found = reasons(status(), with_cuda=with_cuda)
    if found:
        raise RuntimeError(found[0])


def forget() -> None:
    """Lets the next `load` look again, after a build in this process. A library once loaded stays loaded."""
    global _failure
    _failure = None
    importlib.invalidate_caches()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _mismatch() -> str | None:
    """The library is good for the torch it was built with and no other: loading it elsewhere can crash."""
    import torch

    built_for = metadata().get("torch")
    return None if built_for in (None, torch.__version__) else _versions()


def _versions() -> str:
    import torch

    facts = metadata()
    have = f"this is torch {torch.__version__} with CUDA {torch.version.cuda}"
    if not facts:
        return f"no build metadata, {have}"
    return f"built for torch {facts.get('torch')} with CUDA {facts.get('cuda')}, {have}"
