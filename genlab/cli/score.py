"""Verbs that score images without a model: fid, is, statistics. Every number is printed with its protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genlab.cli.console import progress_reporter
from genlab.cli.devices import choose_device
from genlab.cli.generate import DeviceOption
from genlab.cli.score_output import InceptionOption, JsonOption, SeedOption, parse_metrics, print_scores

SOURCE = "Folder or zip of images, npz of statistics or images, run or checkpoint."
BatchOption = Annotated[int, typer.Option(help="Images per pass through the network.", min=1)]
LimitOption = Annotated[int | None, typer.Option(help="Use only the first so many images of each side.", min=2)]


def register(app: typer.Typer) -> None:
    app.command("fid", epilog="Example: genlab fid real_images/ generated_images.zip")(fid)
    app.command("is", epilog="Example: genlab is generated_images/")(inception_score)
    app.command("statistics", epilog="Example: genlab statistics real_images/ real.npz")(statistics)


def fid(
    a: Annotated[Path, typer.Argument(help=SOURCE, metavar="A")],
    b: Annotated[Path, typer.Argument(help=SOURCE, metavar="B")],
    inception_weights: InceptionOption = None,
    dims: Annotated[
        int, typer.Option(help="Features of 64, 192, 768 or 2048 numbers; only 2048 is called FID.")
    ] = 2048,
    metrics: Annotated[str, typer.Option(help="Of fid,is,kid,prdc, in one pass.", metavar="LIST")] = "fid",
    samples: Annotated[int, typer.Option(help="Pictures drawn where A or B is a run.", min=2)] = 50_000,
    limit: LimitOption = None,
    batch_size: BatchOption = 50,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Frechet Inception Distance of the images in B against those in A, as pytorch-fid computes it."""
    from genlab import metrics as scoring

    names = parse_metrics(metrics)
    with progress_reporter() as progress:
        scores = scoring.fid(
            a,
            b,
            inception_weights=inception_weights,
            dims=dims,
            metrics=names,
            samples=samples,
            batch_size=batch_size,
            device=choose_device(device),
            protocol=scoring.Protocol(seed=seed, limit=limit),
            progress=progress,
        )
    print_scores(scores, as_json)


def inception_score(
    images: Annotated[Path, typer.Argument(help=SOURCE, metavar="DIR")],
    inception_weights: InceptionOption = None,
    samples: Annotated[int, typer.Option(help="Pictures drawn where it is a run.", min=2)] = 50_000,
    limit: LimitOption = None,
    batch_size: BatchOption = 50,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Inception Score of images, mean and deviation over ten splits."""
    from genlab import metrics as scoring

    with progress_reporter() as progress:
        score = scoring.inception_score(
            images,
            inception_weights=inception_weights,
            samples=samples,
            batch_size=batch_size,
            device=choose_device(device),
            protocol=scoring.Protocol(seed=seed, limit=limit),
            progress=progress,
        )
    print_scores([score], as_json)


def statistics(
    images: Annotated[Path, typer.Argument(help=SOURCE, metavar="DIR")],
    output: Annotated[Path, typer.Argument(help="The .npz to write; pytorch-fid reads it too.", metavar="OUT.npz")],
    inception_weights: InceptionOption = None,
    dims: Annotated[int, typer.Option(help="Features of 64, 192, 768 or 2048 numbers.")] = 2048,
    batch_size: BatchOption = 50,
    device: DeviceOption = None,
) -> None:
    """Save mean and covariance of Inception features, so that a reference set is read only once."""
    from genlab import metrics as scoring

    with progress_reporter() as progress:
        path = scoring.save_statistics(
            images, output, inception_weights=inception_weights, dims=dims, batch_size=batch_size,
            device=choose_device(device), progress=progress,
        )  # fmt: skip
    print(path)
