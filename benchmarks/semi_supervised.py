"""The error table of semi-supervised learning: test error over label budgets and splits, beside the labels alone.

Every cell is a run of its own under --runs and goes on where it stood when the script is started again. For each budget
the same splits are trained with `sgan.supervised_only=true`, the same classifier on the same labels.

    python benchmarks/semi_supervised.py sgan_mnist_short --labels 100 --splits 3 --out table.json data.root=data
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from genlab import data
from genlab.config import load_config
from genlab.data.budget import label_budget
from genlab.errors import ConfigError, UserError
from genlab.trainers import train
from genlab.trainers.facts import environment_facts


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a configuration of algorithm sgan")
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument("--labels", type=int, nargs="+", default=[20, 50, 100, 200])
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--runs", type=Path, default=Path("runs/semi_supervised"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-baseline", action="store_true", help="leave the labels-alone column out")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write; renewed after every cell")
    return parser.parse_intermixed_args()


def check(arguments: argparse.Namespace) -> None:
    """Raises UserError where a cell of the table could not be trained, before the first one is."""
    config = load_config(arguments.config, arguments.overrides)
    if config.algorithm != "sgan":
        raise ConfigError(f"{arguments.config}: expected a configuration of algorithm sgan, got {config.algorithm}")
    if arguments.splits < 1:
        raise ConfigError(f"--splits: expected at least 1, got {arguments.splits}")
    dataset = data.build(config.data, config.data.split)
    classes = data.require_labels(dataset, "algorithm sgan")
    for labels in arguments.labels:
        label_budget(dataset.labels.numpy(), classes, labels, 0, "--labels")


def cell(arguments: argparse.Namespace, labels: int, split: int, supervised: bool) -> dict[str, Any]:
    """Trains one cell to its end (or finds it trained) and gives its last errors with the curve."""
    overrides = [*arguments.overrides, f"sgan.labels={labels}", f"sgan.label_seed={split}"]
    overrides += [f"sgan.supervised_only={str(supervised).lower()}", f"seed={split}"]
    config = load_config(arguments.config, overrides)
    name = f"{config.data.name}-{labels}-{split}-{'labels_alone' if supervised else 'sgan'}"
    run = arguments.runs / name
    result = train(config, run, device=arguments.device, resume="auto")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [[row["step"], row["value"]] for row in rows if row["name"] == "test_error"]
    last = {row["name"]: row["value"] for row in result.last_scores}
    facts = environment_facts(config, torch.device(arguments.device))
    return {"labels": labels, "split": split, "supervised": supervised, **last, "curve": curve, "facts": facts}


def summary(cells: list[dict[str, Any]]) -> list[str]:
    """Lines of the table: budget, sgan, labels alone; mean and deviation over splits in percent."""
    lines = [f"{'labels':>8}  {'sgan, test error %':>28}  {'labels alone, %':>28}"]
    for labels in sorted({each["labels"] for each in cells}):
        columns = []
        for supervised in (False, True):
            errors = [
                100 * each["test_error"]
                for each in cells
                if each["labels"] == labels and each["supervised"] is supervised
            ]
            spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
            columns.append(f"{statistics.mean(errors):.2f}{spread} ({len(errors)})" if errors else "-")
        lines.append(f"{labels:>8}  {columns[0]:>28}  {columns[1]:>28}")
    return lines


def main() -> None:
    arguments = parse_arguments()
    check(arguments)
    cells: list[dict[str, Any]] = []
    for labels in arguments.labels:
        for split in range(arguments.splits):
            for supervised in (False,) if arguments.no_baseline else (True, False):
                cells.append(cell(arguments, labels, split, supervised))
                report = {"command": sys.argv, "cells": cells, "table": summary(cells)}
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.write_text(json.dumps(report, indent=1))
                print("\n".join(summary(cells)), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
