"""Where the lab keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Directory of trained feature extractors and reference statistics: $GENLAB_CACHE, else ~/.cache/genlab.

    Created on first use. Everything in it can be deleted; it is made again when needed.
    """
    root = os.environ.get("GENLAB_CACHE")
    path = Path(root) if root else Path.home() / ".cache" / "genlab"
    path.mkdir(parents=True, exist_ok=True)
    return path
