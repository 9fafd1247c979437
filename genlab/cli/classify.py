"""What a classifier says of pictures: predict, and the part of evaluate that only classifiers have."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genlab.cli.console import make_console, print_wide_table, progress_reporter
from genlab.cli.generate import CheckpointArgument, DeviceOption, Weights, WeightsOption, WhichOption, open_model
from genlab.cli.reconstruct import InputArgument, RootOption
from genlab.errors import UserError
from genlab.outputs import check_place, writing

if TYPE_CHECKING:
    import torch

    from genlab.checkpoint import Bundle
    from genlab.inputs import Inputs

SHOWN = 10  # rows of the table on the screen
EXAMPLES = """\
Pictures of your own: genlab predict runs/small_cnn_mnist-1 my_digits/ -o predictions.csv

The test images, five likeliest classes: genlab predict runs/small_cnn_mnist-1 --split test --top 5 -o predictions.csv

With the doubt of fifty dropout passes: genlab predict runs/small_cnn_mnist-1 my_digits/ --mc 50
"""


def register(app: typer.Typer) -> None:
    app.command("predict", epilog=EXAMPLES)(predict)


def predict(
    checkpoint: CheckpointArgument,
    images: InputArgument = None,
    split: Annotated[
        str | None,
        typer.Option(help="Part of the run's own data [test]; not beside PATH.", metavar="SPLIT", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(help="Classes of each image, the likeliest first.", min=1)] = 3,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="CSV file with a row for each image.", metavar="FILE.csv")
    ] = None,
    mc: Annotated[
        int | None, typer.Option("--mc", help="Monte Carlo dropout: passes to take mean and variance over.", min=2)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the Monte Carlo passes.", min=0)] = 0,
    root: RootOption = None,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Name the classes of images, with probabilities."""
    if output is not None:
        check_place(output)
        if output.suffix.lower() != ".csv" or output.is_dir():
            raise UserError(f"-o: expected a file that ends in .csv, got {output}")
    if images is not None and split is not None:
        raise UserError(f"--split: expected no images beside it, got {images}; give one of the two")
    model = open_model(checkpoint, which, weights, device)
    classes = require_classifier(model, "predict", monte_carlo=mc is not None)
    if top > len(classes):
        raise UserError(f"--top: expected at most {len(classes)}, the classes of the model, got {top}")
    inputs = _open(model, images, split, root)
    rows = _rows(model, inputs, classes, top, mc, seed)
    if output is not None:
        with writing(output), open(output, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
    _print(rows, inputs, output, model, classes)


def require_classifier(model: Bundle, verb: str, *, monte_carlo: bool = False) -> tuple[str, ...]:
    """The classes of a model that classifies.

    Raises:
        UserError: a model of another kind, or one that has no Monte Carlo passes where they are asked for.
    """
    from genlab.trainers import ALGORITHMS

    needed = "predict_samples" if monte_carlo else "predict"
    if not hasattr(model.trainer, needed):
        able = ", ".join(name for name in ALGORITHMS.names() if hasattr(ALGORITHMS.get(name), needed))
        what = "--mc: expected a classifier with dropout" if monte_carlo else f"{verb}: expected a classifier"
        raise UserError(f"{what}, a model of {able}, got one of {model.config.algorithm}")
    data = model.trainer.data
    return tuple(data.class_names or map(str, range(data.num_classes)))


def _open(model: Bundle, images: Path | None, split: str | None, root: Path | None) -> Inputs:
    """The images, of the run's own data as the training divided them."""
    from genlab.inputs import Inputs, open_inputs
    from genlab.trainers.classifier import ClassifierTrainer

    part = split or "test"
    if images is None and isinstance(model.trainer, ClassifierTrainer):
        from genlab.classification import part_dataset

        dataset = part_dataset(model.trainer, part, root)
        return Inputs(dataset, getattr(dataset, "file_names", None), f"{model.config.data.name} ({part})")
    return open_inputs(images, model.trainer, split=part, root=root)


def _rows(
    model: Bundle, inputs: Inputs, classes: Sequence[str], top: int, passes: int | None, seed: int
) -> list[dict[str, Any]]:
    """A row of the table for each image."""
    import torch

    from genlab.classification import BATCH
    from genlab.data import iterate

    torch.manual_seed(seed)
    names, labels = inputs.names, inputs.dataset.class_names
    rows: list[dict[str, Any]] = []
    with progress_reporter() as progress:
        for batch in iterate(inputs.dataset, BATCH):
            found = _probabilities(model, batch["image"], passes)
            values, order = found["mean"].topk(top, dim=1)
            for index in range(len(values)):
                number = len(rows)
                row: dict[str, Any] = {"image": names[number] if names else number}
                if "label" in batch and labels is not None:
                    row["label"] = labels[int(batch["label"][index])]
                for place in range(top):
                    row[f"class_{place + 1}"] = classes[int(order[index, place])]
                    row[f"probability_{place + 1}"] = f"{float(values[index, place]):.6f}"
                if passes is not None:
                    row["variance"] = f"{float(found['variance'][index, order[index, 0]]):.3e}"
                    row["entropy"] = f"{float(found['entropy'][index]):.6f}"
                    row["information"] = f"{float(found['information'][index]):.6f}"
                rows.append(row)
            progress("predict", len(rows), len(inputs.dataset))
    return rows


def _probabilities(model: Bundle, images: torch.Tensor, passes: int | None) -> dict[str, torch.Tensor]:
    from genlab.classification import uncertainty

    if passes is None:
        return {"mean": model.trainer.predict(images).cpu()}
    return {name: value.cpu() for name, value in uncertainty(model.trainer.predict_samples(images, passes)).items()}


def _print(
    rows: list[dict[str, Any]], inputs: Inputs, output: Path | None, model: Bundle, classes: Sequence[str]
) -> None:
    console = make_console()
    columns = list(rows[0])
    shown = [[row[column] for column in columns] for row in rows[:SHOWN]]
    numbers = [c for c in columns if not c.startswith("class")]
    print_wide_table(console, None, columns, shown, right=numbers, keys=2 if "label" in columns else 1)
    if len(rows) > SHOWN:
        rest = f"{len(rows) - SHOWN:,} more"
        console.print(rest + (f" in {output}" if output else "; -o FILE.csv writes all"), markup=False)
    told = f"{len(rows):,} images of {inputs.source}, step {model.step}"
    if "label" in rows[0]:
        strangers = sorted({row["label"] for row in rows} - set(classes))
        if strangers:
            told += f"; not judged, as the model has no class {strangers[0]}"
        else:
            told += f", {sum(row['label'] == row['class_1'] for row in rows) / len(rows):.2%} right"
    print(f"{output}: {told}" if output else told)


def evaluate_classifier(
    model: Bundle, part: str | None, prevalences: Sequence[str], root: Path | None = None
) -> tuple[list[Any], list[list[str]], list[Path]]:
    """Scores of a classifier's run on a part of its data, with tables and pictures in the run.

    Returns:
        (scores, rows of the table of classes, files written).

    Raises:
        UserError: no such part or class.
    """
    from genlab.classification import (
        parse_prevalences,
        part_dataset,
        predictions_of,
        protocol_of,
        scores_of,
        write_tables,
    )
    from genlab.classification_figures import evaluation_pictures
    from genlab.images import save_image
    from genlab.metrics.labelled import class_table

    part = part or "test"
    shares = parse_prevalences(prevalences, require_classifier(model, "evaluate"))
    dataset = part_dataset(model.trainer, part, root)
    with progress_reporter() as progress:
        predictions = predictions_of(
            model.trainer.predict, dataset, batch_size=model.config.evaluate.batch_size, progress=progress
        )
    facts = {"checkpoint": model.path.name, "step": model.step, "weights": model.weights}
    scores = scores_of(predictions, part, {**protocol_of(model.trainer, dataset, predictions), **facts})
    written: list[Path] = []
    run = model.path.parent.parent
    if model.path.parent.name == "checkpoints" and (run / "config.yaml").is_file():
        written += write_tables(predictions, run / "evaluation" / part, shares)
        for name, picture in evaluation_pictures(predictions).items():
            written.append(save_image(picture, run / "samples" / f"step_{model.step:08d}_{name}_{part}.png"))
    rows = [[_told(value) for value in row.values()] for row in class_table(predictions, shares)]
    return scores, rows, written


def _told(value: Any) -> str:
    return ("-" if value != value else f"{value:.4f}") if isinstance(value, float) else str(value)
