"""Segmentation: a U-Net that names the class of every pixel (Ronneberger et al. 2015), learnt from label maps.

    repeat: draw photographs x and their label maps, whose colours give a class y to each pixel
            descend the mean cross-entropy of f(x) and y over the pixels

The label map is the `target` of a pair; `data.direction` says which half that is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genlab.config import OptimizerConfig, RunConfig, Section
from genlab.errors import ConfigError, DataError
from genlab.images import to_float
from genlab.metrics.segmentation import PALETTES, Palette
from genlab.models.segmentation_unet import SegmentationUnet, check_size
from genlab.ops import cross_entropy
from genlab.optimizers import build_optimizer
from genlab.trainers.base import Batch, Metrics, Picture, Trainer

if TYPE_CHECKING:
    from genlab.data import BatchStream, ImageDataset
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData

MOST_DISTANCE = 0.15  # of label maps, which JPEG has blurred at edges, to their colours; a photograph is farther


class SegmentationModelConfig(Section):
    """The U-Net."""

    base_channels: int = Field(64, ge=1, le=512, description="of the first map; doubles with each halving")
    depth: int = Field(4, ge=1, le=8, description="halvings; sides are multiples of 2^depth")
    dropout: float = Field(0.5, ge=0, lt=1, description="of whole maps at the bottom")
    context: bool = Field(False, description="a dilated context module on the logits")


class SegmentationOptimizerConfig(OptimizerConfig):
    """Adam's own defaults; the paper has SGD with momentum 0.99 and one picture at a time."""

    lr: float = Field(1e-3, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Adam's decay rates, each in [0, 1)")


class SegmentationConfig(RunConfig):
    """`algorithm: segmentation`."""

    model: SegmentationModelConfig = Field(default_factory=SegmentationModelConfig)
    palette: Literal["facades", "outlines"] = Field(
        "facades", description="classes and their colours in the label maps"
    )
    optimizer: SegmentationOptimizerConfig = Field(default_factory=SegmentationOptimizerConfig)

    @model_validator(mode="after")
    def _size_of_the_network(self) -> SegmentationConfig:
        try:
            check_size(*self.data.height_width, self.model.depth)
        except ValueError as error:
            raise ValueError(f"data.image_size: {error}") from None
        return self


class SegmentationTrainer(Trainer):
    """A U-Net that segments pictures. Network "unet", one optimiser."""

    config_class = SegmentationConfig
    config: SegmentationConfig
    data_kinds: ClassVar[tuple[str, ...]] = ("paired",)
    draws_samples = False
    own_score_names: ClassVar[tuple[str, ...]] = ("mean_iou", "pixel_accuracy", "class_accuracy")
    scored_split = "test"

    @property
    def palette(self) -> Palette:
        """Classes and their colours."""
        return PALETTES[self.config.palette]

    def build_networks(self) -> dict[str, nn.Module]:
        model, channels = self.config.model, self.data.shape[0]
        if channels != 3:
            raise ConfigError(f"data.channels: expected 3, as label maps are coloured, got {channels}")
        classes = len(self.palette.names)
        return {
            "unet": SegmentationUnet(channels, classes, model.base_channels, model.depth, model.dropout, model.context)
        }

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"unet": build_optimizer(self.config.optimizer, self.networks["unet"].parameters())}

    def open_stream(self, dataset: ImageDataset, **settings: Any) -> BatchStream:
        first = dataset.fetch(torch.arange(min(4, len(dataset))).numpy())
        require_label_maps(first["target"], self.palette, "target", "data.direction")
        return super().open_stream(dataset, **settings)

    def train_step(self, batch: Batch) -> Metrics:
        with self.update("unet") as update:
            for x, y in update.micro_batches(batch["input"], self.palette.labels(batch["target"])):
                with self.autocast():
                    logits = self.networks["unet"](x)
                loss = cross_entropy(logits.float(), y)
                update.backward(loss)
                update.record(loss=loss, pixel_accuracy=(logits.argmax(1) == y).float().mean())
        return update.metrics

    def segment(self, images: Tensor) -> Tensor:
        """Classes of the pixels, int64 (N, H, W) on the device, of pictures (N, 3, H, W) in [-1, 1].

        Raises:
            DataError: another number of channels, or values that are not finite.
        """
        if images.dim() != 4 or images.shape[1] != self.data.shape[0]:
            raise DataError(f"segmentation: expected pictures (N, 3, H, W), got {tuple(images.shape)}; convert them")
        if not torch.isfinite(images).all():
            raise DataError("segmentation: expected finite pictures in [-1, 1], got NaN or Inf; remove them")
        with self.inference():
            return self.inference_network("unet")(images.to(self.device)).argmax(1)

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Picture]:
        """Rows of photograph, segmentation, label map."""
        batch = examples(max(1, count // 3))
        x, target = batch["input"], batch["target"]
        rows = [x, to_float(self.palette.paint(self.segment(x))), target]
        return [Picture(torch.stack(rows, dim=1).flatten(0, 1), 3 * max(1, round((len(x) / 3) ** 0.5)))]

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.segmentation_scores import segmentation_scores

        return segmentation_scores(self, data)


def require_label_maps(images: Tensor, palette: Palette, what: str, remedy: str) -> None:
    """Raises DataError where pictures are not painted in a palette's colours."""
    distance = palette.distance(images)
    if distance > MOST_DISTANCE:
        raise DataError(
            f"{what}: expected label maps in the palette's {len(palette.names)} colours, got pictures that are "
            f"{distance:.2f} from them on average (at most {MOST_DISTANCE}); change {remedy}"
        )
