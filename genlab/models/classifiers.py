"""Classifiers by the name that `model.network` says, each at its paper's size and in a form for small pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pydantic import Field, field_validator
from torch import nn

from genlab.config import Section
from genlab.models.context_net import ContextNet
from genlab.models.dense_classifier import DenseClassifier
from genlab.models.googlenet import GoogLeNet
from genlab.models.lenet import Convolution, LeNet5, SmallCnn
from genlab.models.mlp import HiddenActivation, Width
from genlab.models.mobilenet import MobileNet, MobileNetV2
from genlab.models.normalization import Normalization
from genlab.models.resnet import ResNet
from genlab.models.vgg import AlexNet, Vgg
from genlab.models.vit import VIT_SIZES, VisionTransformer
from genlab.nn import init
from genlab.nn.dropout import exchange_dropout
from genlab.registry import Registry

Shape = tuple[int, int, int]
SMALL_BELOW = 64  # pixels; the large forms would leave less than 2x2 of such a picture


class ClassifierModelConfig(Section):
    """Which network classifies, its form, and what is put into it; each network uses the sizes that it has."""

    network: str = Field("small_cnn", description="lenet5, small_cnn, alexnet, vgg16, googlenet, resnet18, vit_cifar")
    form: Literal["auto", "large", "small"] = Field(
        "auto", description="small: the stem for 32 px; auto: small below 64 px"
    )
    base_channels: int | None = Field(
        None, ge=1, le=1024, description="of the first stage (small_cnn, resnet, context)"
    )
    stages: int = Field(3, ge=1, le=6, description="halvings of small_cnn")
    hidden: list[Width] = Field(default_factory=lambda: [800, 800], max_length=16, description="layers of mlp")
    activation: HiddenActivation = Field("relu", description="of mlp and small_cnn")
    pieces: int | None = Field(None, ge=1, le=64, description="of a maxout unit; null: 5 in mlp, 2 in small_cnn")
    normalization: Normalization | None = Field(None, description="of mlp (null: none) and small_cnn (null: batch)")
    convolution: Convolution = Field("plain", description="of small_cnn: plain, factorized or separable")
    width: float = Field(1.0, gt=0, le=4, description="factor on the channels of mobilenet")
    batch_norm: bool = Field(False, description="behind each convolution of vgg")
    squeeze: bool = Field(False, description="squeeze-and-excitation in every block of resnet and resnext")
    patch: int | None = Field(None, ge=1, le=64, description="pixels of a side of vit's patches; null: its size's own")
    depth: int | None = Field(None, ge=1, le=64, description="blocks of vit; null: its size's own")
    auxiliary: bool = Field(False, description="googlenet's two heads in the middle")
    dropout: float | None = Field(None, ge=0, lt=1, description="probability; null: the paper's")
    input_dropout: float = Field(0.0, ge=0, lt=1, description="share of the pixels that mlp leaves out")
    dropout_kind: Literal["dropout", "spatial", "gaussian", "annealed", "drop_connect", "max_pool"] | None = Field(
        None, description="another kind in its place; null: the network's own"
    )
    init: Literal[
        "own", "lecun", "xavier", "he", "lecun_uniform", "xavier_uniform", "he_uniform", "zero", "constant"
    ] = Field("own", description="initial weights; own: the network's, zero and constant to show why not")

    @field_validator("network")
    @classmethod
    def _known_network(cls, value: str) -> str:
        return CLASSIFIERS.known(value)

    @property
    def unused(self) -> list[str]:
        """Settings that are not at their defaults and that this network does not have."""
        used = CLASSIFIERS.get(self.network).settings
        fields = ClassifierModelConfig.model_fields
        return [
            name
            for name in _SIZES
            if name not in used and getattr(self, name) != fields[name].get_default(call_default_factory=True)
        ]


@dataclass(frozen=True)
class ClassifierNetwork:
    """How a network is built.

    Attributes:
        build: (shape of a picture, number of classes, whether small, the config) -> network to logits.
        summary: what it is, for `genlab list classifiers`.
        least: pixels of the shorter side that its large and its small form need.
        settings: those of `ClassifierModelConfig` that it has; the others say nothing to it.
    """

    build: Callable[[Shape, int, bool, Any], nn.Module]
    summary: str
    least: tuple[int, int] = (1, 1)
    settings: tuple[str, ...] = ()


def build_classifier(shape: Shape, num_classes: int, model: ClassifierModelConfig) -> nn.Module:
    """The network that `model` describes, from pictures (N, C, H, W) to logits (N, num_classes).

    Raises:
        ValueError: pictures smaller than the network's field allows, or a kind of dropout that it has no place for.
    """
    entry = CLASSIFIERS.get(model.network)
    side = min(shape[1:])
    small = model.form == "small" or (model.form == "auto" and side < SMALL_BELOW)
    least = entry.least[1 if small else 0]
    if side < least:
        raise ValueError(
            f"expected pictures of at least {least} px, as its convolutions and poolings leave nothing of smaller "
            f"ones, got {shape[1]}x{shape[2]}; raise data.image_size"
        )
    network = entry.build(shape, num_classes, small, model)
    if model.init != "own":
        init.initialize(network, model.init)
    if model.dropout_kind is not None:
        exchange_dropout(network, model.dropout_kind, model.dropout)
    return network


def _given(**settings: Any) -> dict[str, Any]:
    """The settings that are not left to the network."""
    return {name: value for name, value in settings.items() if value is not None}


def _small_cnn(shape: Shape, classes: int, small: bool, model: ClassifierModelConfig) -> nn.Module:
    sizes = _given(
        base_channels=model.base_channels, dropout=model.dropout, normalization=model.normalization, pieces=model.pieces
    )
    return SmallCnn(
        shape, classes, stages=model.stages, convolution=model.convolution, activation=model.activation, **sizes
    )


def _mlp(shape: Shape, classes: int, small: bool, model: ClassifierModelConfig) -> nn.Module:
    sizes = _given(dropout=model.dropout, normalization=model.normalization, pieces=model.pieces)
    return DenseClassifier(
        shape, classes, model.hidden, activation=model.activation, input_dropout=model.input_dropout, **sizes
    )


def _lenet(shape: Shape, classes: int, small: bool, model: ClassifierModelConfig) -> nn.Module:
    return LeNet5(shape, classes)


def _alexnet(shape: Shape, classes: int, small: bool, model: ClassifierModelConfig) -> nn.Module:
    return AlexNet(shape[0], classes, small=small, **_given(dropout=model.dropout))


def _vgg(depth: int, shape: Shape, classes: int, small: bool, model: ClassifierModelConfig) -> nn.Module:
    settings = _given(dropout=model.dropout)
    return Vgg(depth, shape[0], classes, batch_norm=model.batch_norm, small=small, **settings)


def _googlenet(shape: Shape, classes: int, small: bool, model: ClassifierModelConfig) -> nn.Module:
    settings = _given(dropout=model.dropout)
    return GoogLeNet(shape[0], classes, small=small, auxiliary=model.auxiliary, **settings)


def _resnet(
    depth: int, groups: int, width: int, shape: Shape, classes: int, small: bool, model: ClassifierModelConfig
) -> nn.Module:
    return ResNet(
        depth, shape[0], classes, small=small, groups=groups, group_width=width, squeeze=model.squeeze,
        **_given(base_channels=model.base_channels),
    )  # fmt: skip


def _mobilenet(kind: type[nn.Module], shape: Shape, classes: int, small: bool, model: ClassifierModelConfig) -> Any:
    return kind(shape[0], classes, width=model.width, small=small, **_given(dropout=model.dropout))


def _context(shape: Shape, classes: int, small: bool, model: ClassifierModelConfig) -> nn.Module:
    return ContextNet(shape[0], classes, **_given(base_channels=model.base_channels, dropout=model.dropout))


def _vit(size: str, shape: Shape, classes: int, small: bool, model: ClassifierModelConfig) -> nn.Module:
    patch, depth, *widths = VIT_SIZES[size]
    return VisionTransformer(
        shape, classes, model.patch or patch, model.depth or depth, *widths, **_given(dropout=model.dropout)
    )


_SIZES = (
    "form", "base_channels", "stages", "hidden", "activation", "pieces", "normalization", "convolution", "width",
    "batch_norm", "squeeze", "patch", "depth", "auxiliary", "dropout", "input_dropout",
)  # fmt: skip
CLASSIFIERS: Registry[ClassifierNetwork] = Registry("network")


def _register(name: str, build: Any, summary: str, least: tuple[int, int] = (1, 1), *settings: str) -> None:
    CLASSIFIERS.register(name)(ClassifierNetwork(build, summary, least, settings))


_register(
    "mlp", _mlp, "dense layers with any activation; maxout: Goodfellow et al. 2013", (1, 1),
    "hidden", "activation", "pieces", "normalization", "dropout", "input_dropout",
)  # fmt: skip
_register("lenet5", _lenet, "LeNet-5 (LeCun et al. 1998)", (28, 28))
_register(
    "small_cnn", _small_cnn, "3x3 convolutions with any normalisation; plain, factorised or separable", (4, 4),
    "base_channels", "stages", "convolution", "activation", "pieces", "normalization", "dropout",
)  # fmt: skip
_register(
    "alexnet", _alexnet, "AlexNet (Krizhevsky et al. 2012)", (AlexNet.LEAST_SIDE, AlexNet.LEAST_SMALL_SIDE),
    "form", "dropout",
)  # fmt: skip
for _depth in (11, 13, 16, 19):
    _register(
        f"vgg{_depth}", partial(_vgg, _depth), f"VGG-{_depth} (Simonyan and Zisserman 2015)", (Vgg.LEAST_SIDE,) * 2,
        "form", "batch_norm", "dropout",
    )  # fmt: skip
_register(
    "googlenet", _googlenet, "GoogLeNet, Inception modules (Szegedy et al. 2015)", (GoogLeNet.LEAST_SIDE, 1),
    "form", "auxiliary", "dropout",
)  # fmt: skip
_OF_RESNET = ("form", "base_channels", "squeeze")
for _depth in (18, 34, 50, 101, 152):
    _register(
        f"resnet{_depth}", partial(_resnet, _depth, 1, 64),
        f"ResNet-{_depth} (He et al. 2016); model.squeeze: SENet (Hu et al. 2018)", (1, 1), *_OF_RESNET,
    )  # fmt: skip
for _depth, _group_width in ((50, 4), (101, 8)):
    _register(
        f"resnext{_depth}_32x{_group_width}d", partial(_resnet, _depth, 32, _group_width),
        f"ResNeXt-{_depth}, 32 groups of {_group_width} channels (Xie et al. 2017)", (1, 1), *_OF_RESNET,
    )  # fmt: skip
for _name, _kind, _summary in (
    ("mobilenet", MobileNet, "MobileNet, depthwise separable (Howard et al. 2017)"),
    ("mobilenet_v2", MobileNetV2, "MobileNetV2, inverted residuals (Sandler et al. 2018)"),
):
    _register(_name, partial(_mobilenet, _kind), _summary, (1, 1), "form", "width", "dropout")
_register(
    "context", _context, "dilated convolutions that see ever wider (Yu and Koltun 2016)", (4, 4),
    "base_channels", "dropout",
)  # fmt: skip
for _size, (_patch, _blocks, _width, *_) in VIT_SIZES.items():
    _register(
        f"vit_{_size}", partial(_vit, _size),
        f"ViT, {_blocks} blocks of width {_width} (Dosovitskiy et al. 2021); sides: multiples of {_patch} px or "
        "model.patch", (1, 1), "patch", "depth", "dropout",
    )  # fmt: skip
