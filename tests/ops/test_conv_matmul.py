"""Convolutions that are one matrix product: when `auto` writes them so, that results and all gradients are the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlab import ops
from genlab.ops import conv_matmul, implementation
from genlab.ops.shapes import ConvCall

LAST, CONTIGUOUS = torch.channels_last, torch.contiguous_format


def draw(*shape: int, dtype: torch.dtype = torch.float64, layout: torch.memory_format = LAST, seed: int = 0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return values.contiguous(memory_format=layout) if len(shape) == 4 else values


@pytest.fixture
def products(monkeypatch):
    """The names of the products that were taken."""
    taken = []
    for name in ("covering_conv2d", "spreading_conv2d"):
        original = getattr(conv_matmul, name)
        monkeypatch.setattr(
            conv_matmul, name, lambda *a, name=name, original=original: taken.append(name) or original(*a)
        )
    return taken


def with_gradients(run, tensors, dtype=torch.float64) -> list[Tensor]:
    """Output, gradients, and the gradients of their squares, which go through every second-order path."""
    leaves = [t.to(dtype).clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    y = run(*leaves)
    first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    return [y.detach(), *(g.detach() for g in first), *second]


@pytest.mark.parametrize("layout", [LAST, CONTIGUOUS], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("size", [(4, 4), (7, 7), (3, 5)], ids=str)
@pytest.mark.parametrize("n", [1, 3])
def test_a_kernel_of_the_images_size(products, n, size, layout):
    tensors = draw(n, 6, *size, layout=layout), draw(5, 6, *size, layout=layout, seed=1), draw(5, seed=2)
    found = with_gradients(lambda x, w, b: ops.conv2d(x, w, b, stride=2, activation="tanh"), tensors)
    assert products == ["covering_conv2d"]
    expected = with_gradients(lambda x, w, b: F.conv2d(x, w, b, stride=2).tanh(), tensors)
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize("layout", [LAST, CONTIGUOUS], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("size", [(4, 4), (7, 7), (3, 5)], ids=str)
@pytest.mark.parametrize("n", [1, 3])
def test_one_pixel_spread(products, n, size, layout):
    tensors = draw(n, 6, 1, 1), draw(6, 5, *size, layout=layout, seed=1), draw(5, seed=2)
    found = with_gradients(lambda x, w, b: ops.conv_transpose2d(x, w, b, stride=2, activation="tanh"), tensors)
    assert products == ["spreading_conv2d"]
    expected = with_gradients(lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2).tanh(), tensors)
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e)
    assert found[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_errors_are_those_of_torchs_convolution(products, dtype):
    x, weight = draw(8, 64, 4, 4, dtype=dtype), draw(48, 64, 4, 4, dtype=dtype, seed=1)
    z, spread = draw(8, 40, 1, 1, dtype=dtype), draw(40, 32, 4, 4, dtype=dtype, seed=2)
    for run, peer, tensors in (
        (ops.conv2d, F.conv2d, (x, weight)),
        (ops.conv_transpose2d, F.conv_transpose2d, (z, spread)),
    ):
        exact = peer(*(t.double() for t in tensors))
        error = ((run(*tensors).double() - exact).norm() / exact.norm()).item()
        peer_error = ((peer(*tensors).double() - exact).norm() / exact.norm()).item()
        assert error <= 2 * peer_error + 1e-7
    assert products == ["covering_conv2d", "spreading_conv2d"]


def test_under_autocast_the_product_is_bfloat16_and_gradients_are_float32(products):
    x, weight = draw(4, 16, 4, 4).float(), draw(8, 16, 4, 4, seed=1).float().requires_grad_()
    spread, bias = draw(8, 16, 4, 4, seed=2).float().requires_grad_(), draw(16, seed=3).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = ops.conv2d(x, weight)
        image = ops.conv_transpose2d(logits, spread, bias)
    assert logits.dtype == image.dtype == torch.bfloat16
    grads = torch.autograd.grad(image.float().square().sum(), (weight, spread, bias))
    assert all(grad.dtype == torch.float32 for grad in grads)
    assert products == ["covering_conv2d", "spreading_conv2d"]


def chosen(op: str, x: Tensor, weight: Tensor, padding: int = 0, dilation: int = 1, groups: int = 1) -> str:
    grid = (
        x.shape[2:]
        if op == "conv_transpose2d"
        else [a + 2 * padding - b + 1 for a, b in zip(x.shape[2:], weight.shape[2:], strict=True)]
    )
    pairs = (1, 1), (padding, padding), (dilation, dilation)
    return implementation.choose(op, "auto", x, ConvCall(weight, *pairs, groups, "zeros", tuple(grid)))


def test_auto_takes_the_product_only_where_nothing_has_to_be_copied():
    x, weight = draw(2, 16, 4, 4), draw(8, 16, 4, 4)
    assert chosen("conv2d", x, weight) == "matmul"
    assert chosen("conv2d", x.contiguous(), weight.contiguous()) == "matmul"
    assert chosen("conv2d", x, weight.contiguous()) == "torch"
    assert chosen("conv2d", x, draw(8, 16, 3, 3)) == "torch"
    assert chosen("conv2d", draw(2, 16, 2, 2), weight, padding=1) == "torch"
    assert chosen("conv2d", x, draw(8, 8, 4, 4), groups=2) == "torch"
    z = draw(2, 8, 1, 1)
    assert chosen("conv_transpose2d", z, weight) == "matmul"
    assert chosen("conv_transpose2d", z, weight, padding=1) == "torch"
    assert chosen("conv_transpose2d", z, weight, dilation=2) == "torch"
    assert chosen("conv_transpose2d", draw(2, 8, 2, 2), weight) == "torch"
    assert chosen("conv_transpose2d", z, weight[:, :, ::2, ::2]) == "torch"


def test_output_padding_is_not_a_product(products):
    z, weight = draw(2, 8, 1, 1), draw(8, 4, 4, 4)
    found = ops.conv_transpose2d(z, weight, stride=2, output_padding=1)
    torch.testing.assert_close(found, F.conv_transpose2d(z, weight, stride=2, output_padding=1))
    assert not products


def test_an_empty_batch_and_a_frozen_weight(products):
    assert ops.conv2d(draw(0, 16, 4, 4), draw(8, 16, 4, 4)).shape == (0, 8, 1, 1)
    assert ops.conv_transpose2d(draw(0, 8, 1, 1), draw(8, 16, 4, 4)).shape == (0, 16, 4, 4)
    assert len(products) == 2
