"""`algorithm: classifier`: its configuration, and weights that come from elsewhere."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from torch import Tensor, nn

from genlab.checkpoint import find_checkpoint, load_checkpoint
from genlab.config import OptimizerConfig, RunConfig, Section
from genlab.data.augmentation import AugmentConfig
from genlab.data.partition import PartitionConfig
from genlab.ema import EmaConfig
from genlab.errors import CheckpointError, DataError
from genlab.models.classifiers import ClassifierModelConfig
from genlab.models.vit import VisionTransformer

KEY = "model.weights"
POSITIONS = "encoder.pos_embedding"  # of a Vision Transformer
_PREFIX = "networks/classifier/"
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of its pixels in [0, 1]


class SgdConfig(OptimizerConfig):
    """One optimiser. Defaults are those of residual networks (He et al. 2016, sections 3.4 and 4.2)."""

    name: Literal["adagrad", "adam", "adamw", "rmsprop", "sgd"] = "sgd"
    lr: float = Field(0.1, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Adam's decay rates, each in [0, 1)")
    momentum: float = Field(0.9, ge=0, lt=1, description="of rmsprop and sgd")
    weight_decay: float = Field(1e-4, ge=0, description="L2; decoupled from the gradient with adamw")


class NetworkConfig(ClassifierModelConfig):
    """The network and where its weights begin."""

    weights: Path | None = Field(None, description="run, checkpoint, .safetensors or torchvision's .pth to begin with")
    new_head: bool = Field(False, description="leave the last layer of these weights out: other classes")
    normalize: Literal["none", "imagenet"] = Field("none", description="inputs as torchvision's weights expect them")


class ClassificationConfig(Section):
    """What is minimised beside the cross-entropy, and how."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    mixup: float = Field(0.0, ge=0, description="alpha of Beta(alpha, alpha), the mixing of two samples; 0: none")
    l1: float = Field(0.0, ge=0, description="weight of the sum of |w|, biases and normalisations left out")
    sam_rho: float | None = Field(None, gt=0, description="sharpness-aware minimisation: radius; null: plain descent")
    sam_adaptive: bool = Field(False, description="radius relative to each weight (ASAM)")
    auxiliary_weight: float = Field(0.3, ge=0, description="of the losses of googlenet's heads in the middle")


class ClassifierRunConfig(RunConfig):
    """Sections of a classifier's configuration."""

    model: NetworkConfig = Field(default_factory=NetworkConfig)
    classifier: ClassificationConfig = Field(default_factory=ClassificationConfig)
    split: PartitionConfig = Field(default_factory=PartitionConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    optimizer: SgdConfig = Field(default_factory=SgdConfig)
    ema: EmaConfig | None = Field(None, description="average of the weights, which then classifies; null: none")

    @model_validator(mode="after")
    def _fits_together(self) -> ClassifierRunConfig:
        if self.data.split == "all" and self.split.test == 0:
            raise ValueError(
                "split.test: expected a share above 0 with data.split=all, which leaves no test split, got 0"
            )
        if self.classifier.sam_adaptive and self.classifier.sam_rho is None:
            raise ValueError("classifier.sam_adaptive: expected classifier.sam_rho beside it, got none")
        if self.model.new_head and self.model.weights is None:
            raise ValueError("model.new_head: expected model.weights beside it, got none")
        return self


def as_imagenet(images: Tensor) -> Tensor:
    """RGB pictures in [-1, 1] as torchvision's weights expect them: ImageNet's mean 0 and deviation 1."""
    mean, deviation = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return (images.add(1).div(2) - mean) / deviation


def check_pictures(images: Tensor, channels: int) -> None:
    """Raises DataError unless images are finite, (N, channels, H, W)."""
    if images.dim() != 4 or images.shape[1] != channels:
        raise DataError(f"classifier: expected pictures (N, {channels}, H, W), got {tuple(images.shape)}; convert them")
    if not torch.isfinite(images).all():
        raise DataError("classifier: expected finite pictures in [-1, 1], got NaN or Inf; remove them")


def head_of(network: nn.Module) -> nn.Linear:
    """The last linear layer, which gives the logits."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def load_weights(network: nn.Module, path: Path, *, new_head: bool = False, key: str = KEY) -> None:
    """Puts the weights in a file or a classifier's run into `network`.

    A Vision Transformer's positions are interpolated where the pictures have another size than those weights saw.

    Args:
        network: changed in place.
        path: run or checkpoint of algorithm classifier, or a state dict as .safetensors, .pth or .pt.
        new_head: leave the last linear layer as it is.
        key: configuration key that messages name.

    Raises:
        CheckpointError: nothing there, unreadable, or weights of another architecture; names a key that tells.
    """
    state = dict(_read(path, key))
    own = network.state_dict()
    if isinstance(network, VisionTransformer) and POSITIONS in state:
        state[POSITIONS] = network.fit_positions(state[POSITIONS])
    if new_head:
        head = head_of(network)
        names = [name for name, module in network.named_modules() if module is head]
        for name in (f"{names[0]}.weight", f"{names[0]}.bias"):
            state[name] = own[name]
    missing, extra = [name for name in own if name not in state], [name for name in state if name not in own]
    if missing or extra:
        told = f"{missing[0]!r} is missing" if missing else f"{extra[0]!r} is not a part of it"
        raise CheckpointError(
            f"{key}: {path}: expected weights of this architecture, got another's ({told}; {len(missing)} missing, "
            f"{len(extra)} unknown); set model.network to theirs"
        )
    for name, value in own.items():
        if state[name].shape != value.shape:
            raise CheckpointError(
                f"{key}: {path}: expected {name} of shape {tuple(value.shape)}, got {tuple(state[name].shape)}; with "
                "another number of classes set model.new_head=true, else set the sizes in `model` to theirs"
            )
    network.load_state_dict(state)


def _read(path: Path, key: str) -> dict[str, Tensor]:
    if path.suffix in {".pth", ".pt"}:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise CheckpointError(f"{key}: {path}: no such file") from None
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            detail = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{key}: {path}: cannot be read as a state dict of torch ({detail})") from None
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise CheckpointError(f"{key}: {path}: expected a state dict of tensors, got {type(state).__name__}")
        return state
    try:
        checkpoint = load_checkpoint(find_checkpoint(path))
    except CheckpointError as error:
        if path.suffix == ".safetensors" and "other safetensors" in str(error):
            from safetensors.torch import load_file

            try:
                return load_file(path)
            except (OSError, SafetensorError) as damage:
                raise CheckpointError(f"{key}: {path}: cannot be read ({damage})") from None
        raise CheckpointError(f"{key}: {error}") from None
    tensors = {k[len(_PREFIX) :]: v for k, v in checkpoint.tensors.items() if k.startswith(_PREFIX)}
    if not tensors:
        algorithm = checkpoint.state["algorithm"]
        raise CheckpointError(f"{key}: {path}: expected a checkpoint of algorithm classifier, got {algorithm}")
    return tensors
