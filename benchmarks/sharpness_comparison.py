"""A classifier trained twice, by plain descent and by sharpness-aware minimisation: accuracy, and how sharp each ends.

Both trainings start from the same weights and see the same batches. The sharpness is the leading eigenvalue of the
Hessian of the mean cross-entropy over the first samples of the training part, unvaried, by power iteration (Chen et
al. 2022, "When Vision Transformers outperform ResNets", table 2, compares just these).

    python benchmarks/sharpness_comparison.py vit_cifar10 --steps 1500 --out sharpness.json data.root=data
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab import ops
from genlab.bench.step import git_commit
from genlab.checkpoint import load_bundle, load_checkpoint
from genlab.classification import part_dataset
from genlab.config import RunConfig, load_config
from genlab.data import iterate
from genlab.sharpness import leading_eigenvalue
from genlab.trainers import train
from genlab.trainers.facts import environment_facts

SCORES = ("validation_accuracy", "test_accuracy", "test_loss")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a configuration of algorithm classifier")
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument("--steps", type=int, help="of each training; default: the configuration's")
    parser.add_argument("--rho", type=float, default=0.1, help="radius of the sharpness-aware one")
    parser.add_argument("--samples", type=int, default=512, help="that the Hessian is of")
    parser.add_argument("--chunk", type=int, default=64, help="samples of one graph of second derivatives")
    parser.add_argument("--iterations", type=int, default=30, help="Hessian-vector products at most")
    parser.add_argument("--runs", type=Path, default=Path("runs/sharpness_comparison"))
    parser.add_argument("--resume", action="store_true", help="go on in --runs; what is finished is not done again")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write; renewed after each training")
    arguments = parser.parse_intermixed_args()
    if not arguments.resume and arguments.runs.exists() and any(arguments.runs.iterdir()):
        parser.error(f"{arguments.runs}: expected a new or empty folder; name another with --runs, or --resume")
    if min(arguments.samples, arguments.chunk, arguments.iterations) < 1:
        parser.error("--samples, --chunk and --iterations: expected at least 1")
    return arguments


def settings_of(arguments: argparse.Namespace, rho: float | None) -> RunConfig:
    """The configuration of one training: as many steps, a tenth of them warm-up at most, scores at the end."""
    config = load_config(arguments.config, arguments.overrides)
    steps = arguments.steps or config.train.steps
    overrides = {
        "train.steps": steps,
        "train.schedule.warmup_steps": min(config.train.schedule.warmup_steps, steps // 10),
        "train.checkpoint_every": min(config.train.checkpoint_every, max(1, steps // 10)),
        "train.tensorboard": "false",
        "evaluate.every": steps,
        "classifier.sam_rho": "null" if rho is None else rho,
    }
    return load_config(
        arguments.config, [*arguments.overrides, *(f"{key}={value}" for key, value in overrides.items())]
    )


def row(arguments: argparse.Namespace, name: str, rho: float | None) -> dict[str, Any]:
    """Trains, or goes on, and measures."""
    run = arguments.runs / name
    result = train(settings_of(arguments, rho), run, device=arguments.device, resume="auto")
    seconds = load_checkpoint(result.last_checkpoint).state["progress"]["seconds"]
    scores = {score["name"]: score["value"] for score in result.last_scores if score["name"] in SCORES}
    found = sharpness(run, arguments)
    return {
        "training": name, "rho": rho, "steps": result.step, **scores, **found, "training_seconds": round(seconds, 1)
    }  # fmt: skip


def sharpness(run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Leading eigenvalue at the last weights, with the loss and accuracy on the same samples."""
    trainer = load_bundle(run, which="last", device=arguments.device).trainer
    network = trainer.inference_network("classifier").eval()
    losses: list[Callable[[], Tensor]] = []
    right, taken, total = 0, 0, 0.0

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        # Attention and convolution as their definitions: the kernels' attention has no second derivative.
        with ops.default_impl("reference"):
            return F.cross_entropy(network(images).float(), labels)

    for batch in iterate(part_dataset(trainer, "train"), arguments.chunk):
        keep = min(len(batch["label"]), arguments.samples - taken)
        if keep < arguments.chunk and taken:
            break  # the mean is over parts of one size
        images = trainer.inputs_of(batch["image"][:keep].to(arguments.device))
        labels = batch["label"][:keep].to(arguments.device)
        losses.append(partial(loss_of, images, labels))
        with torch.no_grad():
            logits = network(images).float()
        total += float(F.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
        taken += keep
    value, products = leading_eigenvalue(
        losses, [p for p in network.parameters() if p.requires_grad], iterations=arguments.iterations,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return {
        "leading_eigenvalue": value, "products": products, "samples": taken, "loss": total / taken,
        "accuracy": right / taken,
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each training."""
    columns = ("training", "steps", "test_accuracy", "test_loss", "loss", "leading_eigenvalue", "training_seconds")
    lines = ["  ".join(f"{column:>18}" for column in columns)]
    for entry in rows:
        values = (entry.get(column) for column in columns)
        lines.append("  ".join(f"{v:>18.4f}" if isinstance(v, float) else f"{v!s:>18}" for v in values))
    return "\n".join(lines)


def main() -> None:
    arguments = parse_arguments()
    algorithm = load_config(arguments.config, arguments.overrides).algorithm
    if algorithm != "classifier":
        raise SystemExit(f"{arguments.config}: expected algorithm classifier, got {algorithm}")
    config = settings_of(arguments, None)
    rows: list[dict[str, Any]] = []
    for name, rho in (("plain", None), ("sam", arguments.rho)):
        rows.append(row(arguments, name, rho))
        report = {
            "bench": "sharpness_comparison",
            "command": " ".join(["python", *sys.argv]),
            "commit": git_commit(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": environment_facts(config, torch.device(arguments.device)),
            "protocol": {
                "data": f"{config.data.name}; the Hessian is of the mean cross-entropy over the first "
                f"{rows[-1]['samples']} samples of the training part, without augmentation, smoothing and dropout",
                "eigenvalue": f"power iteration, at most {arguments.iterations} products, float32, last checkpoint",
                "config": config.model_dump(mode="json"),
            },
            "rows": rows,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
