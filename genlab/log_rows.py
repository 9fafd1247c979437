"""Names in the rows of a run's log, which training writes and the report reads."""

from __future__ import annotations

from typing import Any

PER_SECOND = "_per_second"  # behind what is counted: "images_per_second", "sentences_per_second"


def counted(row: dict[str, Any]) -> str | None:
    """What a row counts ("images", "sentences", "tokens"): that of which it has a number and a speed; None: nothing."""
    names = (name.removesuffix(PER_SECOND) for name in row if name.endswith(PER_SECOND))
    return next((name for name in names if isinstance(row.get(name), int)), None)
