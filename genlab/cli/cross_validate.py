"""`genlab cross-validate`: every fold trained by one command, and the table of mean and deviation."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from genlab.cli.console import format_score, is_main_process, make_console, print_wide_table
from genlab.cli.devices import choose_device
from genlab.cli.train import choose_run_directory
from genlab.errors import UserError

WHICH = ("last", "best")

EXAMPLES = """\
Five folds: genlab cross-validate small_cnn_mnist --folds 5

Shorter trainings, and on after a stop: genlab cross-validate classifier_tiny train.steps=200 --resume
"""


def register(app: typer.Typer) -> None:
    app.command("cross-validate", epilog=EXAMPLES)(cross_validate)


def cross_validate(
    config: Annotated[str, typer.Argument(help="A YAML file, or a name from `genlab list configs`.", metavar="CONFIG")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings over the file's, such as train.steps=2000.", metavar="KEY=VALUE"),
    ] = None,
    folds: Annotated[
        int, typer.Option(help="Parts of the data; each is left out of one training.", min=2, max=100)
    ] = 5,
    which: Annotated[
        str, typer.Option(help="Checkpoints that the table is of; the JSON has both.", metavar="last|best")
    ] = "last",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in the newest folder of this configuration, or in --run-dir.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N; default: cuda where there is a GPU.", metavar="DEVICE")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the folds' runs; default: a new one under runs/.", metavar="PATH")
    ] = None,
) -> None:
    """Train a classifier once for each fold and print mean ± standard deviation of its scores."""
    from genlab.config import find_config, load_config

    if which not in WHICH:
        raise UserError(f"--which: expected last or best, got {which!r}")
    settings = load_config(config, overrides or [])
    target = choose_device(device)

    from genlab.allocator import keep_freed_memory
    from genlab.cli.progress import TrainingDisplay
    from genlab.cross_validation import FILE
    from genlab.cross_validation import cross_validate as run_folds
    from genlab.runs import Interrupted

    keep_freed_memory()
    name = f"{find_config(config).stem}-folds"
    folder = choose_run_directory(name, run_dir, "auto" if resume else None)
    try:
        report = run_folds(
            settings, folds, folder, device=target, resume=resume,
            callbacks=lambda fold: [TrainingDisplay(make_console())],
        )  # fmt: skip
    except Interrupted as stop:
        if is_main_process():
            own = shlex.join([config, *(overrides or []), "--folds", str(folds), "--run-dir", str(folder)])
            own += f" --device {device}" if device is not None else ""
            print(f"stopped; go on with: genlab cross-validate {own} --resume", file=sys.stderr)
        raise typer.Exit(128 + stop.signum) from None
    if is_main_process():
        print_table(report, which)
        print(f"written to {folder / FILE}")


def print_table(report: dict[str, Any], which: str) -> None:
    """A row for each fold, and mean ± deviation under them."""
    names = list(report["summary"][which])
    rows = [
        [str(row["fold"]), f"{row['step'][which]:,}", *(_told(row[which].get(name)) for name in names)]
        for row in report["rows"]
    ]
    told = []
    for name in names:
        found = report["summary"][which][name]
        told.append(f"{format_score(found['mean'])} ± {found['sd']:.2g}")
    rows.append(["mean ± sd", "", *told])
    console = make_console()
    title = f"{report['folds']} folds, {which} checkpoints"
    print_wide_table(console, title, ["fold", "step", *names], rows, right=["step", *names])
    if which == "best":
        console.print("validation scores of best checkpoints are those that they were chosen by", markup=False)


def _told(value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else format_score(value)
