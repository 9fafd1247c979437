"""A scan of a recurrent cell for the emulated CUDA kernels: its buffers, its calls and the definition in float64."""

from __future__ import annotations

import ctypes
import dataclasses

import torch
from emulation_harness import CSRC, Guarded, Library
from torch import Tensor

CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ALGORITHMS = ("naive", "persistent", "per_step")
# Relative norm of the error against float64. The 16-bit types round h' and what is kept for the gradient at every step.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 3e-3}
FOLDER = "kernels/recurrence/"
# Changes to persistent_launch.h that leave bfloat16, float32 and up to 64 units: less to compile.
SMALLEST_SIZE = [
    ("kKind == Kind::kRnn ? 8 : kKind == Kind::kGru ? 6 : 5", "4"),
    ("  return body(std::integral_constant<int, 8>{});\n", ""),
    ("  return body(Float16{});\n", ""),
]
Pointer = ctypes.c_void_p
Pair = Pointer * 2

_HEAD = [
    *((name, ctypes.c_int32) for name in ("cell", "dtype")),
    *((name, ctypes.c_int64) for name in ("steps", "batch", "hidden", "directions", "rows")),
    ("offsets", Pointer),
]


class Forward(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        ("input", Pointer),
        *((name, Pair) for name in ("weight", "bias_ih", "bias_hh")),
        *((name, Pointer) for name in ("mask", "h0", "c0", "output", "h_n", "c_n")),
        *((name, Pointer) for name in ("gates", "cells", "candidate", "workspace")),
    ]


class Backward(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        *((name, Pointer) for name in ("grad_output", "grad_h_n", "grad_c_n")),
        ("weight", Pair),
        *((name, Pointer) for name in ("mask", "h0", "c0", "output", "gates", "cells", "candidate")),
        *((name, Pointer) for name in ("grad_input", "grad_candidate", "previous", "grad_h0", "grad_c0", "workspace")),
    ]


def patched(changes: dict[str, list[tuple[str, str]]]) -> dict[str, str]:
    """The text of some of the recurrences' headers with (old, new) replaced, for `emulation_harness.build`."""
    extra = {}
    for file, pairs in changes.items():
        text = (CSRC / FOLDER / file).read_text()
        for old, new in pairs:
            assert text.count(old) == 1, f"{file} no longer holds the text that a test changes: {old}"
            text = text.replace(old, new)
        extra[FOLDER + file] = text
    return extra


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over that of `expected`; infinite where `found` holds a NaN."""
    error = torch.linalg.vector_norm(found.double() - expected) / torch.linalg.vector_norm(expected).clamp_min(1e-6)
    return float("inf") if error.isnan() else error.item()


@dataclasses.dataclass(frozen=True)
class Problem:
    """Sizes and options of a call; `lengths`, where given, fall from sequence to sequence and the first is `steps`."""

    cell: str = "lstm"
    dtype: torch.dtype = torch.float32
    algorithm: str = "naive"
    steps: int = 3
    batch: int = 2
    hidden: int = 5
    directions: int = 2
    lengths: tuple[int, ...] | None = None
    mask: bool = True
    states: bool = True  # h0 and c0, and gradients of h_n and c_n
    bias: bool = True
    in_place: bool = False  # the gates overwrite the input
    offset: int = 0  # elements that every tensor starts past a boundary of 128 bytes
    first_row: int = 0  # of the first step, beside lengths: the tensors start so many rows before the memory there is

    @property
    def gates(self) -> int:
        return {"lstm": 4, "gru": 3}.get(self.cell, 1)

    @property
    def sizes(self) -> list[int]:
        """How many sequences run at each step."""
        if self.lengths is None:
            return [self.batch] * self.steps
        return [sum(length > t for length in self.lengths) for t in range(self.steps)]

    def made(self) -> dict[str, Tensor]:
        """Random arguments, rounded to the dtype."""
        generator = torch.Generator().manual_seed(self.hidden * 31 + self.batch)
        draw = lambda *size: torch.randn(size, generator=generator, dtype=torch.float64)  # noqa: E731
        d, b, h, g, rows = self.directions, self.batch, self.hidden, self.gates, sum(self.sizes)
        made = {
            "input": draw(rows, d, g * h),
            "weight": draw(d, g * h, h) / h**0.5,
            "bias_ih": draw(d, g * h) * 0.3,
            "bias_hh": draw(d, g * h) * 0.3,
            "mask": (draw(d, b, h) > -0.5).double() * 1.25,
            "h0": draw(d, b, h) * 0.5,
            "c0": draw(d, b, h) * 0.5,
            "grad_output": draw(rows, d, h),
            "grad_h_n": draw(d, b, h),
            "grad_c_n": draw(d, b, h),
        }
        absent = {"mask": self.mask, "h0": self.states, "c0": self.states and self.cell == "lstm"}
        absent |= {"grad_h_n": self.states, "grad_c_n": self.states and self.cell == "lstm"}
        absent |= {"bias_ih": self.bias, "bias_hh": self.bias}
        return {name: t.to(self.dtype) for name, t in made.items() if absent.get(name, True)}

    def run(self, library: Library, made: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Results of the kernels, forward and backward. Raises KernelFault for a write outside a buffer."""
        made = self.made() if made is None else made
        d, b, h, g, rows = self.directions, self.batch, self.hidden, self.gates, sum(self.sizes)
        held = {
            name: Guarded(t, offset=self.offset)
            for name, t in made.items()
            if name not in ("weight", "bias_ih", "bias_hh")
        }
        pairs = {
            name: [Guarded(t, offset=self.offset) for t in made[name]]
            for name in ("weight", "bias_ih", "bias_hh")
            if name in made
        }
        empty = lambda *size: Guarded(torch.empty(size, dtype=self.dtype), fill=False, offset=self.offset)  # noqa: E731
        held |= {name: empty(d, b, h) for name in ("h_n", "grad_h0")}
        held |= {name: empty(rows, d, h) for name in ("output", "previous")}
        held["grad_input"] = empty(rows, d, g * h)
        if self.cell == "lstm":
            held |= {"c_n": empty(d, b, h), "cells": empty(rows, d, h), "grad_c0": empty(d, b, h)}
        if self.cell == "gru":
            held |= {"candidate": empty(rows, d, h), "grad_candidate": empty(rows, d, h)}
        if g > 1:
            held["gates"] = held["input"] if self.in_place else empty(rows, d, g * h)
        offsets = torch.tensor([0, *torch.tensor(self.sizes).cumsum(0).tolist()])
        if self.lengths is not None:
            held["offsets"] = Guarded(offsets + self.first_row)
        numbers = (CELLS.index(self.cell), DTYPES.index(self.dtype), *(ctypes.c_int64(n) for n in (b, h, d)))
        algorithm = ALGORITHMS.index(self.algorithm)
        size = library.value("genlab_recurrence_workspace", ctypes.c_size_t, algorithm, *numbers)
        held["workspace"] = Guarded(torch.empty(size, dtype=torch.uint8), fill=False)
        for name, structure in (("forward", Forward), ("backward", Backward)):
            params = structure(*numbers[:2], self.steps, b, h, d, rows)
            for field in {field for field, _ in structure._fields_} & held.keys():
                setattr(params, field, held[field].pointer - self.first_row * self._row_bytes(field))
            for field in {field for field, _ in structure._fields_} & pairs.keys():
                setattr(params, field, Pair(*(t.pointer for t in pairs[field])))
            library.call(f"genlab_recurrence_{name}", algorithm, ctypes.byref(params))
        for name, guarded in held.items():
            guarded.check(name)
        return {name: guarded.tensor for name, guarded in held.items() if name not in ("workspace", "offsets")}

    def _row_bytes(self, field: str) -> int:
        size = self.directions * self.hidden * self.dtype.itemsize
        per_gate, per_unit = (
            ("input", "gates", "grad_input"),
            ("output", "cells", "candidate", "grad_output", "previous"),
        )
        return size * self.gates if field in per_gate else size if field in (*per_unit, "grad_candidate") else 0

    def reference(self, made: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The same by the formulas of csrc/kernels/recurrence.h in float64, with autograd's gradients."""
        wide = {name: t.double() for name, t in (self.made() if made is None else made).items()}
        d, b, h, g = self.directions, self.batch, self.hidden, self.gates
        zeros, ones = torch.zeros(d, b, h, dtype=torch.float64), torch.ones(d, b, h, dtype=torch.float64)
        leaves = {name: wide[name].requires_grad_() for name in ("input", "weight")}
        leaves |= {name: wide.get(name, zeros).clone().requires_grad_() for name in ("h0", "c0")}
        nothing = torch.zeros(d, g * h, dtype=torch.float64)
        bias_ih, bias_hh = (wide.get(name, nothing) for name in ("bias_ih", "bias_hh"))
        found: dict[str, list] = {
            name: [] for name in ("output", "gates", "cells", "candidate", "h_n", "c_n", "previous")
        }
        starts = [0, *torch.tensor(self.sizes).cumsum(0).tolist()]
        for k in range(d):
            state, cell = list(leaves["h0"][k]), list(leaves["c0"][k])
            rows: dict[int, tuple] = {}
            for t in range(self.steps) if k == 0 else reversed(range(self.steps)):
                for i in range(self.sizes[t]):
                    row = starts[t] + i
                    masked = wide.get("mask", ones)[k, i] * state[i]
                    u, p = leaves["input"][row, k] + bias_ih[k], leaves["weight"][k] @ masked + bias_hh[k]
                    state[i], cell[i], gates, q = step(self.cell, u, p, state[i], cell[i])
                    rows[row] = (state[i], gates, cell[i], q, masked)
            for name, index in (("output", 0), ("gates", 1), ("cells", 2), ("candidate", 3), ("previous", 4)):
                found[name].append(
                    torch.stack([rows[row][index] for row in range(len(rows))]) if rows else zeros[0, :0]
                )
            found["h_n"].append(torch.stack(state))
            found["c_n"].append(torch.stack(cell))
        results = {n: torch.stack(v, 0 if n in ("h_n", "c_n") else 1) for n, v in found.items()}
        loss = (results["h_n"] * wide.get("grad_h_n", zeros)).sum() + (
            results["c_n"] * wide.get("grad_c_n", zeros)
        ).sum()
        if self.steps > 0:
            loss = loss + (results["output"] * wide["grad_output"]).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        results |= {f"grad_{name}": t for name, t in zip(leaves, gradients, strict=True)}
        return {name: t.detach() for name, t in results.items()}

    def weight_gradient(self, found: dict[str, Tensor]) -> Tensor:
        """weight_hh's gradient from what the backward scan wrote, as csrc/kernels/recurrence.h says."""
        product = found["grad_input"].double().clone()
        if self.cell == "gru":
            product[..., 2 * self.hidden :] = found["grad_candidate"].double()
        return torch.einsum("rdg,rdh->dgh", product, found["previous"].double())

    def error(self, library: Library) -> float:
        """The largest relative error of any result."""
        made = self.made()
        found, expected = self.run(library, made), self.reference(made)
        found["grad_weight"] = self.weight_gradient(found)
        if self.in_place or self.gates == 1:
            expected.pop("gates")
        names = found.keys() & expected.keys() - {"input", "weight"}
        assert {"output", "h_n", "grad_input", "grad_weight", "grad_h0"} <= names
        errors = {name: relative_error(found[name], expected[name]) for name in names if found[name].numel() > 0}
        return max(errors.values())


def step(cell: str, u: Tensor, p: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(h, c, gates, q) after one step of one sequence."""
    if cell.startswith("rnn"):
        h = torch.tanh(u + p) if cell == "rnn_tanh" else torch.relu(u + p)
        return h, c, h, h
    if cell == "lstm":
        i, f, g, o = (u + p).chunk(4)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * c + i * g
        return o * c.tanh(), c, torch.cat((i, f, g, o)), c
    hidden = h.shape[0]
    r, z = (u + p)[: 2 * hidden].sigmoid().chunk(2)
    n = torch.tanh(u[2 * hidden :] + r * p[2 * hidden :])
    return (1 - z) * n + z * h, c, torch.cat((r, z, n)), p[2 * hidden :]
