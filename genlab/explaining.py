"""What a classifier looks at: filters, feature maps, saliency, Grad-CAM, attention, and its features in a plane."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.errors import UserError
from genlab.images import make_grid, to_uint8
from genlab.models.vit import VisionTransformer

MOST_FILTERS = 64
MOST_MAPS = 16


def first_filters(network: nn.Module, image_shape: tuple[int, ...], most: int = MOST_FILTERS) -> Tensor:
    """The first layer's filters as pictures (K, C, h, w) in [-1, 1], each stretched to its own range.

    A convolution's kernels; of a network without one, the weights of the first dense layer, a picture for each unit. C
    is 1 or 3; filters of other numbers of channels are shown by their mean over them.

    Args:
        network: any classifier.
        image_shape: (C, H, W) of the pictures that it sees.
        most: filters shown.

    Raises:
        UserError: a network with neither.
    """
    first = next((m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))), None)
    weights = None if first is None else first.weight
    if weights is not None and weights.dim() == 2:
        weights = weights.unflatten(1, image_shape) if weights.shape[1] == math.prod(image_shape) else None
    if weights is None:
        raise UserError("filters: expected a network whose first layer sees pixels, got none")
    filters = weights.detach().float().cpu()[:most]
    if filters.shape[1] not in (1, 3):
        filters = filters.mean(1, keepdim=True)
    largest = filters.flatten(1).abs().amax(1).clamp_min(1e-12)
    return filters / largest[:, None, None, None]


def stages(network: nn.Module) -> dict[str, nn.Module]:
    """The network's convolutions in the order of its modules, by name: whose outputs are feature maps."""
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


@contextmanager
def capturing(layers: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Inside, the outputs of the layers are put under their names as the network runs."""
    found: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output, name=name: found.__setitem__(name, output))
        for name, layer in layers.items()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def feature_maps(network: nn.Module, image: Tensor, most: int = MOST_MAPS) -> dict[str, Tensor]:
    """The first maps of up to four convolutions spread over the depth, for one picture.

    Args:
        network: in evaluation mode.
        image: (1, C, H, W) as the network takes it.
        most: maps of a layer.

    Returns:
        layer's name -> (K, 1, h, w) in [-1, 1], each map stretched to its own range; maps of a single pixel to that of
        all of them.
    """
    layers = stages(network)
    names = list(layers)
    chosen = [names[i] for i in sorted({round(k * (len(names) - 1) / 3) for k in range(4)})] if names else []
    with capturing({name: layers[name] for name in chosen}) as found, torch.no_grad():
        network(image)
    maps = {name: found[name].float()[0, :most, None] for name in chosen}
    return {name: stretched_together(m) if m[0].numel() == 1 else stretched(m) for name, m in maps.items()}


def stretched_together(maps: Tensor) -> Tensor:
    """(N, C, h, w) from the least to the largest value of all onto [-1, 1]."""
    return stretched(maps[None].flatten(1, 2)).view_as(maps)


def stretched(maps: Tensor) -> Tensor:
    """Each (C, h, w) of (N, C, h, w) from its least to its largest value onto [-1, 1]; a constant one becomes -1."""
    low = maps.flatten(1).amin(1)[:, None, None, None]
    span = maps.flatten(1).amax(1)[:, None, None, None] - low
    return (maps - low) / span.clamp_min(1e-12) * 2 - 1


def saliency(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """|d logit / d pixel|, the largest over the channels (Simonyan et al. 2014, section 3.1).

    Args:
        network: in evaluation mode.
        images: (N, C, H, W) as the network takes them.
        classes: int64 (N,), whose logits are followed.

    Returns:
        (N, H, W), not negative.
    """
    images = images.detach().clone().requires_grad_(True)
    logits = network(images)
    chosen = logits.gather(1, classes[:, None].to(logits.device)).sum()
    (gradient,) = torch.autograd.grad(chosen, images)
    return gradient.abs().amax(1)


def grad_cam(network: nn.Module, images: Tensor, classes: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Where the evidence for a class lies: ReLU of a layer's maps weighted by the means of their gradients.

    Selvaraju et al. 2017, equations 1 and 2.

    Args:
        network: in evaluation mode.
        images: (N, C, H, W) as the network takes them.
        classes: int64 (N,), whose logits are explained.
        layer: gives maps (N, K, h, w); None: the last convolution whose map has more than one pixel.

    Returns:
        (N, H, W) in [0, 1], enlarged bilinearly to the pictures; 0 everywhere where nothing speaks for the class.

    Raises:
        UserError: a network without such a layer, as a Vision Transformer is.
    """
    layer = layer or _last_maps(network, images)
    with capturing({"layer": layer}) as found:
        logits = network(images.detach().requires_grad_(True))  # frozen weights must not end the graph
        maps = found["layer"]
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None].to(logits.device)).sum(), maps)
    weights = gradient.float().mean(dim=(2, 3), keepdim=True)
    evidence = F.relu((weights * maps.detach().float()).sum(1, keepdim=True))
    evidence = F.interpolate(evidence, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return evidence / evidence.flatten(1).amax(1)[:, None, None].clamp_min(1e-12)


def _last_maps(network: nn.Module, images: Tensor) -> nn.Module:
    layers = {} if isinstance(network, VisionTransformer) else stages(network)
    with capturing(layers) as found, torch.no_grad():
        network(images[:1])
    # The heads in the middle of a network and gates of single pixels do not show where.
    kept = [name for name in layers if name in found and min(found[name].shape[2:]) > 1 and "aux" not in name]
    if not kept:
        raise UserError("Grad-CAM: expected a network with a convolution whose map has more than one pixel, got none")
    return layers[kept[-1]]


def heat(maps: Tensor) -> Tensor:
    """(N, H, W) in [0, 1] as colours, uint8 (N, 3, H, W)."""
    from matplotlib import colormaps

    colours = colormaps["inferno"](maps.clamp(0, 1).cpu().numpy())[..., :3]
    return torch.from_numpy((colours * 255).round().astype(np.uint8)).permute(0, 3, 1, 2)


def overlaid(images: Tensor, maps: Tensor, share: float = 0.55) -> Tensor:
    """Pictures in [-1, 1] under heat maps (N, H, W) in [0, 1], uint8 (N, 3, H, W)."""
    shown = to_uint8(images.cpu())
    shown = shown[:, :1].expand(-1, 3, -1, -1) if shown.shape[1] in (1, 2) else shown[:, :3]
    weight = share * maps.clamp(0, 1).cpu()[:, None]
    return (shown * (1 - weight) + heat(maps) * weight).round().to(torch.uint8)


def explanation_grid(images: Tensor, rows: Sequence[Tensor], scale: int | None = None) -> Tensor:
    """A column for each picture: the picture, then what `rows` say of it, uint8 (3, H, W).

    Args:
        images: (N, C, H, W) in [-1, 1].
        rows: uint8 (N, 3, H, W) each.
        scale: enlargement; default: tiles of at least 64 px.
    """
    first = overlaid(images, torch.zeros(images.shape[0], *images.shape[2:]))
    stacked = torch.cat([first, *rows])
    return make_grid(stacked, columns=len(images), scale=scale or max(1, 64 // images.shape[-2]))


def tsne_plane(codes: Tensor, seed: int = 0) -> np.ndarray:
    """t-SNE of codes (N, D) in the plane (van der Maaten and Hinton 2008), (N, 2); needs at least 5 of them."""
    from sklearn.manifold import TSNE

    if len(codes) < 5:
        raise UserError(f"t-SNE: expected at least 5 images, got {len(codes)}")
    perplexity = min(30.0, (len(codes) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    return model.fit_transform(codes.double().cpu().numpy())


def tsne_picture(codes: Tensor, labels: Tensor | None, class_names: Sequence[str] | None, seed: int = 0) -> Tensor:
    """`tsne_plane` of codes, coloured by label, as a picture, uint8 (3, H, W)."""
    from genlab.classification_figures import new_figure
    from genlab.latents import figure_image, scatter_classes

    figure, axes = new_figure(7.2, 5.6)
    scatter_classes(axes, tsne_plane(codes, seed), labels, class_names)
    axes.set_title(f"t-SNE of the last layer's input, {len(codes):,} images", fontsize=10)
    handles, names = axes.get_legend_handles_labels()
    if names:
        figure.legend(handles, names, loc="outside right center", fontsize=8, markerscale=3, frameon=False)
    return figure_image(figure, dpi=110)
