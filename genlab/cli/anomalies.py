"""`genlab anomalies`: images that a model gives back worse than those that it was trained on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genlab.cli.console import make_console, make_table, progress_reporter
from genlab.cli.generate import CheckpointArgument, DeviceOption, Weights, WeightsOption, WhichOption, open_model
from genlab.cli.reconstruct import InputArgument, RootOption, SplitOption
from genlab.cli.traverse import require_ability
from genlab.errors import UserError
from genlab.outputs import check_place, writing

if TYPE_CHECKING:
    from genlab.anomalies import Anomalies
    from genlab.inputs import Inputs
    from genlab.trainers import Trainer

COLUMNS = ("rank", "image", "class", "error", "over_threshold", "anomalous")
SHOWN = 10  # rows of the table on the screen
EXAMPLES = """\
A folder of pictures: genlab anomalies runs/autoencoder_mnist-1 scans/ -o findings/

Trained on nine digits, the tenth among the test images: genlab anomalies runs/anomaly_autoencoder_mnist-1 -o findings/
"""


def register(app: typer.Typer) -> None:
    app.command("anomalies", epilog=EXAMPLES)(anomalies)


def anomalies(
    checkpoint: CheckpointArgument,
    images: InputArgument = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="New or empty folder for table and pictures.", metavar="FOLDER")
    ] = Path("anomalies"),
    quantile: Annotated[float, typer.Option(help="Share of training images below the threshold.")] = 0.95,
    measure: Annotated[
        str, typer.Option(help="relative (to the intensities of both) or mse.", metavar="MEASURE")
    ] = "relative",
    blur: Annotated[float, typer.Option(help="Pixels by which both are smoothed before they are compared.")] = 1.0,
    normal: Annotated[
        str | None,
        typer.Option(help="Classes that are normal; default: those of the training.", metavar="LIST"),
    ] = None,
    training_samples: Annotated[
        int, typer.Option(help="Training images that the threshold comes from, evenly spaced.", min=2)
    ] = 10_000,
    top: Annotated[int, typer.Option(help="Images in the picture of the most anomalous.", min=1, max=256)] = 16,
    split: SplitOption = "test",
    root: RootOption = None,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Rank images by reconstruction error, with a threshold from the training images; ROC where labels tell."""
    from genlab.anomalies import Measure, find_anomalies
    from genlab.inputs import open_inputs

    check_folder(output)
    if not 0 < quantile < 1:
        raise UserError(f"--quantile: expected a number between 0 and 1, got {quantile}")
    settings = Measure(measure, blur)
    model = open_model(checkpoint, which, weights, device)
    trainer = model.trainer
    require_ability(trainer, "reconstruct", "reconstructions")
    inputs = open_inputs(images, trainer, split=split, every_class=True, root=root)
    training = open_inputs(None, trainer, split=trainer.config.data.split, root=root)
    names = [name.strip() for name in normal.split(",") if name.strip()] if normal is not None else None
    with progress_reporter() as progress:
        found = find_anomalies(
            trainer, inputs, training, measure=settings, quantile=quantile, training_samples=training_samples,
            normal=names, progress=progress,
        )  # fmt: skip
    rows = table_rows(found, inputs)
    write_findings(output, found, rows, trainer, inputs, top)
    summary = {
        "images": len(found.errors), "anomalous": int(found.found.sum()), "threshold": found.threshold,
        "quantile": quantile, "training_images": len(found.training_errors), "measure": measure, "blur": blur,
        "auc": found.auc, "source": inputs.source, "checkpoint": model.path.name, "step": model.step,
        "weights": model.weights,
    }  # fmt: skip
    print_summary(summary, rows, output, as_json)


def check_folder(output: Path) -> None:
    """Raises UserError unless `output` is an empty folder, or one that can be made."""
    check_place(output)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: expected a folder to write into, got a file; choose another name")
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output}: expected an empty or new folder, so that nothing is written over; choose another")


def table_rows(found: Anomalies, inputs: Inputs) -> list[dict[str, Any]]:
    """One row an image, the most anomalous first."""
    labels, classes = getattr(inputs.dataset, "labels", None), inputs.dataset.class_names
    rows = []
    for rank, index in enumerate(found.order, start=1):
        rows.append(
            {
                "rank": rank,
                "image": inputs.names[index] if inputs.names is not None else int(index),
                "class": classes[int(labels[index])] if classes and labels is not None else "",
                "error": float(found.errors[index]),
                "over_threshold": float(found.errors[index] / found.threshold),
                "anomalous": bool(found.found[index]),
            }
        )
    return rows


def write_findings(
    folder: Path, found: Anomalies, rows: list[dict[str, Any]], trainer: Trainer, inputs: Inputs, top: int
) -> None:
    """anomalies.csv (every image), most_anomalous.png (images above their reconstructions), errors.png."""
    import torch

    from genlab.anomalies import anomaly_figure
    from genlab.images import save_grid, save_image
    from genlab.latents import figure_image
    from genlab.reconstruction import reconstruct

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "anomalies.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    batch = inputs.batch(found.order[:top], trainer)
    pictures = torch.cat([batch["image"].cpu(), reconstruct(trainer, batch).cpu()])
    save_grid(pictures, folder / "most_anomalous.png", columns=len(batch["image"]))
    save_image(figure_image(anomaly_figure(found), dpi=130), folder / "errors.png")


def print_summary(summary: dict[str, Any], rows: list[dict[str, Any]], folder: Path, as_json: bool) -> None:
    """The first rows and what the numbers depend on, or one JSON object."""
    if as_json:
        print(json.dumps(summary))
        return
    shown = [
        [row["rank"], row["image"], row["class"], f"{row['error']:.4g}", f"{row['over_threshold']:.2f} x"]
        for row in rows[:SHOWN]
    ]
    right = ["rank", "error", "threshold"]
    make_console().print(make_table(None, ["rank", "image", "class", "error", "threshold"], shown, right=right))
    print(
        f"{summary['anomalous']} of {summary['images']} images of {summary['source']} are above "
        f"{summary['threshold']:.4g}, the {summary['quantile']:g} quantile of {summary['training_images']} training "
        f"images ({summary['measure']} error, blur {summary['blur']:g} px)"
    )
    if summary["auc"] is not None:
        print(f"AUC {summary['auc']:.4f}: outliers are the images of classes that are not normal")
    print(f"written to {folder}: anomalies.csv, most_anomalous.png, errors.png")
