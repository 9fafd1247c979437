"""What attention is trained by beside the words' likelihood (Xu et al. 2015, section 4): pure functions of weights."""

from __future__ import annotations

from torch import Tensor


def doubly_stochastic(weights: Tensor, inside: Tensor) -> Tensor:
    """sum_i (1 - sum_t alpha_ti)^2 of each caption, (N,) (equation 14): every place should be looked at once in all.

    As sum_i sum_t alpha_ti is the number of words whatever the weights are, the 1 moves the value, not the gradient.

    Args:
        weights: (N, T, L), alpha.
        inside: bool (N, T), words that are no padding.
    """
    return (1 - (weights * inside[:, :, None]).sum(1)).square().sum(1)


def attention_entropy(weights: Tensor, inside: Tensor) -> Tensor:
    """sum_t H[alpha_t] of each caption in nats, (N,)."""
    logs = weights.clamp_min(1e-30).log()
    return -((weights * logs).sum(2) * inside).sum(1)


def reinforced(log_chosen: Tensor, inside: Tensor, log_likelihood: Tensor, baseline: Tensor) -> Tensor:
    """(log p(y | s, a) - b) log p(s | a) of each caption, (N,), whose gradient is the second term of equation 12.

    Args:
        log_chosen: (N, T), log alpha of the places that were drawn.
        inside: bool (N, T), words that are no padding.
        log_likelihood: (N,), log p(y | s, a); no gradient goes through it.
        baseline: 0-d, b.
    """
    return (log_likelihood.detach() - baseline) * (log_chosen * inside).sum(1)
