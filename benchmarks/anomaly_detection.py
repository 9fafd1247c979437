"""Nine classes against the tenth: an autoencoder is trained without one class of a set, which is then the outlier.

For every class of the set in turn: train on the others' training images, rank all test images by reconstruction error,
take the area under the ROC curve. Every training is a run of its own under --runs and is not done again.

    python benchmarks/anomaly_detection.py anomaly_autoencoder_mnist --out table.json data.root=data
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from genlab import data
from genlab.anomalies import MEASURES, Measure, find_anomalies
from genlab.bench.step import git_commit
from genlab.checkpoint import load_bundle, load_checkpoint
from genlab.config import load_config
from genlab.inputs import open_inputs
from genlab.trainers import train
from genlab.trainers.facts import environment_facts


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a configuration of an algorithm that reconstructs")
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument("--runs", type=Path, default=Path("runs/anomaly_detection"))
    parser.add_argument("--outliers", type=int, nargs="+", help="numbers of the classes; default: all")
    parser.add_argument("--quantile", type=float, default=0.95, help="share of training images below the threshold")
    parser.add_argument("--blur", type=float, nargs="+", default=[0.0, 1.0], help="pixels of smoothing, all are taken")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write; renewed after every class")
    return parser.parse_intermixed_args()


def class_names(arguments: argparse.Namespace) -> list[str]:
    config = load_config(arguments.config, [*arguments.overrides, "data.classes=null"])
    return list(data.build(config.data).class_names or ())


def row(arguments: argparse.Namespace, outlier: int, names: list[str]) -> dict[str, Any]:
    """Trains without the class and gives the area under the curve by each measure."""
    others = [number for number in range(len(names)) if number != outlier]
    overrides = [*arguments.overrides, f"data.classes={others}", "train.tensorboard=false"]
    config = load_config(arguments.config, overrides)
    run = arguments.runs / f"{config.data.name}-without-{names[outlier]}"
    result = train(config, run, device=arguments.device, resume="auto", evaluator=None)
    seconds = load_checkpoint(result.last_checkpoint).state["progress"]["seconds"]
    trainer = load_bundle(run, device=arguments.device).trainer
    inputs = open_inputs(None, trainer, every_class=True)
    training = open_inputs(None, trainer, split=config.data.split)
    areas, caught, alarms = {}, {}, {}
    for name in MEASURES:
        for blur in arguments.blur:
            found = find_anomalies(trainer, inputs, training, measure=Measure(name, blur), quantile=arguments.quantile)
            key = f"{name}, blur {blur:g}"
            areas[key] = found.auc
            caught[key] = float(found.found[found.outlier].mean())
            alarms[key] = float(found.found[~found.outlier].mean())
    return {
        "outlier": names[outlier], "auc": areas, "outliers_above_threshold": caught, "normal_above_threshold": alarms,
        "normal": int((~found.outlier).sum()), "outliers": int(found.outlier.sum()), "steps": result.step,
        "training_seconds": round(seconds, 1),
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Measure -> mean area over the classes taken so far."""
    return {key: statistics.mean(row["auc"][key] for row in rows) for key in rows[0]["auc"]}


def main() -> None:
    arguments = parse_arguments()
    names = class_names(arguments)
    rows: list[dict[str, Any]] = []
    for outlier in arguments.outliers if arguments.outliers is not None else range(len(names)):
        rows.append(row(arguments, outlier, names))
        config = load_config(arguments.config, arguments.overrides)
        report = {
            "bench": "anomaly_detection",
            "command": " ".join(["python", *sys.argv]),
            "commit": git_commit(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": environment_facts(config, torch.device(arguments.device)),
            "protocol": {
                "data": f"{config.data.name}, trained on the training images of all classes but one, judged on every "
                "test image; an outlier is one of the class left out",
                "score": "area under the ROC curve of the reconstruction error",
                "quantile": arguments.quantile,
                "config": config.model_dump(mode="json"),
            },
            "mean_auc": summary(rows),
            "rows": rows,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
        areas = "  ".join(f"{key} {area:.3f}" for key, area in rows[-1]["auc"].items())
        print(f"outlier {rows[-1]['outlier']}: {areas}", flush=True)
    print("mean over classes: " + "  ".join(f"{key} {area:.3f}" for key, area in summary(rows).items()))


if __name__ == "__main__":
    main()
