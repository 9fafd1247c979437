"""Consistency of discriminators (Zhang et al. 2020, "Consistency Regularization for Generative Adversarial Networks").

An image and its mirrored or shifted copy are to get the same logit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from genlab.config import Section


class ConsistencyConfig(Section):
    """CR-GAN (Zhang et al. 2020, equation 3), on real images."""

    weight: float = Field(10.0, ge=0, description="lambda")
    shift: int = Field(4, ge=0, le=64, description="pixels that the varied image may be shifted by, in each direction")
    flip: bool = Field(True, description="mirror the varied image with probability one half; false for text and digits")


def vary(images: Tensor, numbers: Tensor, config: ConsistencyConfig | None = None) -> Tensor:
    """Images mirrored and shifted, each by its own numbers; what a shift uncovers is mirrored at the edge.

    Args:
        images: (N, C, H, W).
        numbers: uniform in [0, 1), (N, 3, ...): chance of mirroring, vertical and horizontal shift.
        config: largest shift, and whether to mirror.

    Returns:
        (N, C, H, W).
    """
    config = config or ConsistencyConfig()
    count, channels, height, width = images.shape
    flip, down, right = numbers.reshape(count, 3).to(images.device).unbind(dim=1)
    span = 2 * config.shift + 1
    rows = _reflect(_shifted(height, (down * span).long() - config.shift), height)
    columns = _reflect(_shifted(width, (right * span).long() - config.shift), width)
    if config.flip:
        columns = torch.where((flip < 0.5)[:, None], width - 1 - columns, columns)
    sample = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return images[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _shifted(length: int, offsets: Tensor) -> Tensor:
    """(N, length): where each pixel of a shifted line comes from."""
    return torch.arange(length, device=offsets.device)[None, :] - offsets[:, None]


def _reflect(index: Tensor, length: int) -> Tensor:
    """Brings indices back into [0, length) by mirroring at the edges, which are repeated."""
    index = index.remainder(2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def consistency_penalty(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    real_logits: Tensor,
    numbers: Tensor,
    config: ConsistencyConfig | None = None,
) -> Tensor:
    """weight * E[(D(x) - D(T(x)))^2] over real images, T being `vary` (Zhang et al. 2020, equation 3).

    Args:
        discriminator: images to logits, called once on T(x), in the precision of `real_logits`.
        real: (N, C, H, W).
        real_logits: D(x), (N,) or (N, 1, H', W') of a discriminator of patches, of which the mean counts.
        numbers: uniform in [0, 1), (N, 3, ...).
        config: weight and kinds of variation.
    """
    config = config or ConsistencyConfig()
    count = real.shape[0]
    half = real_logits.dtype in (torch.float16, torch.bfloat16)
    dtype = real_logits.dtype if half else None
    with torch.autocast(real.device.type, dtype=dtype, enabled=half):
        varied_logits = discriminator(vary(real, numbers, config))
    # A map of logits moves with the picture, so what is compared is its mean: D(x) of the whole picture.
    before, after = (logits.float().reshape(count, -1).mean(1) for logits in (real_logits, varied_logits))
    return config.weight * (before - after).square().mean()
