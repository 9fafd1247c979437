"""Where `impl="auto"` takes the native losses, with what was measured there."""

from __future__ import annotations

from torch import Tensor

CUDA = "the native CUDA kernels have not been timed on a GPU; torch's functions"
CROSS_ENTROPY = "x"
CROSS_ENTROPY_TORCH = "probabilities as target, empty tensors and float16"
GAN_LOSS = "x"
GAN_LOSS_TORCH = "float16"
REPARAMETRIZE = "x"
REPARAMETRIZE_TORCH = "float16"


def native_cross_entropy_wins(input: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> bool:
    """Whether the native cross-entropy of these logits is quicker than torch's log_softmax and nll_loss."""
    return not target.dtype.is_floating_point


def native_gan_loss_wins(fake_logits: Tensor, real_logits: Tensor | None) -> bool:
    """Whether the native loss of these logits is quicker than torch's passes."""
    return True


def native_latents_win(mean: Tensor, log_variance: Tensor, noise: Tensor) -> bool:
    """Whether the native latents are quicker than torch's passes."""
    return True
