"""Every op's CUDA kernels: the CPU's values, other streams, captured graphs with fresh inputs, and bits that repeat."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from cuda_calls import (
    CudaCall,
    assert_near,
    check_a_captured_graph_computes_with_fresh_inputs,
    check_agrees_with_the_cpu,
    check_repeats_bit_for_bit,
    check_runs_on_the_current_stream,
)
from torch import Tensor

from genlab import ops

pytestmark = pytest.mark.cuda

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 4e-3}  # relative norm


@dataclass(frozen=True)
class Call(CudaCall):
    """An op on small tensors of odd sizes, and what it computes; `wide` tensors stay float32 in low precision."""

    op: Callable[..., Tensor]
    sizes: tuple[tuple[int, ...], ...]
    wide: tuple[int, ...] = ()

    def make(self, device: str, dtype: torch.dtype = torch.float32, seed: int = 3) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        values = [torch.randn(size, generator=generator, dtype=torch.float64) for size in self.sizes]
        low = dtype in (torch.bfloat16, torch.float16)
        kinds = [torch.float32 if low and i in self.wide else dtype for i in range(len(values))]
        return [v.to(kind).to(device).requires_grad_() for v, kind in zip(values, kinds, strict=True)]

    def run(self, leaves: list[Tensor], impl: str = "native") -> Tensor:
        return self.op(*leaves, impl=impl)


def batch_norm(input: Tensor, weight: Tensor, bias: Tensor, *, impl: str) -> Tensor:
    return ops.batch_norm_act(input, None, None, weight, bias, True, activation="leaky_relu", impl=impl)


def instance_norm(input: Tensor, weight: Tensor, bias: Tensor, *, impl: str) -> Tensor:
    return ops.instance_norm_act(input, None, None, weight, bias, activation="relu", impl=impl)


def layer_norm(input: Tensor, weight: Tensor, bias: Tensor, *, impl: str) -> Tensor:
    return ops.layer_norm_act(input, weight.shape, weight, bias, activation="tanh", impl=impl)


def attention(**arguments: object) -> Callable[..., Tensor]:
    def run(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, impl: str) -> Tensor:
        arguments.setdefault("deterministic", True)
        return ops.scaled_dot_product_attention(query, key, value, mask, impl=impl, **arguments)

    return run


def conv(op: Callable[..., Tensor], **arguments: object) -> Callable[..., Tensor]:
    return lambda input, weight, bias, *, impl: op(input, weight, bias, **arguments, impl=impl)


@functools.cache
def classes(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Targets that lie on the device already: a captured graph cannot bring them there."""
    return torch.randint(sizes[1], (sizes[0], *sizes[2:]), generator=torch.Generator().manual_seed(5)).to(device)


def cross_entropy(input: Tensor, *, impl: str) -> Tensor:
    return ops.cross_entropy(input, classes(tuple(input.shape), input.device), label_smoothing=0.1, impl=impl)


def latents(mean: Tensor, log_variance: Tensor, noise: Tensor, *, impl: str) -> Tensor:
    z, kl = ops.reparametrize_kl(mean, log_variance, noise, impl=impl)
    return torch.cat([z.flatten(1), kl], dim=1)


def adversarial(loss: str) -> Callable[..., Tensor]:
    return lambda fake, real, *, impl: ops.gan_loss(loss, fake, real, impl=impl)


CALLS = {
    "conv1d": Call(conv(ops.conv1d, padding=1, activation="relu"), ((3, 5, 19), (7, 5, 3), (7,))),
    "conv2d_4x4_stride_2": Call(
        conv(ops.conv2d, stride=2, padding=1, activation="leaky_relu"), ((3, 8, 18, 14), (24, 8, 4, 4), (24,))
    ),
    "conv2d_3x3_reflect": Call(
        conv(ops.conv2d, padding=1, padding_mode="reflect"), ((2, 16, 9, 11), (40, 16, 3, 3), (40,))
    ),
    "conv2d_1_channel": Call(
        conv(ops.conv2d, stride=2, padding=1, activation="tanh"), ((3, 1, 13, 13), (5, 1, 4, 4), (5,))
    ),
    "conv2d_groups_dilation": Call(conv(ops.conv2d, groups=3, dilation=2), ((2, 6, 11, 9), (9, 2, 3, 3), (9,))),
    "conv_transpose2d_4x4_stride_2": Call(
        conv(ops.conv_transpose2d, stride=2, padding=1, activation="relu"), ((3, 24, 5, 7), (24, 16, 4, 4), (16,))
    ),
    "conv_transpose2d_1x1_to_4x4": Call(conv(ops.conv_transpose2d), ((5, 20, 1, 1), (20, 33, 4, 4), (33,))),
    "batch_norm_act": Call(batch_norm, ((4, 13, 7, 5), (13,), (13,)), (1, 2)),
    "instance_norm_act": Call(instance_norm, ((2, 13, 9, 7), (13,), (13,)), (1, 2)),
    "layer_norm_act": Call(layer_norm, ((3, 5, 77), (77,), (77,)), (1, 2)),
    "cross_entropy": Call(cross_entropy, ((9, 77),)),
    "cross_entropy_many_classes": Call(cross_entropy, ((3, 5001),)),
    "cross_entropy_map": Call(cross_entropy, ((2, 7, 9, 11),)),
    "gan_loss_hinge": Call(adversarial("hinge"), ((65, 1), (65, 1))),
    "gan_loss_map": Call(adversarial("non_saturating"), ((3, 1, 70, 70), (2, 1, 70, 70))),
    "reparametrize_kl": Call(latents, ((5, 33), (5, 33), (5, 3, 33))),
    "attention_causal": Call(attention(is_causal=True), ((2, 3, 97, 64), (2, 3, 129, 64), (2, 3, 129, 64))),
    "attention_mask_groups": Call(
        attention(enable_gqa=True), ((2, 4, 65, 40), (2, 2, 70, 40), (2, 2, 70, 24), (2, 1, 65, 70))
    ),
}


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Call:
    return CALLS[request.param]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_agrees_with_the_cpu(call: Call, dtype: torch.dtype) -> None:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        check_agrees_with_the_cpu(call, dtype, TOLERANCE[dtype])


def test_runs_on_the_current_stream(call: Call) -> None:
    check_runs_on_the_current_stream(call)


def test_a_captured_graph_computes_with_fresh_inputs(call: Call) -> None:
    check_a_captured_graph_computes_with_fresh_inputs(call)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_repeats_bit_for_bit(call: Call, dtype: torch.dtype) -> None:
    check_repeats_bit_for_bit(call, dtype)


def test_channels_last_gives_what_contiguous_gives(call: Call) -> None:
    tensors = call.make("cuda")
    if tensors[0].dim() != 4:
        pytest.skip("no images, no such layout")
    leaves = [
        t.detach().contiguous(memory_format=torch.channels_last).requires_grad_() if t.dim() == 4 else t
        for t in tensors
    ]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert_near(call.results(leaves), call.results(tensors), 1e-5)
