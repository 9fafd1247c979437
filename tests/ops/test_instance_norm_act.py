"""instance_norm_act: values, running statistics, derivatives and refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from genlab import _extension, ops

IMPLEMENTATIONS = ["torch", "reference", *(["native"] if _extension.available() else [])]
SHAPES = [(1, 1, 2, 1), (2, 3, 4, 5), (3, 7, 9), (2, 16, 3, 3), (1, 5, 2, 3, 2)]


@pytest.mark.parametrize("use_input_stats", [True, False])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu"])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_agrees_with_torch_functional_in_values_gradients_and_running_statistics(impl, activation, use_input_stats):
    for shape in SHAPES:
        channels = shape[1]
        leaves = [torch.randn(shape), torch.randn(channels), torch.randn(channels), torch.randn(shape)]
        input, weight, bias, residual = leaves = [leaf.double().requires_grad_() for leaf in leaves]
        mean, var = torch.randn(channels).double(), torch.rand(channels).double() + 0.5
        expected_mean, expected_var = mean.clone(), var.clone()
        expected = F.instance_norm(input, expected_mean, expected_var, weight, bias, use_input_stats, 0.3, 1e-4)
        expected = ops.activation.apply(expected + residual, activation, 0.1)
        found = ops.instance_norm_act(
            input, mean, var, weight, bias, use_input_stats, 0.3, 1e-4, activation=activation, negative_slope=0.1,
            residual=residual, impl=impl,
        )  # fmt: skip
        grad_output = torch.randn_like(expected)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, leaves, grad_output), torch.autograd.grad(expected, leaves, grad_output)
        )
        torch.testing.assert_close((mean, var), (expected_mean, expected_var))


@pytest.mark.parametrize("use_input_stats", [True, False])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_differentiates_twice(impl, use_input_stats):
    leaves = [torch.randn(2, 2, 2, 3), torch.randn(2), torch.randn(2), torch.randn(2, 2, 2, 3)]
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    mean, var = torch.randn(2).double(), torch.rand(2).double() + 0.5

    def call(input, weight, bias, residual):
        return ops.instance_norm_act(
            input, mean.clone(), var.clone(), weight, bias, use_input_stats, activation="tanh", residual=residual,
            impl=impl,
        )  # fmt: skip

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("input_layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_the_gradient_of_one_sample_does_not_depend_on_the_memory_order(impl, input_layout):
    """torch's own is wrong here: see norm_shapes.torch_instance_norm."""
    input, grad_output = torch.randn(1, 16, 5, 6), torch.randn(1, 16, 5, 6)
    for created in (False, True):
        found = []
        for layout in (torch.contiguous_format, torch.channels_last):
            leaf = input.contiguous(memory_format=input_layout).requires_grad_()
            output = ops.instance_norm_act(leaf, activation="tanh", impl=impl)
            given = grad_output.contiguous(memory_format=layout).requires_grad_()
            (grad,) = torch.autograd.grad(output, leaf, given, create_graph=created)
            found.append(torch.autograd.grad(grad, leaf, given)[0] if created else grad)
        torch.testing.assert_close(*found)
        if not created:
            exact = input.double().requires_grad_()
            value = ops.instance_norm_act(exact, activation="tanh", impl="reference")
            (expected,) = torch.autograd.grad(value, exact, grad_output.double())
            torch.testing.assert_close(found[0].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_an_empty_batch_passes(impl):
    assert ops.instance_norm_act(torch.randn(0, 3, 4, 4), activation="relu", impl=impl).shape == (0, 3, 4, 4)


X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MEAN, VAR = torch.zeros(3), torch.ones(3)
REFUSALS = {
    "rank": ((X[0, 0],), {}, ValueError, r"expected input of shape \(N, C, ...\) with space, got \(4, 4\)"),
    "integer": ((X.long(),), {}, TypeError, "expected a floating point input"),
    "mean_shape": ((X, MEAN[:2], VAR), {}, ValueError, r"expected running_mean of shape \(3,\), got \(2\)"),
    "weight_dtype": ((X, MEAN, VAR, MEAN.double()), {}, TypeError, "expected weight of the input's dtype"),
    "bias_device": ((X, MEAN, VAR, None, MEAN.to("meta")), {}, RuntimeError, "bias on the input's device"),
    "one_statistic": ((X, MEAN, None), {}, ValueError, "running_mean and running_var both or neither"),
    "no_statistics": ((X,), {"use_input_stats": False}, ValueError, "when use_input_stats=False, got None"),
    "one_value": ((X[:, :, :1, :1],), {}, ValueError, "more than 1 spatial element"),
    "residual": ((X,), {"residual": X[:1]}, ValueError, "expected residual of the input's shape"),
    "activation": ((X,), {"activation": "mish"}, ValueError, "got 'mish'"),
    "eps": ((X,), {"eps": -1.0}, ValueError, "expected eps >= 0"),
    "pad_type": ((X,), {"reflect_pad": 1.0}, TypeError, "expected reflect_pad to be an int, got 1.0"),
    "pad_negative": ((X,), {"reflect_pad": -1}, ValueError, "expected reflect_pad >= 0, got -1"),
    "pad_rank": ((X[0],), {"reflect_pad": 1}, ValueError, r"input of shape \(N, C, H, W\), got 1 with \(3, 4, 4\)"),
    "pad_size": ((X,), {"reflect_pad": 4}, ValueError, "expected reflect_pad less than height and width"),
    "impl": ((X,), {"impl": "mine"}, ValueError, "expected impl to be one of"),
    "native_dtype": ((X.half(),), {"impl": "native"}, NotImplementedError, "dtype float16 is not one of"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_with_a_sentence(name):
    arguments, keywords, error, message = REFUSALS[name]
    with pytest.raises(error, match=message) as caught:
        ops.instance_norm_act(*arguments, **keywords)
    assert str(caught.value).startswith("instance_norm_act: ")
