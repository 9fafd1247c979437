"""One attention for the emulated kernels: parameters as in csrc/kernels/attention.h, inputs, float64 reference."""

from __future__ import annotations

import ctypes
import dataclasses
import math

import numpy as np
import torch
from emulation_harness import Guarded, Library

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
MASK_KINDS = {None: 0, "boolean": 1, "padding": 1, "additive": 2, "additive float32": 2}
# Relative error in the Frobenius norm. 16 bits: weights, and for a gradient those of the scores, are rounded between
# the two products, and the result once more.
FORWARD_TOLERANCE = {torch.bfloat16: 4e-3, torch.float16: 5e-4, torch.float32: 1e-6, torch.float64: 1e-14}
BACKWARD_TOLERANCE = {torch.bfloat16: 5e-3, torch.float16: 6e-4, torch.float32: 2e-6, torch.float64: 1e-14}
SEED = (0x0123456789ABCDEF, 77)


class AttentionProblem(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "heads", "kv_heads", "queries", "keys")),
        *((name, ctypes.c_int64) for name in ("head_dim", "value_dim")),
        ("dtype", ctypes.c_int32),
        ("scale", ctypes.c_double),
        ("causal", ctypes.c_bool),
        ("deterministic", ctypes.c_bool),
        ("mask_kind", ctypes.c_int32),
        ("mask_dtype", ctypes.c_int32),
        ("mask", ctypes.c_void_p),
        ("mask_strides", ctypes.c_int64 * 4),
        ("dropout_p", ctypes.c_double),
        ("dropout_seed", ctypes.c_void_p),
    ]


class AttentionTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("strides", ctypes.c_int64 * 3)]


def tensors(*names: str) -> list[tuple]:
    return [(name, AttentionTensor) for name in names]


class AttentionParams(ctypes.Structure):
    _fields_ = [
        ("problem", AttentionProblem),
        *tensors("query", "key", "value", "output"),
        ("lse", ctypes.c_void_p),
    ]


class AttentionBackwardParams(ctypes.Structure):
    _fields_ = [
        ("problem", AttentionProblem),
        *tensors("query", "key", "value", "output"),
        ("lse", ctypes.c_void_p),
        *tensors("grad_output", "grad_query", "grad_key", "grad_value"),
        *((name, ctypes.c_void_p) for name in ("grad_mask", "delta", "workspace")),
    ]


def philox(counter: list[np.ndarray], key: int) -> list[np.ndarray]:
    """Philox4x32-10 (Salmon et al. 2011) of four words of uint64 that hold 32 bits each, and a key of 64 bits."""
    low, high, word = key & 0xFFFFFFFF, key >> 32, np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = counter[0] * np.uint64(0xD2511F53), counter[2] * np.uint64(0xCD9E8D57)
        half = np.uint64(32)
        counter = [
            (b >> half) ^ counter[1] ^ np.uint64(low), b & word,
            (a >> half) ^ counter[3] ^ np.uint64(high), a & word,
        ]  # fmt: skip
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return counter


def kept_weights(rows: int, columns: int, p: float) -> torch.Tensor:
    """[rows, columns] of float64: 1 where dropout keeps a weight; a row is (batch * heads + head) * queries + query."""
    row, column = np.meshgrid(np.arange(rows, dtype=np.uint64), np.arange(columns, dtype=np.uint64), indexing="ij")
    group = column // 16 * 4 + column % 8 // 2
    words = philox([group, row & np.uint64(0xFFFFFFFF), row >> np.uint64(32), np.full_like(row, SEED[1])], SEED[0])
    which = (column % 16 // 8 * 2 + column % 2).astype(np.int64)
    drawn = np.choose(which, words) if columns and rows else np.zeros((rows, columns), np.uint64)
    return torch.from_numpy((drawn >= np.uint64(int(p * 2**32 + 0.5))).astype(np.float64))


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Frobenius norm of the difference over that of `expected`; infinite where the result holds a NaN."""
    if bool(actual.isnan().any()):
        return float("inf")
    scale = expected.norm().item()
    return (actual.double() - expected).norm().item() / (scale if scale > 0 else 1.0)


@dataclasses.dataclass(frozen=True)
class Problem:
    """An attention by its sizes; `run` compares the emulated kernels with float64 and returns the errors."""

    queries: int = 70
    keys: int = 90
    head_dim: int = 64
    value_dim: int | None = None
    batch: int = 1
    heads: int = 2
    kv_heads: int | None = None
    causal: bool = False
    mask: str | None = None
    hidden_rows: bool = False  # the mask hides every key from each fifth query
    dropout: float = 0.0
    scale: float | None = None
    layout: str = "rows last"  # "heads last": [batch, rows, heads, columns] as a projection gives it
    offset: int = 0  # elements that every tensor lies past a 16-byte boundary
    dtype: torch.dtype = torch.bfloat16

    def random(self, name: str, heads: int, rows: int, columns: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash((len(name), heads, rows, columns)) % 2**31)
        values = torch.randn((self.batch, heads, rows, columns), generator=generator).to(self.dtype)
        if self.layout == "heads last":
            values = values.transpose(1, 2).contiguous().transpose(1, 2)
        return values

    def inputs(self) -> dict[str, torch.Tensor]:
        kv, value_dim = self.kv_heads or self.heads, self.value_dim or self.head_dim
        return {
            "query": self.random("query", self.heads, self.queries, self.head_dim),
            "key": self.random("key", kv, self.keys, self.head_dim),
            "value": self.random("value", kv, self.keys, value_dim),
            "grad_output": self.random("grad_output", self.heads, self.queries, value_dim),
        }

    def mask_tensor(self) -> torch.Tensor | None:
        """The mask in memory; dimensions of size 1 are broadcast."""
        if self.mask is None:
            return None
        generator = torch.Generator().manual_seed(5)
        if self.mask == "padding":  # the last third of the keys of each batch entry
            taken = torch.arange(self.keys) < self.keys - self.keys // 3
            return taken.repeat(self.batch, 1)[:, None, None, :]
        taken = torch.rand((1, self.heads, self.queries, self.keys), generator=generator) < 0.7
        if self.hidden_rows:
            taken[:, :, ::5] = False
        if self.mask == "boolean":
            return taken
        values = torch.randn(taken.shape, generator=generator).masked_fill(~taken, -math.inf)
        return values.to(torch.float32 if self.mask == "additive float32" else self.dtype)

    def reference(self) -> dict[str, torch.Tensor]:
        """Output, lse and gradients in float64, by the formulas of attention.h."""
        given = {name: tensor.double() for name, tensor in self.inputs().items()}
        group = self.heads // (self.kv_heads or self.heads)
        query, grad_output = given["query"], given["grad_output"]
        key, value = (given[name].repeat_interleave(group, 1) for name in ("key", "value"))
        scale = self.head_dim**-0.5 if self.scale is None else self.scale
        scores = query @ key.transpose(-1, -2) * scale
        mask = self.mask_tensor()
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        elif mask is not None:
            scores = scores + mask.double()
        if self.causal:
            scores = scores.masked_fill(~torch.ones(self.queries, self.keys, dtype=torch.bool).tril(), -math.inf)
        lse = scores.logsumexp(-1) if self.keys else scores.new_full(scores.shape[:-1], -math.inf)
        weights = (scores - lse.clamp_min(-1e300)[..., None]).exp()
        kept = torch.ones(scores.shape, dtype=torch.float64)
        if self.dropout:
            rows = self.batch * self.heads * self.queries
            kept = kept_weights(rows, self.keys, self.dropout).view(scores.shape)
            kept = kept / (1 - self.dropout) if self.dropout < 1 else kept * 0
        output = (weights * kept) @ value
        grad_weights = grad_output @ value.transpose(-1, -2) * kept
        grad_scores = weights * (grad_weights - (grad_output * output).sum(-1, keepdim=True))
        shared = lambda t: t.unflatten(1, (-1, group)).sum(2)  # noqa: E731
        return {
            "output": output,
            "lse": lse,
            "grad_query": grad_scores @ key * scale,
            "grad_key": shared(grad_scores.transpose(-1, -2) @ query * scale),
            "grad_value": shared((weights * kept).transpose(-1, -2) @ grad_output),
            "grad_mask": grad_scores,
        }

    def run(
        self, library: Library, *, direct: bool = False, backward: bool = True, unwanted: tuple[str, ...] = ()
    ) -> dict[str, torch.Tensor]:
        """What the kernels write; canaries around every tensor are checked. `unwanted` gradients are null."""
        inputs = {name: Guarded(tensor, offset=self.offset) for name, tensor in self.inputs().items()}
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        rows = (self.batch, self.heads, self.queries)
        like = lambda name: Guarded(inputs[name].tensor, fill=False, offset=self.offset)  # noqa: E731
        buffers = inputs | {
            "output": like("grad_output"),
            "lse": Guarded(torch.empty(rows, dtype=wide), fill=False),
            "delta": Guarded(torch.empty(rows, dtype=wide), fill=False),
            "grad_query": like("query"),
            "grad_key": like("key"),
            "grad_value": like("value"),
            "grad_mask": Guarded(torch.empty((*rows, self.keys), dtype=wide), fill=False),
            "seed": Guarded(torch.tensor(SEED)),
        }
        mask = self.mask_tensor()
        problem = AttentionProblem(
            batch=self.batch, heads=self.heads, kv_heads=self.kv_heads or self.heads, queries=self.queries,
            keys=self.keys, head_dim=self.head_dim, value_dim=self.value_dim or self.head_dim,
            dtype=DTYPES[self.dtype], scale=self.head_dim**-0.5 if self.scale is None else self.scale,
            causal=self.causal, deterministic=True, mask_kind=MASK_KINDS[self.mask], dropout_p=self.dropout,
            dropout_seed=buffers["seed"].pointer if self.dropout else None,
        )  # fmt: skip
        if mask is not None:
            buffers["mask"] = Guarded(mask)
            problem.mask, problem.mask_dtype = buffers["mask"].pointer, DTYPES.get(mask.dtype, 0)
            problem.mask_strides = (ctypes.c_int64 * 4)(*mask.expand(*rows, self.keys).stride())
        if self.mask is None or "additive" not in self.mask:
            unwanted = (*unwanted, "grad_mask")
        suffix = "_direct" if direct else ""
        self._call(library, f"run_forward{suffix}", AttentionParams(problem=problem), buffers, ())
        if backward:
            params = AttentionBackwardParams(problem=problem)
            self._call(library, f"run_backward{suffix}", params, buffers, unwanted)
        for name, buffer in buffers.items():
            buffer.check(name)
        found = ["output", "lse", *(("grad_query", "grad_key", "grad_value", "grad_mask") if backward else ())]
        return {name: buffers[name].tensor.clone() for name in found if name not in unwanted}

    def _call(
        self,
        library: Library,
        function: str,
        params: ctypes.Structure,
        buffers: dict[str, Guarded],
        unwanted: tuple[str, ...],
    ) -> None:
        for name, kind in params._fields_[1:]:
            if name in unwanted or name == "workspace":
                continue
            buffer = buffers[name]
            if kind is AttentionTensor:
                value = AttentionTensor(buffer.pointer, (ctypes.c_int64 * 3)(*buffer.tensor.stride()[:3]))
            else:
                value = buffer.pointer
            setattr(params, name, value)
        library.call(function, ctypes.byref(params))

    def errors(self, library: Library, **arguments: object) -> dict[str, float]:
        """Relative error of each result over its tolerance; `lse` in absolute terms over the accumulation type's."""
        expected = self.reference()
        found = {}
        for name, actual in self.run(library, **arguments).items():
            wanted = expected[name]
            if name == "lse":
                same = torch.equal(actual.isinf(), wanted.isinf())
                difference = (actual.double() - wanted).nan_to_num().abs().amax().item() if actual.numel() else 0.0
                bound = 1e-13 if self.dtype == torch.float64 else 1e-5
                found[name] = difference / bound if same and not bool(actual.isnan().any()) else math.inf
                continue
            tolerance = (FORWARD_TOLERANCE if name == "output" else BACKWARD_TOLERANCE)[self.dtype]
            found[name] = relative_error(actual, wanted) / tolerance
        return found

    def wrong(self, library: Library, **arguments: object) -> dict[str, float]:
        """The results that are not within their tolerance."""
        return {name: error for name, error in self.errors(library, **arguments).items() if not error < 1}
