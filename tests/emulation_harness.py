"""Builds the CUDA kernels' own source as a host library (csrc/emulation) and calls it through ctypes.

A library is built once per content: its name is a hash of the source, of everything it may include, and of the flags,
and a file lock keeps the workers of one run from building it twice.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
FLAGS = (
    *("-std=c++17", "-DGENLAB_EMULATION", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-parameter"),
)
SANITIZE = ("-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
CANARY_BYTES = 4096


def compiler() -> list[str]:
    """The C++ compiler ($CXX, which may hold arguments, else g++); skips the test where there is none."""
    command = os.environ.get("CXX", "g++").split()
    if shutil.which(command[0]) is None:
        pytest.skip("no C++ compiler: set CXX or install g++")
    return command


@functools.cache
def _included_bytes(*folders: str) -> bytes:
    files = sorted(path for folder in folders for path in (CSRC / folder).rglob("*") if path.is_file())
    return b"".join(str(path.relative_to(CSRC)).encode() + b"\0" + path.read_bytes() for path in files)


def build(
    source: str | Path,
    *,
    flags: tuple[str, ...] = ("-O1",),
    extra: dict[str, str] | None = None,
    beside: list[Path] | None = None,
    program: bool = False,
) -> Path:
    """Compiles a source file, or source text, into a shared library and returns its path.

    Args:
        source: Path of a .cpp file, or the text of one.
        flags: Added to FLAGS, which say everything but the optimisation level.
        extra: Further headers by relative name; they come before csrc in the include path, so that a test can put a
            changed copy of a kernel's file in front of the real one.
        beside: Further files under csrc, compiled as C++ and linked with it.
        program: Makes an executable instead of a library.
    """
    cxx = compiler()
    text = source.read_text() if isinstance(source, Path) else source
    beside = [str(path) for path in beside or []]
    kind = () if program else ("-shared",)
    digest = hashlib.sha256()
    for part in (text, repr(sorted((extra or {}).items())), repr((flags, beside, kind, cxx))):
        digest.update(part.encode() + b"\0")
    digest.update(_included_bytes("emulation", "kernels", *(("cpu",) if beside else ())))
    folder = Path(tempfile.gettempdir()) / f"genlab-emulation-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{digest.hexdigest()[:24]}.so"
    with open(library.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            with tempfile.TemporaryDirectory(dir=folder) as work:
                main = Path(work) / "library.cpp"
                main.write_text(text)
                for name, header in (extra or {}).items():
                    path = Path(work) / "extra" / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(header)
                output = Path(work) / "library.so"
                includes = [f"-I{work}/extra", f"-I{CSRC}"]
                command = [*cxx, *FLAGS, *kind, *flags, *includes, "-x", "c++", str(main), *beside, "-o", str(output)]
                result = subprocess.run(command, capture_output=True, text=True)
                if result.returncode != 0:
                    raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr[-4000:]}")
                output.rename(library)
    return library


class KernelFault(RuntimeError):
    """What the emulation, or a canary, found wrong with a kernel."""


class Library:
    """A built library: `configure` sets the schedule, `call` runs an exported function and raises KernelFault."""

    def __init__(self, path: Path) -> None:
        self._c = ctypes.CDLL(str(path))
        self._c.genlab_emulation_configure.argtypes = [ctypes.c_uint64, ctypes.c_int32]
        self._c.genlab_emulation_message.restype = ctypes.c_char_p

    def configure(self, seed: int = 1, early_copies: bool = False) -> None:
        """Orders blocks, warps and lanes by `seed`; asynchronous copies land at once, or as late as they may."""
        self._c.genlab_emulation_configure(seed, int(early_copies))

    def call(self, name: str, *args: object) -> None:
        if getattr(self._c, name)(*args) != 0:
            raise KernelFault(self._c.genlab_emulation_message().decode())

    def value(self, name: str, restype: type, *args: object) -> object:
        function = getattr(self._c, name)
        function.restype = restype
        return function(*args)

    def take_counters(self) -> dict[str, int]:
        """Counts since the last call; see Counters in csrc/emulation/block.h."""
        out = (ctypes.c_uint64 * 5)()
        self._c.genlab_emulation_take_counters(out)
        return dict(zip(("blocks", "matrix_products", "matrix_loads", "bank_conflicts", "copies"), out, strict=True))


class Guarded:
    """Device memory as a test hands it to a kernel: filled with NaN, between canaries that are NaN too.

    A read outside the tensor therefore shows in the result, and a write outside it in `check`.

    Args:
        tensor: Contents; the copy has the same dtype, shape and strides.
        fill: False leaves NaN bytes, for outputs that the kernel must write whole.
        offset: Elements that the pointer lies past a 128-byte boundary.
    """

    def __init__(self, tensor: torch.Tensor, *, fill: bool = True, offset: int = 0) -> None:
        size = tensor.element_size()
        span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) if tensor.numel() else 0
        self._raw = torch.full((2 * CANARY_BYTES + 128 + (span + offset) * size,), 0xFF, dtype=torch.uint8)
        self._begin = CANARY_BYTES + (-(self._raw.data_ptr() + CANARY_BYTES)) % 128 + offset * size
        self._end = self._begin + span * size
        flat = self._raw[self._begin : self._end].view(tensor.dtype)
        self.tensor = flat.as_strided(tensor.shape, tensor.stride())
        if fill:
            self.tensor.copy_(tensor)

    @property
    def pointer(self) -> int:
        return self._raw.data_ptr() + self._begin

    def check(self, name: str = "buffer") -> None:
        """Raises KernelFault when a byte around the tensor changed."""
        for zone, side in ((self._raw[: self._begin], "below"), (self._raw[self._end :], "above")):
            if bool((zone != 0xFF).any()):
                raise KernelFault(f"a write {side} {name}")
