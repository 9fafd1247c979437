"""A score and everything that it depends on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Score:
    """One number with its protocol.

    Attributes:
        name: "fid", "is", "kid", "precision", "recall", "density", "coverage" in Inception's features; the same with
            the extractor in brackets otherwise, where "fid" reads "frechet[<extractor>]".
        value: the number.
        std: its standard deviation over splits or subsets, or None for metrics without one.
        protocol: extractor, hash, resize, counts, split, dtype, seed, versions: JSON values only.
        lower_is_better: whether a smaller value is a better one; default: so for the distances above.
    """

    name: str
    value: float
    std: float | None = None
    protocol: dict[str, Any] = dataclasses.field(default_factory=dict)
    lower_is_better: bool | None = None

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is a better one; distances are better small."""
        if self.lower_is_better is not None:
            return not self.lower_is_better
        return self.name.split("[")[0] not in ("fid", "frechet", "kid")

    def to_json(self) -> dict[str, Any]:
        """A row of metrics.jsonl: name, value, std, better ("higher" or "lower"), protocol.

        Values that JSON lacks (NaN, Inf) become None.
        """
        return {
            "name": self.name,
            "value": _finite(self.value),
            "std": None if self.std is None else _finite(self.std),
            "better": "higher" if self.higher_is_better else "lower",
            "protocol": self.protocol,
        }

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {self.std:.4g}"
        return f"{self.name} {self.value:.6g}{spread}"


def score_table(scores: Iterable[Score]) -> list[dict[str, str]]:
    """Rows for a table: score, value, better, extractor, real, fake, protocol; all text."""
    rows = []
    for score in scores:
        protocol = dict(score.protocol)
        extractor, digest = protocol.pop("extractor", "-"), protocol.pop("extractor_hash", None)
        real, fake = protocol.pop("real", None), protocol.pop("fake", None)
        rows.append(
            {
                "score": score.name,
                "value": f"{score.value:.6g}" + ("" if score.std is None else f" ± {score.std:.4g}"),
                "better": "higher" if score.higher_is_better else "lower",
                "extractor": f"{extractor} {digest[:8]}" if digest else str(extractor),
                "real": _describe_source(real),
                "fake": _describe_source(fake),
                "protocol": ", ".join(f"{key}={value}" for key, value in protocol.items() if value is not None),
            }
        )
    return rows


def _describe_source(source: dict[str, Any] | None) -> str:
    if not source:
        return "-"
    count = source.get("count")
    return f"{source.get('source', '?')} ({'unknown count' if count is None else count})"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
