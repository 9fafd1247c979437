"""What trainers of picture-to-picture models share: configuration, the game's losses, the pool of past pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from genlab.config import OptimizerConfig, RunConfig, Section
from genlab.ema import EmaConfig
from genlab.errors import ConfigError, UserError
from genlab.models.patchgan import check_field, full_field
from genlab.optimizers import build_optimizer
from genlab.seeding import generator as seeded
from genlab.trainers.base import Batch, Metrics
from genlab.trainers.diagnosis import Thresholds, diversity_signs
from genlab.trainers.game import GameTrainer
from genlab.trainers.gan_config import GanConfig
from genlab.trainers.graphs import Uncaptured

ReceptiveField = Literal[1, 16, 34, 70, 142, 286, 574, "full"]
Direction = Literal["a_to_b", "b_to_a"]
WATCHED_EXAMPLES = 8  # pictures translated at each log interval, to see whether they differ


class TranslationGanConfig(GanConfig):
    """The game as in other GANs; one discriminator update a step, and no average unless asked for."""

    discriminator_steps: Literal[1] = 1
    ema: EmaConfig | None = Field(None, description="average of the generator; null: none")

    @model_validator(mode="after")
    def _offered_regularizers(self) -> TranslationGanConfig:
        if self.regularizers.manifold_entropy is not None:
            raise ValueError(
                "regularizers.manifold_entropy: expected none, as it needs codes of whole images; leave it out"
            )
        return self


class PatchGanConfig(Section):
    """The discriminator."""

    receptive_field: ReceptiveField = Field(70, description="pixels that a logit sees: 1, 16, 34, 70, 142, ... or full")
    base_channels: int = Field(64, ge=1, le=1024)
    normalization: Literal["batch", "instance", "none"] = Field(
        "batch", description="none where a gradient penalty is taken per sample"
    )

    def field(self, height: int, width: int) -> int:
        """The receptive field in pixels at a size; ValueError where the size is too small or too large for it."""
        field = full_field(height, width) if self.receptive_field == "full" else self.receptive_field
        check_field(field, height, width)
        return field


class TranslationConfig(RunConfig):
    """Sections that the configurations of translators have in common. Adam at 2e-4, (0.5, 0.999) is both papers'."""

    discriminator: PatchGanConfig = Field(default_factory=PatchGanConfig)
    gan: TranslationGanConfig = Field(default_factory=TranslationGanConfig)
    generator_optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    discriminator_optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)


class TranslationTrainer(GameTrainer):
    """A trainer whose model makes pictures of pictures.

    Attributes:
        directions: what `translate` can be asked for; the first is the default.
        example_keys: (source, target) in a batch, for each of `directions`.
    """

    draws_samples: ClassVar[bool] = False
    example_keys: ClassVar[tuple[tuple[str, str], ...]]
    # In batches of one the first hundreds of steps paint one blur for all inputs, which is no collapse.
    thresholds: ClassVar[Thresholds] = Thresholds(warmup_steps=2000)
    config: TranslationConfig

    @property
    def loss_scale(self) -> float:
        """The factor that makes the lab's adversarial loss the papers' own.

        Least squares are written without the 1/2 of Mao et al. in CycleGAN (Zhu et al. 2017, section 3.4), and the
        weights of the other terms refer to that.
        """
        return 2.0 if self.config.gan.loss == "lsgan" else 1.0

    @property
    def directions(self) -> tuple[Direction, ...]:
        raise NotImplementedError

    def translate(self, images: Tensor, generator: torch.Generator, direction: Direction | None = None) -> Tensor:
        """Pictures of the other domain, from the averaged networks where there are some.

        The result for a picture does not depend on those beside it in the batch.

        Args:
            images: (N, C, H, W) in [-1, 1], of the size that the model was trained on.
            generator: CPU generator that all randomness comes from.
            direction: one of `directions`; default: the first.

        Returns:
            (N, C, H, W) float32 in [-1, 1], on the device.

        Raises:
            UserError: a direction that the model was not trained for.
        """
        raise NotImplementedError

    def sample(self, count: int, generator: torch.Generator, labels: Tensor | None = None) -> Tensor:
        raise UserError(
            f"algorithm {self.config.algorithm}: makes pictures of pictures, not of noise; use `genlab translate`"
        )

    def check_direction(self, direction: Direction | None) -> Direction:
        """The direction meant; refuses one that the model was not trained for."""
        if direction is None:
            return self.directions[0]
        if direction not in self.directions:
            raise UserError(
                f"direction: expected {' or '.join(self.directions)}, which the model was trained for, got {direction}"
            )
        return direction

    def vital_signs(self, examples: Callable[[int], Batch]) -> Metrics:
        """How varied the translations of some training pictures are beside pictures of the domain they go to."""
        batch, draws = examples(WATCHED_EXAMPLES), seeded(self.config.seed, "diagnosis")
        before, self.use_ema = self.use_ema, False
        try:
            signs = [
                diversity_signs(self.translate(batch[source], draws, way), batch[target])
                for way, (source, target) in zip(self.directions, self.example_keys, strict=False)
                if len(batch[source]) > 1
            ]
        finally:
            self.use_ema = before
        return {name: torch.stack([sign[name] for sign in signs]).min() for name in signs[0]} if signs else {}

    @property
    def graph_key(self) -> Hashable | Uncaptured:
        return self.regularizer.graph_key(self.step, 1)

    def field(self) -> int:
        """The discriminator's receptive field in pixels."""
        try:
            return self.config.discriminator.field(*self.data.shape[1:])
        except ValueError as error:
            raise ConfigError(f"discriminator.receptive_field: {error}") from None

    def joint_optimizer(self, settings: OptimizerConfig, *names: str) -> torch.optim.Optimizer:
        """One optimiser over several networks."""
        return build_optimizer(settings, [p for name in names for p in self.networks[name].parameters()])


def grid_columns(examples: int, pictures: int) -> int:
    """Columns of a grid of `examples` groups of `pictures` pictures, a group never broken, about as wide as high."""
    return pictures * max(1, round(math.sqrt(examples / pictures)))


class ImagePool:
    """Past generated pictures that the discriminator is shown again (Shrivastava et al. 2017, section 2.3).

    Until it is full every picture is stored and handed back. From then on each picture is, with probability one half,
    exchanged for a random stored one, which it replaces; else it is handed back itself.

    Args:
        size: pictures kept (50 in CycleGAN); 0 hands every picture back.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def exchange(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures for the discriminator in place of `images`, (N, C, H, W), one after the other.

        Args:
            images: detached; of the whole global batch, so that processes with the same generator keep the same pool.
            generator: CPU generator; two numbers are drawn for each picture whatever happens to it.
        """
        if not self.size:
            return images
        draws = torch.rand(images.shape[0], 2, generator=generator).tolist()
        return torch.stack([self._exchange(image, *draw) for image, draw in zip(images, draws, strict=True)])

    def _exchange(self, image: Tensor, coin: float, place: float) -> Tensor:
        if len(self.images) < self.size:
            self.images.append(image.clone())
            return image
        if coin < 0.5:
            return image
        slot = int(place * self.size)
        stored, self.images[slot] = self.images[slot], image.clone()
        return stored

    def state(self) -> dict[str, Tensor]:
        """The stored pictures as one tensor; empty while there are none."""
        return {"images": torch.stack(self.images)} if self.images else {}

    def load_state(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Takes back what `state` gave."""
        images = tensors.get("images")
        self.images = [] if images is None else [image.clone() for image in images.to(device)]
