"""Convolution fused with the normalisations around it: values, gradients of any order, layouts, autocast, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import LOW_PRECISION_FACTOR
from torch import Tensor

from genlab import _extension, ops
from genlab.ops import InputNorm

needs_kernels = pytest.mark.skipif(not _extension.available(), reason="the extension is not built")
pytestmark = needs_kernels
IMPLS = ["native", "torch"]
NAMES = ("input", "mean", "var", "norm_weight", "norm_bias", "weight", "bias")
TRANSPOSE = {"stride": 2, "padding": 1, "output_padding": 1}
# (transposed, input, weight, arguments, activation): tails, phases, groups, dilation, reflection, the GAN's 4x4 layers.
SAMPLES = {
    "plain": (False, (2, 5, 7, 6), (4, 5, 3, 3), {"padding": 1}, "leaky_relu"),
    "strided": (False, (2, 3, 9, 8), (6, 3, 4, 4), {"stride": 2, "padding": 1}, "relu"),
    "grouped": (False, (1, 4, 5, 5), (6, 2, 3, 3), {"groups": 2, "padding": (2, 1), "dilation": (2, 1)}, "tanh"),
    "reflect": (False, (2, 3, 5, 6), (4, 3, 3, 3), {"padding": 1, "padding_mode": "reflect"}, "silu"),
    "winograd": (False, (2, 16, 8, 8), (32, 16, 3, 3), {"padding": 1}, "relu"),
    "transposed": (True, (2, 4, 3, 5), (4, 3, 3, 3), TRANSPOSE, "leaky_relu"),
    "transposed_grouped": (True, (2, 4, 3, 3), (4, 3, 4, 4), {"groups": 2, "stride": 2, "padding": 1}, "gelu"),
    "projection": (True, (3, 6, 1, 1), (6, 5, 4, 4), {}, None),
    "far_output_padding": (True, (2, 3, 4, 4), (3, 2, 3, 3), {"dilation": 3, "stride": 2, "output_padding": 2}, "relu"),
}


def tensors(name: str, dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format) -> list[Tensor]:
    transposed, size, weight, arguments, _ = SAMPLES[name]
    generator = torch.Generator().manual_seed(5)
    channels, results = size[1], weight[1] * arguments.get("groups", 1) if transposed else weight[0]

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    vectors = torch.float64 if dtype == torch.float64 else torch.float32
    made = [
        drawn(*size).to(dtype).contiguous(memory_format=layout), drawn(channels).to(vectors),
        drawn(channels).abs().add(0.3).to(vectors), drawn(channels).to(vectors), drawn(channels).to(vectors),
        drawn(*weight).to(dtype).contiguous(memory_format=layout), drawn(results).to(dtype),
    ]  # fmt: skip
    return [t.requires_grad_() for t in made]


def call(name: str, made: list[Tensor | None], impl: str, *, statistics: bool = True) -> list[Tensor]:
    transposed, _, _, arguments, activation = SAMPLES[name]
    input, mean, var, norm_weight, norm_bias, weight, bias = made
    norm = None if mean is None else InputNorm(mean, var, norm_weight, norm_bias, 1e-5, activation, 0.2)
    op = ops.norm_conv_transpose2d if transposed else ops.norm_conv2d
    found = op(input, norm, weight, bias, **arguments, statistics=statistics, impl=impl)
    return [t for t in found if t is not None]


def with_gradients(name: str, made: list[Tensor], impl: str) -> list[Tensor]:
    outputs = call(name, made, impl)
    generator = torch.Generator().manual_seed(7)
    grads = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in outputs]
    return [*(t.detach() for t in outputs), *torch.autograd.grad(outputs, made, grads)]


def exact(made: list[Tensor]) -> list[Tensor]:
    return [t.detach().double().contiguous().requires_grad_() for t in made]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", SAMPLES)
def test_values_and_every_gradient(name, impl, dtype, layout):
    made = tensors(name, dtype, layout)
    found, expected = with_gradients(name, made, impl), with_gradients(name, exact(made), "reference")
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-4}
    for label, a, e in zip(("output", "out_mean", "out_var", *NAMES), found, expected, strict=True):
        torch.testing.assert_close(a.double(), e, **tolerance, msg=lambda text, label=label: f"{label}: {text}")


@pytest.mark.parametrize("name", ["strided", "transposed", "winograd"])
def test_bfloat16_errs_no_more_than_twice_as_torch_does(name):
    made = tensors(name, torch.bfloat16, torch.channels_last)
    expected = with_gradients(name, exact(made), "reference")
    found, peer = (with_gradients(name, made, impl) for impl in IMPLS)
    for label, a, p, e in zip(("output", "out_mean", "out_var", *NAMES), found, peer, expected, strict=True):
        error, peer_error = ((t.double() - e).norm() / e.norm() for t in (a, p))
        assert error <= LOW_PRECISION_FACTOR * peer_error + 2e-3, f"{label}: {error} against {peer_error}"


@pytest.mark.parametrize("name", ["plain", "grouped", "reflect", "transposed", "transposed_grouped"])
def test_gradients_of_gradients(name):
    made = tensors(name, torch.float64)
    check = lambda *given: tuple(call(name, list(given), "native"))  # noqa: E731
    assert torch.autograd.gradcheck(check, made, fast_mode=True)
    assert torch.autograd.gradgradcheck(check, made, fast_mode=True)


@pytest.mark.parametrize("name", ["plain", "transposed"])
def test_without_a_normalisation_and_without_statistics_it_is_the_convolution(name):
    transposed, _, _, arguments, _ = SAMPLES[name]
    made = tensors(name, torch.float32)
    input, weight, bias = made[0], made[5], made[6]
    (found,) = call(name, [input, None, None, None, None, weight, bias], "native", statistics=False)
    plain = (ops.conv_transpose2d if transposed else ops.conv2d)(input, weight, bias, **arguments, impl="native")
    assert torch.equal(found, plain)
    grad = torch.randn_like(found)
    for a, b in zip(*(torch.autograd.grad(y, (input, weight, bias), grad) for y in (found, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_padding_is_zero_whatever_the_normalisation_makes_of_zero():
    x, weight = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 3, 3)
    norm = InputNorm(torch.zeros(1), torch.ones(1), bias=torch.full((1,), 7.0))
    for impl in ("native", "torch", "reference"):
        found = ops.norm_conv2d(x, norm, weight, padding=1, impl=impl).output
        torch.testing.assert_close(found, torch.full((1, 1, 1, 1), 7.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_two_in_a_row_are_batch_normalisation_between_convolutions(impl):
    """The gradient of batch normalisation comes about by itself, the mean and variance being functions of the input."""
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    first, second = torch.randn(5, 3, 3, 3, dtype=torch.float64), torch.randn(2, 5, 3, 3, dtype=torch.float64)
    scale, shift = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, first, scale, shift, second)]
    before = ops.norm_conv2d(x, None, first, padding=1, statistics=True, impl=impl)
    norm = InputNorm(before.mean, before.var, scale, shift, activation="leaky_relu")
    found = ops.norm_conv2d(before.output, norm, second, stride=2, impl=impl).output
    between = F.leaky_relu(F.batch_norm(F.conv2d(x, first, padding=1), None, None, scale, shift, True), 0.2)
    expected = F.conv2d(between, second, stride=2)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    for a, b in zip(*(torch.autograd.grad(y, leaves, grad) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_statistics_alone_have_a_gradient():
    made = tensors("plain", torch.float64)
    _, _, var = call("plain", made, "native")
    _, _, expected = call("plain", made, "reference")
    for a, b in zip(*(torch.autograd.grad(v.sum(), made[:6]) for v in (var, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_convolves_in_its_dtype_and_keeps_the_statistics_in_float32():
    made = tensors("winograd", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradients("winograd", made, "native")
    assert [t.dtype for t in found[:3]] == [torch.bfloat16, torch.float32, torch.float32]
    assert all(t.dtype == torch.float32 for t in found[3:])
    expected = with_gradients("winograd", exact(made), "reference")
    for a, e in zip(found, expected, strict=True):
        assert (a.double() - e).norm() / e.norm() < 0.05


@pytest.mark.parametrize("name", ["strided", "transposed"])
def test_opcheck(name):
    made = tensors(name, torch.float64)
    transposed, _, _, arguments, activation = SAMPLES[name]
    pair = lambda key, default: (arguments.get(key, default),) * 2  # noqa: E731
    rest = (pair("stride", 1), pair("padding", 0), pair("output_padding", 0), (1, 1), 1, "zeros", transposed, True)
    before = (*made[:5], 1e-5, activation, 0.2)
    torch.library.opcheck(torch.ops.genlab.norm_conv2d.default, (*before, made[5], made[6], *rest, True))
    output, mean, var = call(name, made, "native")
    kept = [torch.randn_like(t).detach().requires_grad_() for t in (output, mean, var)]
    given = (*kept, output.detach(), mean.detach(), *before, made[5], *rest, [True] * 7)
    torch.library.opcheck(torch.ops.genlab.norm_conv2d_backward.default, given)


def test_compiles_without_a_break():
    made = tensors("plain", torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *t: tuple(call("plain", list(t), "native")), fullgraph=True, backend="aot_eager")
    outputs, expected = compiled(*made), call("plain", made, "native")
    grads = [torch.ones_like(t) for t in outputs]
    for a, b in zip(
        (*outputs, *torch.autograd.grad(outputs, made, grads)),
        (*expected, *torch.autograd.grad(expected, made, grads)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_the_normalised_tensor_is_not_kept_for_the_backward_pass():
    made = tensors("plain", torch.float32)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        output, *_ = call("plain", made, "native")
    images = [size for size in sizes if size in (made[0].numel(), output.numel())]
    assert sorted(images) == sorted([made[0].numel(), output.numel()])


@pytest.mark.parametrize("impl", [*IMPLS, "reference"])
def test_an_empty_batch_gives_an_empty_output_and_no_statistics(impl):
    norm = InputNorm(torch.zeros(3), torch.ones(3))
    input, weight = torch.zeros(0, 3, 6, 6), torch.randn(4, 3, 3, 3)
    assert ops.norm_conv2d(input, norm, weight, impl=impl).output.shape == (0, 4, 4, 4)
    with pytest.raises(ValueError, match=r"norm_conv2d: expected values to take statistics of, got input \(0, 3"):
        ops.norm_conv2d(input, norm, weight, statistics=True, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_and_infinity_propagate(impl):
    x = torch.randn(1, 2, 5, 5)
    x[0, 0, 2, 2] = float("nan")
    norm = InputNorm(torch.zeros(2), torch.ones(2), activation="relu")
    found = ops.norm_conv2d(x, norm, torch.randn(3, 2, 3, 3), statistics=True, impl=impl)
    assert found.output[:, :, 0:3, 0:3].isnan().all() and found.mean.isnan().all() and found.var.isnan().all()


@pytest.mark.parametrize(
    ("name", "change"), [("output_mean", {"mean": torch.zeros(4)}), ("grad_mean", {"grad": torch.zeros(6)})]
)
def test_the_gradient_refuses_statistics_of_other_channels(name, change):
    x, weight, output = torch.randn(2, 4, 6, 6), torch.randn(5, 4, 3, 3), torch.randn(2, 5, 4, 4)
    mean, grad = change.get("mean", torch.zeros(5)), change.get("grad", torch.zeros(5))
    rest = ((1, 1), (0, 0), (0, 0), (1, 1), 1, "zeros", False, True, [True] * 7)
    with pytest.raises(ValueError, match=rf"norm_conv2d_backward: expected {name} of shape \(5\)"):
        torch.ops.genlab.norm_conv2d_backward(
            output, grad, None, output, mean, x, *(None,) * 4, 0.0, None, 0.0, weight, *rest
        )


X, W, NORM = torch.randn(2, 4, 6, 6), torch.randn(5, 4, 3, 3), InputNorm(torch.zeros(4), torch.ones(4))
REFUSALS = {
    "mean": ((X, NORM._replace(mean=torch.zeros(5)), W), {}, ValueError, r"norm\.mean of shape \(4,\), got \(5\)"),
    "weight": ((X, NORM._replace(weight=torch.ones(3)), W), {}, ValueError, r"norm\.weight of shape"),
    "dtype": ((X, NORM._replace(var=torch.ones(4).double()), W), {}, TypeError, r"norm\.var of the input's dtype"),
    "eps": ((X, NORM._replace(eps=-1.0), W), {}, ValueError, "eps >= 0, got -1"),
    "activation": ((X, NORM._replace(activation="swish"), W), {}, ValueError, "activation None or one of relu"),
    "channels": ((X, NORM, torch.randn(5, 3, 3, 3)), {}, ValueError, "input with 3 channels"),
    "rank": ((X[0], NORM, W), {}, ValueError, "input of shape"),
    "same": ((X, NORM, torch.randn(5, 4, 2, 2)), {"padding": "same"}, ValueError, "pads both sides alike"),
    "impl": ((X, NORM, W), {"impl": "cuda"}, ValueError, "impl to be one of auto"),
    "stride": ((X, NORM, W), {"stride": 0}, ValueError, "stride >= 1"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_with_a_sentence(name):
    arguments, keywords, error, message = REFUSALS[name]
    with pytest.raises(error, match=message) as caught:
        ops.norm_conv2d(*arguments, **keywords)
    assert str(caught.value).startswith("norm_conv2d: ")
