"""Sums of latent vectors: a - b + c, of pictures that are chosen by their numbers on a sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genlab.cli.classes import class_name
from genlab.cli.generate import (
    CheckpointArgument,
    ClassOption,
    DeviceOption,
    SeedOption,
    Weights,
    WeightsOption,
    WhichOption,
    check_picture,
    choose_label,
    decode_in_batches,
    open_model,
    require_images,
)
from genlab.cli.traverse import require_ability
from genlab.errors import UserError

EXAMPLES = """\
First the sheet of numbered pictures: genlab arithmetic runs/dcgan_faces-1 --sheet sheet.png

Then the sum: genlab arithmetic runs/dcgan_faces-1 --a 3,7,12 --b 1,20,31 --c 5,9,44 -o sum.png
"""
Numbers = typer.Option(help="Pictures of the sheet to average.", metavar="NUMBERS")


def register(app: typer.Typer) -> None:
    app.command("arithmetic", epilog=EXAMPLES)(arithmetic)


def arithmetic(
    checkpoint: CheckpointArgument,
    a: Annotated[str | None, Numbers] = None,
    b: Annotated[str | None, Numbers] = None,
    c: Annotated[str | None, Numbers] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture of the sum.", metavar="PATH")] = Path(
        "arithmetic.png"
    ),
    sheet: Annotated[
        Path | None, typer.Option(help="Write the numbered pictures to choose from to this file.", metavar="PATH")
    ] = None,
    sheet_size: Annotated[
        int, typer.Option(help="Pictures of the sheet; part of what a number means, as the seed is.", min=1)
    ] = 64,
    noise: Annotated[float, typer.Option(help="The result's neighbours differ by up to so much.", min=0)] = 0.25,
    seed: SeedOption = 0,
    class_: ClassOption = None,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Average latent vectors of chosen pictures and draw a - b + c, with its neighbours, as DCGAN's paper does."""
    texts = {"--a": a, "--b": b, "--c": c}
    given = {name: parse_numbers(name, text) for name, text in texts.items() if text is not None}
    if not given and sheet is None:
        raise UserError("arithmetic: expected --a, --b and --c with the numbers of pictures, or --sheet to see them")
    if given and len(given) < len(texts):
        missing = ", ".join(name for name in texts if name not in given)
        raise UserError(f"arithmetic: expected --a, --b and --c together, got no {missing}")
    for path in ([sheet] if sheet is not None else []) + ([output] if given else []):
        check_picture(path, sheet_size)
    if given and sheet is not None and sheet.resolve() == output.resolve():
        raise UserError(f"--sheet: expected another file than -o, got {sheet} for both")
    model = open_model(checkpoint, which, weights, device)
    require_ability(model.trainer, "latents", "latent vectors to add")
    require_images(model.trainer, "arithmetic")
    import torch

    from genlab.arithmetic import combine, number_grid, pick, picture
    from genlab.images import make_grid, save_grid, save_image

    generator = torch.Generator().manual_seed(seed)
    latents = model.trainer.latents(sheet_size, generator)
    label = choose_label(model.trainer, class_, generator)
    told = "" if label is None else f", class {class_name(model.trainer, label)}"
    chosen = [pick(latents, numbers, name) for name, numbers in given.items()]
    if sheet is not None:
        images = decode_in_batches(model.trainer, latents, label)
        columns = min(8, sheet_size)
        grid = make_grid(images, columns=columns, scale=max(1, 64 // images.shape[-2]))
        save_image(number_grid(grid, sheet_size, columns), sheet)
        print(f"{sheet}: pictures 0 to {sheet_size - 1}{told}, step {model.step}, seed {seed}")
    if chosen:
        total = combine(*chosen, noise, generator)
        images, columns = picture(total, lambda part: decode_in_batches(model.trainer, part, label))
        written = save_grid(images, output, columns=columns)
        sums = " - ".join(f"mean({', '.join(map(str, given[name]))})" for name in ("--a", "--b"))
        print(
            f"{written}: {sums} + mean({', '.join(map(str, given['--c']))}), result in the middle of the square on the "
            f"right{told}, step {model.step}, seed {seed}"
        )


def parse_numbers(name: str, text: str) -> list[int]:
    """ "3, 7,12" -> [3, 7, 12].

    Raises:
        UserError: anything else.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts):
        raise UserError(f"{name}: expected numbers of pictures such as 3,7,12, got {text!r}")
    return [int(part) for part in parts]
