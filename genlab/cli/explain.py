"""`genlab explain`: pictures of what a trained classifier looks at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genlab.cli.generate import CheckpointArgument, DeviceOption, Weights, WeightsOption, WhichOption, check_output
from genlab.cli.generate import open_model as open_bundle
from genlab.cli.reconstruct import InputArgument, RootOption
from genlab.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from genlab.checkpoint import Bundle
    from genlab.inputs import Inputs

EXAMPLES = """\
Test images, into the run and its report: genlab explain runs/small_cnn_mnist-1

Pictures of your own, into a folder: genlab explain runs/resnet18_cifar10-1 my_pictures/ -o explained/
"""


def register(app: typer.Typer) -> None:
    app.command("explain", epilog=EXAMPLES)(explain)


def explain(
    checkpoint: CheckpointArgument,
    images: InputArgument = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="New or empty folder; default: the run and its report.", metavar="FOLDER"),
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="Images explained, evenly spaced.", min=1, max=64)] = 8,
    class_: Annotated[
        str | None,
        typer.Option("--class", help="Class whose evidence is shown; default: the likeliest.", metavar="CLASS"),
    ] = None,
    tsne: Annotated[
        int, typer.Option(help="Images in the plane of the features; 0: no such picture.", min=0, max=10_000)
    ] = 1000,
    split: Annotated[str, typer.Option(help="Part of the run's own data.", metavar="SPLIT")] = "test",
    root: RootOption = None,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Show filters, feature maps, saliency, Grad-CAM or attention, and the features of many images in a plane."""
    if output is not None and check_output(output, 1):
        raise UserError(f"-o: expected a folder, got the picture file {output}")
    model = open_bundle(checkpoint, which, weights, device)
    inputs = _inputs(model, images, split, root)
    run = model.path.parent.parent
    inside = model.path.parent.name == "checkpoints" and (run / "config.yaml").is_file()
    if output is None and not inside:
        raise UserError(f"-o: expected a folder to write to, as {checkpoint} lies in no run; give one")
    from genlab.images import save_image

    chosen = _class(model, class_)
    for name, picture in _pictures(model, inputs, count, chosen, tsne).items():
        path = output / f"{name}.png" if output is not None else run / "samples" / f"step_{model.step:08d}_{name}.png"
        print(f"written to {save_image(picture, path)}")
    if output is None:
        from genlab.report import write_report

        print(f"written to {write_report(run)}")


def _inputs(model: Bundle, images: Path | None, split: str, root: Path | None) -> Inputs:
    """The images, refused before any work where the model is no classifier of pictures."""
    from genlab.classification import part_dataset
    from genlab.inputs import Inputs, open_inputs
    from genlab.trainers.classifier import ClassifierTrainer

    if not isinstance(model.trainer, ClassifierTrainer):
        raise UserError(f"explain: expected a model of algorithm classifier, got one of {model.config.algorithm}")
    if images is not None:
        return open_inputs(images, model.trainer)
    return Inputs(part_dataset(model.trainer, split, root), None, f"{model.config.data.name} ({split})")


def _class(model: Bundle, text: str | None) -> int | None:
    if text is None:
        return None
    names = list(model.trainer.data.class_names or ())
    number = names.index(text) if text in names else int(text) if text.isdigit() else -1
    if not 0 <= number < model.trainer.data.num_classes:
        raise UserError(f"--class: expected one of {', '.join(names[:20])}, got {text!r}")
    return number


def _pictures(model: Bundle, inputs: Inputs, count: int, chosen: int | None, tsne: int) -> dict[str, Tensor]:
    """name -> picture, uint8 (3, H, W)."""
    import torch

    from genlab import explaining
    from genlab.images import make_grid
    from genlab.latents import encode_in_batches
    from genlab.models.vit import VisionTransformer

    trainer = model.trainer
    network = trainer.inference_network("classifier")
    images = inputs.dataset.fetch(inputs.evenly(count))["image"].to(trainer.device)
    taken = trainer.inputs_of(images)
    classes = trainer.predict(images).argmax(1)
    if chosen is not None:
        classes = torch.full_like(classes, chosen)
    found = {"filters": make_grid(explaining.first_filters(network, tuple(images.shape[1:])), scale=8)}
    gradients = explaining.saliency(network, taken, classes)
    rows = [explaining.heat(gradients / gradients.flatten(1).amax(1)[:, None, None].clamp_min(1e-12))]
    if isinstance(network, VisionTransformer):
        with torch.no_grad():
            rollout = network.attention_rollout(taken)
            heads = network.attention_maps(taken[:1])[-1][0, :, 0, 1:].unflatten(1, rollout.shape[1:])
        rows.append(explaining.overlaid(images, _to_size(rollout, images)))
        found["attention"] = make_grid(explaining.heat(_to_size(heads, images)), scale=max(1, 64 // images.shape[-1]))
    elif explaining.stages(network):  # dense layers have no maps
        rows.append(explaining.overlaid(images, explaining.grad_cam(network, taken, classes)))
        for place, maps in enumerate(explaining.feature_maps(network, taken[:1]).values()):
            found[f"maps_{place + 1}"] = make_grid(maps, scale=max(1, 64 // maps.shape[-1]))
    found["explained"] = explaining.explanation_grid(images, rows)
    picked = inputs.evenly(tsne) if tsne else []
    if len(picked) >= 5:
        batch = inputs.dataset.fetch(picked)
        codes = encode_in_batches(trainer, batch["image"])
        found["tsne"] = explaining.tsne_picture(codes, batch.get("label"), inputs.dataset.class_names)
    return found


def _to_size(maps: Tensor, images: Tensor) -> Tensor:
    """Maps (N, h, w), each with its largest value at 1, enlarged to the pictures."""
    import torch.nn.functional as F

    scaled = maps / maps.flatten(1).amax(1)[:, None, None].clamp_min(1e-12)
    return F.interpolate(scaled[:, None].float(), size=images.shape[2:], mode="nearest")[:, 0]
