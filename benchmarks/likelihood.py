"""VAE against IWAE at equal epochs: importance-sampled NLL of the test split over the epochs, for several k.

    python benchmarks/likelihood.py runs/likelihood --root data --epochs 20 --importance-samples 1 5 50

Everything but k (seeds, order of the pictures, networks, learning rate) is the same; an epoch of a larger k costs more
time, which is reported beside. A run that was stopped goes on where it was when the command is given again, and further
when it is given with more epochs. FOLDER/likelihood.json is written after every run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from genlab import data
from genlab.bench.step import git_commit
from genlab.checkpoint import load_bundle, write_atomically
from genlab.config import load_config
from genlab.trainers import train
from genlab.trainers.facts import environment_facts
from genlab.trainers.vae_scores import likelihood_scores


def main() -> None:
    options = parse_options()
    options.folder.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in options.seeds:
        for k in options.importance_samples:
            results.append(measure(options, k, seed))
            content = {"what": __doc__.splitlines()[0], **facts(options), "runs": results}
            write_atomically(options.folder / "likelihood.json", json.dumps(content, indent=1).encode())
            print(line(results[-1]), flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="runs and likelihood.json are written here")
    parser.add_argument("--config", default="vae_mnist", help="configuration whose vae.importance_samples is varied")
    parser.add_argument("--root", help="data.root of the configuration")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--every", type=int, default=5, help="epochs between points of the curve")
    parser.add_argument("--importance-samples", type=int, nargs="+", default=[1, 5, 50], help="k of training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--draws", type=int, default=5000, help="k of the final nll")
    parser.add_argument("--images", type=int, help="pictures of the final nll; default: the whole test split")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("override", nargs="*", help="further key=value of the configuration")
    return parser.parse_intermixed_args()


def measure(options: argparse.Namespace, k: int, seed: int) -> dict[str, Any]:
    """Trains (or goes on with) the run of one k and seed, and takes its final scores."""
    root = [f"data.root={options.root}"] if options.root else []
    plain = load_config(options.config, [*root, *options.override])
    steps_per_epoch = len(data.build(plain.data, plain.data.split)) // plain.data.batch_size
    overrides = [
        *root,
        *options.override,
        f"seed={seed}",
        f"vae.importance_samples={k}",
        f"train.steps={options.epochs * steps_per_epoch}",
        f"train.checkpoint_every={steps_per_epoch}",
        f"evaluate.every={options.every * steps_per_epoch}",
        "evaluate.metrics=[own]",
    ]
    run = options.folder / f"k{k}_seed{seed}"
    train(load_config(options.config, overrides), run, device=options.device, resume="auto")
    bundle = load_bundle(run, device=options.device)
    test = data.build(bundle.config.data.model_copy(update={"limit": None}), "test")
    final = likelihood_scores(bundle.trainer, test, options.draws, options.images, facts={"step": bundle.step})
    return {
        "k": k,
        "seed": seed,
        "epochs": bundle.step / steps_per_epoch,
        "seconds": round(bundle.state["progress"]["seconds"], 1),
        "final": [score.to_json() for score in final],
        "curve": curve(run, steps_per_epoch),
        "config": bundle.config.model_dump(mode="json"),
    }


def curve(run: Path, steps_per_epoch: int) -> list[dict[str, float]]:
    """nll, elbo and iwae_bound of the evaluations in training, by epoch; their k is smaller than the final one's."""
    points: dict[float, dict[str, float]] = {}
    for text in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(text)
        point = points.setdefault(row["step"], {"epoch": row["step"] / steps_per_epoch})
        point[row["name"]] = row["value"]
        point.update({key: row["protocol"][key] for key in ("draws", "count") if key in row["protocol"]})
    return [points[step] for step in sorted(points)]


def facts(options: argparse.Namespace) -> dict[str, Any]:
    config = load_config(options.config, options.override)
    return {
        **environment_facts(config, torch.device(options.device)),
        "commit": git_commit(),
        "command": " ".join(sys.argv),
    }


def line(result: dict[str, Any]) -> str:
    scores = {row["name"]: row["value"] for row in result["final"]}
    return (
        f"k {result['k']}, seed {result['seed']}, epoch {result['epochs']:g}, {result['seconds']:.0f} s: "
        f"nll {scores['nll']:.2f}, elbo {scores['elbo']:.2f}, active units {scores['active_units']:.0f}"
    )


if __name__ == "__main__":
    main()
