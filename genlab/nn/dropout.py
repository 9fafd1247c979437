"""Dropout's relatives. At test each is the identity, but max-pooling dropout, which pools by weights there."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _check(name: str, p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"{name}: expected p in [0, 1), got {p}")


class GaussianDropout(nn.Module):
    """Multiplies every unit by noise of N(1, p / (1 - p)) (Srivastava et al. 2014, section 10).

    Mean and variance are those of dropout with probability p scaled by 1 / (1 - p); no unit is silent.

    Args:
        p: the dropout probability that has the same variance, in [0, 1).
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        _check("GaussianDropout", p)
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        if not self.training or self.p == 0:
            return input
        return input * (1 + (self.p / (1 - self.p)) ** 0.5 * torch.randn_like(input))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class AnnealedDropout(nn.Module):
    """Dropout whose probability falls linearly to 0 as training goes on (Rennie et al. 2014, section 3).

    Args:
        p: probability at the beginning, in [0, 1).

    Attributes:
        progress: share of the training done, in [0, 1]; the trainer sets it before each step (`anneal`).
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        _check("AnnealedDropout", p)
        self.p = p
        self.progress = 0.0

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return F.dropout(input, self.p * (1 - self.progress), self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def anneal(module: nn.Module, progress: float) -> None:
    """Tells every AnnealedDropout in `module` what share of the training is done."""
    for child in module.modules():
        if isinstance(child, AnnealedDropout):
            child.progress = min(1.0, progress)


class DropConnectLinear(nn.Linear):
    """A linear layer that leaves out connections instead of units (Wan et al. 2013, section 3).

    Each weight is kept with probability 1 - p and scaled by 1 / (1 - p), so that evaluation uses the weights as they
    are: the mean of the paper's inference, which samples. One mask serves the whole batch; the paper draws one for each
    sample.

    Args:
        in_features, out_features, bias: as of torch.nn.Linear.
        p: probability that a weight is left out, in [0, 1).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, p: float = 0.5) -> None:
        super().__init__(in_features, out_features, bias)
        _check("DropConnectLinear", p)
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return F.linear(input, F.dropout(self.weight, self.p, self.training), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}"


class MaxPoolDropout2d(nn.Module):
    """Max pooling over what dropout leaves of a region; at test the expected value of that (Wu and Gu 2015).

    With a_1 >= ... >= a_n in a region, unit i is the largest left with probability (1 - p) p^(i - 1): evaluation gives
    the sum of a_i with these weights ("probabilistic weighted pooling", section 3.2). Inputs are expected not to be
    negative, as behind a ReLU, since what is left out counts as 0.

    Args:
        kernel_size, stride, padding, ceil_mode: as of torch.nn.MaxPool2d.
        p: probability that a unit is left out, in [0, 1).
    """

    def __init__(
        self, kernel_size: int, stride: int | None = None, padding: int = 0, ceil_mode: bool = False, p: float = 0.5
    ) -> None:
        super().__init__()
        _check("MaxPoolDropout2d", p)
        self.kernel_size, self.stride, self.padding = kernel_size, stride or kernel_size, padding
        self.ceil_mode, self.p = ceil_mode, p

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H_out, W_out)."""
        if self.training or self.p == 0:
            kept = input * (torch.rand_like(input) >= self.p) if self.p else input
            return F.max_pool2d(kept, self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode)
        height, width = F.max_pool2d(
            input[:1, :1], self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode
        ).shape[2:]
        k = self.kernel_size
        # What ceil_mode adds beyond the border counts as 0, like the padding.
        extra = [
            max(0, (out - 1) * self.stride + k - size - 2 * self.padding)
            for out, size in ((width, input.shape[3]), (height, input.shape[2]))
        ]
        padded = F.pad(input, (self.padding, self.padding + extra[0], self.padding, self.padding + extra[1]))
        regions = F.unfold(padded.flatten(0, 1)[:, None], k, stride=self.stride)[:, :, : height * width]
        ordered = regions.sort(dim=1, descending=True).values
        weights = (1 - self.p) * self.p ** torch.arange(k * k, device=input.device, dtype=input.dtype)
        return (ordered * weights[:, None]).sum(1).view(*input.shape[:2], height, width)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, p={self.p}"


DROPOUTS = (nn.Dropout, nn.Dropout2d, GaussianDropout, AnnealedDropout, MaxPoolDropout2d, DropConnectLinear)


KINDS = ("dropout", "spatial", "gaussian", "annealed", "drop_connect", "max_pool")
_OF_UNITS = {"dropout": nn.Dropout, "gaussian": GaussianDropout, "annealed": AnnealedDropout}
_OF_POOLINGS = ("spatial", "max_pool")
_PLACES = {
    **dict.fromkeys(_OF_UNITS, "dropout"),
    **dict.fromkeys(_OF_POOLINGS, "max poolings"),
    "drop_connect": "a linear layer behind dropout",
}


def exchange_dropout(network: nn.Module, kind: str, p: float | None = None) -> int:
    """Puts another kind of dropout into a network in place of its own, parameters and their names kept.

    Args:
        network: changed in place.
        kind: "dropout" (single units), "gaussian" or "annealed" where the network has dropout; "drop_connect": the
            linear layer behind a dropout leaves out connections instead; "max_pool": in every max pooling; "spatial":
            whole maps, behind every max pooling (Tompson et al. 2015). The last two switch the network's dropout of
            single units off.
        p: probability; None: each place's own, 0.5 for "max_pool" and "spatial".

    Returns:
        How many layers were changed.

    Raises:
        ValueError: an unknown kind, or a network without a place for it.
    """
    if kind not in KINDS:
        raise ValueError(f"dropout: expected {', '.join(KINDS)}, got {kind!r}")
    changed = 0
    for parent, name, child in list(_children(network)):
        if isinstance(child, nn.MaxPool2d) and kind in _OF_POOLINGS:
            setattr(parent, name, _pooled(child, kind, 0.5 if p is None else p))
        elif isinstance(child, nn.Dropout2d) and kind == "spatial":
            child.p = child.p if p is None else p
        elif isinstance(child, (nn.Dropout, nn.Dropout2d)) and kind in _OF_POOLINGS:
            setattr(parent, name, nn.Identity())
            continue
        elif isinstance(child, (nn.Dropout, nn.Dropout2d)) and kind in _OF_UNITS:
            setattr(parent, name, _OF_UNITS[kind](child.p if p is None else p))
        elif isinstance(child, nn.Dropout) and kind == "drop_connect":
            if not _connect_next_linear(parent, name, child.p if p is None else p):
                continue
        else:
            continue
        changed += 1
    if not changed:
        raise ValueError(
            f"dropout: expected a network with {_PLACES[kind]}, as alexnet and vgg11 have, got one without a place for "
            f"{kind!r}; choose another kind or network"
        )
    return changed


def _pooled(pool: nn.MaxPool2d, kind: str, p: float) -> nn.Module:
    if kind == "spatial":
        return nn.Sequential(pool, nn.Dropout2d(p))
    return MaxPoolDropout2d(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, p)


def _children(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for parent in network.modules():
        for name, child in parent.named_children():
            yield parent, name, child


def _connect_next_linear(parent: nn.Module, name: str, p: float) -> bool:
    """Whether a linear layer follows `name` in `parent`; if so it drops connections and the dropout goes."""
    names = list(parent._modules)
    for later in names[names.index(name) + 1 :]:
        layer = parent._modules[later]
        if isinstance(layer, nn.Linear):
            connected = DropConnectLinear(layer.in_features, layer.out_features, layer.bias is not None, p)
            connected.weight, connected.bias = layer.weight, layer.bias
            setattr(parent, later, connected)
            setattr(parent, name, nn.Identity())
            return True
        if any(True for _ in layer.parameters()):
            return False
    return False
