"""Measured choices of `impl="auto"`: shape classes and what was quicker there, as `genlab bench tune` wrote them down.

They come before the rules in implementation.py, which speak for every other call. An entry holds for its op, kind of
device, dtype, instruction set and model of processor (or GPU) only: a kernel that wins with AVX-512 may not exist
without it, and one that wins on one machine may lose on another. The table is read once, on first use.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlab.errors import UserError
from genlab.ops.shapes import ConvCall

SCHEMA = 1
PACKAGED = Path(__file__).parent / "tuning.json"
VARIABLE = "GENLAB_TUNING"  # names another table


@dataclass(frozen=True)
class Entry:
    """What was measured for one shape class.

    Attributes:
        op, device, dtype: "conv2d", "cpu", "float32".
        target: instruction set or GPU architecture, see `target_of`.
        shape_class: as `shape_class_of` spells it.
        choice: "native" or "torch".
        ratio: torch's time over the native one.
        noise: how far from 1 a ratio of equals may be.
        machine: model of the processor or GPU, see `machine_of`.
        threads, torch, date: of the measurement.
    """

    op: str
    device: str
    dtype: str
    target: str
    shape_class: str
    choice: str
    ratio: float
    noise: float
    machine: str
    threads: int
    torch: str
    date: str

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        return self.op, self.device, self.dtype, self.target, self.shape_class


Table = dict[tuple[str, str, str], dict[str, Entry]]  # (op, device, dtype) of this target -> shape class -> entry


def choice_of(op: str, device: str, dtype: torch.dtype, input: Tensor, shape: Sequence[Any]) -> str | None:
    """The measured choice for a call, None where nothing fits; arguments as of `implementation.choose`."""
    if torch.compiler.is_compiling():
        return None  # sizes may be symbols there, and a table is no part of a graph
    found = _table(target_of(input.device)).get((op, device, str(dtype).removeprefix("torch.")))
    if not found:
        return None
    entry = found.get(shape_class_of(op, input, shape))
    return None if entry is None else entry.choice


def entries_of(op: str, device: str, dtype: torch.dtype) -> list[Entry]:
    """The entries that count on this machine (on its current GPU)."""
    return list(_table(target_of(device)).get((op, device, str(dtype).removeprefix("torch.")), {}).values())


def target_of(device: str | torch.device) -> str:
    """What decides which kernels exist: the CPU's instruction set ("AVX512"), that GPU's architecture ("sm_90")."""
    device = torch.device(device)
    if device.type != "cuda":
        return _instruction_set()
    if not torch.cuda.is_available():
        return "none"
    return _architecture(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _instruction_set() -> str:
    return torch.backends.cpu.get_cpu_capability()


@functools.cache
def machine_of(device: str) -> str:
    """The model that an entry of this machine names: of the processor, or of the GPU."""
    from genlab.doctor import describe_machine

    machine = describe_machine()
    return str(machine["gpu"] if device == "cuda" else machine["cpu"])


@functools.cache
def _architecture(index: int) -> str:
    return "sm_{}{}".format(*torch.cuda.get_device_capability(index))


def path() -> Path:
    """The table in use: $GENLAB_TUNING, else the one that came with the package."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else PACKAGED


@functools.cache
def _table(target: str) -> Table:
    table: Table = {}
    for entry in read(path()):
        if entry.target == target and entry.machine == machine_of(entry.device):
            table.setdefault((entry.op, entry.device, entry.dtype), {})[entry.shape_class] = entry
    return table


def forget() -> None:
    """Lets the next call read the table again."""
    _table.cache_clear()


def read(file: Path) -> list[Entry]:
    """The entries of a file; none where there is no file.

    Raises:
        UserError: the file is not a table of this schema.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    try:
        tree = json.loads(text)
        if tree["schema"] != SCHEMA:
            raise ValueError(f"schema {tree['schema']}, expected {SCHEMA}")
        entries = [Entry(**row) for row in tree["entries"]]
        wrong = [entry.choice for entry in entries if entry.choice not in {"native", "torch"}]
        if wrong:
            raise ValueError(f"choice {wrong[0]!r}, expected native or torch")
        return entries
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}: not a tuning table ({error}); write one with `genlab bench tune`") from None


def write(file: Path, entries: Sequence[Entry]) -> None:
    """Writes a table that `read` takes, one entry a line so that changes can be read."""
    lines = ",\n".join(json.dumps(asdict(entry)) for entry in entries)
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(file.name + ".partial")
    scratch.write_text(f'{{"schema": {SCHEMA}, "entries": [\n{lines}\n]}}\n', encoding="utf-8")
    scratch.replace(file)


def shape_class_of(op: str, input: Tensor, shape: Sequence[Any]) -> str:
    """The class of a call, such as "k4x4 s2x2 w128x64 o16x16 n14 channels_last training".

    The weight's channels and the sides of a convolution's output (a transposed one's input) fall into powers of two,
    marked "~" where they are not multiples of 16 and 4, on which the kernels' tiles depend; n is the power of two of
    batch times pixels. A normalisation has its channels and the values of each. "training" stands for the gradients as
    well.
    """
    values = shape[0] if shape and isinstance(shape[0], ConvCall) else shape
    differentiated = input.requires_grad or any(isinstance(x, Tensor) and x.requires_grad for x in values)
    use = "training" if differentiated and torch.is_grad_enabled() else "forward"
    if op not in {"conv2d", "conv_transpose2d"}:
        return _norm_class(tuple(input.shape), _layout(input), use)
    weight, stride, _, dilation, groups, padding_mode, grid = values
    return _conv_class(
        input.shape[0], tuple(weight.shape), stride, dilation, groups, padding_mode, tuple(grid), _layout(input), use
    )


@functools.lru_cache(maxsize=4096)
def _conv_class(n, weight, stride, dilation, groups, padding_mode, grid, layout, use) -> str:
    first, second, kh, kw = weight  # output and input channels; of a transposed convolution input and output
    spread = "" if dilation == (1, 1) else f" d{dilation[0]}x{dilation[1]}"
    grouped = "" if groups == 1 else f" g{groups}"
    padding = "" if padding_mode == "zeros" else f" {padding_mode}"
    return (
        f"k{kh}x{kw} s{stride[0]}x{stride[1]}{spread}{grouped}{padding} w{_bucket(first, 16)}x{_bucket(second, 16)} "
        f"o{_bucket(grid[0], 4)}x{_bucket(grid[1], 4)} n{_power(n * grid[0] * grid[1])} {layout} {use}"
    )


@functools.lru_cache(maxsize=4096)
def _norm_class(sizes, layout, use) -> str:
    channels = max(1, sizes[1])
    return f"c{_bucket(channels, 16)} n{_power(torch.Size(sizes).numel() // channels)} {layout} {use}"


def _power(count: int) -> int:
    return max(0, count - 1).bit_length()


def _bucket(size: int, multiple: int) -> str:
    return f"{2 ** _power(size)}{'' if size % multiple == 0 else '~'}"


def _layout(input: Tensor) -> str:
    if input.is_contiguous():
        return "contiguous"
    channels_last = input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last)
    return "channels_last" if channels_last else "strided"
