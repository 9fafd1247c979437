"""What a model makes of images that it is shown: reconstruct and latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genlab.cli.generate import (
    CheckpointArgument,
    DeviceOption,
    Weights,
    WeightsOption,
    WhichOption,
    check_picture,
    open_model,
)
from genlab.cli.traverse import OutputOption, require_ability

InputArgument = Annotated[
    Path | None,
    typer.Argument(
        help="An image, a folder or a zip of images; default: the run's own data.", metavar="PATH", show_default=False
    ),
]
SplitOption = Annotated[str, typer.Option(help="Part of the run's own data.", metavar="SPLIT")]
RootOption = Annotated[
    Path | None, typer.Option(help="Where the run's own data lie now; default: its data.root.", metavar="PATH")
]

RECONSTRUCT_EXAMPLES = """\
Test images of the run's data: genlab reconstruct runs/autoencoder_mnist-1 -o grid.png

Pictures of your own: genlab reconstruct runs/autoencoder_mnist-1 my_digits/ -o grid.png
"""
LATENTS_EXAMPLES = "Example: genlab latents runs/autoencoder_mnist-1 -n 5000 -o latents.png"


def register(app: typer.Typer) -> None:
    app.command("reconstruct", epilog=RECONSTRUCT_EXAMPLES)(reconstruct)
    app.command("latents", epilog=LATENTS_EXAMPLES)(latents)


def reconstruct(
    checkpoint: CheckpointArgument,
    images: InputArgument = None,
    count: Annotated[int, typer.Option("-n", "--count", help="Images, evenly spaced.", min=1, max=256)] = 16,
    output: OutputOption = Path("reconstruction.png"),
    split: SplitOption = "test",
    root: RootOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the corruption that a denoising model undoes.", min=0)] = 0,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Show images, corrupted as in training where the model undoes that, and what it makes of them; a row each."""
    check_picture(output, 3 * count)
    model = open_model(checkpoint, which, weights, device)
    trainer = model.trainer
    require_ability(trainer, "reconstruct", "reconstructions")
    import torch

    from genlab.images import save_grid
    from genlab.inputs import open_inputs
    from genlab.reconstruction import reconstruction_rows, squared_errors

    inputs = open_inputs(images, trainer, split=split, root=root)
    batch = inputs.batch(inputs.evenly(count), trainer)
    rows = reconstruction_rows(trainer, batch, torch.Generator().manual_seed(seed))
    path = save_grid(torch.cat(rows), output, columns=len(rows[0]))
    shown = "input | corrupted | output" if len(rows) == 3 else "input | output"
    error = squared_errors(rows[0], rows[-1]).mean().item()
    print(f"{path}: {len(rows[0])} images of {inputs.source}, rows {shown}, step {model.step}")
    print(f"mean squared error {error:.5f} (intensities in [0, 1])")


def latents(
    checkpoint: CheckpointArgument,
    images: InputArgument = None,
    count: Annotated[int, typer.Option("-n", "--count", help="Images, evenly spaced.", min=2, max=100_000)] = 2000,
    output: OutputOption = Path("latents.png"),
    split: SplitOption = "test",
    root: RootOption = None,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Plot the codes of images as points of a plane, coloured by class, beside the images' principal components."""
    check_picture(output, 1)
    model = open_model(checkpoint, which, weights, device)
    trainer = model.trainer
    require_ability(trainer, "encode", "codes of images")
    from genlab.errors import UserError
    from genlab.images import save_image
    from genlab.inputs import open_inputs
    from genlab.latents import encode_in_batches, figure_image, latent_figure

    inputs = open_inputs(images, trainer, split=split, root=root)
    rows = inputs.evenly(count)
    if len(rows) < 2:
        raise UserError(f"{inputs.source}: expected at least 2 images for a plot, got {len(rows)}")
    batch = inputs.dataset.fetch(rows)  # labels in the numbers of the images' own classes, which the legend names
    given = inputs.batch(rows, trainer).get("label") if trainer.label_count is not None else None
    codes = encode_in_batches(trainer, batch["image"], given)
    figure = latent_figure(batch["image"], codes, batch.get("label"), inputs.dataset.class_names)
    path = save_image(figure_image(figure, dpi=140), output)
    print(f"{path}: codes of {len(rows)} images of {inputs.source}, {codes.shape[1]} numbers each, step {model.step}")
