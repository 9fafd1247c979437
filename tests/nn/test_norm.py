"""Modules of the normalisations against their torch.nn twins: state, values, statistics, copies."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import genlab.nn as gnn
from genlab import _extension

IMPLEMENTATIONS = ["auto", "torch", "reference", *(["native"] if _extension.available() else [])]
TWINS = [
    (nn.BatchNorm2d, gnn.BatchNormAct2d, (6,), {}),
    (nn.BatchNorm2d, gnn.BatchNormAct2d, (6,), {"momentum": None}),
    (nn.BatchNorm2d, gnn.BatchNormAct2d, (6,), {"affine": False, "track_running_stats": False}),
    (nn.InstanceNorm2d, gnn.InstanceNormAct2d, (6,), {}),
    (nn.InstanceNorm2d, gnn.InstanceNormAct2d, (6,), {"affine": True, "track_running_stats": True, "momentum": 0.3}),
    (nn.LayerNorm, gnn.LayerNormAct, ((5, 4),), {}),
    (nn.LayerNorm, gnn.LayerNormAct, (4,), {"elementwise_affine": False, "eps": 1e-3}),
]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("theirs, ours, args, kwargs", TWINS, ids=lambda value: getattr(value, "__name__", None))
def test_loads_its_twin_and_agrees_in_training_and_evaluation(theirs, ours, args, kwargs, impl):
    twin, layer = theirs(*args, **kwargs), ours(*args, **kwargs, activation="relu", impl=impl)
    for parameter in twin.parameters():
        nn.init.normal_(parameter)
    layer.load_state_dict(twin.state_dict())
    for training in (True, True, False):
        twin.train(training)
        layer.train(training)
        input, residual = torch.randn(3, 6, 5, 4), torch.randn(3, 6, 5, 4)
        torch.testing.assert_close(layer(input, residual), (twin(input) + residual).relu(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.state_dict(), twin.state_dict())
    torch.testing.assert_close(copy.deepcopy(layer)(input), layer(input))


def test_instance_norm_takes_an_image_without_batch():
    layer = gnn.InstanceNormAct2d(3, activation="relu")
    image = torch.randn(3, 8, 8)
    torch.testing.assert_close(layer(image), layer(image[None])[0])


def test_ranks_are_refused_as_by_torch():
    with pytest.raises(ValueError, match="expected 4D input"):
        gnn.BatchNormAct2d(3)(torch.randn(2, 3))


@pytest.mark.parametrize("layer", [gnn.InstanceNormAct2d, gnn.LayerNormAct])
def test_options_are_shown_and_checked(layer):
    assert "activation=leaky_relu, negative_slope=0.1, impl=torch" in repr(
        layer(3, activation="leaky_relu", negative_slope=0.1, impl="torch")
    )
    with pytest.raises(ValueError, match="got 'mish'"):
        layer(3, activation="mish")
    with pytest.raises(ValueError, match="expected impl to be one of"):
        layer(3, impl="quick")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("layer", [gnn.InstanceNormAct2d, gnn.BatchNormAct2d])
def test_reflect_pad_takes_the_place_of_a_reflection_pad_after_the_layer(layer, impl):
    input, residual = torch.randn(2, 16, 5, 4, requires_grad=True), torch.randn(2, 16, 5, 4, requires_grad=True)
    plain, padded = (layer(16, activation="relu", impl=impl, reflect_pad=pad) for pad in (0, 3))
    assert "reflect_pad=3" in repr(padded) and "reflect_pad" not in repr(plain)
    results = []
    for call in (lambda *given: nn.ReflectionPad2d(3)(plain(*given)), padded):
        output = call(input, residual)
        results.append((output, *torch.autograd.grad((output * output.detach().sin()).sum(), (input, residual))))
    torch.testing.assert_close(results[1], results[0])
