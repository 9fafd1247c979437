"""float32 convolutions of images of few channels on the CPU: their gradients, and what `auto` makes of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlab import _extension, ops
from genlab.ops import implementation
from genlab.ops.shapes import ConvCall

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the kernels of few channels need AVX-512"
)
LAST = torch.channels_last
# n, few, many, kernel, stride, padding, h, w: one and four channels, kernels wider than a vector and of one
# tap, strides that leave pixels without a tap, a last register block of each height, more lines than pieces.
SHAPES = [
    (4, 3, 64, (4, 4), (2, 2), (1, 1), 16, 14),
    (3, 1, 48, (5, 3), (1, 2), (2, 0), 9, 11),
    (2, 4, 32, (7, 7), (1, 1), (3, 3), 12, 5),
    (1, 2, 16, (1, 1), (3, 3), (0, 0), 7, 7),
    (5, 3, 32, (3, 3), (1, 1), (1, 1), 23, 19),
]


@pytest.fixture(autouse=True)
def native_ops():
    """torch.ops.genlab exists once the library is loaded."""
    _extension.require()


def draw(*shape: int, seed: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=LAST) if len(shape) == 4 else values


def error(found: Tensor, expected: Tensor) -> float:
    """Relative in the Frobenius norm; NaN counts as infinite."""
    value = ((found.double() - expected).norm() / expected.norm()).item()
    return float("inf") if value != value else value


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_gradients_are_within_2e_6_of_float64(shape: tuple, activation: str | None) -> None:
    n, few, many, kernel, stride, padding, h, w = shape
    x, weight, bias = draw(n, few, h, w, seed=1), draw(many, few, *kernel, seed=2), draw(many, seed=3)

    def run(dtype: torch.dtype, impl: str) -> tuple[Tensor, ...]:
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight, bias)]
        y = ops.conv2d(*leaves, stride, padding, activation=activation, impl=impl)
        return torch.autograd.grad(y, leaves, draw(*y.shape, seed=4).to(dtype))

    for a, e in zip(run(torch.float32, "native"), run(torch.float64, "reference"), strict=True):
        assert error(a, e) < 2e-6


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_transposed_convolution_to_few_channels(shape: tuple) -> None:
    n, few, many, kernel, stride, padding, h, w = shape
    x, weight, bias = draw(n, many, h, w, seed=1), draw(many, few, *kernel, seed=2), draw(few, seed=3)
    expected = F.conv_transpose2d(x.double(), weight.double(), bias.double(), stride, padding).tanh()
    found = ops.conv_transpose2d(x, weight, bias, stride, padding, activation="tanh", impl="native")
    assert error(found, expected) < 2e-6


def test_any_number_of_threads_gives_the_same_bits() -> None:
    before, found = torch.get_num_threads(), []
    x, weight, bias = draw(6, 3, 17, 16, seed=1), draw(64, 3, 4, 4, seed=2), draw(64, seed=3)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
            y = ops.conv2d(*leaves, 2, 1, activation="leaky_relu", impl="native")
            found.append(torch.autograd.grad(y, leaves, draw(*y.shape, seed=4)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def first_layer(*, weight_learns: bool = True, image_learns: bool = False, kernel: int = 4) -> tuple[Tensor, Tensor]:
    x = draw(8, 3, 64, 64, seed=1).requires_grad_(image_learns)
    return x, draw(64, 3, kernel, kernel, seed=2).requires_grad_(weight_learns)


def chosen(op: str, x: Tensor, weight: Tensor, stride: int, padding: int, grid: int) -> str:
    call = ConvCall(weight, (stride, stride), (padding, padding), (1, 1), 1, "zeros", (grid, grid))
    return implementation.choose(op, "auto", x, call)


def test_auto_mixes_where_a_direction_of_this_library_is_asked_for() -> None:
    assert chosen("conv2d", *first_layer(), 2, 1, 32) == "mixed"
    assert chosen("conv2d", *first_layer(weight_learns=False, image_learns=True), 2, 1, 32) == "mixed"
    assert chosen("conv2d", *first_layer(weight_learns=False), 2, 1, 32) == "torch"
    assert chosen("conv2d", *first_layer(kernel=7), 1, 3, 64) == "torch"
    x, weight = draw(8, 64, 32, 32, seed=1), draw(64, 3, 4, 4, seed=2)
    assert chosen("conv_transpose2d", x, weight, 2, 1, 32) == "mixed"
    assert chosen("conv_transpose2d", x, weight.contiguous(), 2, 1, 32) == "torch"
    one, kernel = draw(64, 1, 28, 28, seed=1), draw(64, 1, 4, 4, seed=2).requires_grad_()
    assert chosen("conv2d", one, kernel, 2, 1, 14) == "torch"
    with torch.no_grad():
        assert chosen("conv2d", *first_layer(), 2, 1, 32) == "torch"


@pytest.mark.parametrize("activation", [None, "leaky_relu", "tanh", "gelu"])
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_auto_agrees_with_float64_once_and_twice(transposed: bool, activation: str | None) -> None:
    """Gradients, and the gradient of a gradient's norm as a penalty takes it."""
    x = draw(4, 64, 8, 8, seed=1) if transposed else draw(4, 3, 16, 16, seed=1)
    weight, bias = draw(64, 3, 4, 4, seed=2) / 8, draw(3 if transposed else 64, seed=3)
    op = ops.conv_transpose2d if transposed else ops.conv2d

    def run(dtype: torch.dtype, impl: str) -> tuple[Tensor, ...]:
        leaves = [t.detach().to(dtype).requires_grad_() for t in (x, weight, bias)]
        y = op(*leaves, stride=2, padding=1, activation=activation, impl=impl)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return (y.detach(), *first, *torch.autograd.grad(first[0].square().sum().sqrt(), leaves))

    for a, e in zip(run(torch.float32, "auto"), run(torch.float64, "reference"), strict=True):
        assert error(a, e) < 1e-5
