"""Verbs that look and change nothing but a report: list, data check, report, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genlab.cli.console import make_console, make_table
from genlab.cli.listings import LISTINGS, Listing, op_rows
from genlab.errors import DataError


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
    for listing in LISTINGS[what]:
        columns, rows = listing()
        make_console().print(make_table(None, columns, rows))


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
        count = len(found.errors)
        raise DataError(
            f"{path}: {count} fault{'s' if count > 1 else ''} that training would stop at; mend or remove the files "
            "listed above"
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
