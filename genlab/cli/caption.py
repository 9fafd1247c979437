"""`genlab caption`: what pictures show, by a model of image captioning, and where it looked for every word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genlab.cli.generate import CheckpointArgument, DeviceOption, Weights, WeightsOption, WhichOption, open_model
from genlab.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from genlab.inputs import Inputs
    from genlab.trainers.captioning import CaptioningTrainer

BATCH = 32

EXAMPLES = """\
Pictures or folders: genlab caption runs/captioning_emoji-1 cat.png more_pictures/ --beam 5

With its attention over the picture: genlab caption runs/captioning_emoji-1 cat.png --maps maps/
"""


def register(app: typer.Typer) -> None:
    app.command("caption", epilog=EXAMPLES)(caption)


def caption(
    checkpoint: CheckpointArgument,
    images: Annotated[
        list[Path], typer.Argument(help="Image files, folders or zip archives of them.", metavar="IMAGE...")
    ],
    beam: Annotated[
        int | None, typer.Option(help="Hypotheses that are followed; 1: greedy; default: the run's.", min=1, max=64)
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(help="New or empty folder for a picture of each: the image, then where every word looked."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Say what pictures show: a line for each. Other sizes and channels are brought to the model's."""
    if maps is not None:
        _check_folder(maps)
    for path in images:
        if not path.expanduser().exists():
            raise UserError(f"{path}: expected an image, a folder or a zip archive of images, got nothing at that path")
    model = open_model(checkpoint, which, weights, device)
    from genlab.inputs import open_inputs
    from genlab.trainers.captioning import CaptioningTrainer

    trainer = model.trainer
    if not isinstance(trainer, CaptioningTrainer):
        raise UserError(
            f"{model.path}: expected a model of captioning, which says what pictures show, got one of "
            f"{model.config.algorithm}"
        )
    if maps is not None and trainer.config.model.attention == "none":
        raise UserError("--maps: expected a model with attention, got one of model.attention=none")
    opened = [(path, open_inputs(path.expanduser(), trainer, convert=True)) for path in images]
    number = 0
    for path, inputs in opened:
        for file, picture, tokens in _captions(trainer, path, inputs, beam):
            text = trainer.codec.decode(tokens)
            print(json.dumps({"image": file, "caption": text}, ensure_ascii=False) if as_json else f"{file}\t{text}")
            if maps is not None:
                _draw(trainer, picture, tokens, maps / f"{number:03d}_{Path(file).stem}.png")
            number += 1


def _check_folder(folder: Path) -> None:
    from genlab.cli.generate import check_output

    if check_output(folder, 1):
        raise UserError(f"--maps: expected a folder, got the picture file {folder}")


def _captions(
    trainer: CaptioningTrainer, path: Path, inputs: Inputs, beam: int | None
) -> Iterator[tuple[str, Tensor, list[int]]]:
    """(file, picture (C, H, W), tokens of its caption) of every image that an argument of the command line names."""
    import numpy as np

    names = inputs.names or [path.name]
    single = path.is_file() and path.suffix.lower() != ".zip"
    for start in range(0, len(names), BATCH):
        numbers = np.arange(start, min(start + BATCH, len(names)))
        pictures = inputs.dataset.fetch(numbers)["image"]
        for number, picture, tokens in zip(numbers, pictures, trainer.search(pictures, beam), strict=True):
            yield str(path if single else path / names[number]), picture, tokens


def _draw(trainer: CaptioningTrainer, picture: Tensor, tokens: list[int], path: Path) -> None:
    from genlab.attention_figures import places_picture
    from genlab.captioning import places_of
    from genlab.images import save_image

    words, places = places_of(trainer, picture, tokens)
    save_image(places_picture(picture, words, places)[0], path)
