"""The attention rows of `genlab bench op`: the layers of Transformers and of self-attending GANs."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from genlab import ops
from genlab.bench.cases import Case, Tensors

OP = "scaled_dot_product_attention"


@dataclass(frozen=True)
class Attention:
    """n sequences of `length` queries and `keys` keys in `heads` heads of `dim` columns, values of `value_dim`."""

    label: str
    n: int
    heads: int
    length: int
    keys: int
    dim: int
    value_dim: int
    causal: bool = False

    @property
    def shape(self) -> str:
        text = f"{self.n}x{self.heads}x{self.length}x{self.dim}"
        if (self.keys, self.value_dim) != (self.length, self.dim):
            text += f" over {self.keys}x{self.value_dim}"
        return text + (" causal" if self.causal else "")


FULL = (
    Attention("Transformer", 8, 8, 512, 512, 64, 64),
    Attention("Transformer causal", 8, 8, 512, 512, 64, 64, causal=True),
    Attention("ViT-S", 128, 6, 197, 197, 64, 64),
    Attention("SAGAN 32x32", 16, 1, 1024, 256, 32, 128),
    Attention("GAN 16x16", 64, 4, 256, 256, 32, 32),
    Attention("long causal", 1, 8, 2048, 2048, 128, 128, causal=True),
)
QUICK = FULL[:3]
TINY = (Attention("tiny", 2, 2, 8, 8, 16, 16), Attention("tiny causal", 1, 2, 20, 20, 16, 16, causal=True))


def attention_cases(shapes: str) -> list[Case]:
    """The rows of "quick", "full" or "tiny"."""
    chosen = TINY if shapes == "tiny" else QUICK if shapes == "quick" else FULL
    return [case for layer in chosen for case in _cases(layer)]


def _cases(layer: Attention) -> list[Case]:
    def make(generator: torch.Generator) -> Tensors:
        sizes = ((layer.length, layer.dim), (layer.keys, layer.dim), (layer.keys, layer.value_dim))
        q, k, v = (torch.randn((layer.n, layer.heads, *size), generator=generator) for size in sizes)
        return q, k, v

    heads = layer.n * layer.heads
    pairs = layer.length * (layer.length + 1) / 2 if layer.causal else layer.length * layer.keys
    products = 2.0 * heads * pairs
    rows = heads * (layer.length + layer.keys) * (layer.dim + layer.value_dim)
    peers = {"math": functools.partial(_math, layer.causal), "by hand": functools.partial(_by_hand, layer.causal)}
    parts = [
        ("forward", (), products * (layer.dim + layer.value_dim), rows),
        # Five products for two; reads q, k, v, output and its gradient, writes three gradients.
        ("backward", (0, 1, 2), products * (3 * layer.dim + 2 * layer.value_dim), 2 * rows),
    ]
    return [
        Case(
            OP, direction, layer.label, layer.shape, make, functools.partial(_ours, layer.causal),
            functools.partial(_torch, layer.causal), wanted, (), flops, float(values), peers=peers, images=False,
        )
        for direction, wanted, flops, values in parts
    ]  # fmt: skip


def _ours(causal: bool, query: Tensor, key: Tensor, value: Tensor, *, impl: str) -> Tensor:
    # Through the package: a test that puts another op there is measuring that op.
    return ops.scaled_dot_product_attention(query, key, value, is_causal=causal, impl=impl)


def _torch(causal: bool, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=causal)


def _math(causal: bool, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return _torch(causal, query, key, value)


def _by_hand(causal: bool, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.matmul(query, key.transpose(-2, -1)) * (1.0 / math.sqrt(query.shape[-1]))
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return torch.matmul(torch.softmax(scores, -1), value)
