"""Bounds on log p(x) of models with Gaussian latents, in nats, and how tight their approximate posterior makes them.

p(z) = N(0, I), q(z|x) = N(mean, diag exp(log_variance)). Importance weights w_i = p(x|z_i) p(z_i) / q(z_i|x), z_i ~ q,
give the bounds L_k = E log 1/k sum_i w_i of Burda, Grosse and Salakhutdinov 2016 ("Importance Weighted Autoencoders",
equation 8): L_1 is the ELBO, and L_k rises with k towards log p(x).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)
ACTIVE_VARIANCE = 0.01  # Burda et al. 2016, appendix C
COLLAPSED_KL = 0.01  # nats: a latent below carries nothing that a picture could show


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each latent (Kingma and Welling 2014, appendix B), same shape."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def gaussian_log_density(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(x; mean, exp(log_variance)) of each element, broadcast."""
    return -0.5 * (LOG_2PI + log_variance + (x - mean).square() * (-log_variance).exp())


def latent_log_ratio(z: Tensor, noise: Tensor, log_variance: Tensor) -> Tensor:
    """log p(z) - log q(z|x) at z = mean + exp(log_variance / 2) noise, summed over the last dimension.

    Args:
        z, noise: (..., d).
        log_variance: broadcasts against them.
    """
    return 0.5 * (noise.square() - z.square() + log_variance).sum(-1)


def importance_bound(log_weights: Tensor) -> Tensor:
    """log 1/k sum_i w_i over the last dimension: an unbiased estimate of L_k, below log p(x) on average."""
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])


def kl_weight(step: int, warmup_steps: int) -> float:
    """Linear warm-up of the KL term (Sonderby et al. 2016): (step + 1) / warmup_steps, then 1. Never 0."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def with_free_bits(kl: Tensor, free: float, above: Tensor) -> Tensor:
    """Sum over latents of max(free, batch mean of KL) (Kingma et al. 2016, "Inverse Autoregressive Flow", equation 15).

    A latent whose mean is below `free` adds the constant and gets no gradient.

    Args:
        kl: (n, d), the KL of each latent for the samples of this part of the batch.
        free: nats that each latent has for nothing.
        above: bool (d,), whether the mean over the whole batch exceeds `free`; decided there, because a part of the
            batch, on this process or in this micro-batch, could decide otherwise.

    Returns:
        0-d.
    """
    return torch.where(above, kl.mean(0), torch.full_like(kl[0], free)).sum()


@dataclass(frozen=True)
class Likelihood:
    """What importance sampling says of some samples, float64.

    Attributes:
        reconstruction: (N,) E_q log p(x|z), averaged over the draws.
        kl: (N, d) KL of each latent, closed form.
        bounds: k -> (N,) estimates of L_k; the largest k estimates log p(x).
        mean: (N, d) posterior means.
    """

    reconstruction: Tensor
    kl: Tensor
    bounds: dict[int, Tensor]
    mean: Tensor

    @classmethod
    def room_for(cls, count: int, latent_dim: int, sizes: tuple[int, ...]) -> Likelihood:
        """Of `count` samples, bounds of `sizes`, values to be written by `write`.

        One block for all: small ones kept from every part of a data set, between large ones that come and go, keep the
        heap from joining what is free, and the process grows with every part.
        """
        per_sample = {"dtype": torch.float64}
        return cls(
            torch.empty(count, **per_sample),
            torch.empty(count, latent_dim, **per_sample),
            {k: torch.empty(count, **per_sample) for k in sizes},
            torch.empty(count, latent_dim, **per_sample),
        )

    def write(self, start: int, part: Likelihood) -> None:
        """Puts the estimates of some samples at their place, from `start` on."""
        here = slice(start, start + len(part.reconstruction))
        self.reconstruction[here], self.kl[here], self.mean[here] = part.reconstruction, part.kl, part.mean
        for k, bound in part.bounds.items():
            self.bounds[k][here] = bound

    @property
    def elbo(self) -> Tensor:
        """(N,) reconstruction minus KL."""
        return self.reconstruction - self.kl.sum(1)

    @property
    def active_units(self) -> int:
        """Latents whose posterior mean varies over the samples (Burda et al. 2016, appendix C)."""
        return int((self.mean.var(0, unbiased=False) > ACTIVE_VARIANCE).sum())


def estimate(
    mean: Tensor,
    log_variance: Tensor,
    log_likelihood: Callable[[Tensor], Tensor],
    *,
    draws: int,
    groups: tuple[int, ...] = (),
    rows: int,
    generator: torch.Generator,
) -> Likelihood:
    """Importance sampling of log p(x) for a few samples; memory does not depend on `draws`.

    Args:
        mean, log_variance: (n, d) float32 of q(z|x).
        log_likelihood: z (n, s, d) -> log p(x|z) (n, s), for the same n samples.
        draws: k of the tightest bound.
        groups: smaller k, divisors of `draws`, whose bounds are averaged over draws / k disjoint groups of the draws.
        rows: at most so many latents (n times s) are decoded at a time, one of each sample at the least.
        generator: CPU generator of the draws.
    """
    n, d = mean.shape
    sizes = sorted({*groups, draws})
    if draws < 1 or any(draws % size for size in sizes):
        raise ValueError(f"estimate: expected groups that divide draws={draws}, got {groups}")
    weights = torch.empty(n, draws, dtype=torch.float64)
    reconstruction = torch.zeros(n, dtype=torch.float64)
    at_once = max(1, rows // n)
    for start in range(0, draws, at_once):
        count = min(at_once, draws - start)
        noise = torch.randn(n, count, d, generator=generator).to(mean.device)
        z = mean.unsqueeze(1) + (0.5 * log_variance).exp().unsqueeze(1) * noise
        log_px = log_likelihood(z).double()
        weights[:, start : start + count] = (
            log_px + latent_log_ratio(z.double(), noise.double(), log_variance.double().unsqueeze(1))
        ).cpu()
        reconstruction += log_px.sum(1).cpu()
    bounds = {size: importance_bound(weights.reshape(n, draws // size, size)).mean(1) for size in sizes}
    kl = gaussian_kl(mean.double(), log_variance.double()).cpu()
    return Likelihood(reconstruction / draws, kl, bounds, mean.double().cpu())
