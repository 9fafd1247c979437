"""Exponential moving average of a network's weights (Polyak averaging as GANs use it; Yazici et al. 2019)."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from genlab.config import Section
from genlab.optim import WeightAverage


class EmaConfig(Section):
    """How far back the average looks."""

    decay: float = Field(0.999, ge=0, lt=1, description="weight kept of the average at each step")
    half_life: float | None = Field(None, gt=0, description="images after which a weight counts half; replaces decay")
    ramp: float | None = Field(
        None, gt=0, description="half-life at most this share of the images seen so far (StyleGAN2-ADA: 0.05)"
    )


class EMA:
    """A copy of `module` whose parameters are the bias-free average of those that the module had after each update.

    With decay b_t the plain recursion a <- b_t a + (1 - b_t) p keeps a share prod(b_t) of the random initial weights.
    Here the average is divided by the weight that the seen parameters carry (Adam's bias correction, for any sequence
    of b_t), so after the first update it equals the parameters and the initial weights never count. Buffers (batch
    statistics) are copied as they are: they are averages already.

    Args:
        module: the network that is followed.
        config: decay, or half-life in images.
        images_per_step: samples of one update, over all processes.

    Attributes:
        images_per_step: of the next update; to be set where it changes.
        images: samples of all updates so far.
    """

    def __init__(self, module: nn.Module, config: EmaConfig, images_per_step: int) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.config = config
        self.images_per_step = images_per_step
        self.updates = self.images = 0
        self.weight = 0.0  # share of the average that comes from seen parameters; tends to 1

    def decay(self) -> float:
        """The decay of the next update, before bias correction."""
        half_life = self.config.half_life
        if half_life is None and self.config.ramp is None:
            return self.config.decay
        if half_life is None:
            if self.config.decay == 0:
                return 0.0
            half_life = self.images_per_step * math.log(0.5) / math.log(self.config.decay)
        if self.config.ramp is not None:
            half_life = min(half_life, self.images * self.config.ramp)
        return 0.5 ** (self.images_per_step / half_life) if half_life > 0 else 0.0

    def update(self, module: nn.Module) -> None:
        """Takes the module's present parameters and buffers in; call once after each optimiser step."""
        self.take(module, self.next_share())

    def next_share(self) -> float:
        """Counts an update and gives the weight of the present parameters in it: 1 in the first."""
        decay = self.decay()
        self.weight = decay * self.weight + (1.0 - decay)
        self.updates += 1
        self.images += self.images_per_step
        return (1.0 - decay) / self.weight

    def following(self, module: nn.Module, share: float | Tensor) -> WeightAverage:
        """The averages as an optimiser's step carries them on (`genlab.optimizers.take_step`)."""
        pairs = zip(module.parameters(), self.module.parameters(), strict=True)
        return WeightAverage({p: average for p, average in pairs if p.is_floating_point()}, share)

    @torch.no_grad()
    def take(self, module: nn.Module, share: float | Tensor) -> None:
        """average <- average + share * (parameters - average); `share` is a number, or 0-d on the device."""
        self.following(module, share).advance()
        self.copy_buffers(module)

    @torch.no_grad()
    def copy_buffers(self, module: nn.Module) -> None:
        """Takes the module's present buffers in: after all that a training step does with them."""
        for average, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        """The counters; the tensors are those of `self.module.state_dict()`."""
        return {"updates": self.updates, "images": self.images, "weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the counters back; a state from before images were counted is of updates of `images_per_step`."""
        self.updates, self.weight = int(state["updates"]), float(state["weight"])
        self.images = int(state.get("images", self.updates * self.images_per_step))
