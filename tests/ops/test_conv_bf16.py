"""bfloat16 convolutions by AVX512_BF16, and the mixed implementation that `auto` makes of them and of torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlab import _extension, ops
from genlab.ops import conv_mixed, implementation, tuning
from genlab.ops.shapes import ConvCall

LAST = torch.channels_last
BF16 = torch.bfloat16

# kernel, stride, padding, dilation, n, c_in, c_out, h, w: odd and few channels (gathered), tails of vectors and blocks,
# odd widths (pairs with a zero), one register block and many, several groups of pixels, taps that a phase lacks.
SHAPES = [
    (4, 2, 1, 1, 3, 64, 48, 12, 16),
    (4, 2, 1, 1, 5, 32, 100, 8, 10),
    (3, 1, 1, 1, 2, 33, 31, 9, 7),
    (3, 1, 0, 2, 1, 48, 65, 11, 6),
    (1, 2, 0, 1, 2, 64, 16, 7, 5),
    (1, 1, 0, 1, 4, 96, 14, 5, 5),
    (7, 1, 3, 1, 1, 3, 64, 17, 20),
    (4, 1, 0, 1, 6, 40, 1, 4, 4),
    (5, 3, 2, 1, 2, 1, 7, 16, 13),
    (4, 2, 1, 1, 40, 64, 32, 16, 16),
    (4, 2, 1, 1, 3, 3, 64, 32, 28),  # from here on few channels of the image: products of pixels are spread
    (7, 1, 3, 1, 2, 3, 32, 12, 9),
    (5, 3, 2, 1, 2, 1, 8, 16, 13),
    (3, 2, 4, 1, 2, 4, 10, 7, 8),
]
needs_products = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="the processor has no products of bfloat16 pairs"
)


@pytest.fixture(autouse=True)
def native_ops():
    """torch.ops.genlab exists once the library is loaded."""
    _extension.require()


def draw(*shape: int, seed: int = 0, layout: torch.memory_format = LAST) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(BF16)
    return values.contiguous(memory_format=layout) if len(shape) == 4 else values


def error(found: Tensor, exact: Tensor) -> float:
    """Relative in the Frobenius norm; a NaN counts as infinite."""
    value = ((found.double() - exact).norm() / exact.norm()).item()
    return float("inf") if value != value else value


def assert_rounded_once(found: Tensor, exact: Tensor) -> None:
    """No more than the rounding of the exact result to bfloat16, and a trace for the sums in float32."""
    assert found.dtype == BF16
    assert error(found, exact) <= 1.02 * error(exact.to(BF16), exact) + 1e-6


@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format], ids=["weight_channels_last", "weight_contiguous"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_all_directions_are_the_exact_results_rounded_once(shape, layout):
    kernel, stride, padding, dilation, n, c_in, c_out, h, w = shape
    x, weight, bias = draw(n, c_in, h, w), draw(c_out, c_in, kernel, kernel, seed=1, layout=layout), draw(c_out, seed=2)
    plain = (stride, padding, dilation)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), *plain)
    attributes = (*((value, value) for value in plain), 1, "zeros")
    assert_rounded_once(torch.ops.genlab.conv2d(x, weight, bias, *attributes, None, 0.0), exact)

    grad = draw(*exact.shape, seed=3)
    found = torch.ops.genlab.conv2d_backward_input(grad, weight, (h, w), *attributes)
    assert_rounded_once(found, torch.nn.grad.conv2d_input(x.shape, weight.double(), grad.double(), *plain))
    found, found_bias = torch.ops.genlab.conv2d_backward_weight(grad, x, (kernel, kernel), *attributes, True)
    assert_rounded_once(found, torch.nn.grad.conv2d_weight(x.double(), weight.shape, grad.double(), *plain))
    assert_rounded_once(found_bias, grad.double().sum((0, 2, 3)))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu"])
def test_activation_before_the_rounding(activation):
    x, weight, bias = draw(2, 32, 9, 9), draw(40, 32, 3, 3, seed=1), draw(40, seed=2)
    found = ops.conv2d(x, weight, bias, padding=1, activation=activation, impl="native")
    exact = ops.conv2d(x.double(), weight.double(), bias.double(), padding=1, activation=activation, impl="reference")
    assert_rounded_once(found, exact)


def test_reflect_padding_forward_and_weight_gradient():
    x, weight = draw(2, 32, 8, 9), draw(48, 32, 3, 3, seed=1)
    padded = F.pad(x.double(), (2, 2, 2, 2), mode="reflect")
    exact = F.conv2d(padded, weight.double())
    assert_rounded_once(ops.conv2d(x, weight, padding=2, padding_mode="reflect", impl="native"), exact)
    grad = draw(*exact.shape, seed=2)
    attributes = ((1, 1), (2, 2), (1, 1), 1, "reflect", False)
    found, _ = torch.ops.genlab.conv2d_backward_weight(grad, x, (3, 3), *attributes)
    assert_rounded_once(found, torch.nn.grad.conv2d_weight(padded, weight.shape, grad.double()))


def results_with(threads: int, shape: tuple[int, ...]) -> list[Tensor]:
    kernel, stride, padding, dilation, n, c_in, c_out, h, w = shape
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        leaves = [draw(n, c_in, h, w), draw(c_out, c_in, kernel, kernel, seed=1), draw(c_out, seed=2)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        y = ops.conv2d(*leaves, stride, padding, dilation, impl="native")
        return [y.detach(), *torch.autograd.grad(y.float().square().sum(), leaves)]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[2], SHAPES[9]], ids=str)
def test_bits_depend_neither_on_the_threads_nor_on_the_run(shape):
    once = results_with(1, shape)
    for threads in (1, 2, 5):
        for found, expected in zip(results_with(threads, shape), once, strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("channels", [3, 33, 64])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_exactly_the_outputs_that_read_it(value, channels):
    x, weight = draw(2, channels, 8, 8), draw(16, channels, 3, 3, seed=1)
    clean = ops.conv2d(x, weight, padding=1, impl="native")
    x[0, channels - 1, 4, 4] = value
    found = ops.conv2d(x, weight, padding=1, impl="native")
    touched = torch.zeros(2, 8, 8, dtype=torch.bool)
    touched[0, 3:6, 3:6] = True
    assert not found.movedim(1, -1)[touched].isfinite().any()
    assert torch.equal(found.movedim(1, -1)[~touched], clean.movedim(1, -1)[~touched])


def test_weights_and_gradients_of_any_strides():
    x, weight = draw(2, 32, 8, 8), draw(48, 32, 3, 3, seed=1)
    wide = torch.full((48, 32, 3, 6), float("nan"), dtype=BF16)
    wide[..., ::2] = weight
    assert torch.equal(ops.conv2d(x, wide[..., ::2], impl="native"), ops.conv2d(x, weight, impl="native"))
    whole, grad = draw(2, 80, 8, 8), draw(2, 48, 6, 6, seed=2)
    part = whole[:, 16:48]  # its pixels are 80 channels apart
    attributes = ((3, 3), (1, 1), (0, 0), (1, 1), 1, "zeros", False)
    found, _ = torch.ops.genlab.conv2d_backward_weight(grad, part, *attributes)
    dense, _ = torch.ops.genlab.conv2d_backward_weight(grad, part.contiguous(memory_format=LAST), *attributes)
    assert torch.equal(found, dense)


def test_an_empty_batch_has_zero_gradients():
    grad_weight, grad_bias = torch.ops.genlab.conv2d_backward_weight(
        torch.empty(0, 32, 8, 8, dtype=BF16), torch.empty(0, 16, 8, 8, dtype=BF16), (3, 3), (1, 1), (1, 1), (1, 1), 1,
        "zeros", True,
    )  # fmt: skip
    assert not grad_weight.any() and not grad_bias.any()


# -- mixed ---------------------------------------------------------------------------------------------------------


def chosen(x: Tensor, weight: Tensor, *, groups: int = 1) -> str:
    size = (x.shape[2] // 2, x.shape[3] // 2)
    return implementation.choose("conv2d", "auto", x, ConvCall(weight, (2, 2), (1, 1), (1, 1), groups, "zeros", size))


@needs_products
def test_auto_is_mixed_where_a_weight_gradient_follows_and_torch_elsewhere(monkeypatch):
    monkeypatch.setattr(tuning, "_HAS_BF16_PRODUCTS", True)
    x, weight = draw(16, 128, 16, 16), draw(256, 128, 4, 4, seed=1).requires_grad_()
    assert chosen(x, weight) == "mixed"
    with torch.no_grad():
        assert chosen(x, weight) == "torch"
    assert chosen(x, weight.detach()) == "torch"  # the discriminator in the generator's step
    assert chosen(x.contiguous(), weight) == "torch"
    assert chosen(draw(4, 128, 32, 32), weight) == "torch"  # oneDNN is as quick along rows of 16
    assert chosen(x[:1, :, :4, :4].contiguous(memory_format=LAST), weight) == "torch"  # too little work
    assert chosen(x, draw(3, 128, 4, 4).requires_grad_()) == "torch"
    assert chosen(x, draw(256, 64, 4, 4).requires_grad_(), groups=2) == "torch"
    monkeypatch.setattr(tuning, "_HAS_BF16_PRODUCTS", False)
    assert chosen(x, weight) == "torch"


@needs_products
def test_auto_is_mixed_where_an_image_of_few_channels_is_computed_in_the_transposed_direction(monkeypatch):
    monkeypatch.setattr(tuning, "_HAS_BF16_PRODUCTS", True)
    image, weight, features = draw(8, 3, 32, 32), draw(64, 3, 4, 4, seed=1), draw(8, 64, 16, 16)
    assert chosen(image.clone(memory_format=torch.preserve_format).requires_grad_(), weight) == "mixed"
    assert chosen(image, weight) == "torch"  # no gradient of the image
    call = ConvCall(weight, (2, 2), (1, 1), (1, 1), 1, "zeros", (16, 16))
    with torch.no_grad():
        assert implementation.choose("conv_transpose2d", "auto", features, call) == "mixed"
    for other in (features[:1].contiguous(memory_format=LAST), features.contiguous()):
        assert implementation.choose("conv_transpose2d", "auto", other, call) == "torch"
    call = call._replace(weight=weight.contiguous())
    assert implementation.choose("conv_transpose2d", "auto", features, call) == "torch"


def test_auto_is_torch_without_the_library(monkeypatch):
    monkeypatch.setattr(tuning, "_HAS_BF16_PRODUCTS", True)
    monkeypatch.setattr(_extension, "_module", None)
    monkeypatch.setattr(_extension, "_failure", "genlab._C is not built; run `genlab build`")
    assert chosen(draw(16, 128, 16, 16), draw(256, 128, 4, 4).requires_grad_()) == "torch"


def test_describe_names_the_mixed_class():
    for op in ("conv2d", "conv_transpose2d"):
        (row,) = [r for r in ops.describe() if (r.op, r.device, r.dtype) == (op, "cpu", "bfloat16")]
        assert row.auto == "torch" and row.elsewhere == ("matmul", "native", "mixed")
        assert tuning.mixed_summary() in row.reason and tuning.widened_summary() in row.reason


def run_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, impl: str) -> Tensor:
    if transposed:
        return ops.conv_transpose2d(x, weight, bias, 2, 1, activation="relu", impl=impl)
    return ops.conv2d(x, weight, bias, 2, 1, activation="relu", impl=impl)


@pytest.fixture
def always_mixed(monkeypatch):
    """Mixed for every bfloat16 convolution, whatever the machine."""
    monkeypatch.setattr(tuning, "_HAS_BF16_PRODUCTS", True)
    monkeypatch.setattr(tuning, "MIXED_LEAST_CHANNELS", 1)
    monkeypatch.setattr(tuning, "MIXED_LEAST_PRODUCTS", 1)
    monkeypatch.setattr(tuning, "SPREAD_LEAST_PRODUCTS", 1)
    calls = []
    original = conv_mixed.convolve
    monkeypatch.setattr(conv_mixed, "convolve", lambda *a, **k: calls.append(1) or original(*a, **k))
    return calls


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("transposed", [False, True])
def test_mixed_is_torch_forward_and_native_in_the_weight_gradient(always_mixed, transposed, with_bias):
    x, weight = draw(3, 32, 8, 8), draw(*((32, 48) if transposed else (48, 32)), 4, 4, seed=1)
    bias = draw(48, seed=2) if with_bias else None
    results = {}
    for impl in ("auto", "torch", "native"):
        leaves = [
            t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, weight, bias) if t is not None
        ]
        y = run_convolution(*leaves, *(() if with_bias else (None,)), transposed, impl)
        grad = draw(*y.shape, seed=3)
        # From the peer's output, so that the activation's gradient is the same for all.
        results[impl] = [y.detach(), *torch.autograd.grad(y, leaves, grad)]
    assert always_mixed == [1]
    assert torch.equal(results["auto"][0], results["torch"][0])
    assert torch.equal(results["auto"][1], results["torch"][1])
    exact = [t.double().requires_grad_() for t in (x, weight, bias) if t is not None]
    y = run_convolution(*exact, *(() if with_bias else (None,)), transposed, "torch")
    expected = torch.autograd.grad(y, exact, draw(*y.shape, seed=3).double())
    for mixed, peer, e in zip(results["auto"][2:], results["torch"][2:], expected[1:], strict=True):
        assert mixed.dtype == BF16
        assert error(mixed, e) <= 2 * error(peer, e)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_mixed_at_images_of_few_channels(always_mixed, monkeypatch, transposed, channels):
    monkeypatch.setattr(tuning, "MIXED_LEAST_CHANNELS", 32)
    few, many = draw(5, channels, 12, 12), draw(5, 64, 6, 6, seed=3)
    x = many if transposed else few
    weight, bias = draw(64, channels, 4, 4, seed=1), draw(channels if transposed else 64, seed=2)
    results = {}
    for impl, dtype in (("auto", BF16), ("torch", BF16), ("torch", torch.float64)):
        leaves = [t.to(dtype).clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, weight, bias)]
        run = ops.conv_transpose2d if transposed else ops.conv2d
        y = run(*leaves, 2, 1, impl=impl)
        grad = draw(*y.shape, seed=4).to(dtype)
        results[impl, dtype] = [y.detach(), *torch.autograd.grad(y, leaves, grad)]
    assert always_mixed == [1]
    exact = results["torch", torch.float64]
    for found, peer, e in zip(results["auto", BF16], results["torch", BF16], exact, strict=True):
        assert error(found, e) <= 2 * error(peer, e)
    spread = 0 if transposed else 1  # what the native direction computed
    assert_rounded_once(results["auto", BF16][spread], exact[spread])


@pytest.mark.parametrize("transposed", [False, True])
def test_mixed_differentiates_twice(always_mixed, transposed):
    """The gradient penalty of WGAN-GP, against float64."""

    def penalty(dtype: torch.dtype) -> tuple[Tensor, ...]:
        x, weight = draw(2, 32, 8, 8).to(dtype), draw(32, 32, 4, 4, seed=1).to(dtype) * 0.1
        x, weight = x.requires_grad_(), weight.requires_grad_()
        y = run_convolution(x, weight, None, transposed, "auto")
        (grad,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.float().square().sum(), (x, weight))

    found, expected = penalty(BF16), penalty(torch.float64)
    assert always_mixed == [1]
    for a, e in zip(found, expected, strict=True):
        assert error(a, e) < 3e-2


def test_mixed_under_autocast_leaves_float32_gradients(always_mixed):
    x, weight, bias = draw(2, 32, 8, 8).float(), draw(48, 32, 4, 4, seed=1).float(), draw(48, seed=2).float()
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    with torch.autocast("cpu", BF16):
        y = ops.conv2d(x, weight, bias, 2, 1)
    assert always_mixed == [1] and y.dtype == BF16
    grads = torch.autograd.grad(y.float().square().sum(), (weight, bias))
    assert all(g.dtype == torch.float32 for g in grads)
    assert grads[0].is_contiguous(memory_format=LAST)


def test_mixed_takes_reflect_padding_and_a_frozen_input(always_mixed):
    x, weight = draw(2, 32, 8, 8), draw(48, 32, 3, 3, seed=1).requires_grad_()
    y = ops.conv2d(x, weight, padding=1, padding_mode="reflect")
    assert always_mixed == [1]
    (found,) = torch.autograd.grad(y, weight, draw(*y.shape, seed=2))
    padded = F.pad(x.double(), (1, 1, 1, 1), mode="reflect")
    assert_rounded_once(found, torch.nn.grad.conv2d_weight(padded, weight.shape, draw(*y.shape, seed=2).double()))
