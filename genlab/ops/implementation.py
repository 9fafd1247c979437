"""Which implementation of an op runs: the one switch, the table behind `auto`, and why.

native      this project's kernels (genlab._C); never falls back, raises with the reasons
torch       the calls a PyTorch user would write
reference   the definition written out in plain torch, for checks
mixed       only chosen by auto: torch's forward and input gradient, the native weight gradient (conv_mixed.py)
matmul      only chosen by auto: a convolution that is one matrix product, through torch's (conv_matmul.py)
auto        matmul or mixed where `RULES` say so, else what was measured to be quicker for calls of this class
            (measured.py), else the row of `RULES` that fits
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from genlab import _extension
from genlab.ops import (
    attention_tuning,
    conv_matmul,
    loss_tuning,
    measured,
    norm_tuning,
    recurrence_tuning,
    shapes,
    step_tuning,
    tuning,
)

IMPLEMENTATIONS = ("auto", "native", "torch", "reference")

CPU_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
CUDA_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# Dtypes of the native kernels, by op and device.
NATIVE = {
    "conv1d": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "conv2d": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "conv_transpose2d": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "norm_conv2d": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "norm_conv_transpose2d": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "batch_norm_act": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "instance_norm_act": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "layer_norm_act": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "gru": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "lstm": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "rnn": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "optimizer_step": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "cross_entropy": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "gan_loss": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "reparametrize_kl": {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES},
    "scaled_dot_product_attention": {"cpu": CUDA_DTYPES, "cuda": CUDA_DTYPES},
    "word2vec_step": {"cpu": (torch.float32,), "cuda": (torch.float32,)},
}

# Ops that run in the dtype they are given: autocast leaves them alone. (Losses cast for themselves, to float32.)
NOT_AUTOCAST = (
    *("batch_norm_act", "instance_norm_act", "layer_norm_act"),
    *("cross_entropy", "gan_loss", "optimizer_step", "reparametrize_kl", "word2vec_step"),
)

# Ops that `genlab bench tune` has no shape classes for: their microseconds are not spent on looking for one.
UNMEASURED = (
    *("cross_entropy", "gan_loss", "gru", "lstm", "optimizer_step", "reparametrize_kl", "rnn"),
    *("scaled_dot_product_attention", "word2vec_step"),
)


@dataclass(frozen=True)
class Rule:
    """What `auto` picks for one op on one device, and the reason that `genlab doctor` prints.

    The first rule that fits an op, device, dtype and shape counts; one whose choice is native or mixed is passed over
    where the extension is not loaded, and inside torch.func's transforms and forward-mode differentiation.
    """

    op: str
    device: str
    choice: str
    reason: str
    dtypes: tuple[torch.dtype, ...] = CUDA_DTYPES
    fits: Callable[..., bool] | None = None  # of the input and the shape arguments of `choose`; None fits all


_ONEDNN = "oneDNN runs plain convolution at 93-97 % of the CPU's peak (fp32, AMD Zen 4, 2 cores): nothing left to win"
_MATMUL = (
    "4x4 -> 1x1 and 1x1 -> 4x4 layers as the matrix product that they are: 1.1-15x of oneDNN's convolutions in each "
    "direction (fp32 and bf16, Zen 4, one thread and two)"
)
_CUDNN = "the native CUDA kernels have not been timed on a GPU; cuDNN"
_NORM = "normalisation, residual and activation in two passes over memory: 1.2-5.9x of torch (Zen 4, one thread)"
_NORM_SHAPES = "gelu, channels_last memory without whole vectors of channels, or few positions a channel"
_NORM_TORCH = "torch's normalisation with the residual and the activation written over its output"
_NORM_CUDA = "the native CUDA kernels have not been timed on a GPU; torch's normalisation, then the activation in place"
_LAYER_NORM = "torch's layer_norm is one fused pass on the CPU already"
_LAYER_NORM_FUSED = "residual and relu in the same pass, bfloat16: 1.1-1.9x of torch forward, 1.0-1.7x with gradients"
_FUSED = "native passes around the convolution that conv2d's own `auto` takes: 1.4-2.8x of torch's (Zen 4, one thread)"
_FUSED_HALF = "no native kernel; normalisation in float32, then torch's convolution"
_FUSED_CUDA = "the fused CUDA kernels have not been timed on a GPU; normalisation, then cuDNN"
_STEP = "the step, the moving average, the bound and the clipping in one pass over memory for all parameters together"
_STEP_TORCH = "torch's fused or foreach step, then the average and the bound"
_STEP_CUDA = "the native CUDA kernels have not been timed on a GPU; torch's fused or foreach step, then the average"
_ATTENTION = (
    "scores stay in the cache, bfloat16 by the processor's own products, nothing above the diagonal: float32 1.1-2.2x "
    "of torch's flash kernel, bfloat16 2.0-4.0x (Zen 4, one thread)"
)
_ATTENTION_TORCH = "few scores, a processor without AVX-512, or head dims without kernel: torch's"
_ATTENTION_CUDA = "the native CUDA kernels have not been timed on a GPU; torch's"
_WORD2VEC = "a loop of torch calls or numpy's makes some ten thousand predictions a second, the kernel millions"
_WORD2VEC_CUDA = "nothing else trains on a GPU; the kernel has not been timed there"
_WORD2VEC_TORCH = "the tables are of float32"
_NORM_DTYPES = (torch.float32, torch.bfloat16)
_ATTENTION_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

RULES = (
    Rule("conv1d", "cpu", "torch", _ONEDNN),
    Rule("conv1d", "cuda", "torch", _CUDNN),
    Rule("conv2d", "cpu", "matmul", _MATMUL, CPU_DTYPES, conv_matmul.is_product),
    Rule("conv2d", "cpu", "native", tuning.winograd_summary(), (torch.float32,), tuning.winograd_wins),
    Rule("conv2d", "cpu", "mixed", tuning.few_channels_summary(), (torch.float32,), tuning.few_channels_wins),
    Rule("conv2d", "cpu", "native", tuning.widened_summary(), (torch.bfloat16,), tuning.widened_wins),
    Rule("conv2d", "cpu", "mixed", tuning.mixed_summary(), (torch.bfloat16,), tuning.mixed_wins),
    Rule("conv2d", "cpu", "torch", _ONEDNN),
    Rule("conv2d", "cuda", "torch", _CUDNN),
    Rule("conv_transpose2d", "cpu", "matmul", _MATMUL, CPU_DTYPES, conv_matmul.is_product),
    Rule("conv_transpose2d", "cpu", "native", tuning.winograd_summary(), (torch.float32,), tuning.winograd_wins),
    Rule("conv_transpose2d", "cpu", "mixed", tuning.few_channels_summary(), (torch.float32,), tuning.few_channels_wins),
    Rule("conv_transpose2d", "cpu", "native", tuning.widened_summary(), (torch.bfloat16,), tuning.widened_wins),
    Rule("conv_transpose2d", "cpu", "mixed", tuning.mixed_summary(), (torch.bfloat16,), tuning.mixed_wins),
    Rule("conv_transpose2d", "cpu", "torch", _ONEDNN),
    Rule("conv_transpose2d", "cuda", "torch", _CUDNN),
    Rule("norm_conv2d", "cpu", "native", _FUSED, CPU_DTYPES),
    Rule("norm_conv2d", "cpu", "torch", _FUSED_HALF),
    Rule("norm_conv2d", "cuda", "torch", _FUSED_CUDA),
    Rule("norm_conv_transpose2d", "cpu", "native", _FUSED, CPU_DTYPES),
    Rule("norm_conv_transpose2d", "cpu", "torch", _FUSED_HALF),
    Rule("norm_conv_transpose2d", "cuda", "torch", _FUSED_CUDA),
    Rule("batch_norm_act", "cpu", "torch", _NORM_SHAPES, _NORM_DTYPES, norm_tuning.torch_wins),
    Rule("batch_norm_act", "cpu", "native", _NORM, _NORM_DTYPES),
    Rule("batch_norm_act", "cpu", "torch", _NORM_TORCH),
    Rule("batch_norm_act", "cuda", "torch", _NORM_CUDA),
    Rule("instance_norm_act", "cpu", "torch", _NORM_SHAPES, _NORM_DTYPES, norm_tuning.torch_wins),
    Rule("instance_norm_act", "cpu", "native", _NORM, _NORM_DTYPES),
    Rule("instance_norm_act", "cpu", "torch", _NORM_TORCH),
    Rule("instance_norm_act", "cuda", "torch", _NORM_CUDA),
    Rule("layer_norm_act", "cpu", "native", _LAYER_NORM_FUSED, _NORM_DTYPES, norm_tuning.native_layer_norm_wins),
    Rule("layer_norm_act", "cpu", "torch", _LAYER_NORM),
    Rule("layer_norm_act", "cuda", "torch", _NORM_CUDA),
    Rule("optimizer_step", "cpu", "torch", step_tuning.TORCH_SUMMARY, CPU_DTYPES, step_tuning.torch_wins),
    Rule("optimizer_step", "cpu", "native", _STEP, CPU_DTYPES),
    Rule("optimizer_step", "cpu", "torch", _STEP_TORCH),
    Rule("optimizer_step", "cuda", "torch", _STEP_CUDA),
    Rule("cross_entropy", "cpu", "native", loss_tuning.CROSS_ENTROPY, _NORM_DTYPES, loss_tuning.cross_entropy_wins),
    Rule("cross_entropy", "cpu", "torch", loss_tuning.CROSS_ENTROPY_TORCH),
    Rule("cross_entropy", "cuda", "torch", loss_tuning.CUDA),
    Rule("gan_loss", "cpu", "native", loss_tuning.GAN_LOSS, CPU_DTYPES, loss_tuning.gan_loss_wins),
    Rule("gan_loss", "cpu", "torch", loss_tuning.GAN_LOSS_TORCH),
    Rule("gan_loss", "cuda", "torch", loss_tuning.CUDA),
    Rule("reparametrize_kl", "cpu", "native", loss_tuning.REPARAMETRIZE, CPU_DTYPES),
    Rule("reparametrize_kl", "cpu", "torch", loss_tuning.REPARAMETRIZE_TORCH),
    Rule("reparametrize_kl", "cuda", "torch", loss_tuning.CUDA),
    Rule("scaled_dot_product_attention", "cpu", "native", _ATTENTION, _ATTENTION_DTYPES, attention_tuning.native_wins),
    Rule("scaled_dot_product_attention", "cpu", "torch", _ATTENTION_TORCH),
    Rule("scaled_dot_product_attention", "cuda", "torch", _ATTENTION_CUDA),
    Rule("gru", "cpu", "native", recurrence_tuning.MASKED_SUMMARY, CPU_DTYPES, recurrence_tuning.is_masked),
    Rule("gru", "cpu", "native", recurrence_tuning.GRU_SUMMARY, _NORM_DTYPES, recurrence_tuning.native_wins),
    Rule("gru", "cpu", "torch", recurrence_tuning.TORCH_SUMMARY),
    Rule("gru", "cuda", "torch", recurrence_tuning.CUDA_SUMMARY),
    Rule("lstm", "cpu", "native", recurrence_tuning.MASKED_SUMMARY, CPU_DTYPES, recurrence_tuning.is_masked),
    Rule("lstm", "cpu", "native", recurrence_tuning.LSTM_SUMMARY, _NORM_DTYPES, recurrence_tuning.native_lstm_wins),
    Rule("lstm", "cpu", "torch", recurrence_tuning.TORCH_SUMMARY),
    Rule("lstm", "cuda", "torch", recurrence_tuning.CUDA_SUMMARY),
    Rule("rnn", "cpu", "native", recurrence_tuning.MASKED_SUMMARY, CPU_DTYPES, recurrence_tuning.is_masked),
    Rule("rnn", "cpu", "native", recurrence_tuning.RNN_SUMMARY, _NORM_DTYPES, recurrence_tuning.native_wins),
    Rule("rnn", "cpu", "torch", recurrence_tuning.TORCH_SUMMARY),
    Rule("rnn", "cuda", "torch", recurrence_tuning.CUDA_SUMMARY),
    Rule("word2vec_step", "cpu", "native", _WORD2VEC, (torch.float32,)),
    Rule("word2vec_step", "cpu", "torch", _WORD2VEC_TORCH),
    Rule("word2vec_step", "cuda", "native", _WORD2VEC_CUDA, (torch.float32,)),
    Rule("word2vec_step", "cuda", "torch", _WORD2VEC_TORCH),
)

_RULES_OF = {
    (op, device): tuple(rule for rule in RULES if (rule.op, rule.device) == (op, device))
    for op, device in {(rule.op, rule.device) for rule in RULES}
}

_default = "auto"


def set_default_impl(impl: str) -> None:
    """Sets what `impl="auto"` means from here on, for every op that has such an implementation.

    The one switch of the package, behind `kernels.impl` of a config. An op without that implementation keeps its `auto`
    choice (`describe` shows it); an `impl=` argument other than "auto" always wins and never falls back.

    Args:
        impl: "auto", "native", "torch" or "reference".
    """
    global _default
    check_impl("set_default_impl", impl)
    _default = impl


def get_default_impl() -> str:
    """The current meaning of `impl="auto"`."""
    return _default


@contextmanager
def default_impl(impl: str) -> Iterator[None]:
    """`set_default_impl` for the length of a with block.

    Example:
        >>> with genlab.ops.default_impl("reference"):
        ...     loss = model(x).mean()
    """
    previous = _default
    set_default_impl(impl)
    try:
        yield
    finally:
        set_default_impl(previous)


def choose(op: str, impl: str, input: Tensor, *shape: Any) -> str:
    """The implementation to run: "native", "torch", "reference" or, for `auto` only, "mixed" and "matmul".

    shape: what rules for some shapes only look at beside the input, see `Rule.fits`; without it they and the table of
    measurements are skipped, and the choice follows from op, device and dtype alone.

    Raises:
        ValueError: `impl` is not one of `IMPLEMENTATIONS`.
        RuntimeError: native was asked for and the extension is not built or lacks CUDA; names the command.
        NotImplementedError: native was asked for and the kernels do not cover this device or dtype, or forward-mode
            differentiation; lists the reasons.
    """
    if impl not in IMPLEMENTATIONS:
        check_impl(op, impl)
    if impl == "auto":
        impl = _default
    device = input.device.type
    dtype = input.dtype if op in NOT_AUTOCAST else effective_dtype(input)
    if impl == "auto":
        rule = _rule(op, device, dtype, input, shape)
        impl = "torch" if rule is None else rule.choice
        # The table knows native and torch as wholes: a rule that takes the better of each beats both.
        if shape and op not in UNMEASURED and impl not in ("matmul", "mixed"):
            impl = _measured_choice(op, device, dtype, input, shape) or impl
    if impl == "native":
        _require_native(op, device, dtype)
    return impl


def _rule(op: str, device: str, dtype: torch.dtype, input: Tensor | None = None, shape: tuple = ()) -> Rule | None:
    for rule in _RULES_OF.get((op, device), ()):
        if dtype not in rule.dtypes:
            continue
        if rule.fits is not None and not (shape and rule.fits(input, *shape)):
            continue
        if rule.choice in ("torch", "matmul") or _native_may_be_picked(device):
            return rule
    return None


def _measured_choice(op: str, device: str, dtype: torch.dtype, input: Tensor, shape: tuple) -> str | None:
    choice = measured.choice_of(op, device, dtype, input, shape)
    return None if choice == "native" and not _native_may_be_picked(device) else choice


def _native_may_be_picked(device: str) -> bool:
    return _extension.available(with_cuda=device == "cuda") and not _under_transform()


def _under_transform() -> bool:
    """Whether torch.func or forward-mode differentiation is at work, which the native ops have no rules for."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def effective_dtype(input: Tensor) -> torch.dtype:
    """The dtype a kernel will see: autocast's where it is on, else the input's."""
    autocast = shapes.autocast_dtype(input) if input.dtype != torch.float64 else None
    return input.dtype if autocast is None else autocast


def native_reasons(op: str, device: str, dtype: torch.dtype) -> list[str]:
    """Why the native kernels cannot run this op here; empty where they can."""
    reasons = []
    if device == "meta":
        device = "cpu"
    if device not in NATIVE[op]:
        reasons.append(f"device {device} is not one of {', '.join(NATIVE[op])}")
    elif dtype not in NATIVE[op][device]:
        names = ", ".join(str(known).removeprefix("torch.") for known in NATIVE[op][device])
        reasons.append(f"dtype {str(dtype).removeprefix('torch.')} is not one of {names} on {device}")
    return reasons


def check_impl(op: str, impl: str) -> None:
    """Raises ValueError unless `impl` is one of `IMPLEMENTATIONS`."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"{op}: expected impl to be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")


def _require_native(op: str, device: str, dtype: torch.dtype) -> None:
    reasons = native_reasons(op, device, dtype)
    if forward_ad._current_level >= 0:
        # Unasked, torch would take the tangent of an op that it knows no rule for as zero.
        reasons.append("there is no forward-mode derivative")
    if reasons:
        raise NotImplementedError(f'{op}: impl="native" cannot run: {"; ".join(reasons)}; use impl="torch"')
    _extension.require(with_cuda=device == "cuda")


@dataclass(frozen=True)
class OpRow:
    """One line of `genlab list ops`: an op on a device and dtype.

    `auto` is what runs at most shapes, `elsewhere` what some shapes take instead.
    """

    op: str
    device: str
    dtype: str
    implementations: tuple[str, ...]
    auto: str
    reason: str
    missing: tuple[str, ...]
    elsewhere: tuple[str, ...] = ()


def describe() -> list[OpRow]:
    """Every op by device and dtype: what can run, what `auto` picks and why, and why native cannot where it cannot.

    Loads the extension if it is built; never raises.
    """
    status = _extension.status()
    rows = []
    for op, device in dict.fromkeys((rule.op, rule.device) for rule in RULES):
        dtypes = CUDA_DTYPES if device == "cuda" else (*CPU_DTYPES, torch.float16)
        for dtype in dtypes:
            missing = native_reasons(op, device, dtype)
            missing += _extension.reasons(status, with_cuda=device == "cuda")
            implementations = (*(() if missing else ("native",)), "torch", "reference")
            name = str(dtype).removeprefix("torch.")
            rule = _rule(op, device, dtype)
            choice, reason = ("torch", "no rule for this dtype") if rule is None else (rule.choice, rule.reason)
            elsewhere = []
            for some in RULES:
                if missing and some.choice != "matmul":
                    continue
                if some.fits is not None and (some.op, some.device) == (op, device) and dtype in some.dtypes:
                    reason = f"{some.choice} at some shapes: {some.reason}; elsewhere {reason}"
                    elsewhere.append(some.choice)
            reason += _measured_text(op, device, dtype)
            rows.append(OpRow(op, device, name, implementations, choice, reason, tuple(missing), tuple(elsewhere)))
    return rows


def _measured_text(op: str, device: str, dtype: torch.dtype) -> str:
    """What the table of measurements says before any rule, "" where it has nothing for this machine."""
    entries = measured.entries_of(op, device, dtype)
    if not entries:
        return ""
    native = sum(entry.choice == "native" for entry in entries)
    return f"; measured: native at {native} of {len(entries)} shape classes ({entries[0].machine}, {entries[0].date})"
