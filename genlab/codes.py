"""InfoGAN's latent codes: their prior P(c), the factored Q(c|x), and the bound on their mutual information.

L_I(G, Q) = E[log Q(c|x)] + H(c) <= I(c; G(z, c)) for c ~ P(c), x = G(z, c) (Chen et al. 2016, equation 5). A
categorical code is a one-hot vector; Q of it is a softmax. Uniform codes on (-1, 1) and normal codes are numbers; Q of
both is a Gaussian whose mean and log variance the network gives (section 6). All numbers are in nats.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("categorical", "uniform", "gaussian")
# exp(-7) is a deviation of 0.03; an unbounded variance of a code that the network knows by heart sinks until the
# gradient of its likelihood drowns the game's.
LOG_VARIANCE_RANGE = (-7.0, 2.0)


@dataclass(frozen=True)
class Codes:
    """How many codes of which kind; they stand in this order: categorical, uniform, gaussian.

    Attributes:
        categorical: number of values of each categorical code, at least 2.
        uniform: codes from U(-1, 1).
        gaussian: codes from N(0, 1).
        fixed_variance: Q's Gaussians have variance 1, as in the authors' code for MNIST. With a learned one the bound
            has no upper end for continuous codes: Q is rewarded for ever finer numbers, and the generator for making
            them show, up to taking digits apart by them.

    Raises:
        ValueError: no code at all, a categorical code of fewer than 2 values, or a negative number.
    """

    categorical: tuple[int, ...] = (10,)
    uniform: int = 2
    gaussian: int = 0
    fixed_variance: bool = False

    def __post_init__(self) -> None:
        if any(size < 2 for size in self.categorical):
            raise ValueError(f"codes: expected categorical codes of at least 2 values, got {list(self.categorical)}")
        if self.uniform < 0 or self.gaussian < 0:
            raise ValueError(f"codes: expected numbers >= 0, got uniform {self.uniform}, gaussian {self.gaussian}")
        if self.width == 0:
            raise ValueError("codes: expected at least one categorical, uniform or gaussian code, got none")

    @property
    def continuous(self) -> int:
        """Uniform and normal codes together."""
        return self.uniform + self.gaussian

    @property
    def width(self) -> int:
        """Numbers of one c, categorical codes as one-hot vectors."""
        return sum(self.categorical) + self.continuous

    @property
    def statistics_width(self) -> int:
        """Numbers by which the network describes Q(c|x): logits, then means, then (unless fixed) log variances."""
        return sum(self.categorical) + (1 if self.fixed_variance else 2) * self.continuous

    def entropy(self) -> dict[str, float]:
        """H(c) by kind: log K, log 2 and log(2 pi e) / 2 for each code; only kinds that there are."""
        values = {
            "categorical": sum(math.log(size) for size in self.categorical),
            "uniform": self.uniform * math.log(2),
            "gaussian": self.gaussian * 0.5 * math.log(2 * math.pi * math.e),
        }
        return {kind: values[kind] for kind in self.kinds}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of which there are codes."""
        counts = (len(self.categorical), self.uniform, self.gaussian)
        return tuple(kind for kind, count in zip(KINDS, counts, strict=True) if count)

    def draw(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """c ~ P(c).

        Args:
            uniform: numbers in [0, 1), (N, len(categorical) + self.uniform).
            normal: standard normal, (N, gaussian).

        Returns:
            (N, width).
        """
        picked = [(uniform[:, i] * size).long().clamp_(max=size - 1) for i, size in enumerate(self.categorical)]
        one_hot = [F.one_hot(values, size).float() for values, size in zip(picked, self.categorical, strict=True)]
        return torch.cat([*one_hot, uniform[:, len(self.categorical) :] * 2 - 1, normal], dim=1)

    def split_categorical(self, values: Tensor) -> list[Tensor]:
        """The columns (N, K) of each categorical code, of codes or of the statistics of Q (there its logits)."""
        ends = list(itertools.accumulate(self.categorical))
        return [values[:, end - size : end] for end, size in zip(ends, self.categorical, strict=True)]

    def means(self, statistics: Tensor) -> Tensor:
        """Mean of Q for each continuous code, (N, continuous)."""
        start = sum(self.categorical)
        return statistics[:, start : start + self.continuous]

    def log_variances(self, statistics: Tensor) -> Tensor:
        """Log variance of Q for each continuous code, (N, continuous), held in LOG_VARIANCE_RANGE."""
        if self.fixed_variance:
            return torch.zeros_like(self.means(statistics))
        return statistics[:, sum(self.categorical) + self.continuous :].clamp(*LOG_VARIANCE_RANGE)

    def log_likelihood(self, statistics: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """log Q(c|x), (N,) for each kind that there is.

        Args:
            statistics: of Q, (N, statistics_width).
            codes: c, (N, width).
        """
        statistics, codes = statistics.float(), codes.float()
        pairs = zip(self.split_categorical(statistics), self.split_categorical(codes), strict=True)
        categorical = [(F.log_softmax(logits, dim=1) * value).sum(dim=1) for logits, value in pairs]
        log_variance = self.log_variances(statistics)
        squared = (codes[:, sum(self.categorical) :] - self.means(statistics)).square() / log_variance.exp()
        continuous = -0.5 * (math.log(2 * math.pi) + log_variance + squared)
        values = {
            "categorical": sum(categorical, torch.zeros(codes.shape[0], device=codes.device)),
            "uniform": continuous[:, : self.uniform].sum(dim=1),
            "gaussian": continuous[:, self.uniform :].sum(dim=1),
        }
        return {kind: values[kind] for kind in self.kinds}

    def information_bound(self, statistics: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """L_I of a batch: mean log Q(c|x) + H(c), a 0-d tensor for each kind; at most I(c; x) in expectation.

        I of a categorical code is at most H(c). That of a continuous code has no such end: its entropy is differential.
        """
        entropy = self.entropy()
        return {kind: value.mean() + entropy[kind] for kind, value in self.log_likelihood(statistics, codes).items()}
