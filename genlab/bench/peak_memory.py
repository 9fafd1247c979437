"""How much memory an arm of a bench takes at its peak."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

_SELF = Path("/proc/self")


class PeakMemory:
    """Most bytes held since its construction beyond those held then; construct it after the imports.

    On the CPU the process's resident pages (what its user pays: freed memory that the C library keeps counts too), on a
    GPU what torch's allocator handed out. None where the system does not tell.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before: int | None = torch.cuda.memory_allocated(self.device)
            return
        with contextlib.suppress(OSError):  # without it the peak since the start of the process counts
            (_SELF / "clear_refs").write_text("5")
        self.before = _status("VmRSS")

    def bytes(self) -> int | None:
        """The peak so far."""
        if self.device.type == "cuda":
            now: int | None = torch.cuda.max_memory_allocated(self.device)
        else:
            now = _status("VmHWM")
        return None if now is None or self.before is None else max(0, now - self.before)


def _status(name: str) -> int | None:
    """A size from /proc/self/status in bytes."""
    try:
        lines = (_SELF / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
