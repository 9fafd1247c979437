"""The --device option."""

from __future__ import annotations

import os


def choose_device(name: str | None) -> str:
    """The device to use: the one named, checked; without a name, this process's GPU where there is one, else the CPU.

    Raises:
        RunError: another name, CUDA where there is none, or a GPU number that does not exist.
    """
    import torch

    from genlab.distributed import resolve_device

    wanted = name or ("cuda" if torch.cuda.is_available() else "cpu")
    return str(resolve_device(wanted, int(os.environ.get("LOCAL_RANK", "0"))))
