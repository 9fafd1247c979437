"""Pictures from a checkpoint: sample and interpolate. The checkpoint says what it is; no architecture flags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genlab.cli.classes import ALL, class_name, class_number, class_numbers
from genlab.cli.devices import choose_device
from genlab.errors import UserError
from genlab.outputs import check_place

if TYPE_CHECKING:
    import torch

    from genlab.checkpoint import Bundle
    from genlab.trainers import Trainer

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
BATCH = 100  # pictures drawn at a time, so that memory does not grow with their number
LARGEST_GRID = 4096
REAL_POINTS = 4096  # shown behind generated ones


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
ClassesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        help="Class to draw, name or number; several times for several, all for every one. One class a row of the "
        "grid, or a folder of its own.",
        metavar="CLASS",
    ),
]
ClassOption = Annotated[
    str | None,
    typer.Option("--class", help="Class to decode with, where the model has classes: name or number.", metavar="CLASS"),
]
WeightsOption = Annotated[
    Weights, typer.Option("--weights", help="The averaged weights where the run has them, or those of the last step.")
]


def register(app: typer.Typer) -> None:
    app.command("sample", epilog=SAMPLE_EXAMPLES)(sample)
    app.command("interpolate", epilog=INTERPOLATE_EXAMPLES)(interpolate)


SAMPLE_EXAMPLES = """\
A grid: genlab sample runs/dcgan_digits-1 -n 64 -o grid.png

One class a row: genlab sample runs/cgan_mnist-1 --class all -n 10 -o classes.png

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
    count: Annotated[
        int | None, typer.Option("-n", "--count", help="How many pictures [64], with --class: of each [8].", min=1)
    ] = None,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="A picture file for a grid, or a folder for single PNGs.", metavar="PATH"),
    ] = Path("samples.png"),
    seed: SeedOption = 0,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    columns: Annotated[
        int | None,
        typer.Option(help="Pictures in a row of the grid; default: as square as can be, or one class a row.", min=1),
    ] = None,
    classes: ClassesOption = None,
    device: DeviceOption = None,
) -> None:
    """Draw new pictures from a trained model."""
    count = count or (8 if classes else 64)
    as_grid = check_output(output, count * (1 if not classes or ALL in classes else len(classes)))
    model = open_model(checkpoint, which, weights, device)
    import torch

    from genlab.images import save_grid

    asked: list[int | None] = list(class_numbers(model.trainer, classes)) if classes else [None]
    total, told = count * len(asked), ""
    if classes:
        told = f" of class{'es' if len(asked) > 1 else ''} {', '.join(class_name(model.trainer, c) for c in asked)}"
        columns = columns or (count if len(asked) > 1 else None)
        check_output(output, total)
    generator = torch.Generator().manual_seed(seed)
    batches = [(label, _draw(model, count, generator, label)) for label in asked]
    if model.trainer.data.kind == "points":
        path = _scatter(model, torch.cat(list(batches[0][1])), output if as_grid else None)
        print(f"{path}: {total} points in orange over real ones in blue, step {model.step}, seed {seed}")
        return
    if as_grid:
        path = save_grid(torch.cat([part for _, parts in batches for part in parts]), output, columns=columns)
    else:
        path = output
        for label, parts in batches:
            save_numbered(parts, output if label is None else output / class_name(model.trainer, label))
    print(f"{path}: {total} picture{'s' if total > 1 else ''}{told}, step {model.step}, seed {seed}")


def _draw(model: Bundle, count: int, generator: torch.Generator, label: int | None) -> Iterator[torch.Tensor]:
    """Samples, of one class where there is a label, a batch at a time."""
    import torch

    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        labels = None if label is None else torch.full((size,), label)
        yield model.trainer.sample(size, generator, labels).cpu()


def _scatter(model: Bundle, points: torch.Tensor, output: Path | None) -> Path:
    """Writes generated points over the real ones; None stands for a folder, in which points cannot be single PNGs."""
    if output is None:
        raise UserError(f"-o: expected a picture file ({', '.join(PICTURE_SUFFIXES)}) for points, got a folder")
    from genlab import data
    from genlab.images import save_image
    from genlab.scatter import scatter_picture
    from genlab.trainers.diagnosis import sample_values

    dataset = data.build(model.config.data, model.config.data.split)
    real = sample_values(dataset.fetch(data.evenly_spaced(len(dataset), REAL_POINTS)))
    return save_image(scatter_picture(real, points)[0], output)


def require_images(trainer: Trainer, verb: str) -> None:
    """Refuses a model of points, which no grid of pictures can show."""
    if trainer.data.kind == "points":
        raise UserError(
            f"{verb}: expected a model of images, got one of points ({trainer.data.name}); use genlab sample"
        )


def save_numbered(batches: Iterable[torch.Tensor], folder: Path) -> None:
    """Writes images as 000000.png, 000001.png, ... into `folder`."""
    from genlab.images import save_image

    index = 0
    for batch in batches:
        for picture in batch:
            save_image(picture, folder / f"{index:06d}.png")
            index += 1


def check_output(output: Path, count: int) -> bool:
    """Whether the output is one picture (a grid) rather than a folder.

    Raises:
        UserError: a suffix of no known picture, a folder that holds something, a place that cannot be written to, or
            too many pictures for one grid.
    """
    check_place(output)
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


def check_picture(output: Path, count: int) -> None:
    """Raises UserError unless `output` can be one picture of `count` images."""
    if count > LARGEST_GRID:
        raise UserError(f"{output}: expected at most {LARGEST_GRID} pictures in one grid, got {count}; ask for fewer")
    if not check_output(output, 1):
        raise UserError(f"{output}: expected a picture file ({', '.join(PICTURE_SUFFIXES)}), got a folder")


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
    class_: ClassOption = None,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Walk between random points of the latent space; one walk a row."""
    check_picture(output, rows * steps)
    model = open_model(checkpoint, which, weights, device)
    require_images(model.trainer, "interpolate")
    import torch

    from genlab.images import save_grid
    from genlab.interpolation import lerp, slerp

    generator = torch.Generator().manual_seed(seed)
    ends = model.trainer.latents(2 * rows, generator)
    label = choose_label(model.trainer, class_, generator)
    walk = (slerp if path is Route.slerp else lerp)(ends[0::2], ends[1::2], steps)
    latents = walk.flatten(0, 1)  # (rows * steps, ...): row by row, the order of the grid
    pictures = decode_in_batches(model.trainer, latents, label)
    written = save_grid(pictures, output, columns=steps)
    told = "" if label is None else f" of class {class_name(model.trainer, label)}"
    print(f"{written}: {rows} walks of {steps} pictures{told}, step {model.step}, seed {seed}")


def decode_in_batches(trainer: Trainer, latents: torch.Tensor, label: int | None) -> torch.Tensor:
    """Images of latents (N, ...) on the CPU, all of one class where there is a label."""
    import torch

    return torch.cat(
        [
            trainer.decode(part, None if label is None else torch.full((len(part),), label)).cpu()
            for part in latents.split(BATCH)
        ]
    )


def choose_label(trainer: Trainer, text: str | None, generator: torch.Generator) -> int | None:
    """The class that `--class` names; of a conditional model without it, one drawn from `generator`.

    Raises:
        UserError: no such class, or a model without classes.
    """
    import torch

    if text is not None:
        return class_number(trainer, text)
    if trainer.label_count is None:
        return None
    return int(torch.randint(trainer.label_count, (1,), generator=generator))
