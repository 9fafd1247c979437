"""What the verbs that give numbers share: their options, tables with protocols, and the run's metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from genlab.cli.console import format_protocol, make_console, make_table

InceptionOption = Annotated[
    Path | None,
    typer.Option(
        help="pytorch-fid's Inception file; default: $GENLAB_INCEPTION_WEIGHTS, then its download.", metavar="PATH"
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of drawn samples, splits and subsets.", min=0)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one score a line, instead of a table.")]


def parse_metrics(text: str, *, own: bool = False) -> list[str]:
    """ "fid,is" -> ["fid", "is"], each name checked before anything is loaded.

    Args:
        text: what the user wrote.
        own: whether "own", the algorithm's own scores, may stand among them.
    """
    from genlab.metrics import check_metrics

    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    of_samples = [name for name in names if not (own and name == "own")]
    return (check_metrics(of_samples) if of_samples or not names else []) + ["own"] * (len(of_samples) < len(names))


def print_scores(scores: Sequence[Any], as_json: bool) -> None:
    """A table with the protocol of every number under it, or one JSON object a line."""
    if as_json:
        for score in scores:
            print(json.dumps(score.to_json()))
        return
    from genlab.metrics import score_table

    rows = score_table(scores)
    console = make_console()
    columns = ["score", "value", "better", "extractor", "real", "fake"]
    console.print(
        make_table(None, columns, [[row[c] for c in columns] for row in rows], right=["value"], whole=["score"])
    )
    for line in protocol_lines(scores):
        console.print(line, style="dim", markup=False, soft_wrap=True)


# Stand in the table's own columns.
_IN_TABLE = {"extractor", "extractor_hash", "real", "fake"}


def protocol_lines(scores: Sequence[Any]) -> list[str]:
    """What all scores share once, then what only some of them have."""
    protocols = [{k: v for k, v in s.protocol.items() if k not in _IN_TABLE and v is not None} for s in scores]
    shared = {key: value for key, value in protocols[0].items() if all(p.get(key) == value for p in protocols)}
    lines = [f"protocol: {format_protocol(shared)}"] if shared else []
    own: dict[str, list[str]] = {}
    for score, protocol in zip(scores, protocols, strict=True):
        rest = {key: value for key, value in protocol.items() if key not in shared}
        if rest:
            own.setdefault(format_protocol(rest), []).append(score.name)
    return lines + [f"{', '.join(names)}: {text}" for text, names in own.items()]


def append_scores(checkpoint: Path, step: int, scores: Sequence[Any]) -> Path | None:
    """Adds rows to metrics.jsonl and renews the report, where the checkpoint lies in a run directory."""
    run = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints" or not (run / "config.yaml").is_file():
        return None
    from genlab.report import write_report
    from genlab.runs import JsonLines

    rows = JsonLines(run / "metrics.jsonl")
    for score in scores:
        rows.append({"step": step, "checkpoint": checkpoint.name, **score.to_json()})
    write_report(run)
    return rows.path
