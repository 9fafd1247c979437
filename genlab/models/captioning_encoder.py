"""The picture's side of image captioning: a classifier up to one of its feature maps, whose places are attended to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from genlab.models.classifiers import ClassifierModelConfig, build_classifier
from genlab.models.dense_classifier import DenseClassifier
from genlab.models.googlenet import INCEPTIONS, GoogLeNet
from genlab.models.resnet import ResNet
from genlab.models.vit import VisionTransformer

Shape = tuple[int, int, int]


class PatchTokens(nn.Module):
    """A Vision Transformer's tokens after its encoder as a map; the class token is left out."""

    def __init__(self, network: VisionTransformer) -> None:
        super().__init__()
        self.network = network
        self.network.heads = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, width, rows, columns)."""
        encoder, patch = self.network.encoder, self.network.patch
        tokens = encoder.ln(encoder.layers(self.network.tokens(images)))[:, 1:]
        grid = (images.shape[2] // patch, images.shape[3] // patch)
        return tokens.transpose(1, 2).unflatten(2, grid)


def map_layers(network: nn.Module) -> list[nn.Module]:
    """What a classifier is made of before its head: modules that pass a map on, in order.

    Raises:
        ValueError: a network of dense layers, which has no places to attend to.
    """
    if isinstance(network, DenseClassifier):
        raise ValueError("expected a network of convolutions or patches, whose places can be attended to, got mlp")
    if isinstance(network, VisionTransformer):
        return [PatchTokens(network)]
    if isinstance(network, ResNet):
        names = ["conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4"]
        return [getattr(network, name) for name in names]
    if isinstance(network, GoogLeNet):
        names = ["conv1"] if network.small else ["conv1", "maxpool1", "conv2", "conv3", "maxpool2"]
        for name in INCEPTIONS:
            names += {"4a": ["maxpool3"], "5a": ["maxpool4"]}.get(name, []) + [f"inception{name}"]
        return [getattr(network, name) for name in names]
    return list(network.features)


class ImageEncoder(nn.Module):
    """A classifier's layers up to the deepest map that has at least `grid` places along its shorter side.

    Each place of the map is one annotation vector (Xu et al. 2015, section 3.1.1). The map is the last one before the
    sides get smaller, as is the paper's: the fourth convolution before the last pooling of VGG-19.

    Args:
        shape: (C, H, W) of the pictures.
        model: which classifier.
        grid: least number of places.
        frozen: weights and batch statistics stay as they are.
        prepare: what is done to pictures in [-1, 1] first.

    Attributes:
        channels: numbers of an annotation vector, D.
        rows, columns: of the map.

    Raises:
        ValueError: pictures too small for the classifier, or no map of so many places.
    """

    def __init__(
        self,
        shape: Shape,
        model: ClassifierModelConfig,
        grid: int,
        *,
        frozen: bool = False,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.frozen, self._prepare = frozen, prepare
        layers = map_layers(build_classifier(shape, 1, model))
        shapes = _shapes(layers, shape)
        deep = [depth for depth, found in enumerate(shapes) if min(found[1:]) >= grid]
        if not deep:
            sides = max(min(found[1:]) for found in shapes)
            raise ValueError(
                f"expected a map of at least {grid} places a side, got {sides} at most from {shape[1]}x{shape[2]} px; "
                "lower grid or raise data.image_size"
            )
        self.layers = nn.Sequential(*layers[: deep[-1] + 1])
        self.channels, self.rows, self.columns = shapes[deep[-1]]
        if frozen:
            self.requires_grad_(False)
            self.train(False)

    def train(self, mode: bool = True) -> ImageEncoder:
        """As of any module; a frozen encoder stays in evaluation mode, so that its batch statistics do."""
        return super().train(mode and not self.frozen)

    def load_classifier(self, network: nn.Module) -> None:
        """Takes the weights of a whole classifier of the same architecture."""
        self.layers.load_state_dict(nn.Sequential(*map_layers(network)[: len(self.layers)]).state_dict())

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] to annotation vectors (N, rows * columns, D), row by row."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.layers(images if self._prepare is None else self._prepare(images))
        return maps.flatten(2).transpose(1, 2)


def _shapes(layers: list[nn.Module], shape: Shape) -> list[Shape]:
    """Shape (C, H, W) behind each layer."""
    whole = nn.Sequential(*layers).eval()
    shapes, maps = [], torch.zeros(1, *shape)
    with torch.no_grad():
        for layer in layers:
            maps = layer(maps)
            shapes.append(tuple(maps.shape[1:]))
    whole.train()
    return shapes
