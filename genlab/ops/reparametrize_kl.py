"""Latents of a variational autoencoder and what they cost, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.ops import implementation, shapes

OP = "reparametrize_kl"


def reparametrize_kl(mean: Tensor, log_variance: Tensor, noise: Tensor, *, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """z = mean + exp(log_variance / 2) * noise, and KL(N(mean, exp(log_variance)) || N(0, 1)) of each latent.

    (Kingma and Welling 2014, "Auto-Encoding Variational Bayes", section 2.4 and appendix B.)

    Args:
        mean, log_variance: (n, d), floating point, of q(z|x); halves of one matrix are taken as they lie.
        noise: standard normal, (n, d), or (n, k, d) for k draws of each sample.
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Returns:
        (z, kl): z of the noise's shape, kl (n, d) in nats, of each latent and sample; the inputs' dtype, computed in
        float32 at least. Both can be differentiated any number of times, with respect to all three inputs.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: inputs that are not floating point, or of several dtypes.
        RuntimeError: inputs on several devices, or impl="native" where the extension is not built.
        NotImplementedError: impl="native" for a device or dtype without kernel.

    Example:
        >>> z, kl = reparametrize_kl(torch.zeros(8, 2), torch.zeros(8, 2), torch.randn(8, 5, 2))
        >>> z.shape, kl.sum().item()
        (torch.Size([8, 5, 2]), 0.0)
    """
    _check(mean, log_variance, noise)
    if shapes.autocast_dtype(mean) is not None and mean.dtype in (torch.float16, torch.bfloat16):
        mean, log_variance, noise = mean.float(), log_variance.float(), noise.float()
    if implementation.choose(OP, impl, mean, log_variance, noise) == "native":
        return torch.ops.genlab.reparametrize_kl(mean, log_variance, noise)
    return definition(mean, log_variance, noise)


def _check(mean: Tensor, log_variance: Tensor, noise: Tensor) -> None:
    if not mean.dtype.is_floating_point:
        raise TypeError(f"{OP}: expected floating point mean, log_variance and noise, got {mean.dtype}")
    if mean.dim() != 2:
        raise ValueError(f"{OP}: expected mean of shape (n, d), got {shapes.shape_text(mean)}")
    if log_variance.shape != mean.shape:
        raise ValueError(
            f"{OP}: expected log_variance of mean's shape {shapes.shape_text(mean)}, got "
            f"{shapes.shape_text(log_variance)}"
        )
    n, d = mean.shape
    if noise.dim() not in (2, 3) or noise.shape[0] != n or noise.shape[-1] != d:
        raise ValueError(f"{OP}: expected noise of shape ({n}, {d}) or ({n}, k, {d}), got {shapes.shape_text(noise)}")
    for name, tensor in (("log_variance", log_variance), ("noise", noise)):
        if tensor.dtype != mean.dtype:
            raise TypeError(f"{OP}: expected {name} of mean's dtype {mean.dtype}, got {tensor.dtype}")
        if tensor.device != mean.device:
            raise RuntimeError(f"{OP}: expected {name} on mean's device {mean.device}, got {tensor.device}")


def definition(mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The two formulas of `reparametrize_kl` in torch ops, computed in float32 at least."""
    dtype = mean.dtype
    if dtype in (torch.float16, torch.bfloat16):
        mean, log_variance, noise = mean.float(), log_variance.float(), noise.float()
    deviation = (0.5 * log_variance).exp()
    each = (mean.unsqueeze(1), deviation.unsqueeze(1)) if noise.dim() == 3 else (mean, deviation)
    z = each[0] + each[1] * noise
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return z.to(dtype), kl.to(dtype)
