"""Checkpoints: one safetensors file that holds a whole run and cannot hold code.

Tensors (networks, averages, optimiser states, generators' states) lie under path-like names; everything else is JSON
in the file's metadata: format, algorithm, configuration, data spec, step, counters, scores, versions, and a SHA-256
digest of all of it, so that a truncated or altered file is told from a whole one. A file appears under its name only
when it is complete and on the disk: temporary name, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from genlab.errors import CheckpointError, RunError

FORMAT = "genlab-checkpoint"
FORMAT_VERSION = 1
BEST_NAME = "best.safetensors"
_STEP_NAME = re.compile(r"step_(\d{8,})\.safetensors")
_PARTIAL_SUFFIX = ".partial"
_METADATA_KEY = "genlab"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        tensors: name -> tensor on the CPU.
        state: everything else; JSON values.
        path: where it was read from.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path

    @property
    def step(self) -> int:
        return int(self.state["step"])


def checkpoint_name(step: int) -> str:
    """`step_00001000.safetensors`."""
    return f"step_{step:08d}.safetensors"


def list_checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """(step, file) of every numbered checkpoint in a `checkpoints` folder, in the order of the steps."""
    if not directory.is_dir():
        return []
    matches = [(_STEP_NAME.fullmatch(path.name), path) for path in directory.iterdir()]
    return sorted((int(match.group(1)), path) for match, path in matches if match)


@contextmanager
def _reporting_write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"checkpoint {path}: cannot be written ({error.strerror or error}); checkpoints written before are whole: "
            "free space or permissions, then continue with --resume auto"
        ) from error


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that is either absent (or the old one) or complete and on the disk.

    Raises:
        OSError: the content did not reach the disk; `path` is as it was before.
    """
    partial = path.with_name(f".{path.name}{_PARTIAL_SUFFIX}")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _fsync_directory(path.parent)


def remove_partial_files(directory: Path) -> None:
    """Deletes what killed writers left behind."""
    for path in directory.glob(f".*{_PARTIAL_SUFFIX}"):
        path.unlink(missing_ok=True)


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes a checkpoint; a failure leaves the file that `path` named before, if any, as it was.

    Args:
        path: the final name.
        tensors: any dtypes and devices; copied to contiguous CPU memory.
        state: JSON values, with at least "step" and "algorithm".

    Raises:
        RunError: full disk, missing permission or another failure of the file system.
    """
    plain = _contiguous_on_cpu(tensors)
    text = json.dumps({"format_version": FORMAT_VERSION, **state}, sort_keys=True, allow_nan=True)
    metadata = {"format": FORMAT, _METADATA_KEY: text, "sha256": _digest(plain, text)}
    with _reporting_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save(plain, metadata))


def _contiguous_on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies where needed: safetensors takes neither strides nor two names for one storage."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.numel() and value.untyped_storage().data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        plain[name] = value
    return plain


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        # view(uint8) needs a dimension; an empty tensor has no bytes
        if tensor.numel():
            digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads and verifies a checkpoint. Nothing in the file is executed.

    Raises:
        CheckpointError: missing, a pickle, not safetensors, truncated, altered, or of another format version.
    """
    path = Path(path)
    _refuse_other_formats(path)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(f"checkpoint {path}: expected one that genlab wrote, got other safetensors")
            state = _parse_state(path, metadata)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is not iterable)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path}: truncated or damaged ({' '.join(str(error).split())}); use an earlier checkpoint"
        ) from None
    if _digest(tensors, metadata[_METADATA_KEY]) != metadata.get("sha256"):
        raise CheckpointError(f"checkpoint {path}: damaged (its SHA-256 digest does not match); use an earlier one")
    return Checkpoint(tensors, state, path)


def read_state(path: str | Path) -> dict[str, Any]:
    """The JSON values of a checkpoint without its tensors: quick, and not checked against the digest.

    Raises:
        CheckpointError: missing, or no checkpoint of this lab.
    """
    path = Path(path)
    _refuse_other_formats(path)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path}: truncated or damaged ({' '.join(str(error).split())}); use an earlier checkpoint"
        ) from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path}: expected one that genlab wrote, got other safetensors")
    return _parse_state(path, metadata)


def _refuse_other_formats(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except IsADirectoryError:
        raise CheckpointError(f"checkpoint {path}: expected a file, got a folder") from None
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read ({error.strerror})") from None
    if not head:
        raise CheckpointError(f"checkpoint {path}: empty file; use an earlier checkpoint")
    # Python's pickle protocols 2+ begin with 0x80; torch.save writes a zip that holds one.
    if (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")) or head[:4] == b"PK\x03\x04":
        raise CheckpointError(
            f"checkpoint {path}: a pickle, which can run code when it is opened; it was not opened. "
            "Expected a .safetensors checkpoint of genlab"
        )
    if head[8:9] != b"{":
        raise CheckpointError(f"checkpoint {path}: expected a .safetensors file of genlab, got another kind of file")


def _parse_state(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        state = json.loads(metadata[_METADATA_KEY])
        version = state["format_version"]
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"checkpoint {path}: damaged metadata; use an earlier checkpoint") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {path}: expected format version {FORMAT_VERSION}, got {version}; use the genlab that wrote it "
            f"({state.get('versions', {}).get('genlab', 'unknown version')})"
        )
    return state


def mark_best(checkpoint: Path) -> Path:
    """Makes `best.safetensors` beside `checkpoint` the same content, at once or not at all.

    A hard link costs no space; where the file system has none, the file is copied.
    """
    best = checkpoint.with_name(BEST_NAME)
    partial = checkpoint.with_name(f".{BEST_NAME}{_PARTIAL_SUFFIX}")
    with _reporting_write_errors(best):
        partial.unlink(missing_ok=True)
        try:
            os.link(checkpoint, partial)
        except OSError:
            shutil.copyfile(checkpoint, partial)
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, best)
        partial.unlink(missing_ok=True)  # rename leaves both names when they are already one file
        _fsync_directory(best.parent)
    return best


def prune_checkpoints(directory: Path, keep: int) -> None:
    """Deletes all but the newest `keep` numbered checkpoints; `best.safetensors` stays."""
    for _, path in list_checkpoints(directory)[:-keep]:
        path.unlink(missing_ok=True)


def find_checkpoint(run_or_file: str | Path, which: Literal["last", "best"] | int = "last") -> Path:
    """The checkpoint file that a run directory (or a path to a file) means.

    Args:
        run_or_file: a checkpoint file, a run directory or its `checkpoints` folder.
        which: "last", "best" or a step; only for folders.

    Raises:
        CheckpointError: no such path, or a folder without the checkpoint; names the steps that are there.
    """
    path = Path(run_or_file)
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError(f"checkpoint {path}: no such file or folder")
    directory = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    steps = dict(list_checkpoints(directory))
    if which == "best" and (directory / BEST_NAME).exists():
        return directory / BEST_NAME
    if not steps:
        raise CheckpointError(f"run {path}: expected checkpoints, found none; train first")
    if which == "last":
        return steps[max(steps)]
    if which == "best":
        raise CheckpointError(
            f"run {path}: expected a best checkpoint, found none: nothing was evaluated, or evaluate.select is none; "
            "use last or a step"
        )
    if which not in steps:
        raise CheckpointError(f"run {path}: expected one of the steps {', '.join(map(str, steps))}, got {which}")
    return steps[which]


@dataclass(frozen=True)
class Bundle:
    """A trained model rebuilt from its checkpoint alone.

    Attributes:
        config: configuration of the run.
        trainer: networks in evaluation form; `trainer.sample(n, generator)` draws images.
        step: optimiser steps behind the weights.
        path: the checkpoint file.
        weights: "ema" or "raw": which weights samples come from.
        state: the rest of the checkpoint's metadata (scores, versions, dataset fingerprint).
    """

    config: Any
    trainer: Any
    step: int
    path: Path
    weights: str
    state: dict[str, Any]


def load_bundle(
    run_or_file: str | Path,
    which: Literal["last", "best"] | int = "last",
    *,
    device: str | torch.device = "cpu",
    weights: Literal["ema", "raw"] = "ema",
) -> Bundle:
    """Rebuilds configuration and networks from a checkpoint; needs neither data set nor flags.

    Args:
        run_or_file: a checkpoint file or a run directory.
        which: which checkpoint of a run directory.
        device: where the networks go.
        weights: averaged weights where the run has them, or those of the last step.

    Raises:
        CheckpointError: not a checkpoint of this lab, or damaged.

    Example:
        >>> bundle = load_bundle("runs/dcgan-1", "best")
        >>> images = bundle.trainer.sample(64, torch.Generator().manual_seed(0))
    """
    from genlab.config import parse_config
    from genlab.distributed import resolve_device
    from genlab.seeding import preserved_rng
    from genlab.trainers import ALGORITHMS, DataSpec
    from genlab.trainers.state import restore_networks

    target = resolve_device(device)
    checkpoint = load_checkpoint(find_checkpoint(run_or_file, which))
    state = checkpoint.state
    if state["algorithm"] not in ALGORITHMS:
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: is of algorithm {state['algorithm']!r}, which this genlab does not have "
            f"(it has {', '.join(ALGORITHMS.names())})"
        )
    config = parse_config(state["config"], source=f"checkpoint {checkpoint.path}")
    with preserved_rng():
        trainer = ALGORITHMS.get(state["algorithm"])(config, DataSpec.from_dict(state["data"]), device=target)
    restore_networks(trainer, checkpoint.tensors, state, str(checkpoint.path))
    for network in trainer.networks.values():
        network.eval()
    trainer.use_ema = weights == "ema"
    used = "ema" if trainer.use_ema and trainer.ema else "raw"
    return Bundle(config, trainer, checkpoint.step, checkpoint.path, used, state)
