"""`genlab bench op` and `genlab bench tune`: the lab's ops against stock PyTorch, and the table behind `auto`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from genlab.cli.console import make_console, make_table, progress_reporter
from genlab.cli.devices import choose_device

OP_EXAMPLE = "Example: genlab bench op conv2d batch_norm_act --dtype bf16 --json op.json --plot op.png"
TUNE_EXAMPLE = "Example: genlab bench tune conv2d --shapes full"

Names = Annotated[list[str] | None, typer.Argument(help="Ops; default: all.", metavar="[NAME ...]")]
Dtype = Annotated[str, typer.Option(help="fp32, bf16; on a GPU also tf32 and fp16.", metavar="NAME")]
Shapes = Annotated[str, typer.Option(help="quick (the heaviest layers), full, or tiny (a check).", metavar="NAME")]
Rounds = Annotated[int, typer.Option(help="Rounds; each visits every contender twice.", min=1)]
Seconds = Annotated[float, typer.Option(help="Length of a visit in seconds.", min=1e-4)]
Threads = Annotated[int | None, typer.Option(help="Threads of torch; default: torch's choice.", min=1)]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", metavar="DEVICE")]


def op(
    names: Names = None,
    dtype: Dtype = "fp32",
    shapes: Shapes = "quick",
    rounds: Rounds = 5,
    seconds: Seconds = 0.05,
    device: Device = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="Let torch.compile take part (slow to start).")] = False,
    threads: Threads = None,
    limit: Annotated[
        float | None, typer.Option("--limit", help="Begin no case after so many seconds.", min=0.0)
    ] = None,
    output: Annotated[Path | None, typer.Option("--json", help="File to write the result to.", metavar="PATH")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG to draw the ratios into.", metavar="PATH")] = None,
) -> None:
    """Time the lab's ops against stock PyTorch: both layouts, autocast, torch.compile; forward and every gradient."""
    from genlab import allocator
    from genlab.bench.op import run_op_bench

    settings = _settings(names, dtype, shapes, rounds, seconds, device, threads, compiled, limit)
    allocator.keep_freed_memory()  # one process: it helps both sides alike
    with progress_reporter() as progress:
        result = run_op_bench(settings, lambda done, total: progress("cases", done, total))
    print_result(result)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"written to {output}")
    if plot is not None:
        from genlab.bench.plot import plot_ops

        plot_ops(result, plot)
        print(f"drawn into {plot}")
    if any(row["verdict"] == "refused" for row in result["rows"]):
        raise typer.Exit(1)


def tune(
    names: Names = None,
    dtype: Dtype = "fp32",
    shapes: Shapes = "full",
    rounds: Rounds = 5,
    seconds: Seconds = 0.05,
    device: Device = "cpu",
    threads: Threads = None,
    table: Annotated[
        Path | None,
        typer.Option("--table", help="File; default: $GENLAB_TUNING, else the package's own table.", metavar="PATH"),
    ] = None,
    limit: Annotated[float, typer.Option("--limit", help="Begin no case after so many seconds.", min=0.0)] = 840.0,
    accept_noise: Annotated[
        bool, typer.Option("--accept-noise", help="Also keep what was measured while others used the machine.")
    ] = False,
) -> None:
    """Measure native against torch and refresh the table that impl="auto" reads before its rules."""
    from genlab import allocator
    from genlab.bench.tune import save
    from genlab.bench.tune import tune as run
    from genlab.ops import measured

    settings = _settings(names, dtype, shapes, rounds, seconds, device, threads, limit=limit)
    file = table or measured.path()
    measured.read(file)  # a file that is no table is told before the work, not after it
    allocator.keep_freed_memory()
    with progress_reporter() as progress:
        outcomes, left_out = run(settings, lambda done, total: progress("cases", done, total))
    rows = [
        [
            outcome.entry.op, outcome.entry.shape_class, _decision(outcome, accept_noise), f"{outcome.entry.ratio:.2f}",
            f"±{outcome.entry.noise:.0%}", outcome.problem or ("noisy" if outcome.noisy else ""),
        ]
        for outcome in outcomes
    ]  # fmt: skip
    columns = ["op", "shape class", "auto takes", "torch over native", "noise", "note"]
    make_console().print(make_table(f"{dtype}, {settings.device}", columns, rows, right=columns[3:5]))
    count = save(outcomes, file, accept_noise=accept_noise)
    print(f"{count} of {len(outcomes)} classes decided, written to {file}")
    if left_out:
        rest = ", ".join(left_out)
        print(f"not measured, {limit:g} s were over: {rest}; go on with `genlab bench tune OP --limit SECONDS`")


def _decision(outcome: Any, accept_noise: bool) -> str:
    decided = outcome.conclusive and (accept_noise or not outcome.noisy)
    return outcome.entry.choice if decided else "by its rules"


def _settings(
    names: list[str] | None, dtype: str, shapes: str, rounds: int, seconds: float, device: str, threads: int | None,
    compiled: bool = False, limit: float | None = None,
) -> Any:  # fmt: skip
    from genlab.bench.op import OpSettings

    return OpSettings(
        names=tuple(names or ()), dtype=dtype, shapes=shapes, rounds=rounds, seconds=seconds,
        device=choose_device(device), compiled=compiled, threads=threads, limit=limit,
    )  # fmt: skip


def print_result(result: dict[str, Any]) -> None:
    """The table, the ceilings, and which rows lose."""
    from genlab.bench.op import losing

    columns = [
        "op", "pass", "layer", "ours", "native", "best peer", "which", "ratio", "native's", "roofline", "error", "",
    ]  # fmt: skip
    rows = [_cells(row) for row in result["rows"]]
    settings, machine = result["settings"], result["machine"]
    console = make_console()
    console.print(make_table(f"ops, {settings['dtype']}, {settings['device']}", columns, rows, right=columns[3:11]))
    ceilings = result["ceilings"]
    products = ", ".join(f"{name} product {value / 1e9:.0f} GFLOP/s" for name, value in ceilings["products"].items())
    where = machine["gpu"] if settings["device"] != "cpu" else f"{machine['cpu']}, {machine['threads']} threads"
    lines = [
        f"{where}; torch {machine['torch']}; commit {result['commit']}; ceilings: {products}, copy "
        f"{ceilings['copy'] / 1e9:.1f} GB/s",
    ]
    lost = losing(result)
    if lost:
        lines.append("loses: " + ", ".join(f"{_name(row)} {row['ratio']:.2f}" for row in lost))
    else:
        lines.append("no row loses beyond its noise")
    lines += [f"refused: {_name(row)}: {'; '.join(row['refused'])}" for row in result["rows"] if row["refused"]]
    noisy = sum(row["noisy"] for row in result["rows"])
    if noisy:
        lines.append(f"{noisy} of {len(rows)} rows are noisy (~): other processes used the machine")
    if result["left_out"]:
        lines.append(f"{len(result['left_out'])} cases were left out when the time was up")
    for line in lines:
        console.print(line, markup=False)


def _name(row: dict[str, Any]) -> str:
    mode = "" if row["mode"] == "eager" else f" [{row['mode']}]"
    return f"{row['op']} {row['direction']} {row['label']}{mode}"


def _cells(row: dict[str, Any]) -> list[str]:
    errors = [v["error"] for v in row["variants"] if v["ours"] and v["error"] is not None]
    ratio = f"{row['ratio']:.2f} ±{row['noise']:.0%}" if row["ratio"] else "-"
    mode = "" if row["mode"] == "eager" else f" [{row['mode']}]"
    return [
        row["op"],
        row["direction"] + mode,
        f"{row['label']}: {row['shape']}",
        _milliseconds(row["seconds"]["auto"]),
        _milliseconds(row["seconds"]["native"]),
        _milliseconds(row["seconds"]["peer"]),
        (row["best"]["peer"] or "-").removeprefix("torch "),
        ratio,
        f"{row['native_ratio']:.2f}" if row["native_ratio"] else "-",
        f"{row['roofline']['auto']:.0%} {row['bound']}" if row["roofline"]["auto"] else "-",
        f"{max(errors):.0e}" if errors else "-",
        row["verdict"] + (" ~" if row["noisy"] else ""),
    ]


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.3f} ms"
