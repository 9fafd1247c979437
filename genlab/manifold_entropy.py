"""Entropy of codes against mode collapse (Liu et al. 2023, "Combating Mode Collapse in GANs via Manifold Entropy
Estimation", equations 8 to 11).

The entropy of a distribution grows with the distance between neighbouring samples (Beirlant et al. 1997; equation 9).
Samples are compared by the codes that the discriminator has for them, which bound the distance between the samples from
below where the discriminator is Lipschitz (equations 10 and 11). Each code V_0 is drawn away from the most similar one
among those of earlier updates, kept in a first-in-first-out buffer R (equation 8):

    L = E[cos(V_0, V*) + lambda |V_0|],    V* = argmax over V in R of cos(V_0, V)

The paper's discriminator gives an m-dimensional code whose mean is the logit. Here the code is what the discriminator's
last layer turns into the logit, so that the term suits any discriminator whose last layer is dense or a convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from genlab.config import Section


class ManifoldEntropyConfig(Section):
    """Liu et al. 2023, equation 8."""

    weight: float = Field(1.0, ge=0, description="of the term beside the adversarial loss")
    norm_weight: float = Field(0.0, ge=0, description="lambda: draws codes to zero, so that they cannot grow instead")
    buffer: int = Field(1024, ge=1, description="codes of earlier updates that a code is compared with")
    real: bool = Field(
        True, description="in the discriminator's update too, over real samples, as in the authors' code"
    )


def manifold_entropy(codes: Tensor, memory: Tensor, norm_weight: float = 0.0) -> Tensor:
    """E[max over m of cos(codes, memory_m) + norm_weight |codes|] (Liu et al. 2023, equation 8).

    Args:
        codes: (N, m), what the term spreads.
        memory: (K, m) with K >= 1, codes of earlier updates; no gradient flows to them.
        norm_weight: lambda of the equation.

    Returns:
        0-d float32 tensor.
    """
    codes = codes.float()
    similarity = F.normalize(codes, dim=1) @ F.normalize(memory.detach().float(), dim=1).t()
    term = similarity.amax(dim=1).mean()
    return term + norm_weight * codes.norm(dim=1).mean() if norm_weight else term


def last_layer(discriminator: nn.Module) -> nn.Module:
    """The last dense or convolutional layer, whose input is the code.

    Raises:
        ValueError: there is none.
    """
    layers = [module for module in discriminator.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    if not layers:
        raise ValueError("manifold_entropy: expected a discriminator with a dense or convolutional layer, got none")
    return layers[-1]


class ManifoldEntropy:
    """The term with its buffers, one for real and one for generated samples.

    Args:
        config: weights and sizes.

    Attributes:
        memories: "real" and "generated" -> (K, m) codes of earlier updates, oldest first; absent before the first.
    """

    def __init__(self, config: ManifoldEntropyConfig) -> None:
        self.config = config
        self.memories: dict[str, Tensor] = {}

    @contextmanager
    def watch(self, discriminator: nn.Module) -> Iterator[list[Tensor]]:
        """A list that gets the codes (N, m) of each pass through the discriminator inside, with their graph."""
        codes: list[Tensor] = []
        handle = last_layer(discriminator).register_forward_pre_hook(
            lambda module, inputs: codes.append(inputs[0].flatten(1))
        )
        try:
            yield codes
        finally:
            handle.remove()

    def term(self, kind: str, codes: Tensor) -> Tensor | None:
        """The weighted term of a micro-batch's codes; None in the first update, which has nothing to compare with."""
        if kind not in self.memories:
            return None
        return self.config.weight * manifold_entropy(codes, self.memories[kind], self.config.norm_weight)

    @torch.no_grad()
    def remember(self, kind: str, codes: Tensor) -> None:
        """Appends the codes of a whole update, over all processes, and drops the oldest beyond the buffer's size."""
        known = self.memories.get(kind)
        fresh = codes.detach().float()
        self.memories[kind] = (fresh if known is None else torch.cat([known, fresh]))[-self.config.buffer :].clone()

    def state(self) -> dict[str, Tensor]:
        """The buffers, for a checkpoint."""
        return {f"manifold_entropy/{kind}": memory for kind, memory in self.memories.items()}

    def load_state(self, tensors: dict[str, Any], device: torch.device) -> None:
        """Takes back what `state` gave."""
        prefix = "manifold_entropy/"
        self.memories = {
            key[len(prefix) :]: value.to(device).clone() for key, value in tensors.items() if key.startswith(prefix)
        }
