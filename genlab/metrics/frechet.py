"""Frechet distance of two Gaussians, in the symmetric eigenvalue form.

Tr (S1 S2)^(1/2) is the trace of the root of a non-symmetric matrix, which scipy's sqrtm reaches through a complex Schur
form that breaks on singular covariances. S1 S2 has the eigenvalues of B^T S2 B with S1 = B B^T, which is symmetric and
positive semi-definite: two symmetric eigenvalue problems, real by construction, and singular inputs need no offset.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from genlab.errors import MetricError

Array = Tensor | np.ndarray


def frechet_distance(mu1: Array, sigma1: Array, mu2: Array, sigma2: Array) -> float:
    """Squared 2-Wasserstein distance of N(mu1, sigma1) and N(mu2, sigma2).

    ``|mu1 - mu2|^2 + Tr(sigma1 + sigma2 - 2 (sigma1 sigma2)^(1/2))`` (Dowson and Landau 1982, eq. 4; used on Inception
    features by Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", eq. 6). Computed in float64 on the
    CPU. Singular covariances are fine.

    Args:
        mu1: mean, shape (dim,).
        sigma1: symmetric positive semi-definite covariance, shape (dim, dim).
        mu2: mean, shape (dim,).
        sigma2: covariance, shape (dim, dim).

    Returns:
        The distance, >= 0 (rounding below zero is cut).

    Raises:
        MetricError: shapes disagree, a value is not finite, or a covariance is not symmetric.

    Example:
        >>> import numpy as np
        >>> frechet_distance(np.zeros(2), np.eye(2), np.array([3.0, 4.0]), np.eye(2))
        25.0
    """
    mu1, sigma1 = _as_gaussian(mu1, sigma1, "first")
    mu2, sigma2 = _as_gaussian(mu2, sigma2, "second")
    if mu1.shape != mu2.shape:
        raise MetricError(
            f"frechet_distance: expected two Gaussians of one dimension, got {mu1.numel()} and {mu2.numel()}; "
            "compute both statistics with the same extractor and dims"
        )
    difference = mu1 - mu2
    distance = difference.dot(difference) + sigma1.trace() + sigma2.trace() - 2.0 * _trace_of_root(sigma1, sigma2)
    return max(float(distance), 0.0)


def _as_gaussian(mu: Array, sigma: Array, which: str) -> tuple[Tensor, Tensor]:
    mu = torch.atleast_1d(torch.as_tensor(mu).detach().to("cpu", torch.float64))
    sigma = torch.atleast_2d(torch.as_tensor(sigma).detach().to("cpu", torch.float64))
    if mu.ndim != 1 or sigma.shape != (mu.numel(), mu.numel()):
        raise MetricError(
            f"frechet_distance: expected mean (dim,) and covariance (dim, dim), got {tuple(mu.shape)} and "
            f"{tuple(sigma.shape)} for the {which} Gaussian"
        )
    if not (torch.isfinite(mu).all() and torch.isfinite(sigma).all()):
        raise MetricError(f"frechet_distance: expected finite statistics, got NaN or Inf in the {which} Gaussian")
    asymmetry = float((sigma - sigma.T).abs().max()) if sigma.numel() else 0.0
    if asymmetry > 1e-6 * float(sigma.abs().max()):
        raise MetricError(
            f"frechet_distance: expected a symmetric covariance, got one that differs from its transpose by "
            f"{asymmetry:.3g} for the {which} Gaussian"
        )
    return mu, (sigma + sigma.T) / 2


def _trace_of_root(sigma1: Tensor, sigma2: Tensor) -> Tensor:
    """Tr (sigma1 sigma2)^(1/2) as the sum of roots of the eigenvalues of B^T sigma2 B, with sigma1 = B B^T."""
    values, vectors = torch.linalg.eigh(sigma1)
    kept = values > _rounding(values)
    factor = vectors[:, kept] * values[kept].sqrt()
    if factor.shape[1] == 0:
        return sigma1.new_zeros(())
    product = torch.linalg.eigvalsh(factor.T @ sigma2 @ factor)
    # The root turns rounding of size 1e-16 into 1e-8, so eigenvalues that are zero up to rounding are left out.
    return product[product > _rounding(product)].sqrt().sum()


def _rounding(values: Tensor) -> float:
    """The size below which an eigenvalue is rounding: the tolerance of numpy.linalg.matrix_rank."""
    return float(values.abs().max()) * values.numel() * torch.finfo(values.dtype).eps
