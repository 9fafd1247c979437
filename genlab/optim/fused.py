"""What the optimisers share: the step, its options beside the rule, and state that lies where kernels need it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genlab.ops.implementation import check_impl
from genlab.ops.optimizer_step import StepExtras, follow_step, gradient_norm

Key = tuple[torch.device, torch.dtype]


@dataclass(frozen=True)
class WeightAverage:
    """Averages that a step carries on: average <- average + share * (parameter - average).

    Attributes:
        of: parameter -> its average, of its shape and dtype.
        share: weight of the new parameters, in [0, 1]; one element on the device where a captured graph is to read it
            anew each time.
    """

    of: Mapping[Tensor, Tensor]
    share: float | Tensor

    @torch.no_grad()
    def advance(self) -> None:
        """Carries them on without an optimiser's step."""
        averages, current = list(self.of.values()), list(self.of)
        if isinstance(self.share, Tensor):
            torch._foreach_lerp_(averages, current, [self.share.to(p.dtype) for p in averages])
        elif averages:
            torch._foreach_lerp_(averages, current, self.share)


@dataclass(frozen=True)
class Request:
    """What one call of `step` asks for beside the rule.

    Attributes:
        average, bound, shadows: as of `FusedStep.step`; infinity for no bound.
        scaling: what `StepExtras` takes for the gradients.
    """

    average: WeightAverage | None
    bound: float
    shadows: Mapping[Tensor, Tensor]
    scaling: Mapping[str, Any]

    def concerns(self, parameter: Tensor) -> bool:
        """Whether something is done with a parameter that takes no step."""
        return self._is_averaged(parameter) or math.isfinite(self.bound) or parameter in self.shadows

    def parts(self, columns: Sequence[list[Any]]) -> Iterator[tuple[list[list[Any]], StepExtras]]:
        """Cuts columns into calls: one device and dtype each, all parameters with an average or none, shadows likewise.

        Args:
            columns: parameters, then what belongs to each; empty columns stay empty.
        """
        if self.average is None and not self.shadows and len({(p.device, p.dtype) for p in columns[0]}) == 1:
            yield list(columns), StepExtras(**self.scaling, bound=self.bound)
            return
        rows: defaultdict[Any, list[int]] = defaultdict(list)
        for i, p in enumerate(columns[0]):
            shadow = self.shadows.get(p) if self.shadows else None
            rows[p.device, p.dtype, self._is_averaged(p), shadow if shadow is None else shadow.dtype].append(i)
        for (_, _, averaged, shadowed), chosen in rows.items():
            part = [[column[i] for i in chosen] if column else [] for column in columns]
            extras = StepExtras(
                **self.scaling,
                averages=[self.average.of[p] for p in part[0]] if averaged and self.average is not None else [],
                share=self.average.share if self.average is not None else 0.0,
                bound=self.bound,
                shadows=[self.shadows[p] for p in part[0]] if shadowed is not None else [],
            )
            yield part, extras

    def skips(self) -> bool:
        """Whether an infinity was found in the gradients; waits for the device."""
        found_inf = self.scaling["found_inf"]
        return found_inf is not None and found_inf.item() != 0

    def _is_averaged(self, parameter: Tensor) -> bool:
        return self.average is not None and parameter in self.average.of


class FusedStep(torch.optim.Optimizer):
    """An optimiser of torch.optim whose step is one multi-tensor kernel; put before the torch class.

    Groups, state, `state_dict` and their errors are torch's own, so that a checkpoint of one loads into the other.
    `foreach` and `fused` choose among torch's implementations and are without meaning here; step counts and a learning
    rate given as a tensor stay on the device, so that `capturable` needs no setting.

    Args (beside torch's):
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Raises:
        RuntimeError: `differentiable=True`.
    """

    # torch.amp.GradScaler then hands scale and infinities to the step, as `grad_scale` and `found_inf`.
    _step_supports_amp_scaling: ClassVar[bool] = True
    impl: str = "auto"

    def _prepare(self, impl: str) -> None:
        """The end of every constructor."""
        check_impl(type(self).__name__, impl)
        self.impl = impl
        self._refuse_differentiable()

    def _refuse_differentiable(self) -> None:
        if any(group.get("differentiable") for group in self.param_groups):
            raise RuntimeError(
                f"{type(self).__name__}: expected differentiable=False, got True; "
                f"use torch.optim.{type(self).__name__} to differentiate through a step"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._refuse_differentiable()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "impl": self.impl}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._refuse_differentiable()

    @torch.no_grad()
    def step(
        self,
        closure: Callable[[], Tensor] | None = None,
        *,
        max_norm: float | None = None,
        average: WeightAverage | None = None,
        bound: float | None = None,
        shadows: Mapping[Tensor, Tensor] | None = None,
    ) -> Tensor | None:
        """One step of every parameter that has a gradient, and what follows it, in one pass over memory.

        Gradients are read only: where they were scaled or are to be clipped, they stay so in `.grad`.

        Args:
            closure: evaluates the model again and returns the loss.
            max_norm: clips the gradients of all groups by their common 2-norm (Pascanu et al. 2013), after the loss
                scale is taken off, as torch.nn.utils.clip_grad_norm_ does.
            average: carried on with the new parameters; those without a gradient are averaged too.
            bound: every parameter, also one without a gradient, is clipped to [-bound, bound] (WGAN) before that.
            shadows: parameter -> bfloat16 or float16 tensor of its shape, which becomes its rounded copy.

        Returns:
            The closure's loss.

        Raises:
            ValueError: a bound or norm that is not positive.
            RuntimeError: sparse gradients; state of other shapes; `differentiable` in a loaded group.
        """
        for name, value in (("max_norm", max_norm), ("bound", bound)):
            if value is not None and not value > 0:
                raise ValueError(f"{type(self).__name__}.step: expected {name} > 0, got {value}")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scaling: dict[str, Any] = {
            "grad_scale": getattr(self, "grad_scale", None),
            "found_inf": getattr(self, "found_inf", None),
        }
        if max_norm is not None:
            norm = self._gradient_norm()
            if norm is not None:
                scaling.update(max_norm=max_norm, grad_norm=norm)
        request = Request(average, math.inf if bound is None else bound, shadows or {}, scaling)
        for group in self.param_groups:
            without = [p for p in group["params"] if p.grad is None and request.concerns(p)]
            if without:
                for (params,), extras in request.parts([without]):
                    follow_step(params, extras, impl=self.impl)
            self._step_group(group, request)
        return loss

    def _step_group(self, group: dict[str, Any], request: Request) -> None:
        """The rule on the parameters of one group that have a gradient."""
        raise NotImplementedError

    def _gradient_norm(self) -> Tensor | None:
        """2-norm of all gradients of all groups, 0-d; None where there are none."""
        parts: defaultdict[Key, list[Tensor]] = defaultdict(list)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    if parameter.grad.is_sparse:
                        raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
                    parts[parameter.device, parameter.dtype].append(parameter.grad)
        norms = [gradient_norm(grads, impl=self.impl) for grads in parts.values()]
        if len(norms) < 2:
            return norms[0] if norms else None
        return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))

    def _place_steps(self, params: Iterable[Tensor]) -> None:
        """Step counts of the parameters as float32 on their device: torch keeps some of them on the host."""
        for parameter in params:
            state = self.state[parameter]
            step = state["step"]
            if step.device != parameter.device or step.dtype != torch.float32:
                state["step"] = step.to(parameter.device, torch.float32)
