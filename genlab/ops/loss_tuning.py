"""Where `impl="auto"` takes the native losses, with what was measured there.

Ratios are torch's time over the native one, loss and gradient together, on AMD Zen 4 with AVX-512, torch 2.14, one
thread of a machine that other work shared (the least of many short turns, taken in alternation).
"""

from __future__ import annotations

import torch
from torch import Tensor

CUDA = "the native CUDA kernels have not been timed on a GPU; torch's functions"

# Adversarial losses of 64 to 78400 logits a side: float32 1.1-11, bfloat16 1.0-7.9 (1.0 for the mean of 128 generated
# ones), float64 1.2-5.3 but for the cross-entropies, whose logarithm of a double is scalar: 1.3-1.9 up to 900 logits,
# then 0.4-0.9.
GAN_LOSS = "value and gradient in one pass over the logits: 1.0-11x of torch's (Zen 4, one thread)"
GAN_LOSS_TORCH = "float64 cross-entropies of many logits, whose logarithms torch takes faster, and float16"
CROSS_ENTROPIES = ("non_saturating", "minimax")
MOST_DOUBLES = 1024

# Softmax cross-entropy: with label smoothing 1.2-3.8 in float32 and bfloat16. Without, of rows: float32 of 2^18 logits
# and more 1.3-3.0, of fewer 0.8-1.1 (torch's own calls are fewer); bfloat16 0.8-1.3; of maps 0.9-1.0. float64 0.2-1.7.
CROSS_ENTROPY = "no stored probabilities, the gradient in the same pass: 1.2-3.8x of torch's (Zen 4, one thread)"
CROSS_ENTROPY_TORCH = "few logits, maps and bfloat16 without smoothing, float64, probabilities as target"
LEAST_LOGITS = 1 << 18

# Latents of 64x2 to 512x256, up to 50 draws: float32 1.8-3.4, bfloat16 2.1-2.9, float64 1.5-2.0.
REPARAMETRIZE = "z, KL and their gradients in one pass each: 1.5-3.4x of torch's (Zen 4, one thread)"
REPARAMETRIZE_TORCH = "no native kernel"


def gan_loss_wins(fake_logits: Tensor, real_logits: Tensor | None, loss: str) -> bool:
    """Whether the native loss of these logits is quicker than torch's passes."""
    return fake_logits.dtype != torch.float64 or loss not in CROSS_ENTROPIES or fake_logits.numel() <= MOST_DOUBLES


def cross_entropy_wins(input: Tensor, target: Tensor, label_smoothing: float) -> bool:
    """Whether the native cross-entropy of these logits is quicker than torch's log_softmax and nll_loss."""
    if target.dtype.is_floating_point:
        return False
    rows = input.dim() <= 2 and input.dtype == torch.float32 and input.numel() >= LEAST_LOGITS
    return label_smoothing > 0 or rows
