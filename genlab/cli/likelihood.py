"""`genlab likelihood`: how probable a model finds pictures that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genlab.cli.console import progress_reporter
from genlab.cli.generate import CheckpointArgument, DeviceOption, Weights, WeightsOption, WhichOption, open_model
from genlab.cli.score_output import JsonOption, SeedOption, append_scores, print_scores
from genlab.errors import UserError

if TYPE_CHECKING:
    from genlab.trainers import Trainer

EXAMPLES = """\
The whole test split as in papers: genlab likelihood runs/vae_mnist-1 -k 5000 --images all

A first look: genlab likelihood runs/vae_mnist-1 -k 100 --images 500
"""


def register(app: typer.Typer) -> None:
    app.command("likelihood", epilog=EXAMPLES)(likelihood)


def likelihood(
    checkpoint: CheckpointArgument,
    draws: Annotated[
        int | None,
        typer.Option(
            "-k", "--draws", help="Importance samples of each picture; default: the run's.", min=1, max=100_000
        ),
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="So many pictures, evenly spaced; default: the run's.", metavar="N|all")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Part of the data; default: the run's.", metavar="SPLIT")] = None,
    root: Annotated[
        Path | None, typer.Option(help="Where the data lie now; default: the run's data.root.", metavar="PATH")
    ] = None,
    seed: SeedOption = 0,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Importance-sampled negative log-likelihood, ELBO, IWAE bound and active units; rows go to metrics.jsonl."""
    if images is not None and images != "all" and not (images.isdigit() and int(images) >= 2):
        raise UserError(f"--images: expected a number from 2 on, or all, got {images!r}")
    model = open_model(checkpoint, which, weights, device)
    trainer, settings = model.trainer, model.config.evaluate
    require_likelihood(trainer)
    from genlab import data
    from genlab.inputs import moved
    from genlab.trainers.vae_scores import likelihood_scores

    own = moved(model.config.data, root).model_copy(update={"limit": None})
    dataset = data.build(own, split or settings.likelihood_split)
    count = settings.likelihood_images if images is None else None if images == "all" else int(images)
    with progress_reporter() as progress:
        scores = likelihood_scores(
            trainer, dataset, draws or settings.importance_samples, count, seed, progress,
            {"checkpoint": model.path.name, "step": model.step, "weights": model.weights},
        )  # fmt: skip
    written = append_scores(model.path, model.step, scores)
    print_scores(scores, as_json)
    if written is not None and not as_json:
        print(f"written to {written}")


def require_likelihood(trainer: Trainer) -> None:
    """Refuses a model that gives no probabilities; names the algorithms that do."""
    from genlab.trainers import ALGORITHMS

    if "nll" not in trainer.own_score_names:
        able = [name for name in ALGORITHMS.names() if "nll" in ALGORITHMS.get(name).own_score_names]
        raise UserError(
            f"algorithm {trainer.config.algorithm}: gives no probability of a picture; "
            f"expected a model of {', '.join(able)}"
        )
