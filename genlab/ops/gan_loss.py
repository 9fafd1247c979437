"""The adversarial losses of a GAN's two players, each in one pass over the logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import implementation

OP = "gan_loss"
LOSSES = ("non_saturating", "minimax", "lsgan", "hinge", "wasserstein")
SMOOTHED = ("non_saturating", "minimax")


def gan_loss(
    loss: str,
    fake_logits: Tensor,
    real_logits: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    impl: str = "auto",
) -> Tensor:
    """The discriminator's loss where `real_logits` are given, else the generator's; both are minimised.

    With s the sigmoid, r the real and f the generated logits, E the mean over all elements:

    | loss | discriminator | generator |
    |---|---|---|
    | non_saturating | -E log s(r) - E log(1 - s(f)) | -E log s(f) |
    | minimax | the same | E log(1 - s(f)) |
    | lsgan | E (r - 1)^2 / 2 + E f^2 / 2 | E (f - 1)^2 / 2 |
    | hinge | E max(0, 1 - r) + E max(0, 1 + f) | -E f |
    | wasserstein | E f - E r | -E f |

    (Goodfellow et al. 2014, equation 1 and section 3; Mao et al. 2017, equation 9; Lim and Ye 2017; Arjovsky et al.
    2017, equation 2.)

    Args:
        loss: one of `LOSSES`.
        fake_logits: of generated samples, any shape, strides and floating dtype.
        real_logits: of real samples, any shape, same dtype and device.
        label_smoothing: real samples count as real with probability 1 - label_smoothing only (one-sided; Salimans et
            al. 2016, section 3.4); in [0, 1), for the discriminator of non_saturating and minimax.
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Returns:
        0-d tensor of the logits' dtype, float32 for half precision. It can be differentiated any number of times.

    Raises:
        ValueError: an unknown loss; smoothing out of range, of another loss or for the generator.
        TypeError: logits that are not floating point, or of two dtypes.
        RuntimeError: logits on two devices, or impl="native" where the extension is not built.
        NotImplementedError: impl="native" for a device or dtype without kernel.

    Example:
        >>> real, fake = torch.randn(8, 1), torch.randn(8, 1)
        >>> gan_loss("hinge", fake, real).shape
        torch.Size([])
    """
    _check(loss, fake_logits, real_logits, label_smoothing)
    empty = fake_logits.numel() == 0 or (real_logits is not None and real_logits.numel() == 0)
    chosen = implementation.choose(OP, impl, fake_logits, real_logits, loss)
    if chosen == "native" and not empty:  # of nothing every implementation gives torch's NaN
        gradient = torch.is_grad_enabled() and (
            fake_logits.requires_grad or (real_logits is not None and real_logits.requires_grad)
        )
        return torch.ops.genlab.gan_loss(fake_logits, real_logits, loss, label_smoothing, gradient)[0]
    fake = _wide(fake_logits)
    real = None if real_logits is None else _wide(real_logits)
    function = _definition if chosen == "reference" else _torch
    return function(loss, fake, real, label_smoothing)


def _check(loss: str, fake: Tensor, real: Tensor | None, label_smoothing: float) -> None:
    if loss not in LOSSES:
        raise ValueError(f"{OP}: expected loss to be one of {', '.join(LOSSES)}, got {loss!r}")
    if not fake.dtype.is_floating_point:
        raise TypeError(f"{OP}: expected floating point logits, got {fake.dtype}")
    if real is not None and real.dtype != fake.dtype:
        raise TypeError(f"{OP}: expected real_logits of fake_logits' dtype {fake.dtype}, got {real.dtype}")
    if real is not None and real.device != fake.device:
        raise RuntimeError(f"{OP}: expected real_logits on fake_logits' device {fake.device}, got {real.device}")
    if label_smoothing == 0:
        return
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"{OP}: expected label_smoothing in [0, 1), got {label_smoothing}")
    if loss not in SMOOTHED or real is None:
        who = f"loss {loss}" if loss not in SMOOTHED else "the generator, which sees no real samples"
        raise ValueError(f"{OP}: expected label_smoothing 0 for {who}, got {label_smoothing}")


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _torch(loss: str, fake: Tensor, real: Tensor | None, label_smoothing: float) -> Tensor:
    """What a user of torch writes: softplus(-x) = -log sigmoid(x) stays finite where the logarithm does not."""
    if loss == "lsgan":
        if real is None:
            return 0.5 * (fake - 1).square().mean()
        return 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()
    if loss in SMOOTHED:
        if real is None:
            return F.softplus(-fake).mean() if loss == "non_saturating" else -F.softplus(fake).mean()
        found = F.softplus(-real).mean() + F.softplus(fake).mean()
        # -(1 - a) log s(r) - a log(1 - s(r)) = -log s(r) + a r
        return found + label_smoothing * real.mean() if label_smoothing else found
    if real is None:
        return -fake.mean()
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return fake.mean() - real.mean()


def _definition(loss: str, fake: Tensor, real: Tensor | None, label_smoothing: float) -> Tensor:
    """The table of `gan_loss`, written out."""
    log_yes = F.logsigmoid
    if loss in SMOOTHED:
        if real is None:
            return -log_yes(fake).mean() if loss == "non_saturating" else log_yes(-fake).mean()
        certain = (1 - label_smoothing) * log_yes(real) + label_smoothing * log_yes(-real)
        return -(certain if label_smoothing else log_yes(real)).mean() - log_yes(-fake).mean()
    if loss == "hinge" and real is not None:
        return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()
    return _torch(loss, fake, real, label_smoothing)
