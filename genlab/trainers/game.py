"""What every trainer with a discriminator or critic has: its adversarial loss, and what restrains the game."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from genlab.losses import ADVERSARIAL_LOSSES
from genlab.regularizers import DiscriminatorRegularizer
from genlab.trainers.base import Trainer
from genlab.trainers.gan_config import GameConfig


class PlaysGame(Protocol):
    """A run's configuration with a section `gan`."""

    gan: GameConfig


class GameTrainer(Trainer):
    """Trains by `gan.loss` under `gan.regularizers`.

    Attributes:
        loss: of both players, by their logits.
        regularizer: the penalties, with what they remember.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        game: PlaysGame = self.config
        self.loss = ADVERSARIAL_LOSSES.get(game.gan.loss)
        self.regularizer = DiscriminatorRegularizer(game.gan.regularizers)

    def draw_mixing(self, real: Tensor) -> Tensor | None:
        """Uniform numbers for each sample that penalties are taken with; None where none needs them."""
        if not self.regularizer.draws_mixing:
            return None
        return self.noise.uniform(real.shape[0], self.regularizer.numbers_per_sample, *(1 for _ in real.shape[2:]))

    def extra_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self.regularizer.state(), {}

    def load_extra_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.regularizer.load_state(tensors, self.device)
