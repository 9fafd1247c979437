"""batch_norm_act on one process: values, running statistics, derivatives and refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conv_samples import tensor

from genlab import _extension, ops

IMPLEMENTATIONS = ["torch", "reference", *(["native"] if _extension.available() else [])]
SHAPES = [(2, 1, 1, 1), (1, 3, 4, 5), (4, 7, 3, 3), (3, 5, 1, 1)]


def statistics(channels: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(channels, dtype=dtype), torch.rand(channels, dtype=dtype) + 0.5


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu"])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_agrees_with_torch_functional_in_values_gradients_and_running_statistics(impl, activation, training):
    for shape in SHAPES:
        channels = shape[1]
        leaves = [torch.randn(shape), torch.randn(channels), torch.randn(channels), torch.randn(shape)]
        leaves = [leaf.double().requires_grad_() for leaf in leaves]
        input, weight, bias, residual = leaves
        mean, var = statistics(channels)
        expected_mean, expected_var = mean.clone(), var.clone()
        expected = F.batch_norm(input, expected_mean, expected_var, weight, bias, training, 0.3, 1e-4) + residual
        expected = ops.activation.apply(expected, activation, 0.1)
        found = ops.batch_norm_act(
            input, mean, var, weight, bias, training, 0.3, 1e-4, activation=activation, negative_slope=0.1,
            residual=residual, impl=impl,
        )  # fmt: skip
        grad_output = torch.randn_like(expected)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, leaves, grad_output), torch.autograd.grad(expected, leaves, grad_output)
        )
        torch.testing.assert_close((mean, var), (expected_mean, expected_var))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("training", [True, False])
def test_differentiates_twice(impl, training):
    leaves = [torch.randn(3, 2, 2, 3), torch.randn(2), torch.randn(2), torch.randn(3, 2, 2, 3)]
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    mean, var = statistics(2)

    def call(input, weight, bias, residual):
        return ops.batch_norm_act(
            input, mean.clone(), var.clone(), weight, bias, training, activation="tanh", residual=residual, impl=impl
        )

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced"])
def test_layouts_agree(layout):
    plain = tensor((2, 4, 5, 6), torch.float32, "cpu", "contiguous", 1)
    strided = tensor((2, 4, 5, 6), torch.float32, "cpu", layout, 1)
    for impl in IMPLEMENTATIONS:
        expected = ops.batch_norm_act(plain, None, None, training=True, activation="relu", impl="reference")
        found = ops.batch_norm_act(strided, None, None, training=True, activation="relu", impl=impl)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_bfloat16_keeps_statistics_in_float32(impl):
    input = torch.randn(4, 3, 6, 6).bfloat16()
    mean, var = torch.zeros(3), torch.ones(3)
    output = ops.batch_norm_act(input, mean, var, torch.ones(3), torch.zeros(3), True, impl=impl)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(mean, 0.1 * input.float().mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    expected = F.batch_norm(input.float(), None, None, training=True)
    torch.testing.assert_close(output.float(), expected, rtol=0.01, atol=0.01)


def test_a_small_variance_beside_a_large_mean_keeps_its_digits():
    input = torch.randn(8, 2, 8, 8, dtype=torch.float64) * 0.01 + 100
    expected = ops.batch_norm_act(input, None, None, training=True, impl="reference")
    found = ops.batch_norm_act(input.float(), None, None, training=True, impl="reference")
    torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_an_empty_batch_passes_and_leaves_the_running_statistics(impl, training):
    mean, var = statistics(3, torch.float32)
    before = mean.clone(), var.clone()
    assert ops.batch_norm_act(torch.randn(0, 3, 4, 4), mean, var, training=training, impl=impl).shape == (0, 3, 4, 4)
    assert torch.equal(mean, before[0]) and torch.equal(var, before[1])


X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MEAN, VAR = torch.zeros(3), torch.ones(3)
REFUSALS = {
    "rank": ((X[0, 0, 0], MEAN, VAR), {}, ValueError, r"expected input of shape \(N, C, ...\), got \(4\)"),
    "weight_dtype": ((X, MEAN, VAR, torch.ones(3).double()), {}, TypeError, "expected weight of the input's dtype"),
    "residual_dtype": ((X, MEAN, VAR), {"residual": X.double()}, TypeError, "expected residual of the input's dtype"),
    "integer": ((X.long(), MEAN, VAR), {}, TypeError, "expected a floating point input"),
    "mean_shape": ((X, MEAN[:2], VAR), {}, ValueError, r"expected running_mean of shape \(3,\), got \(2\)"),
    "weight_shape": ((X, MEAN, VAR, torch.ones(4)), {}, ValueError, "expected weight of shape"),
    "bias_device": ((X, MEAN, VAR, None, torch.ones(3, device="meta")), {}, RuntimeError, "bias on the input's device"),
    "one_statistic": ((X, MEAN, None), {}, ValueError, "running_mean and running_var both or neither"),
    "no_statistics": ((X, None, None), {}, ValueError, "expected running_mean and running_var when training=False"),
    "one_value": ((X[:1, :, :1, :1], MEAN, VAR), {"training": True}, ValueError, "more than 1 value per channel"),
    "residual": ((X, MEAN, VAR), {"residual": X[:1]}, ValueError, "expected residual of the input's shape"),
    "activation": ((X, MEAN, VAR), {"activation": "mish"}, ValueError, "got 'mish'"),
    "eps": ((X, MEAN, VAR), {"eps": -1.0}, ValueError, "expected eps >= 0"),
    "pad_type": ((X, MEAN, VAR), {"reflect_pad": True}, TypeError, "expected reflect_pad to be an int, got True"),
    "pad_negative": ((X, MEAN, VAR), {"reflect_pad": -1}, ValueError, "expected reflect_pad >= 0, got -1"),
    "pad_rank": ((X[:, :, 0], MEAN, VAR), {"reflect_pad": 1}, ValueError, r"got 1 with \(\d+, 3, \d+\)"),
    "pad_size": ((X, MEAN, VAR), {"reflect_pad": 9}, ValueError, "expected reflect_pad less than height and width"),
    "impl": ((X, MEAN, VAR), {"impl": "mine"}, ValueError, "expected impl to be one of"),
    "native_dtype": ((X.half(), MEAN, VAR), {"impl": "native"}, NotImplementedError, "dtype float16 is not one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_with_a_sentence(name):
    arguments, keywords, error, message = REFUSALS[name]
    with pytest.raises(error, match=message) as caught:
        ops.batch_norm_act(*arguments, **keywords)
    assert str(caught.value).startswith("batch_norm_act: ")
