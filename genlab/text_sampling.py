"""Tokens drawn from a language model: temperature, the k likeliest, and the nucleus that holds a share p."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genlab.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: only the k likeliest tokens; None: all.
        top_p: only the likeliest tokens that together reach this share (Holtzman et al. 2020); None: all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature: expected a number of at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top-k: expected at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top-p: expected above 0 and at most 1, got {self.top_p}")

    def probabilities(self, logits: Tensor) -> Tensor:
        """(N, V) logits to the probabilities that are drawn from, float64 on the CPU."""
        logits = logits.double().cpu()
        if self.temperature == 0:
            return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).double()
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[1]:
            least = logits.topk(self.top_k, dim=1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        shares = logits.softmax(1)
        if self.top_p is None:
            return shares
        ordered, places = shares.sort(dim=1, descending=True, stable=True)
        outside = ordered.cumsum(1) - ordered >= self.top_p  # the token that reaches the share is still inside
        kept = ordered.masked_fill(outside, 0.0)
        return torch.zeros_like(shares).scatter(1, places, kept / kept.sum(1, keepdim=True))

    def draw(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """(N, V) logits to (N,) tokens on the logits' device."""
        return torch.multinomial(self.probabilities(logits), 1, generator=generator)[:, 0].to(logits.device)


def generate_tokens(
    model: nn.Module,
    prompt: Tensor,
    count: int,
    sampling: Sampling,
    generator: torch.Generator,
    forbidden: Sequence[int] = (),
) -> Tensor:
    """Goes on with a text.

    A model with a table of places that is full reads the later half of the text anew and goes on from there.

    Args:
        model: a language model (`genlab.models.language_models`), in evaluation mode.
        prompt: (N, T) tokens, T at least 1.
        count: tokens to add.
        sampling: how they are drawn.
        generator: CPU generator that all randomness comes from.
        forbidden: tokens that are never drawn.

    Returns:
        (N, count) tokens.
    """
    text = prompt
    state = model.start(len(prompt), prompt.device)
    logits, state = model(prompt, state)
    for step in range(count):
        last = logits[:, -1].float()
        if len(forbidden):
            last[:, list(forbidden)] = -torch.inf
        token = sampling.draw(last, generator)[:, None]
        text = torch.cat([text, token], 1)
        if step + 1 == count:
            break
        if model.positions is not None and state[0].shape[3] == model.positions:
            logits, state = model(text[:, -max(1, model.positions // 2) :], model.start(len(prompt), prompt.device))
        else:
            logits, state = model(token, state)
    return text[:, prompt.shape[1] :]
