"""Pictures of a latent space: single codes walked, and the plane of a space of two numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    open_model,
)
from genlab.errors import UserError

if TYPE_CHECKING:
    from genlab.trainers import Trainer

OutputOption = Annotated[Path, typer.Option("-o", "--output", help="Picture file to write.", metavar="PATH")]

TRAVERSE_EXAMPLES = """\
The codes that change most: genlab traverse runs/vae_mnist-1 -o traversal.png

Two of them from five places: genlab traverse runs/vae_mnist-1 --codes z3,z7 --draws 5 -o z3_z7.png
"""
MANIFOLD_EXAMPLES = "Example: genlab manifold runs/vae_latent2_mnist-1 --size 20 -o manifold.png"


def register(app: typer.Typer) -> None:
    app.command("traverse", epilog=TRAVERSE_EXAMPLES)(traverse)
    app.command("manifold", epilog=MANIFOLD_EXAMPLES)(manifold)


def traverse(
    checkpoint: CheckpointArgument,
    codes: Annotated[
        str | None, typer.Option(help="Codes to walk, in this order; default: those that change most.", metavar="LIST")
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows of the picture, where no codes are named.", min=1, max=256)] = 12,
    steps: Annotated[int, typer.Option(help="Values of a code; a category shows all of its own.", min=2, max=256)] = 11,
    draws: Annotated[int, typer.Option(help="Random latent vectors that each code is walked from.", min=1)] = 1,
    output: OutputOption = Path("traversal.png"),
    seed: SeedOption = 0,
    class_: ClassOption = None,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Change one code of a latent vector at a time; a code a row, its values the columns."""
    wanted = [name.strip() for name in codes.split(",") if name.strip()] if codes is not None else []
    if codes is not None and not wanted:
        raise UserError(f"--codes: expected names such as z0,z1, got {codes!r}")
    count = (len(wanted) * draws if wanted else max(rows, draws)) * steps
    check_picture(output, count)
    model = open_model(checkpoint, which, weights, device)
    trainer = model.trainer
    require_ability(trainer, "codes", "codes to traverse")
    import torch

    from genlab.images import save_grid
    from genlab.traversal import choose_codes, rows_to_grid, walk_codes

    chosen = choose_codes(trainer.codes(), wanted)
    generator = torch.Generator().manual_seed(seed)
    label = choose_label(trainer, class_, generator)
    bases = trainer.latents(draws, generator)
    walked = walk_codes(trainer, chosen, bases, steps, label, None if wanted else rows)
    images, columns = rows_to_grid(walked)
    written = save_grid(images, output, columns=columns)
    named = list(dict.fromkeys(row.code.name for row in walked))
    told = "" if label is None else f", class {class_name(trainer, label)}"
    print(f"{written}: rows {', '.join(named)}{told}, step {model.step}, seed {seed}")


def manifold(
    checkpoint: CheckpointArgument,
    size: Annotated[int, typer.Option(help="Pictures along each side.", min=2, max=64)] = 20,
    output: OutputOption = Path("manifold.png"),
    class_: ClassOption = None,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Draw the plane of a latent space of two numbers; each picture stands for an equal share of the prior."""
    check_picture(output, size * size)
    model = open_model(checkpoint, which, weights, device)
    require_ability(model.trainer, "manifold", "plane of latents to draw")
    import torch

    from genlab.images import save_grid

    label = choose_label(model.trainer, class_, torch.Generator().manual_seed(0))
    labels = None if label is None else torch.full((size * size,), label)
    written = save_grid(model.trainer.manifold(size, labels).cpu(), output, columns=size)
    told = "" if label is None else f", class {class_name(model.trainer, label)}"
    print(f"{written}: {size} x {size} latents{told}, step {model.step}")


def require_ability(trainer: Trainer, method: str, what: str) -> None:
    """Refuses a model whose algorithm does not override `method` of the base trainer; names the algorithms that do."""
    from genlab.trainers import ALGORITHMS, Trainer

    def has(kind: type) -> bool:
        return getattr(kind, method) is not getattr(Trainer, method)

    if not has(type(trainer)):
        able = ", ".join(name for name in ALGORITHMS.names() if has(ALGORITHMS.get(name)))
        raise UserError(f"algorithm {trainer.config.algorithm}: has no {what}; expected a model of {able}")
