"""The Winograd convolutions on the CPU: results, bounds, layouts, gradients of any order, threads, when they run."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlab import _extension, ops
from genlab.ops import implementation, tuning
from genlab.ops.shapes import ConvCall

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the Winograd kernels need AVX-512"
)

LAST, CONTIGUOUS = torch.channels_last, torch.contiguous_format

# kernel, stride, padding, n, c_in, c_out, h, w: tiles that overhang by 1 to 3, one register block and many, a block of
# channels cut in half, more tiles than one group (256), weights past what is stored for all threads (4 M).
SHAPES = [
    (3, 1, 1, 1, 16, 16, 8, 8),
    (3, 1, 1, 2, 16, 48, 7, 12),
    (3, 1, 0, 3, 48, 32, 10, 13),
    (3, 1, 2, 1, 32, 64, 15, 30),
    (3, 1, 1, 1, 112, 80, 33, 31),
    (3, 1, 1, 66, 16, 32, 8, 8),
    (3, 1, 1, 3, 384, 320, 8, 8),
    (4, 2, 1, 1, 16, 16, 8, 8),
    (4, 2, 1, 2, 16, 48, 15, 17),
    (4, 2, 0, 5, 48, 32, 18, 24),
    (4, 2, 2, 1, 32, 64, 13, 28),
    (4, 2, 3, 1, 32, 16, 27, 28),
    (4, 2, 1, 70, 16, 32, 17, 16),
    (4, 2, 1, 9, 192, 256, 8, 8),
]


@pytest.fixture(autouse=True)
def native_ops():
    """torch.ops.genlab exists once the library is loaded."""
    _extension.require()


def draw(*shape: int, layout: torch.memory_format = LAST, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    return values.contiguous(memory_format=layout) if len(shape) == 4 else values


def error(found: Tensor, expected: Tensor) -> float:
    """Relative in the Frobenius norm; NaN counts as infinite."""
    value = ((found.double() - expected).norm() / expected.norm()).item()
    return float("inf") if value != value else value


@pytest.mark.parametrize("layout", [LAST, CONTIGUOUS], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_results_are_within_1e_5_of_float64(shape, layout):
    kernel, stride, padding, n, c_in, c_out, h, w = shape
    x, weight = draw(n, c_in, h, w, layout=layout), draw(c_out, c_in, kernel, kernel, layout=layout, seed=1)
    bias = draw(c_out, seed=2)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding)
    found = ops.conv2d(x, weight, bias, stride, padding, impl="native")
    assert error(found, expected) < 5e-6
    assert found.is_contiguous(memory_format=layout)

    grad = draw(*expected.shape, layout=layout, seed=3)
    attributes = ((stride, stride), (padding, padding), (1, 1), 1, "zeros")
    found = torch.ops.genlab.conv2d_backward_input(grad, weight, x.shape[2:], *attributes)
    assert error(found, torch.nn.grad.conv2d_input(x.shape, weight.double(), grad.double(), stride, padding)) < 5e-6
    assert found.is_contiguous(memory_format=layout)
    found, found_bias = torch.ops.genlab.conv2d_backward_weight(grad, x, (kernel, kernel), *attributes, True)
    assert error(found, torch.nn.grad.conv2d_weight(x.double(), weight.shape, grad.double(), stride, padding)) < 5e-6
    assert error(found_bias, grad.double().sum((0, 2, 3))) < 5e-6
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("output_padding", [0, 1])
def test_transposed_convolution_with_bias_and_activation(output_padding):
    x, weight, bias = draw(3, 48, 9, 8), draw(48, 32, 4, 4, layout=CONTIGUOUS, seed=1), draw(32, seed=2)
    arguments = {"stride": 2, "padding": 1, "output_padding": output_padding}
    expected = F.conv_transpose2d(x.double(), weight.double(), bias.double(), **arguments).tanh()
    found = ops.conv_transpose2d(x, weight, bias, **arguments, activation="tanh", impl="native")
    assert error(found, expected) < 5e-6


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu"])
def test_activation_in_the_output_transform(activation):
    x, weight, bias = draw(2, 16, 9, 9), draw(32, 16, 3, 3, seed=1), draw(32, seed=2)
    found = ops.conv2d(x, weight, bias, padding=1, activation=activation, impl="native")
    expected = ops.conv2d(
        x.double(), weight.double(), bias.double(), padding=1, activation=activation, impl="reference"
    )
    assert error(found, expected) < 5e-6


@pytest.mark.parametrize("padding", [1, 2])
def test_reflect_padding_and_its_gradients(padding):
    x, weight = draw(2, 32, 11, 9), draw(48, 32, 3, 3, seed=1)
    arguments = {"padding": padding, "padding_mode": "reflect"}

    def run(x: Tensor, weight: Tensor, impl: str) -> tuple[Tensor, ...]:
        x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = ops.conv2d(x, weight, **arguments, impl=impl)
        grad = draw(*y.shape, seed=2).to(y.dtype)
        return (y.detach(), *torch.autograd.grad(y, (x, weight), grad))

    for found, expected in zip(run(x, weight, "native"), run(x.double(), weight.double(), "torch"), strict=True):
        assert error(found, expected) < 5e-6


@pytest.mark.parametrize("kernel, stride", [(3, 1), (4, 2)])
def test_gradient_penalty_matches_float64(kernel, stride):
    """Second order through every one of the four ops, as WGAN-GP and R1 take it."""

    def penalty(x: Tensor, weight: Tensor, back: Tensor, impl: str) -> tuple[Tensor, ...]:
        x, weight, back = (t.clone().requires_grad_() for t in (x, weight, back))
        y = ops.conv2d(x, weight, None, stride, 1, activation="leaky_relu", impl=impl)
        y = ops.conv_transpose2d(y, back, None, stride, 1, activation="tanh", impl=impl)
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return (grad.detach(), *torch.autograd.grad(grad.square().sum(), (x, weight, back)))

    tensors = (
        draw(2, 16, 16, 16),
        draw(32, 16, kernel, kernel, seed=1) * 0.1,
        draw(32, 16, kernel, kernel, seed=2) * 0.1,
    )
    expected = penalty(*(t.double() for t in tensors), impl="torch")
    for found, exact in zip(penalty(*tensors, impl="native"), expected, strict=True):
        assert error(found, exact) < 2e-5


def results_with(threads: int, shape: tuple[int, ...]) -> list[Tensor]:
    kernel, stride, padding, n, c_in, c_out, h, w = shape
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, weight = draw(n, c_in, h, w).requires_grad_(), draw(c_out, c_in, kernel, kernel, seed=1).requires_grad_()
        bias = draw(c_out, seed=2).requires_grad_()
        y = ops.conv2d(x, weight, bias, stride, padding, impl="native")
        return [y.detach(), *torch.autograd.grad(y.square().sum(), (x, weight, bias))]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[5], SHAPES[6], SHAPES[11], SHAPES[12]], ids=str)
def test_bits_depend_neither_on_the_threads_nor_on_the_run(shape):
    once = results_with(1, shape)
    for threads in (1, 2, 5):
        for found, expected in zip(results_with(threads, shape), once, strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_makes_nan_of_its_tiles_and_of_nothing_else(value):
    x, weight = draw(1, 16, 24, 24), draw(16, 16, 3, 3, seed=1)
    clean = ops.conv2d(x, weight, padding=1, impl="native")
    x[0, 3, 10, 10] = value
    found = ops.conv2d(x, weight, padding=1, impl="native")
    torchs = F.conv2d(x, weight, padding=1)
    assert not found[~torchs.isfinite()].isfinite().any()
    touched = torch.zeros(24, 24, dtype=torch.bool)
    touched[8:12, 8:12] = True  # the 4x4 tile that all outputs within one pixel of (10, 10) lie in
    assert torch.equal(found[0, :, ~touched], clean[0, :, ~touched])


def test_weights_of_any_strides():
    x, weight = draw(2, 16, 12, 12), draw(32, 16, 3, 3, seed=1)
    wide = torch.full((32, 16, 3, 6), float("nan"))
    wide[..., ::2] = weight
    found = ops.conv2d(x, wide[..., ::2], padding=1, impl="native")
    assert torch.equal(found, ops.conv2d(x, weight, padding=1, impl="native"))


def test_an_empty_batch_has_zero_gradients():
    x, weight = torch.empty(0, 16, 8, 8), draw(32, 16, 3, 3)
    grad_weight, grad_bias = torch.ops.genlab.conv2d_backward_weight(
        torch.empty(0, 32, 8, 8), x, (3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros", True
    )
    assert not grad_weight.any() and not grad_bias.any()
    assert ops.conv2d(x, weight, padding=1, impl="native").shape == (0, 32, 8, 8)


def chosen(x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1, groups: int = 1, mode: str = "zeros") -> str:
    size = x.shape[2] // stride
    pairs = (stride, stride), (1, 1), (dilation, dilation)
    return implementation.choose("conv2d", "auto", x, ConvCall(weight, *pairs, groups, mode, (size, size)))


def test_auto_takes_them_at_the_shapes_of_the_table_and_nowhere_else():
    large = draw(4, 64, 32, 32)
    assert chosen(large, draw(64, 64, 3, 3)) == "native"
    assert chosen(large, draw(64, 64, 3, 3), mode="reflect") == "native"
    assert chosen(large, draw(128, 64, 4, 4), stride=2) == "native"
    assert chosen(large.contiguous(), draw(64, 64, 3, 3)) == "native"
    assert chosen(large.contiguous(), draw(128, 64, 4, 4), stride=2) == "torch"  # too few channels for the copies
    assert chosen(large[:1].contiguous(memory_format=LAST), draw(64, 64, 3, 3)) == "torch"  # too little work
    assert chosen(large, draw(60, 64, 3, 3)) == "torch"
    assert chosen(large, draw(64, 64, 5, 5)) == "torch"
    assert chosen(large, draw(64, 64, 3, 3), stride=2) == "torch"
    assert chosen(large, draw(64, 64, 3, 3), dilation=2) == "torch"
    assert chosen(large, draw(64, 32, 3, 3), groups=2) == "torch"
    assert chosen(large, draw(128, 64, 4, 4), stride=2, mode="reflect") == "torch"
    assert chosen(draw(1, 512, 12, 12), draw(512, 512, 3, 3)) == "torch"  # nine tiles
    assert chosen(draw(1024, 64, 5, 5), draw(64, 64, 3, 3)) == "torch"  # tiles that are mostly empty
    assert chosen(large.double(), draw(64, 64, 3, 3)) == "torch"


def test_auto_widens_bfloat16_at_3x3_where_the_conversions_are_paid_back(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    large, weight = draw(4, 64, 32, 32).bfloat16(), draw(64, 64, 3, 3).bfloat16()
    assert chosen(large, weight) == "native"
    assert chosen(large, weight, mode="reflect") == "native"
    assert chosen(large.contiguous(), weight) == "torch"
    assert chosen(draw(4, 32, 64, 64).bfloat16(), draw(32, 32, 3, 3).bfloat16()) == "torch"  # too few channels
    assert chosen(draw(3, 256, 16, 16).bfloat16(), draw(256, 256, 3, 3).bfloat16()) == "torch"  # 48 tiles
    assert chosen(large, draw(64, 64, 4, 4).bfloat16(), stride=2) == "torch"
    with torch.autocast("cpu", torch.bfloat16):
        assert chosen(large.float(), weight.float()) == "native"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert chosen(large, weight) == "torch"


@pytest.mark.parametrize("activation", [None, "leaky_relu"])
@pytest.mark.parametrize("layout", [LAST, CONTIGUOUS], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_bfloat16_at_3x3_is_the_float32_result_rounded_once(mode, layout, activation):
    tensors = [draw(4, 64, 18, 15, layout=layout), draw(80, 64, 3, 3, seed=1), draw(80, seed=2)]
    narrow = [t.bfloat16().requires_grad_() for t in tensors]
    wide = [t.detach().float().requires_grad_() for t in narrow]
    grad = draw(4, 80, 18, 15, seed=3).bfloat16()
    options = {"padding": 1, "padding_mode": mode, "activation": activation, "impl": "native"}
    found, expected = ops.conv2d(*narrow, **options), ops.conv2d(*wide, **options)
    assert torch.equal(found, expected.bfloat16()) and found.stride() == expected.stride()
    if activation is None:  # an activation's gradient is judged by the rounded output
        found_gradients = torch.autograd.grad(found, narrow, grad)
        for one, other in zip(found_gradients, torch.autograd.grad(expected, wide, grad.float()), strict=True):
            assert torch.equal(one, other.bfloat16()) and one.stride() == other.stride()


def test_bfloat16_transposed_3x3_is_the_float32_result_rounded_once():
    x, weight = draw(4, 64, 18, 15).bfloat16(), draw(64, 80, 3, 3, seed=1).bfloat16()
    found = ops.conv_transpose2d(x, weight, padding=1, impl="native")
    assert torch.equal(found, ops.conv_transpose2d(x.float(), weight.float(), padding=1, impl="native").bfloat16())


def test_auto_and_native_are_the_same_bits_and_torch_is_not():
    x, weight = draw(4, 64, 32, 32), draw(64, 64, 3, 3, seed=1)
    assert torch.equal(ops.conv2d(x, weight, padding=1), ops.conv2d(x, weight, padding=1, impl="native"))
    assert not torch.equal(ops.conv2d(x, weight, padding=1), ops.conv2d(x, weight, padding=1, impl="torch"))
    x, weight = draw(8, 64, 16, 16), draw(64, 64, 4, 4, seed=1)
    found = ops.conv_transpose2d(x, weight, stride=2, padding=1)
    assert torch.equal(found, ops.conv_transpose2d(x, weight, stride=2, padding=1, impl="native"))


def test_auto_stays_with_torch_where_the_machine_lacks_the_instructions(monkeypatch):
    monkeypatch.setattr(tuning, "_HAS_AVX512", False)
    assert chosen(draw(4, 64, 32, 32), draw(64, 64, 3, 3)) == "torch"


def test_forward_mode_takes_torch_by_itself_and_refuses_native():
    x, weight = draw(4, 64, 32, 32), draw(64, 64, 3, 3, seed=1)
    _, tangent = torch.func.jvp(lambda v: ops.conv2d(v, weight, padding=1), (x,), (x,))
    assert torch.equal(tangent, F.conv2d(x, weight, padding=1))
    with pytest.raises(NotImplementedError, match="there is no forward-mode derivative"):
        torch.func.jvp(lambda v: ops.conv2d(v, weight, padding=1, impl="native"), (x,), (x,))


def test_per_sample_gradients_run_under_auto():
    x, weight = draw(4, 64, 32, 32), draw(64, 64, 3, 3, seed=1)

    def loss(weight: Tensor, image: Tensor) -> Tensor:
        return ops.conv2d(image[None], weight, padding=1).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, x)
    assert found.shape == (4, 64, 64, 3, 3)


def test_the_summary_names_every_class():
    text = tuning.winograd_summary()
    assert all(f"{row.kernel}x{row.kernel} stride {row.stride}" in text for row in tuning.WINOGRAD)
    (row,) = [r for r in ops.describe() if (r.op, r.device, r.dtype) == ("conv2d", "cpu", "float32")]
    assert text in row.reason
