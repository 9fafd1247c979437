"""Verbs that look and change nothing but a report: list, data check, report, doctor."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import Enum
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer

from genlab.cli.console import make_console, make_table
from genlab.errors import DataError


class Listing(str, Enum):
    """What `genlab list` can list."""

    models = "models"
    algorithms = "algorithms"
    configs = "configs"
    datasets = "datasets"
    ops = "ops"
    extractors = "extractors"
    losses = "losses"


def register(app: typer.Typer) -> None:
    app.command("report", epilog="Example: genlab report runs/dcgan_digits-1")(report)
    app.command("list", epilog="Example: genlab list datasets")(list_entries)
    app.command("doctor", epilog="Example: genlab doctor --strict")(doctor)
    data = typer.Typer(help="Look at data before training on it.", rich_markup_mode="rich")
    data.command("check", epilog="Example: genlab data check photos/")(check_data)

    @data.callback()
    def group() -> None:
        """Look at data before training on it."""

    app.add_typer(data, name="data")


def report(
    run: Annotated[Path, typer.Argument(help="A run directory, finished or still training.", metavar="RUN")],
) -> None:
    """Write RUN/report.html: samples over time, curves, scores, configuration, environment, in one file."""
    from genlab.report import write_report

    print(write_report(run))


def list_entries(what: Annotated[Listing, typer.Argument(help="The kind of thing to list.", metavar="WHAT")]) -> None:
    """List what the lab knows by name."""
    for listing in _LISTINGS[what]:
        columns, rows = listing()
        make_console().print(make_table(None, columns, rows))


def _models() -> tuple[list[str], list[list[str]]]:
    from genlab.config import config_directory, read_yaml
    from genlab.trainers import ALGORITHMS

    names: dict[str, list[str]] = {name: [] for name in ALGORITHMS.names()}
    for file in sorted(config_directory().glob("*.yaml")):
        names.setdefault(str(read_yaml(file).get("algorithm")), []).append(file.stem)
    rows = [
        [name, _summary(ALGORITHMS.get(name)), ", ".join(files)] for name, files in names.items() if name in ALGORITHMS
    ]
    return ["algorithm", "what it is", "configs"], rows


def _configs() -> tuple[list[str], list[list[str]]]:
    from genlab.config import config_directory, read_yaml

    rows = []
    for file in sorted(config_directory().glob("*.yaml")):
        tree = read_yaml(file)
        data, train = tree.get("data") or {}, tree.get("train") or {}
        rows.append([file.stem, tree.get("algorithm"), data.get("name", ""), train.get("steps", ""), _comment(file)])
    return ["config", "algorithm", "data", "steps", "what it shows"], rows


def _comment(file: Path) -> str:
    """First sentence of the comment that a configuration begins with."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return first_sentence(" ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines)))


def _datasets() -> tuple[list[str], list[list[str]]]:
    from genlab.data import describe

    return ["data set", "kind", "what it is", "needs"], [
        [row.name, row.kind, row.summary, row.needs] for row in describe()
    ]


def _ops() -> tuple[list[str], list[list[str]]]:
    from genlab import ops

    return ["op", "device", "dtype", "implementations", "auto", "why"], [list(row) for row in op_rows(ops.describe())]


def op_rows(described: list) -> list[tuple[str, ...]]:
    """Rows of `genlab.ops.describe()` as text, dtypes that share everything else on one line."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for row in described:
        lacks_all = row.reason.startswith("no native kernel")  # said already
        why = row.reason + (f"; not native: {', '.join(row.missing)}" if row.missing and not lacks_all else "")
        key = (row.op, row.device, ", ".join(row.implementations), row.auto, why)
        grouped.setdefault(key, []).append(row.dtype)
    return [(op, device, ", ".join(dtypes), *rest) for (op, device, *rest), dtypes in grouped.items()]


def _extractors() -> tuple[list[str], list[list[str]]]:
    from genlab.metrics.extractors import EXTRACTORS

    return ["extractor", "what it is"], [[name, text] for name, text in EXTRACTORS.items()]


def _losses() -> tuple[list[str], list[list[str]]]:
    from genlab.losses import ADVERSARIAL_LOSSES

    entries = [(name, ADVERSARIAL_LOSSES.get(name)) for name in ADVERSARIAL_LOSSES]
    rows = [[name, _summary(entry.discriminator_loss), _summary(entry.generator_loss)] for name, entry in entries]
    return ["adversarial loss", "discriminator minimises", "generator minimises"], rows


def _networks() -> tuple[list[str], list[list[str]]]:
    from genlab.models import MODELS

    return ["network", "what it is"], [[name, _summary(MODELS.get(name))] for name in MODELS]


def _regularizers() -> tuple[list[str], list[list[str]]]:
    from genlab.regularizers import RegularizersConfig

    fields = RegularizersConfig.model_fields.items()
    return ["regulariser (gan.regularizers)", "what it does"], [[name, field.description] for name, field in fields]


def _summary(entry: object) -> str:
    """First sentence of an entry's docstring."""
    return first_sentence(entry.__doc__ or "")


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence; "et al." does not."""
    return re.split(r"(?<! al)\. ", " ".join(text.split()))[0].rstrip(".")


_LISTINGS: dict[Listing, tuple[Callable[[], tuple[list[str], list[list[str]]]], ...]] = {
    Listing.models: (_models, _networks),
    Listing.algorithms: (_models,),
    Listing.configs: (_configs,),
    Listing.datasets: (_datasets,),
    Listing.ops: (_ops,),
    Listing.extractors: (_extractors,),
    Listing.losses: (_losses, _regularizers),
}


def check_data(
    path: Annotated[Path, typer.Argument(help="A folder or zip of images, or a MNIST or CIFAR root.", metavar="PATH")],
    paired: Annotated[
        bool | None,
        typer.Option("--paired/--unpaired", help="Demand a partner for every file of two domains, or none."),
    ] = None,
) -> None:
    """List everything unreadable or odd in a set of images at once; exit 2 when training would stop at something."""
    from genlab.cli.console import progress_reporter
    from genlab.data import check

    with progress_reporter() as progress:
        found = check(path, paired=paired, progress=lambda done, total: progress("files", done, total))
    for line in found.lines():
        print(line)
    if not found.ok:
        raise DataError(
            f"{path}: {len(found.errors)} faults that training would stop at; mend or remove the files listed above"
        )


def doctor(
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 2 when anything could be better, not only when nothing runs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Facts, findings and remedy as JSON.")] = False,
) -> None:
    """Check what the lab needs on this machine, and name the one command that mends what it finds."""
    from genlab.doctor import diagnose, gather, remedy, to_json, usable

    facts = gather()
    findings = diagnose(facts)
    command = remedy(findings)
    if as_json:
        print(json.dumps(to_json(facts, findings), indent=2))
    else:
        _print_findings(findings, facts)
        print(f"to mend: {command}" if command else "nothing to mend")
    worth_mending = any(finding.verdict in {"warn", "fail"} for finding in findings)
    if not usable(findings) or (strict and worth_mending):
        raise typer.Exit(2)


def _print_findings(findings: list, facts: object) -> None:
    from rich.text import Text

    marks = {"ok": ("ok", "green"), "note": ("note", "cyan"), "warn": ("warn", "yellow"), "fail": ("fail", "red bold")}
    rows = [[Text(marks[f.verdict][0], marks[f.verdict][1]), f.subject, f.text] for f in findings]
    console = make_console()
    console.print(make_table(None, ["", "what", "found"], rows))
    if facts.ops:
        rows = op_rows([row for row in facts.ops if row.dtype == "float32"])
        columns = ["op", "device", "dtype", "implementations", "auto", "why"]
        console.print(make_table("what runs (other dtypes: genlab list ops)", columns, rows))
