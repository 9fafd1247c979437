"""Pictures from a checkpoint: sample and interpolate. The checkpoint says what it is; no architecture flags."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genlab.cli.devices import choose_device
from genlab.errors import UserError

if TYPE_CHECKING:
    from genlab.checkpoint import Bundle

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
BATCH = 100  # pictures drawn at a time, so that memory does not grow with their number
LARGEST_GRID = 4096


class Weights(str, Enum):
    """Which weights pictures come from."""

    ema = "ema"
    raw = "raw"


class Route(str, Enum):
    """How two latent vectors are joined."""

    slerp = "slerp"
    linear = "linear"


CheckpointArgument = Annotated[
    Path, typer.Argument(help="A run directory or a .safetensors checkpoint.", metavar="CHECKPOINT_OR_RUN")
]
WhichOption = Annotated[
    str, typer.Option(help="Of a run: its last or best checkpoint, or the one of a step.", metavar="last|best|STEP")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N; default: cuda where there is a GPU.", metavar="DEVICE")
]
SeedOption = Annotated[
    int, typer.Option(help="Seed of the latent vectors; the same seed gives the same pictures.", min=0)
]
WeightsOption = Annotated[
    Weights, typer.Option("--weights", help="The averaged weights where the run has them, or those of the last step.")
]


def register(app: typer.Typer) -> None:
    app.command("sample", epilog=SAMPLE_EXAMPLES)(sample)
    app.command("interpolate", epilog=INTERPOLATE_EXAMPLES)(interpolate)


SAMPLE_EXAMPLES = """\
A grid: genlab sample runs/dcgan_digits-1 -n 64 -o grid.png

Single pictures: genlab sample runs/dcgan_digits-1 -n 5000 -o pictures/ --which best
"""
INTERPOLATE_EXAMPLES = "Example: genlab interpolate runs/dcgan_digits-1 --rows 6 --steps 10 -o walk.png"


def parse_which(text: str) -> Any:
    """ "last", "best" or a step's number."""
    if text in {"last", "best"}:
        return text
    if text.isdigit():
        return int(text)
    raise UserError(f"--which: expected last, best or the step of a checkpoint, got {text!r}")


def open_model(path: Path, which: str, weights: Weights, device: str | None) -> Bundle:
    """The model in a checkpoint, rebuilt for sampling."""
    from genlab.checkpoint import load_bundle

    return load_bundle(path, parse_which(which), device=choose_device(device), weights=weights.value)


def sample(
    checkpoint: CheckpointArgument,
    count: Annotated[int, typer.Option("-n", "--count", help="How many pictures.", min=1)] = 64,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="A picture file for a grid, or a folder for single PNGs.", metavar="PATH"),
    ] = Path("samples.png"),
    seed: SeedOption = 0,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    columns: Annotated[
        int | None, typer.Option(help="Pictures in a row of the grid; default: as square as can be.", min=1)
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Draw new pictures from a trained model."""
    as_grid = check_output(output, count)
    model = open_model(checkpoint, which, weights, device)
    import torch

    from genlab.images import save_grid, save_image

    generator = torch.Generator().manual_seed(seed)
    batches = (model.trainer.sample(min(BATCH, count - start), generator).cpu() for start in range(0, count, BATCH))
    if as_grid:
        path = save_grid(torch.cat(list(batches)), output, columns=columns)
        print(f"{path}: {count} pictures, step {model.step}, seed {seed}")
        return
    index = 0
    for batch in batches:
        for picture in batch:
            save_image(picture, output / f"{index:06d}.png")
            index += 1
    print(f"{output}: {index} pictures, step {model.step}, seed {seed}")


def check_output(output: Path, count: int) -> bool:
    """Whether the output is one picture (a grid) rather than a folder.

    Raises:
        UserError: a suffix of no known picture, a folder that holds something, or too many pictures for one grid.
    """
    if output.suffix.lower() in PICTURE_SUFFIXES:
        if output.is_dir():
            raise UserError(f"{output}: expected a picture file to write, got a folder of that name")
        if count > LARGEST_GRID:
            raise UserError(
                f"-n: expected at most {LARGEST_GRID} pictures in one grid, got {count}; give a folder with -o"
            )
        return True
    if output.suffix and not output.is_dir():
        known = ", ".join(PICTURE_SUFFIXES)
        raise UserError(f"{output}: expected a picture file ({known}) or a folder, got the suffix {output.suffix!r}")
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: expected a folder to write pictures into, got a file; choose another name")
    if output.is_dir() and any(output.iterdir()):
        raise UserError(
            f"{output}: expected an empty or new folder, so that old and new pictures do not mix; choose another"
        )
    return False


def interpolate(
    checkpoint: CheckpointArgument,
    rows: Annotated[int, typer.Option(help="Walks, each between two random vectors.", min=1, max=256)] = 8,
    steps: Annotated[int, typer.Option(help="Pictures of a walk, both ends included.", min=2, max=256)] = 10,
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture file to write.", metavar="PATH")] = Path(
        "interpolation.png"
    ),
    seed: SeedOption = 0,
    path: Annotated[
        Route, typer.Option("--path", help="On the sphere (as normal vectors lie) or on a straight line.")
    ] = Route.slerp,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Walk between random points of the latent space; one walk a row."""
    if not check_output(output, rows * steps):
        raise UserError(f"{output}: expected a picture file ({', '.join(PICTURE_SUFFIXES)}), got a folder")
    model = open_model(checkpoint, which, weights, device)
    import torch

    from genlab.images import save_grid
    from genlab.interpolation import lerp, slerp

    generator = torch.Generator().manual_seed(seed)
    ends = model.trainer.latents(2 * rows, generator)
    walk = (slerp if path is Route.slerp else lerp)(ends[0::2], ends[1::2], steps)
    latents = walk.flatten(0, 1)  # (rows * steps, ...): row by row, the order of the grid
    pictures = torch.cat([model.trainer.decode(part).cpu() for part in latents.split(BATCH)])
    written = save_grid(pictures, output, columns=steps)
    print(f"{written}: {rows} walks of {steps} pictures, step {model.step}, seed {seed}")
