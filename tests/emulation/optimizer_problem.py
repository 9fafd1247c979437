"""The optimiser kernels' structs for ctypes, and a step of the library beside the reference in genlab.ops."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field

import torch
from emulation_harness import Guarded, Library

from genlab.ops import optimizer_step as reference

Pointer, Long, Int, Double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_double
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
RULES = ("none", "adam", "rmsprop", "sgd")
CHUNK = 4096
SIZES = ((1,), (3,), (0,), (17,), (CHUNK + 5,), (2 * CHUNK,), (1025,))


class TensorRow(ctypes.Structure):
    _fields_ = [
        ("count", Long),
        ("param", Pointer),
        ("grad", Pointer),
        ("state", Pointer * 3),
        ("average", Pointer),
        ("shadow", Pointer),
        ("step", Pointer),
        ("is_first", Int),
        ("is_aligned", Int),
    ]


class Params(ctypes.Structure):
    _fields_ = [
        *((name, Int) for name in ("rule", "dtype", "shadow_dtype", "decoupled", "nesterov", "maximize")),
        *((name, Double) for name in ("lr", "beta1", "beta2", "eps", "weight_decay", "momentum", "dampening")),
        *((name, Double) for name in ("average_share", "bound", "max_norm")),
        *((name, Pointer) for name in ("lr_tensor", "average_share_tensor", "grad_scale", "found_inf", "grad_norm")),
        ("tensor_count", Long),
        ("tensors", Pointer),
        ("factors", Pointer),
    ]


FACTOR_BYTES = 48


@dataclass
class Problem:
    """One step of a rule on several tensors.

    `states` says which of the three are there; numbers on the device (`lr`, `share`, `scale`, `inf`, `max_norm`) are
    handed in as such.
    """

    rule: str = "adam"
    dtype: torch.dtype = torch.float32
    states: tuple[bool, bool, bool] = (True, True, False)
    settings: dict[str, float] = field(default_factory=dict)
    sizes: tuple[tuple[int, ...], ...] = SIZES
    offset: int = 0
    share: float | None = 0.3
    shadow: torch.dtype | None = torch.bfloat16
    bound: float = math.inf
    scale: float | None = None
    found: float | None = None
    max_norm: float | None = None
    steps: int = 4

    def draw(self) -> dict[str, list[torch.Tensor]]:
        generator = torch.Generator().manual_seed(4)

        def values(positive: bool = False) -> list[torch.Tensor]:
            drawn = [torch.randn(size, generator=generator, dtype=torch.float64) for size in self.sizes]
            return [(v.abs() + 0.1 if positive else v).to(self.dtype) for v in drawn]

        second = self.rule == "adam"
        made = {"param": values(), "grad": values(), "average": values()}
        made["state0"] = values(positive=self.rule == "rmsprop")
        made["state1"] = [v * (1 if second else 0.1) for v in values(positive=second)]
        made["state2"] = values(positive=second)
        return made

    def run(self, library: Library) -> dict[str, list[torch.Tensor]]:
        """What the kernels leave behind, canaries checked."""
        made = self.draw()
        if self.rule == "none":
            made = {name: values for name, values in made.items() if name in ("param", "average")}
        guarded = {name: [Guarded(v, offset=self.offset) for v in values] for name, values in made.items()}
        if self.shadow is not None:
            empty = [torch.empty_like(v, dtype=self.shadow) for v in made["param"]]
            guarded["shadow"] = [Guarded(v, fill=False, offset=self.offset) for v in empty]
        guarded["step"] = [Guarded(torch.tensor(float(self.steps))) for _ in self.sizes]
        rows = (TensorRow * len(self.sizes))()

        def pointer(name: str, i: int, wanted: bool = True) -> int | None:
            return guarded[name][i].pointer if wanted and name in guarded else None

        for i, size in enumerate(self.sizes):
            state = [pointer(f"state{k}", i, self.states[k]) for k in range(3)]
            rows[i] = TensorRow(
                math.prod(size), pointer("param", i), pointer("grad", i), (Pointer * 3)(*state),
                pointer("average", i, self.share is not None), pointer("shadow", i),
                pointer("step", i, self.rule in ("adam", "rmsprop")), int(self.steps == 0), 0,
            )  # fmt: skip
        numbers = {
            "lr_tensor": torch.tensor(self.settings.get("lr", 0.1), dtype=torch.float64),
            "average_share_tensor": torch.tensor(self.share or 0.0, dtype=torch.float64),
            "grad_scale": None if self.scale is None else torch.tensor(self.scale),
            "found_inf": None if self.found is None else torch.tensor(self.found),
        }
        numbers = {name: None if value is None else Guarded(value) for name, value in numbers.items()}
        norm = None
        if self.max_norm is not None:
            norm = Guarded(torch.empty((), dtype=torch.float64), fill=False)
            chunks = sum(-(-math.prod(size) // CHUNK) for size in self.sizes)
            partial = Guarded(torch.empty(chunks, dtype=torch.float64), fill=False)
            library.call(
                "genlab_optimizer_norm", rows, Long(len(rows)), Int(DTYPES.index(self.dtype)), Pointer(partial.pointer),
                Pointer(norm.pointer),
            )  # fmt: skip
            partial.check("partial sums")
            norm.check("norm")
        factors = Guarded(torch.empty(FACTOR_BYTES * len(rows), dtype=torch.uint8), fill=False)
        s = self.settings
        params = Params(
            RULES.index(self.rule), DTYPES.index(self.dtype), DTYPES.index(self.shadow or torch.bfloat16),
            int(s.get("decoupled", 0)), int(s.get("nesterov", 0)), int(s.get("maximize", 0)), 99.0,
            s.get("beta1", 0.9), s.get("beta2", 0.99), s.get("eps", 1e-3), s.get("weight_decay", 0.0),
            s.get("momentum", 0.0), s.get("dampening", 0.0), 99.0, self.bound, self.max_norm or math.inf,
            *(None if value is None else value.pointer for value in numbers.values()),
            None if norm is None else norm.pointer, len(rows), ctypes.addressof(rows), factors.pointer,
        )  # fmt: skip
        library.call("genlab_optimizer_step", ctypes.byref(params))
        for name, values in {**guarded, "factors": [factors]}.items():
            for value in values:
                value.check(name)
        return {name: [g.tensor for g in values] for name, values in guarded.items()}

    def expected(self) -> dict[str, list[torch.Tensor]]:
        """The same by genlab.ops' reference, in float64 for float64, in float32 for the others."""
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        made = {name: [v.to(wide) for v in values] for name, values in self.draw().items()}
        x, g, s = made["param"], made["grad"], [made[f"state{k}"] if self.states[k] else [] for k in range(3)]
        made["step"] = [torch.tensor(float(self.steps)) for _ in x]
        made["shadow"] = [torch.empty_like(v, dtype=self.shadow or torch.bfloat16) for v in x]
        norm = None
        if self.max_norm is not None:
            norm = torch.cat([v.double().flatten() for v in g]).norm()
        extras = reference.StepExtras(
            grad_scale=None if self.scale is None else torch.tensor(self.scale),
            found_inf=None if self.found is None else torch.tensor(self.found),
            grad_norm=norm,
            max_norm=self.max_norm or math.inf,
            averages=made["average"] if self.share is not None else [],
            share=self.share or 0.0,
            bound=self.bound,
            shadows=made["shadow"],
        )
        named = dict(self.settings)
        lr, eps = named.pop("lr", 0.1), named.pop("eps", 1e-3)
        flags = {name: bool(named.pop(name)) for name in ("decoupled", "nesterov", "maximize") if name in named}
        common = {"lr": lr, "extras": extras, "impl": "reference", **flags}
        beta1, beta2 = named.pop("beta1", 0.9), named.pop("beta2", 0.99)
        if self.rule == "adam":
            reference.adam_step(x, g, *s, made["step"], beta1=beta1, beta2=beta2, eps=eps, **named, **common)
        elif self.rule == "rmsprop":
            reference.rmsprop_step(x, g, *s, made["step"], alpha=beta2, eps=eps, **named, **common)
        elif self.rule == "sgd":
            reference.sgd_step(x, g, s[0], [self.steps == 0] * len(s[0]), **named, **common)
        else:
            reference.follow_step(x, extras, impl="reference")
        return made

    def check(self, library: Library) -> dict[str, list[torch.Tensor]]:
        """Runs and compares; AssertionError says what differs."""
        found, expected = self.run(library), self.expected()
        kept = {"param", "step", *(f"state{k}" for k in range(3) if self.states[k])}
        kept |= {"average"} if self.share is not None else set()
        for name in kept & found.keys():
            for a, e in zip(found[name], expected[name], strict=True):
                step = torch.finfo(self.dtype).eps
                torch.testing.assert_close(
                    a.to(e), e, rtol=8 * step, atol=8 * step, msg=lambda text, n=name: f"{n}: {text}"
                )
        if "shadow" in found:
            for shadow, param in zip(found["shadow"], found["param"], strict=True):
                assert torch.equal(shadow, param.to(shadow.dtype)), "shadow: not the rounded parameter"
        return found
