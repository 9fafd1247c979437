"""What a run directory holds, read without trusting that the run ended well: a kill may cut a log's last line."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genlab.errors import RunError
from genlab.log_rows import counted

# Keys of a log row that are not measurements, beside what is counted (see `counted`).
ROW_FACTS = frozenset({"step", "time", "images", "event", "epoch"})


@dataclass
class RunRecord:
    """A run directory as plain values."""

    directory: Path
    config_text: str
    config: dict[str, Any]
    environment: dict[str, Any]
    rows: list[dict[str, Any]]  # rising steps; a step that was taken again after a resume stands once
    events: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    samples: list[tuple[int, Path]]  # rising steps
    pictures: dict[str, tuple[int, Path]]  # further pictures by name (codes, latents, ...), the last of each
    skipped_lines: int = 0
    texts: list[tuple[int, Path]] = field(default_factory=list)  # rising steps

    @property
    def last_step(self) -> int:
        return max([int(row["step"]) for row in self.rows] + [step for step, _ in self.samples], default=0)

    @property
    def total_steps(self) -> int | None:
        steps = self.config.get("train", {}).get("steps") if isinstance(self.config.get("train"), dict) else None
        return steps if isinstance(steps, int) else None


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects in a file of JSON lines, and how many lines could not be read."""
    if not path.exists():
        return [], 0
    rows, skipped = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            skipped += 1
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            skipped += 1
    return rows, skipped


def is_run(path: Path) -> bool:
    return path.is_dir() and any((path / name).exists() for name in ("config.yaml", "log.jsonl", "metrics.jsonl"))


def read_run(directory: Path) -> RunRecord:
    """Reads everything the report shows.

    Raises:
        RunError: no such folder, or a folder that is not a run directory.
    """
    import yaml

    if not directory.exists():
        raise RunError(f"run {directory}: no such folder; give the folder that `genlab train` named")
    if not is_run(directory):
        raise RunError(
            f"run {directory}: expected a run directory (config.yaml, log.jsonl), found neither; "
            "give the folder that `genlab train` named"
        )
    config_path = directory / "config.yaml"
    config_text = config_path.read_text(encoding="utf-8", errors="replace") if config_path.exists() else ""
    try:
        config = yaml.safe_load(config_text)
    except yaml.YAMLError:
        config = None
    log, skipped = read_json_lines(directory / "log.jsonl")
    scores, skipped_scores = read_json_lines(directory / "metrics.jsonl")
    events = [row for row in log if "event" in row]
    by_step = {row["step"]: row for row in log if "event" not in row and isinstance(row.get("step"), int)}
    environments = [row for row in events if row["event"] == "environment"]
    return RunRecord(
        directory=directory,
        config_text=config_text,
        config=config if isinstance(config, dict) else {},
        environment={k: v for k, v in environments[-1].items() if k != "event"} if environments else {},
        rows=[by_step[step] for step in sorted(by_step)],
        events=[row for row in events if row["event"] != "environment"],
        scores=[row for row in scores if isinstance(row.get("value"), (int, float)) and "name" in row],
        samples=find_samples(directory / "samples"),
        pictures=find_pictures(directory / "samples"),
        texts=find_samples(directory / "samples", "txt"),
        skipped_lines=skipped + skipped_scores,
    )


def find_samples(folder: Path, ending: str = "png") -> list[tuple[int, Path]]:
    """(step, file) of every `step_<number>.<ending>`, in the order of the steps."""
    found = []
    for path in folder.glob(f"step_*.{ending}") if folder.is_dir() else ():
        match = re.fullmatch(rf"step_(\d+)\.{ending}", path.name)
        if match:
            found.append((int(match.group(1)), path))
    return sorted(found)


def find_pictures(folder: Path) -> dict[str, tuple[int, Path]]:
    """name -> (step, file) of the last `step_<number>_<name>.png` of each name, in the order of the names."""
    found: dict[str, tuple[int, Path]] = {}
    for path in folder.glob("step_*_*.png") if folder.is_dir() else ():
        match = re.fullmatch(r"step_(\d+)_(.+)\.png", path.name)
        if match:
            found[match.group(2)] = max(found.get(match.group(2), (-1, path)), (int(match.group(1)), path))
    return dict(sorted(found.items()))


def lower_is_better(row: dict[str, Any]) -> bool:
    """Whether a score's row says that it is better small; rows that do not say are judged by their name."""
    if "better" in row:
        return row["better"] == "lower"
    return str(row["name"]).split("[")[0].lower() in {"fid", "frechet", "kid"}


def best_and_last(scores: list[dict[str, Any]]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """name -> (best row, last row) in the order of first appearance; values that are not finite cannot be best."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in scores:
        grouped.setdefault(str(row["name"]), []).append(row)
    result = {}
    for name, rows in grouped.items():
        rows = sorted(rows, key=lambda row: row.get("step") or 0)
        finite = [row for row in rows if math.isfinite(row["value"])]
        pick = min if lower_is_better(rows[-1]) else max
        result[name] = (pick(finite, key=lambda row: row["value"]) if finite else rows[-1], rows[-1])
    return result


def list_measurements(rows: list[dict[str, Any]]) -> dict[str, tuple[list[int], list[list[float]]]]:
    """name -> (steps, lists) of every list of numbers from 0 on in rows; the last length of a name counts."""
    series: dict[str, tuple[list[int], list[list[float]]]] = {}
    for row in rows:
        for name, values in row.items():
            if not isinstance(values, list) or not values or not all(map(_is_size, values)):
                continue
            steps, columns = series.setdefault(name, ([], []))
            if columns and len(columns[-1]) != len(values):
                steps.clear()
                columns.clear()
            steps.append(int(row["step"]))
            columns.append([float(value) for value in values])
    return series


def _is_size(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def measurements(rows: list[dict[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """name -> (steps, values) of everything numeric in the log."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        unit = counted(row)
        for name, value in row.items():
            if name in ROW_FACTS or name == unit or isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            steps, values = series.setdefault(name, ([], []))
            steps.append(int(row["step"]))
            values.append(float(value))
    return series
