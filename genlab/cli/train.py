"""`genlab train`: a configuration in, a run directory out, progress in between."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genlab.cli.console import format_score, is_main_process, make_console, make_table
from genlab.cli.devices import choose_device

if TYPE_CHECKING:
    from genlab.trainers import TrainResult

WIDE = 110  # columns that the scores take with their protocol beside them

EXAMPLES = """\
A first model: genlab train dcgan_digits

With other settings: genlab train configs/dcgan_mnist.yaml train.steps=2000 data.batch_size=64 --run-dir runs/small

Go on after a stop: genlab train dcgan_digits --resume auto

Two GPUs: torchrun --nproc_per_node 2 -m genlab train dcgan_mnist --device cuda
"""


def register(app: typer.Typer) -> None:
    app.command("train", epilog=EXAMPLES)(train)


def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or a name from `genlab list configs`.", metavar="CONFIG")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings over the file's, such as train.steps=2000.", metavar="KEY=VALUE"),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on from the newest checkpoint (auto), or from this one.", metavar="auto|PATH")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N; default: cuda where there is a GPU.", metavar="DEVICE")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the run; default: a new one under runs/.", metavar="PATH")
    ] = None,
    require_kernels: Annotated[
        bool,
        typer.Option("--require-kernels", help="Stop when the compiled kernels are missing, instead of using PyTorch."),
    ] = False,
) -> None:
    """Train a model. Ctrl-C stops after a checkpoint."""
    from genlab.config import find_config, load_config

    settings = load_config(config, [*(overrides or []), *(["kernels.require=true"] if require_kernels else [])])
    target = choose_device(device)

    from genlab.allocator import keep_freed_memory
    from genlab.cli.progress import TrainingDisplay
    from genlab.runs import Interrupted
    from genlab.trainers import train as run_training

    keep_freed_memory()
    display = TrainingDisplay(make_console())
    try:
        result = run_training(
            settings,
            choose_run_directory(find_config(config).stem, run_dir, resume),
            device=target,
            resume=resume,
            callbacks=[display],
        )
    except Interrupted as stop:
        if is_main_process():
            # The run's own configuration holds the overrides of this command line too.
            own = shlex.join([str(stop.checkpoint.parent.parent / "config.yaml"), "--resume", str(stop.checkpoint)])
            done = stop.checkpoint.stem.replace("_", " ")
            print(f"stopped after {done}; go on with: genlab train {own}", file=sys.stderr)
        raise typer.Exit(128 + stop.signum) from None
    if is_main_process():
        print_result(result, display.report)


def choose_run_directory(name: str, run_dir: Path | None, resume: str | None) -> Path | None:
    """The folder of the run: the one asked for; the newest of this configuration with `--resume auto`; else a new one.

    None leaves it to the checkpoint that `--resume PATH` names.
    """
    from genlab.runs import default_run_directory, latest_run_directory

    if run_dir is not None:
        return run_dir
    if resume is None:
        return default_run_directory(name)
    if resume == "auto":
        return latest_run_directory(name) or default_run_directory(name)
    return None


def print_result(result: TrainResult, report: Path | None) -> None:
    """Scores best and last, then where to look."""
    console = make_console()
    if result.last_scores:
        columns, rows = ["score", "best", "at step", "last", "better", "protocol"], score_rows(result)
        below = [] if console.width >= WIDE else [f"{row[0]}: {row.pop()}" for row in rows]
        shown = columns if console.width >= WIDE else columns[:-1]
        console.print(make_table(None, shown, rows, right=["best", "at step", "last"], whole=["score"]))
        for line in below:
            console.print(line, markup=False, soft_wrap=True)
    places = [
        ("samples", result.samples),
        ("checkpoint", result.last_checkpoint),
        ("best", result.best_checkpoint),
        ("report", report),
    ]
    for label, path in places:
        if path is not None:
            console.print(f"{label:<11}{path}", markup=False, soft_wrap=True)


def score_rows(result: TrainResult) -> list[list[str]]:
    """A row for each score of the last evaluation, with the value of the best checkpoint beside it."""
    best = {row["name"]: row for row in result.best_scores}
    rows = []
    for row in result.last_scores:
        chosen = best.get(row["name"], row)
        rows.append(
            [
                row["name"],
                _value(chosen),
                f"{chosen['step']:,}",
                _value(row),
                direction(row),
                short_protocol(row["protocol"]),
            ]
        )
    return rows


def direction(row: dict[str, Any]) -> str:
    from genlab.report.collect import lower_is_better

    return "lower" if lower_is_better(row) else "higher"


def short_protocol(protocol: dict[str, Any]) -> str:
    """What a reader has to know beside the number; all of it is in metrics.jsonl and the report."""
    real, fake = protocol.get("real") or {}, protocol.get("fake") or {}
    parts = []
    if protocol.get("extractor"):
        parts.append(f"{protocol['extractor']} {str(protocol.get('extractor_hash', ''))[:8]}".strip())
    if fake:
        parts.append(f"{fake.get('count')} drawn")
    if real:
        parts.append(f"{real.get('count')} real ({real.get('split')})")
    if fake.get("weights"):
        parts.append(f"{fake['weights']} weights")
    return ", ".join(parts)


def _value(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "not finite"
    spread = f" ± {row['std']:.2g}" if row.get("std") is not None else ""
    return f"{format_score(row['value'])}{spread}"
