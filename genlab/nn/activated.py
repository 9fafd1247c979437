"""What every module with a fused activation holds: activation, negative_slope and impl, checked and shown."""

from __future__ import annotations

from typing import Any

from genlab.ops import activation as act
from genlab.ops import implementation


class Activated:
    """Mixin before a torch.nn module: takes its arguments and `activation`, `negative_slope` and `impl` by name."""

    def __init__(
        self, *args: Any, activation: str | None = None, negative_slope: float = 0.2, impl: str = "auto", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        act.check(type(self).__name__, activation, negative_slope)
        implementation.check_impl(type(self).__name__, impl)
        self.activation, self.negative_slope, self.impl = activation, negative_slope, impl

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if self.activation is not None:
            text += f", activation={self.activation}"
        if self.activation == "leaky_relu":
            text += f", negative_slope={self.negative_slope}"
        return text if self.impl == "auto" else f"{text}, impl={self.impl}"
