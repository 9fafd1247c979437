"""The picture of a bench of ops: one bar per row, the best peer's time over ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"wins": "#2a7f5f", "ties": "#8a8f98", "loses": "#b5483a", "refused": "#d9a441"}


def plot_ops(result: dict[str, Any], file: Path) -> None:
    """Draws the ratios of a result of `run_op_bench` into a PNG; whiskers are the noise of the run.

    Rows without a ratio (refused, or nothing ran) have a label and no bar.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = result["rows"]
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = list(range(len(rows)))
    ratios = [row["ratio"] or 0.0 for row in rows]
    noise = [row["noise"] * row["ratio"] if row["ratio"] else 0.0 for row in rows]
    colours = [COLOURS.get(row["verdict"], COLOURS["ties"]) for row in rows]
    axes.barh(places, ratios, xerr=noise, color=colours, error_kw={"elinewidth": 0.8, "ecolor": "#333333"})
    for place, row in zip(places, rows, strict=True):
        if row["native_ratio"]:
            axes.plot([row["native_ratio"]], [place], marker="|", color="black", markersize=9)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(places, [_label(row) for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("best stock PyTorch's time over genlab's (more is better); | is the native kernel")
    axes.set_xlim(left=0)
    machine, settings = result["machine"], result["settings"]
    where = machine["gpu"] if settings["device"] != "cpu" else f"{machine['cpu']}, {machine['threads']} threads"
    title = f"{where}\n{settings['dtype']}, torch {machine['torch']}, {result['commit']}"
    axes.set_title(title, fontsize=8, loc="left")
    present = [name for name in COLOURS if any(row["verdict"] == name for row in rows)]
    if present:
        axes.legend(handles=[Patch(color=COLOURS[name], label=name) for name in present], fontsize=7)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, format="png")


def _label(row: dict[str, Any]) -> str:
    mode = "" if row["mode"] == "eager" else f" [{row['mode']}]"
    noisy = " (noisy)" if row["noisy"] else ""
    return f"{row['op']} {row['direction']} {row['label']}{mode}{noisy}"
