"""Pictures of pictures: translate with a trained Pix2Pix or CycleGAN."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genlab.cli.generate import CheckpointArgument, DeviceOption, Weights, WeightsOption, WhichOption, open_model
from genlab.errors import UserError

if TYPE_CHECKING:
    from genlab.checkpoint import Bundle

EXAMPLES = """\
A folder: genlab translate runs/pix2pix_facades-1 labels/ photos/

The other way of a CycleGAN: genlab translate runs/cyclegan_horse2zebra-1 zebras/ horses/ --direction b_to_a
"""


class Way(str, Enum):
    """From which domain to which."""

    a_to_b = "a_to_b"
    b_to_a = "b_to_a"


class Side(str, Enum):
    """One of two pictures side by side."""

    left = "left"
    right = "right"


def register(app: typer.Typer) -> None:
    app.command("translate", epilog=EXAMPLES)(translate)


def translate(
    checkpoint: CheckpointArgument,
    source: Annotated[
        Path, typer.Argument(help="A folder or zip of images, with subfolders, or one image file.", metavar="IN_DIR")
    ],
    output: Annotated[
        Path, typer.Argument(help="A new or empty folder; for one image also a new file.", metavar="OUT_DIR")
    ],
    direction: Annotated[
        Way | None, typer.Option(help="Of a CycleGAN: from domain A to B, or back; default: as it was trained.")
    ] = None,
    resize: Annotated[
        bool, typer.Option("--resize", help="Bring images of another size to the model's, as its training did.")
    ] = False,
    half: Annotated[Side | None, typer.Option(help="Of images that are pairs side by side, the half to take.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the model's noise.", min=0)] = 0,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Translate images with a Pix2Pix or CycleGAN: one PNG for each, of the same name."""
    if not source.expanduser().exists():
        raise UserError(f"{source}: expected a folder of images, a zip archive or an image file, got nothing there")
    from genlab.translating import PictureFiles, check_output, translate_files

    as_file = check_output(output, single=source.is_file() and source.suffix.lower() != ".zip")
    model = open_model(checkpoint, which, weights, device)
    trainer = _translator(model)
    way = trainer.check_direction(direction.value if direction else None)
    chosen = half.value if half else None
    files = PictureFiles.open(source, trainer.data.shape, trainer.config.data, resize=resize, half=chosen)
    files.check()
    count = translate_files(trainer, files, output, direction=way, seed=seed, as_file=as_file)
    print(f"{output}: {count} picture{'s' if count > 1 else ''}, {way}, step {model.step}, seed {seed}")


def _translator(model: Bundle):
    """The trainer, if it is one that translates."""
    from genlab.trainers import ALGORITHMS
    from genlab.trainers.translation import TranslationTrainer

    if isinstance(model.trainer, TranslationTrainer):
        return model.trainer
    able = [name for name in ALGORITHMS.names() if issubclass(ALGORITHMS.get(name), TranslationTrainer)]
    raise UserError(
        f"{model.path}: expected a model that translates images ({', '.join(able)}), "
        f"got one of {model.config.algorithm}"
    )
