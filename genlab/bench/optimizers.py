"""The optimiser's step in `genlab bench op`: the parameters of the lab's generators, ours beside torch's calls.

A step changes what it works on, so each contender has tensors of its own, and correctness is that of one step from
fresh copies, before the clock starts and after it stops. Parameters are float32 in every precision of the lab, and so
are the rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genlab import optim
from genlab.models.dcgan import DcganGenerator
from genlab.models.unet import UnetGenerator
from genlab.optim import WeightAverage

OP = "optimizer_step"
SHARE, BOUND, MAX_NORM = 0.001, 0.01, 1.0


@dataclass(frozen=True)
class StepKind:
    """An optimiser and what is done beside its rule.

    Attributes:
        name: of the class in torch.optim and genlab.optim.
        settings: its arguments.
        peers: which of torch's implementations there are.
        averaged, bounded, clipped: the weights' average, WGAN's box, clipping by the common norm.
        moved: values that are read and written once each, for each parameter.
    """

    name: str
    settings: dict[str, object]
    peers: tuple[str, ...]
    moved: int
    averaged: bool = False
    bounded: bool = False
    clipped: bool = False


_ADAM = {"lr": 2e-4, "betas": (0.5, 0.999)}
KINDS = {
    "adam+ema": StepKind("Adam", _ADAM, ("fused", "foreach"), 9, averaged=True),
    "adam+ema+clip": StepKind("Adam", _ADAM, ("fused", "foreach"), 10, averaged=True, clipped=True),
    "rmsprop+clamp": StepKind("RMSprop", {"lr": 5e-5}, ("foreach", "loop"), 5, bounded=True),
    "sgd": StepKind("SGD", {"lr": 0.01, "momentum": 0.9}, ("fused", "foreach"), 5),
}
LISTS: dict[str, Callable[[], nn.Module]] = {
    "DCGAN-64 G": lambda: DcganGenerator(64, 3),
    "Pix2Pix G": lambda: UnetGenerator(256, 3),
}
TINY: dict[str, Callable[[], nn.Module]] = {"tiny": lambda: nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))}


def sizes_of(label: str) -> list[tuple[int, ...]]:
    """Shapes of a network's parameters, without its memory."""
    with torch.device("meta"):
        return [tuple(p.shape) for p in {**LISTS, **TINY}[label]().parameters()]


def make(label: str, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Parameters of the network's shapes, normal with standard deviation 0.02."""
    return tuple(torch.randn(size, generator=generator) * 0.02 for size in sizes_of(label))


def contenders_of(kind: StepKind) -> dict[str, str | None]:
    """Name -> implementation of ours, None for each of torch's, which has separate calls for the rest."""
    ours = {f"genlab {impl}": impl for impl in ("auto", "native")}
    return ours | {f"torch {peer}": None for peer in kind.peers}


def prepare(kind: StepKind, masters: tuple[Tensor, ...], variant: str, device: str, dtype: torch.dtype) -> _Steps:
    """The contender named `variant` on copies of the parameters: a call takes a step."""
    return _Steps(kind, [t.to(device, dtype, copy=True).requires_grad_() for t in masters], variant)


def one_step(kind: StepKind, variant: str, *masters: Tensor) -> Tensor:
    """New parameters and averages after one step of fresh copies, one behind the other."""
    steps = prepare(kind, masters, variant, str(masters[0].device), masters[0].dtype)
    steps()
    return torch.cat([t.detach().flatten() for t in (*steps.params, *steps.averages)])


def ours(kind: StepKind, *masters: Tensor, impl: str) -> Tensor:
    return one_step(kind, f"genlab {impl}", *masters)


def peer(kind: StepKind, *masters: Tensor) -> Tensor:
    return one_step(kind, f"torch {kind.peers[-1]}", *masters)


class _Steps:
    """Parameters with gradients, and the call that steps them."""

    def __init__(self, kind: StepKind, params: list[Tensor], variant: str) -> None:
        self.params = params
        for p in params:
            p.grad = torch.sin(p.detach() * 1000)
        self.averages = [p.detach() * 0.9 for p in params] if kind.averaged else []
        who, how = variant.split()
        self._call = self._ours(kind, how) if who == "genlab" else self._theirs(kind, how)

    def __call__(self) -> list[Tensor]:
        self._call()
        return []

    def _ours(self, kind: StepKind, impl: str) -> Callable[[], object]:
        optimizer = getattr(optim, kind.name)(self.params, **kind.settings, impl=impl)
        average = WeightAverage(dict(zip(self.params, self.averages, strict=True)), SHARE) if kind.averaged else None
        return functools.partial(
            optimizer.step,
            average=average,
            bound=BOUND if kind.bounded else None,
            max_norm=MAX_NORM if kind.clipped else None,
        )

    def _theirs(self, kind: StepKind, how: str) -> Callable[[], object]:
        chosen = {"foreach": False} if how == "loop" else {how: True}
        optimizer = getattr(torch.optim, kind.name)(self.params, **kind.settings, **chosen)
        weights = [p.detach() for p in self.params]

        def call() -> None:
            if kind.clipped:
                torch.nn.utils.clip_grad_norm_(self.params, MAX_NORM)
            optimizer.step()
            if kind.bounded:
                torch._foreach_clamp_min_(weights, -BOUND)
                torch._foreach_clamp_max_(weights, BOUND)
            if kind.averaged:
                torch._foreach_lerp_(self.averages, weights, SHARE)

        return call
