"""The tensor-core convolutions on a GPU; tests/emulation runs the same source without one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlab import ops

pytestmark = pytest.mark.cuda

# Relative error in the Frobenius norm; tests/emulation/conv2d_problem.py has the reasons.
TOLERANCE = {torch.bfloat16: 3e-3, torch.float16: 5e-4, torch.float32: 5e-4}
# (n, c_in, h, w), (c_out, kernel), arguments: whole tiles, tails, odd channels, a deep sum that is split.
SHAPES = [
    ((8, 64, 32, 32), (128, 4), {"stride": 2, "padding": 1}),
    ((4, 256, 16, 16), (256, 3), {"padding": 1}),
    ((2, 3, 65, 63), (64, 4), {"stride": 2, "padding": 1}),
    ((2, 72, 17, 19), (3, 5), {"padding": 2}),
    ((3, 33, 9, 31), (31, 3), {"stride": (2, 1), "dilation": (1, 2)}),
    ((2, 64, 12, 12), (64, 7), {"padding": 3, "padding_mode": "reflect"}),
    ((64, 100, 1, 1), (512, 1), {}),
]


@pytest.fixture(autouse=True)
def tensor_cores_for_float32() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True):
        yield


def values(shape: tuple[int, ...], dtype: torch.dtype, device: str = "cuda") -> Tensor:
    drawn = torch.randn(shape, dtype=torch.float64).to(dtype).to(device, memory_format=torch.channels_last)
    return drawn.requires_grad_()


def results(op, input: Tensor, weight: Tensor, arguments: dict, impl: str) -> list[Tensor]:
    output = op(input, weight, **arguments, impl=impl)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(output)
    return [output.detach(), *torch.autograd.grad(output, (input, weight), grad)]


def check(op, input: Tensor, weight: Tensor, arguments: dict) -> None:
    found = results(op, input, weight, arguments, "native")
    exact = [t.detach().cpu().double().requires_grad_() for t in (input, weight)]
    expected = results(op, *exact, arguments, "reference")
    for name, a, e in zip(("output", "grad_input", "grad_weight"), found, expected, strict=True):
        error = (a.cpu().double() - e).norm() / e.norm()
        # The output's gradient is rounded to the dtype too, once for either side.
        assert error < 2 * TOLERANCE[input.dtype], name


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("size", "kernel", "arguments"), SHAPES, ids=str)
def test_convolution_and_its_gradients(size, kernel, arguments, dtype):
    weight = (kernel[0], size[1], kernel[1], kernel[1])
    check(ops.conv2d, values(size, dtype), values(weight, dtype), arguments)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("stride", "kernel", "channels"), [(2, 4, (128, 64)), (1, 4, (100, 64)), (2, 3, (64, 3))])
def test_transposed_convolution_by_phases(stride, kernel, channels, dtype):
    input, weight = values((4, channels[0], 9, 7), dtype), values((*channels, kernel, kernel), dtype)
    check(ops.conv_transpose2d, input, weight, {"stride": stride, "padding": 1})


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_groups_and_projections_of_one_pixel(dtype):
    check(ops.conv2d, values((4, 64, 9, 9), dtype), values((96, 32, 3, 3), dtype), {"padding": 1, "groups": 2})
    check(ops.conv_transpose2d, values((16, 100, 1, 1), dtype), values((100, 64, 4, 4), dtype), {})
    check(ops.conv2d, values((16, 64, 4, 4), dtype), values((8, 64, 4, 4), dtype), {})


def test_results_repeat_bit_for_bit():
    input, weight = values((8, 64, 32, 32), torch.bfloat16), values((64, 64, 3, 3), torch.bfloat16)
    first = results(ops.conv2d, input, weight, {"padding": 1}, "native")
    for _ in range(50):
        again = results(ops.conv2d, input, weight, {"padding": 1}, "native")
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_replays_in_a_graph_on_another_stream():
    input = values((4, 64, 16, 16), torch.bfloat16).detach()
    weight = values((64, 64, 4, 4), torch.bfloat16).detach()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ops.conv_transpose2d(input, weight, stride=2, padding=1, impl="native")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        output = ops.conv_transpose2d(input, weight, stride=2, padding=1, impl="native")
    input.copy_(torch.randn_like(input))
    graph.replay()
    expected = F.conv_transpose2d(input.cpu().double(), weight.cpu().double(), stride=2, padding=1)
    assert (output.cpu().double() - expected).norm() / expected.norm() < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("channels", [(64, 128), (33, 31)])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_through_an_activation_from_its_output(transposed, channels, activation, dtype):
    few, many = channels
    shapes = ((4, few, 16, 14), (4, many, 8, 7)) if not transposed else ((4, many, 8, 7), (4, few, 16, 14))
    input, grad = (values(shape, dtype).detach() for shape in shapes)
    output = ops.activation.apply(values(shapes[1], dtype).detach(), activation, 0.2)
    weight = values((many, few, 4, 4), dtype).detach()
    attributes = ((2, 2), (1, 1), (1, 1), 1, "zeros", transposed, activation, 0.2, [True] * 3)
    found = torch.ops.genlab.conv2d_act_backward(grad, output, input, weight, *attributes)
    exact = [t.cpu().double() for t in (grad, output, input, weight)]
    through = ops.activation.gradient(exact[0], exact[1], activation, 0.2)
    leaves = [t.requires_grad_() for t in exact[2:]]
    op = F.conv_transpose2d if transposed else F.conv2d
    expected = torch.autograd.grad(op(*leaves, stride=2, padding=1), leaves, through)
    for name, a, e in zip(("input", "weight", "bias"), found, (*expected, through.sum((0, 2, 3))), strict=True):
        error = (a.cpu().double() - e).norm() / e.norm()
        # The gradient is rounded to the dtype once more behind the derivative.
        assert error < 2 * TOLERANCE[dtype], name
