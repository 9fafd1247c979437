"""The activations that convolution and normalisation can end in, and their gradients.

A fused op hands back only its output, so relu, leaky_relu, tanh and sigmoid take their gradient from the output; gelu
and silu are not invertible and take it from their input. Every gradient is made of torch ops that differentiate again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ("relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu")


def check(op: str, activation: str | None, negative_slope: float) -> None:
    """Raises ValueError unless `activation` is None or one of `ACTIVATIONS`."""
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"{op}: expected activation None or one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if activation == "leaky_relu" and not negative_slope >= 0:
        raise ValueError(
            f"{op}: expected negative_slope >= 0, got {negative_slope}; apply torch.nn.functional.leaky_relu for others"
        )


def takes_gradient_from_output(activation: str | None) -> bool:
    """Whether the activation's gradient is a function of its output alone."""
    return activation not in ("gelu", "silu")


def apply(x: Tensor, activation: str | None, negative_slope: float) -> Tensor:
    """The activation of `x`, as a new tensor. gelu is the exact one (erf)."""
    if activation is None:
        return x
    if activation == "relu":
        return F.relu(x)
    if activation == "leaky_relu":
        return F.leaky_relu(x, negative_slope)
    if activation == "tanh":
        return torch.tanh(x)
    if activation == "sigmoid":
        return torch.sigmoid(x)
    if activation == "gelu":
        return F.gelu(x)
    return F.silu(x)


def apply_(x: Tensor, activation: str | None, negative_slope: float) -> Tensor:
    """The activation of `x`, written over `x` where its gradient allows it.

    Only for a tensor nobody else holds and whose producer does not need it in its own backward (a convolution, a sum, a
    batch normalisation): it saves one tensor of memory traffic per layer.
    """
    if activation == "relu":
        return F.relu(x, inplace=True)
    if activation == "leaky_relu":
        return F.leaky_relu(x, negative_slope, inplace=True)
    if activation == "tanh":
        return x.tanh_()
    if activation == "sigmoid":
        return x.sigmoid_()
    return apply(x, activation, negative_slope)


def gradient(grad_output: Tensor, saved: Tensor, activation: str | None, negative_slope: float) -> Tensor:
    """Gradient with respect to the activation's input.

    Args:
        grad_output: gradient with respect to the activation's output.
        saved: the activation's output where `takes_gradient_from_output(activation)`, else its input; same shape.
        activation: one of `ACTIVATIONS` or None.
        negative_slope: slope of leaky_relu below zero.
    """
    if activation is None:
        return grad_output
    if activation == "relu":
        return torch.ops.aten.threshold_backward(grad_output, saved, 0)
    if activation == "leaky_relu":
        return torch.ops.aten.leaky_relu_backward(grad_output, saved, negative_slope, True)
    if activation == "tanh":
        return torch.ops.aten.tanh_backward(grad_output, saved)
    if activation == "sigmoid":
        return torch.ops.aten.sigmoid_backward(grad_output, saved)
    if activation == "gelu":
        return torch.ops.aten.gelu_backward(grad_output, saved)
    sigmoid = torch.sigmoid(saved)
    return grad_output * (sigmoid * (1 + saved * (1 - sigmoid)))


def gradient_of_output(grad: Tensor, output: Tensor, activation: str | None) -> Tensor | None:
    """What `gradient` adds to the gradient of the activation's output when it is differentiated itself.

    Args:
        grad: grad_output times the gradient of `gradient`'s result.
        output: of the activation, one that `takes_gradient_from_output`.

    Returns:
        The gradient with respect to `output`, None where it is zero: the derivative of relu and leaky_relu is constant.
    """
    if activation == "tanh":
        return grad * (-2 * output)
    if activation == "sigmoid":
        return grad * (1 - 2 * output)
    return None
