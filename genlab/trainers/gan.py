"""What all GAN trainers share: the configuration of the game, its loss and its regularisers."""

from __future__ import annotations

from pydantic import Field, field_validator

from genlab.config import OptimizerConfig, RunConfig, Section
from genlab.ema import EmaConfig
from genlab.losses import ADVERSARIAL_LOSSES
from genlab.registry import nearest
from genlab.regularizers import DiscriminatorRegularizer, RegularizersConfig
from genlab.trainers.base import Trainer


class GanConfig(Section):
    """The game: which loss, how many discriminator updates to one of the generator, and what restrains it."""

    loss: str = Field("non_saturating", description="non_saturating, minimax, lsgan, hinge or wasserstein")
    discriminator_steps: int = Field(1, ge=1, description="discriminator updates, each on a new batch, per step")
    regularizers: RegularizersConfig = Field(default_factory=RegularizersConfig)
    ema: EmaConfig | None = Field(default_factory=EmaConfig, description="average of the generator; null: none")

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value: str) -> str:
        if value not in ADVERSARIAL_LOSSES:
            guess = nearest(value, ADVERSARIAL_LOSSES.names())
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise ValueError(f"expected one of {', '.join(ADVERSARIAL_LOSSES.names())}{hint}")
        return value


class GanRunConfig(RunConfig):
    """Sections of every GAN's configuration."""

    gan: GanConfig = Field(default_factory=GanConfig)
    generator_optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    discriminator_optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)


class GanTrainer(Trainer):
    """Trainer of networks "generator" and "discriminator" with one optimiser each."""

    config: GanRunConfig

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.loss = ADVERSARIAL_LOSSES.get(self.config.gan.loss)
        self.regularizer = DiscriminatorRegularizer(self.config.gan.regularizers)

    def averaged_networks(self) -> dict[str, EmaConfig]:
        return {"generator": self.config.gan.ema} if self.config.gan.ema is not None else {}

    @property
    def batches_per_step(self) -> int:
        return self.config.gan.discriminator_steps
