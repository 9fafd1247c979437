"""Nine classes against the tenth: an autoencoder is trained without one class of a set, which is then the outlier.

For every class of the set in turn: train on the others' training images, rank all test images by reconstruction error,
take the area under the ROC curve. Every training is a run of its own under --runs and is not done again.

    python benchmarks/anomaly_detection.py anomaly_autoencoder_mnist --out table.json data.root=data

With --validation a share of the training images is kept from the training and judged in place of the test images: what
is to be chosen (the code's length, noise, the measure) is chosen there, each candidate with --runs of its own.

    python benchmarks/anomaly_detection.py anomaly_autoencoder_mnist --validation 0.1 --runs runs/code4 \\
        --out code4.json data.root=data model.code=4
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genlab import data
from genlab.anomalies import MEASURES, Measure, auc, find_anomalies, outliers, reconstruction_errors
from genlab.bench.step import git_commit
from genlab.checkpoint import load_bundle, load_checkpoint
from genlab.config import RunConfig, load_config
from genlab.inputs import open_inputs
from genlab.trainers import train
from genlab.trainers.base import Trainer
from genlab.trainers.facts import environment_facts


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a configuration of an algorithm that reconstructs")
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument("--runs", type=Path, default=Path("runs/anomaly_detection"))
    parser.add_argument("--outliers", type=int, nargs="+", help="numbers of the classes; default: all")
    parser.add_argument("--quantile", type=float, default=0.95, help="share of training images below the threshold")
    parser.add_argument("--blur", type=float, nargs="+", default=[0.0, 1.0], help="pixels of smoothing, all are taken")
    parser.add_argument(
        "--validation", type=float, metavar="SHARE", help="of the training images, judged for the test's"
    )
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
    judged = None
    if arguments.validation is not None:
        count, judged = divide(load_config(arguments.config, overrides), outlier, arguments.validation)
        overrides.append(f"data.limit={count}")
    config = load_config(arguments.config, overrides)
    run = arguments.runs / f"{config.data.name}-without-{names[outlier]}"
    result = train(config, run, device=arguments.device, resume="auto", evaluator=None)
    progress = load_checkpoint(result.last_checkpoint).state["progress"]
    trainer = load_bundle(run, device=arguments.device).trainer
    measures = {f"{name}, blur {blur:g}": Measure(name, blur) for name in MEASURES for blur in arguments.blur}
    found = (
        test_scores(trainer, measures, arguments.quantile)
        if judged is None
        else validation_scores(trainer, measures, judged)
    )
    facts = {"steps": result.step, "training_seconds": round(progress["seconds"], 1)}
    return {"outlier": names[outlier], **found, **facts}


def divide(config: RunConfig, outlier: int, share: float) -> tuple[int, np.ndarray]:
    """(normal training images that are left for the training, rows of the whole training part that are judged).

    The rows are the normal images that `data.limit` leaves out, and as large a share of the outliers.
    """
    whole = data.build(config.data.model_copy(update={"classes": None}), config.data.split)
    labels = whole.labels.numpy()
    normal, strange = np.flatnonzero(labels != outlier), np.flatnonzero(labels == outlier)
    count = round(len(normal) * (1 - share))
    kept = np.setdiff1d(normal, normal[data.evenly_spaced(len(normal), count)])
    return count, np.concatenate([kept, strange[data.evenly_spaced(len(strange), round(len(strange) * share))]])


def test_scores(trainer: Trainer, measures: dict[str, Measure], quantile: float) -> dict[str, Any]:
    """On the test images, with what a threshold from the training images finds."""
    inputs = open_inputs(None, trainer, every_class=True)
    training = open_inputs(None, trainer, split=trainer.config.data.split)
    found = {
        key: find_anomalies(trainer, inputs, training, measure=measure, quantile=quantile)
        for key, measure in measures.items()
    }
    strange = next(iter(found.values())).outlier
    return {
        "auc": {key: each.auc for key, each in found.items()},
        "outliers_above_threshold": {key: float(each.found[strange].mean()) for key, each in found.items()},
        "normal_above_threshold": {key: float(each.found[~strange].mean()) for key, each in found.items()},
        "normal": int((~strange).sum()),
        "outliers": int(strange.sum()),
    }


def validation_scores(trainer: Trainer, measures: dict[str, Measure], judged: np.ndarray) -> dict[str, Any]:
    """On the training images at `judged`, which the model has not seen."""
    inputs = open_inputs(None, trainer, split=trainer.config.data.split, every_class=True)
    strange = outliers(inputs, trainer.data.class_names)[judged]
    areas = {
        key: auc(reconstruction_errors(trainer, inputs, measure, judged), strange) for key, measure in measures.items()
    }
    return {"auc": areas, "normal": int((~strange).sum()), "outliers": int(strange.sum())}


def judged_images(validation: float | None) -> str:
    if validation is None:
        return "every test image"
    return f"a share of {validation:g} of the training images, which is kept from the training"


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
                "data": f"{config.data.name}, trained on the training images of all classes but one, judged on "
                f"{judged_images(arguments.validation)}; an outlier is one of the class left out",
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
