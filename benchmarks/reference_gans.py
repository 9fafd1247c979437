"""A reference script and the lab's trainer: the same networks, trained for as many images, judged by one extractor.

The script is run unchanged from a checkout of its repository, in a process of its own. Its generator is judged twice,
normalising with running statistics and with those of each batch (as its author's pictures are made). The lab's is
judged with the first.

    python benchmarks/reference_gans.py pytorch_gan_wgan_gp PyTorch-GAN --epochs 20 --root data --out table.json

NAME is one of: pytorch_examples_dcgan (pytorch/examples, dcgan/main.py; MNIST at 64 px, against `algorithm: dcgan`),
pytorch_gan_wgan, pytorch_gan_wgan_gp (eriklindernoren/PyTorch-GAN, against configs/wgan_mlp_mnist.yaml and
wgan_gp_mlp_mnist.yaml). Every training is a folder under --runs, and is not done again.
"""

from __future__ import annotations

import argparse
import json
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from genlab import data
from genlab.bench.step import git_commit
from genlab.checkpoint import load_bundle, write_atomically
from genlab.config import RunConfig, load_config
from genlab.images import to_uint8
from genlab.metrics import evaluate
from genlab.metrics.api import resolve_for
from genlab.metrics.extractors import FeatureExtractor
from genlab.metrics.sources import GeneratorSource
from genlab.trainers import train
from genlab.trainers.facts import environment_facts

METRICS = ["fid", "is", "modes"]


class Reference(NamedTuple):
    """A script of another repository, and what the lab trains beside it."""

    script: str
    generator: str  # the script's global variable
    noise_shape: tuple[int, ...]
    config: str
    overrides: list[str]


REFERENCES = {
    "pytorch_examples_dcgan": Reference(
        "dcgan/main.py", "netG", (100, 1, 1), "dcgan_mnist",
        # What that script does, where the lab's preset of MNIST does otherwise.
        ["data.image_size=64", "data.batch_size=64", "gan.regularizers.r1=null", "gan.ema=null",
         "generator_optimizer.lr=2.0e-4", "discriminator_optimizer.lr=2.0e-4"],
    ),
    "pytorch_gan_wgan": Reference("implementations/wgan/wgan.py", "generator", (100,), "wgan_mlp_mnist", []),
    "pytorch_gan_wgan_gp": Reference(
        "implementations/wgan_gp/wgan_gp.py", "generator", (100,), "wgan_gp_mlp_mnist", []
    ),
}  # fmt: skip


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(REFERENCES), help="the script and its counterpart")
    parser.add_argument("repository", type=Path, help="checkout that holds the script")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=64, help="base channels of both networks of dcgan")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samples", type=int, default=10_000, help="images that are judged")
    parser.add_argument("--root", default="data", help="folder that holds MNIST")
    parser.add_argument("--runs", type=Path, default=Path("runs/reference_gans"))
    parser.add_argument("--out", type=Path, required=True, help="JSON to write; renewed after every training")
    parser.add_argument("--script-only", type=int, metavar="SEED", help=argparse.SUPPRESS)
    parser.add_argument("override", nargs="*", help="further key=value of the lab's configuration")
    options = parser.parse_intermixed_args()
    script = options.repository / REFERENCES[options.name].script
    if not script.is_file():
        parser.error(f"{script}: expected the script of {options.name}, found no such file")
    return options


def script_arguments(options: argparse.Namespace, seed: int) -> list[str]:
    if not options.name.endswith("_dcgan"):
        return ["--n_epochs", str(options.epochs), "--sample_interval", "1000000000"]
    folders = ["--dataset", "mnist", "--dataroot", "../../data/mnist", "--outf", "out", "--workers", "0"]
    sizes = ["--ngf", str(options.width), "--ndf", str(options.width)]
    return [*folders, *sizes, "--niter", str(options.epochs), "--manualSeed", str(seed)]


def run_script(options: argparse.Namespace, seed: int) -> None:
    """The script as the main program, then images of its generator to images.npz: what the process of its own does.

    The scripts write into the working directory and look for MNIST two folders above it.
    """
    reference = REFERENCES[options.name]
    raw = Path.cwd().parents[1] / "data" / "mnist" / "MNIST" / "raw"
    if not raw.is_dir():
        shutil.copytree(Path(options.root) / "MNIST" / "raw", raw)
    torch.manual_seed(seed)
    np.random.seed(seed)
    script = str(options.repository / reference.script)
    sys.argv = [script, *script_arguments(options, seed)]
    start = time.perf_counter()
    network = runpy.run_path(script, run_name="__main__")[reference.generator]
    seconds = time.perf_counter() - start
    images = {
        name: draw(network.train(training), reference.noise_shape, options.samples)
        for name, training in (("running", False), ("batch", True))
    }
    np.savez("unfinished.npz", seconds=seconds, **images)
    Path("unfinished.npz").rename("images.npz")


@torch.no_grad()
def draw(network: nn.Module, noise_shape: tuple[int, ...], count: int, batch_size: int = 100) -> np.ndarray:
    """(count, 1, H, W) uint8."""
    source = torch.Generator().manual_seed(0)
    batches = [
        to_uint8(network(torch.randn(min(batch_size, count - start), *noise_shape, generator=source)))
        for start in range(0, count, batch_size)
    ]
    return torch.cat(batches).numpy()


def reference_images(options: argparse.Namespace, seed: int) -> dict[str, np.ndarray]:
    folder = options.runs.resolve() / f"{options.name}_{options.epochs}_{options.width}_{seed}" / "work" / "script"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "images.npz").is_file():
        words = [options.name, options.repository.resolve(), "--root", Path(options.root).resolve(), "--out", "none"]
        words += ["--epochs", options.epochs, "--width", options.width, "--samples", options.samples]
        command = [sys.executable, str(Path(__file__).resolve()), *map(str, words), "--script-only", str(seed)]
        with (folder / "output.txt").open("w") as output:
            subprocess.run(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, check=True)
    with np.load(folder / "images.npz") as archive:
        return dict(archive)


def lab_config(options: argparse.Namespace, seed: int) -> RunConfig:
    """The lab's configuration for as many images as the script sees."""
    reference = REFERENCES[options.name]
    words = [*reference.overrides, f"data.root={options.root}", f"seed={seed}", "train.tensorboard=false"]
    if options.name.endswith("_dcgan"):
        words.append(f"model.base_channels={options.width}")
    plain = load_config(reference.config, [*words, *options.override])
    images = options.epochs * len(data.build(plain.data, "train"))
    steps = round(images / (plain.data.batch_size * plain.gan.discriminator_steps))
    words += [f"train.steps={steps}", f"train.sample_every={steps}", f"evaluate.every={steps}", "evaluate.metrics=[]"]
    return load_config(reference.config, [*words, *options.override])


def measure(options: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Trains (or finds trained) both sides of one seed; a row for each way to judge them."""
    config = lab_config(options, seed)
    run = options.runs / f"genlab_{options.name}_{options.epochs}_{options.width}_{seed}"
    train(config, run, resume="auto", evaluator=None)
    bundle = load_bundle(run)
    extractor = resolve_for(config.data)
    lab = GeneratorSource(bundle.trainer.sample, options.samples)
    progress = bundle.state["progress"]
    rows = [row("genlab", lab, progress["seconds"], config, extractor)]
    images = reference_images(options, seed)
    for statistics in ("running", "batch"):
        source = torch.from_numpy(images[statistics])
        rows.append(row(f"script, {statistics} statistics", source, float(images["seconds"]), config, extractor))
    return [{"seed": seed, **each} for each in rows]


def row(who: str, images: Any, seconds: float, config: RunConfig, extractor: FeatureExtractor) -> dict[str, Any]:
    scores = evaluate(data.build(config.data, "train"), images, extractor, METRICS)
    return {"who": who, "seconds": round(seconds, 1), "scores": [score.to_json() for score in scores]}


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for each in rows:
        scores = "  ".join(f"{score['name']} {score['value']:.4g}" for score in each["scores"])
        lines.append(f"seed {each['seed']}  {each['who']:<28}{each['seconds']:8.0f} s  {scores}")
    return "\n".join(lines)


def main() -> None:
    options = parse_options()
    if options.script_only is not None:
        run_script(options, options.script_only)
        return
    config, rows = lab_config(options, options.seeds[0]), []
    for seed in options.seeds:
        rows += measure(options, seed)
        facts = {**environment_facts(config, torch.device("cpu")), "commit": git_commit()}
        content = {"what": __doc__.splitlines()[0], **facts, "config": config.model_dump(mode="json"), "rows": rows}
        write_atomically(options.out, json.dumps(content, indent=1).encode())
    print(table(rows))


if __name__ == "__main__":
    main()
