"""The convolutions with normalisations fused in, on a GPU; tests/emulation runs the same source without one."""

from __future__ import annotations

import copy

import pytest
import torch

from genlab import ops
from genlab.nn import BatchNormAct2d, Conv2d, ConvChain, ConvTranspose2d
from genlab.ops import InputNorm

pytestmark = pytest.mark.cuda

# (n, c, h, w), (c_out, kernel), arguments: whole tiles, tails, odd channels, what the kernels refuse.
SHAPES = [
    ((8, 64, 32, 32), (128, 4), {"stride": 2, "padding": 1}),
    ((4, 256, 16, 16), (256, 3), {"padding": 1}),
    ((2, 5, 33, 31), (24, 3), {"padding": 1}),
    ((2, 64, 12, 12), (64, 3), {"padding": 1, "padding_mode": "reflect"}),
    ((2, 32, 9, 9), (32, 3), {"groups": 2}),
]
# Relative error in the Frobenius norm: the normalised operand is rounded once more than in test_conv_tensor_cores.
TOLERANCE = {torch.bfloat16: 1.2e-2, torch.float16: 2e-3, torch.float32: 2e-3}


@pytest.fixture(autouse=True)
def tensor_cores_for_float32():
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True):
        yield


def made(size, kernel, arguments, dtype, *, transposed: bool = False) -> list[torch.Tensor]:
    c_in, groups = size[1], arguments.get("groups", 1)
    channels = (c_in, kernel[0]) if transposed else (kernel[0], c_in // groups)
    weight = (*channels, kernel[1], kernel[1])
    last = {"memory_format": torch.channels_last}
    drawn = [torch.randn(size).to(dtype).contiguous(**last), torch.randn(c_in), torch.rand(c_in) + 0.5]
    drawn += [torch.randn(c_in), torch.randn(c_in), torch.randn(weight).to(dtype).contiguous(**last)]
    return [t.requires_grad_() for t in drawn]


def results(op, tensors, arguments, impl) -> list[torch.Tensor]:
    input, mean, var, scale, shift, weight = tensors
    norm = InputNorm(mean, var, scale, shift, activation="leaky_relu")
    outputs = list(op(input, norm, weight, **arguments, statistics=True, impl=impl))
    generator = torch.Generator().manual_seed(3)
    grads = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in outputs]
    return [*(t.detach() for t in outputs), *torch.autograd.grad(outputs, tensors, grads)]


def check(op, tensors, arguments) -> None:
    on_gpu = [t.detach().cuda().requires_grad_() for t in tensors]
    found = results(op, on_gpu, arguments, "native")
    exact = results(op, [t.detach().double().requires_grad_() for t in tensors], arguments, "reference")
    for i, (a, e) in enumerate(zip(found, exact, strict=True)):
        assert (a.cpu().double() - e).norm() / e.norm() < TOLERANCE[tensors[0].dtype], f"result {i}"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("size", "kernel", "arguments"), SHAPES, ids=str)
def test_values_and_gradients(size, kernel, arguments, dtype):
    check(ops.norm_conv2d, made(size, kernel, arguments, dtype), arguments)


def test_float64_runs_as_a_sequence():
    tensors = [t.detach().double().requires_grad_() for t in made((2, 16, 9, 9), (24, 3), {}, torch.float32)]
    found = results(ops.norm_conv2d, [t.detach().cuda().requires_grad_() for t in tensors], {"padding": 1}, "native")
    exact = results(ops.norm_conv2d, tensors, {"padding": 1}, "reference")
    for a, e in zip(found, exact, strict=True):
        torch.testing.assert_close(a.cpu(), e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_transposed(dtype):
    arguments = {"stride": 2, "padding": 1}
    tensors = made((4, 128, 8, 8), (64, 4), arguments, dtype, transposed=True)
    check(ops.norm_conv_transpose2d, tensors, arguments)


def test_results_repeat_bit_for_bit():
    tensors = [t.detach().cuda().requires_grad_() for t in made((8, 64, 32, 32), (64, 3), {}, torch.bfloat16)]
    first = results(ops.norm_conv2d, tensors, {"padding": 1}, "native")
    for _ in range(50):
        again = results(ops.norm_conv2d, tensors, {"padding": 1}, "native")
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_chain_trains_as_its_layers_do():
    torch.manual_seed(0)
    layers = [
        ConvTranspose2d(64, 48, 4, stride=2, padding=1, bias=False), BatchNormAct2d(48, activation="relu"),
        ConvTranspose2d(48, 32, 4, stride=2, padding=1, bias=False), BatchNormAct2d(32, activation="relu"),
        Conv2d(32, 3, 3, padding=1, activation="tanh"),
    ]  # fmt: skip
    chain = ConvChain(*layers, fuse=True).cuda().to(memory_format=torch.channels_last)
    alone = copy.deepcopy(chain)
    alone.fuse = False
    x = torch.randn(8, 64, 8, 8, device="cuda").contiguous(memory_format=torch.channels_last)
    for network in (chain, alone):
        network(x).square().mean().backward()
    for (name, a), b in zip(chain.named_parameters(), alone.parameters(), strict=True):
        assert (a.grad - b.grad).norm() / b.grad.norm() < 2e-2, name
    for (name, a), b in zip(chain.named_buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
