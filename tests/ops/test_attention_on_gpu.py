"""Attention on CUDA: the CPU's values and dropped weights, streams, captured graphs, bits that repeat."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from cuda_calls import (
    CudaCall,
    assert_equal,
    assert_near,
    capture,
    check_a_captured_graph_computes_with_fresh_inputs,
    check_agrees_with_the_cpu,
    check_repeats_bit_for_bit,
    check_runs_on_the_current_stream,
)
from torch import Tensor

from genlab import ops

pytestmark = pytest.mark.cuda

# Relative norm. 16 bits: the weights are rounded between the products, as in every flash attention.
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@dataclass(frozen=True)
class Call(CudaCall):
    """An attention by its sizes; `mask` is boolean, additive (with a gradient) or None."""

    queries: int = 197
    keys: int = 197
    head_dim: int = 64
    value_dim: int | None = None
    batch: int = 2
    heads: int = 4
    kv_heads: int | None = None
    causal: bool = False
    mask: str | None = None
    dropout: float = 0.0

    def make(self, device: str, dtype: torch.dtype = torch.float32, seed: int = 3) -> list[Tensor]:
        """Query, key, value and, where it is additive, the mask: leaves."""
        generator = torch.Generator().manual_seed(seed)
        kv = self.kv_heads or self.heads
        sizes = [
            (self.batch, self.heads, self.queries, self.head_dim),
            (self.batch, kv, self.keys, self.head_dim),
            (self.batch, kv, self.keys, self.value_dim or self.head_dim),
        ]
        values = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
        if self.mask == "additive":
            mask = torch.randn((self.heads, self.queries, self.keys), generator=generator, dtype=torch.float64)
            mask[:, ::7] = -math.inf  # queries without a key
            values.append(mask)
        return [value.to(dtype).to(device).requires_grad_() for value in values]

    def boolean_mask(self, device: str) -> Tensor:
        generator = torch.Generator().manual_seed(9)
        taken = torch.rand((self.batch, 1, self.queries, self.keys), generator=generator) < 0.6
        taken[:, :, ::5] = False
        return taken.to(device)

    def run(self, leaves: list[Tensor], impl: str = "native") -> Tensor:
        mask = leaves[3] if self.mask == "additive" else None
        if self.mask == "boolean":
            mask = self.boolean_mask(str(leaves[0].device))
        return ops.scaled_dot_product_attention(
            *leaves[:3], mask, self.dropout, self.causal, enable_gqa=self.kv_heads is not None, impl=impl
        )


CALLS = {
    "plain": Call(),
    "one_tile_and_one": Call(queries=129, keys=65, head_dim=32),
    "causal": Call(causal=True, queries=300, keys=260, head_dim=128),
    "cross_odd": Call(queries=77, keys=131, head_dim=33, value_dim=50),
    "grouped": Call(heads=6, kv_heads=2, causal=True, head_dim=80),
    "boolean": Call(mask="boolean", head_dim=40),
    "additive": Call(mask="additive", head_dim=96),
    "one_query": Call(queries=1, keys=513, head_dim=64),
}


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Call:
    return CALLS[request.param]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_agrees_with_the_cpu(call: Call, dtype: torch.dtype) -> None:
    check_agrees_with_the_cpu(call, dtype, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_drops_the_weights_that_the_cpu_drops(dtype: torch.dtype) -> None:
    """value is the identity, so every weight can be seen; both devices are given one seed."""
    call = Call(queries=90, keys=64, value_dim=64, head_dim=16)
    leaves = call.make("cpu", dtype)[:2]
    value = torch.eye(64, dtype=dtype).expand(2, 4, 64, 64).contiguous()
    seed = torch.tensor([2**61 + 12345, 7])
    kept = []
    for device in ("cpu", "cuda"):
        query, key = (leaf.detach().to(device) for leaf in leaves)
        output, _ = torch.ops.genlab.scaled_dot_product_attention(
            query, key, value.to(device), None, seed.to(device), 0.4, False, 0.25, True
        )
        kept.append((output != 0).cpu())
    assert torch.equal(*kept)
    assert 0.55 < kept[0].double().mean() < 0.65


def test_tensor_cores_agree_with_the_definition_on_the_device(call: Call) -> None:
    """float64 runs by definition (csrc/kernels/attention_direct.cu), float32 on tensor cores."""
    exact = call.results(call.make("cuda", torch.float64))
    found = call.run(call.make("cuda", torch.float32)).detach()
    assert_near([found], exact[:1], TOLERANCE[torch.float32])


def test_heads_inside_rows_give_what_rows_inside_heads_give() -> None:
    leaves = Call().make("cuda", torch.bfloat16)
    packed = [leaf.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for leaf in leaves]
    assert_equal(Call().results(packed), Call().results(leaves))


def test_runs_on_the_current_stream(call: Call) -> None:
    check_runs_on_the_current_stream(call)


def test_a_captured_graph_computes_with_fresh_inputs(call: Call) -> None:
    check_a_captured_graph_computes_with_fresh_inputs(call)


def test_a_captured_graph_draws_new_dropout_each_time() -> None:
    call = Call(dropout=0.5)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        graph, captured = capture(call, call.make("cuda"), stream)
        outputs = []
        for _ in range(2):
            graph.replay()
            outputs.append(captured[0].clone())
        stream.synchronize()
    assert not torch.equal(*outputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_repeats_bit_for_bit(call: Call, dtype: torch.dtype) -> None:
    check_repeats_bit_for_bit(call, dtype)
