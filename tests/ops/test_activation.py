"""Activations: values, gradients from what a fused op keeps, and second gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from genlab.ops import ACTIVATIONS, activation

TORCH = {
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "silu": F.silu,
}


def test_every_activation_is_compared():
    assert set(TORCH) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_agree_with_torch(name):
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    torch.testing.assert_close(activation.apply(x, name, 0.2), TORCH[name](x))
    torch.testing.assert_close(activation.apply_(x.clone(), name, 0.2), TORCH[name](x))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradient_agrees_with_autograd_and_differentiates_again(name):
    x = torch.linspace(-3, 3, 13, dtype=torch.float64, requires_grad=True)
    grad_output = torch.randn(13, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(TORCH[name](x), x, grad_output, create_graph=True)
    saved = TORCH[name](x) if activation.takes_gradient_from_output(name) else x
    found = activation.gradient(grad_output, saved, name, 0.2)
    torch.testing.assert_close(found, expected)
    found_second = torch.autograd.grad(found.pow(2).sum(), (x, grad_output))
    expected_second = torch.autograd.grad(expected.pow(2).sum(), (x, grad_output))
    torch.testing.assert_close(found_second, expected_second)


def test_only_an_in_place_activation_writes_over_its_input():
    x = torch.randn(10)
    kept = x.clone()
    activation.apply(x, "relu", 0.2)
    assert torch.equal(x, kept)
    assert activation.apply_(x, "relu", 0.2).data_ptr() == x.data_ptr()
