"""Conditional batch normalisation: torch's composition, gradients, memory order, averages and synchronised copies."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from genlab.nn import ConditionalBatchNormAct2d, synchronize_batch_norm
from genlab.nn.init import normal_init
from genlab.ops import default_impl


def composition(layer: ConditionalBatchNormAct2d, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The same in plain torch, of the layer's parameters."""
    normalised = F.batch_norm(
        x, layer.running_mean.clone(), layer.running_var.clone(), None, None, layer.training, 0.1, layer.eps
    )
    weight, bias = layer.weight[labels], layer.bias[labels]
    output = normalised * weight[:, :, None, None] + bias[:, :, None, None]
    return output.relu() if layer.activation == "relu" else output


@pytest.mark.parametrize("impl", ["native", "torch", "reference"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_numbers_and_gradients_are_those_of_torchs_composition(impl, training, activation):
    layer = normal_init(ConditionalBatchNormAct2d(6, 4, activation=activation)).train(training)
    torch.nn.init.normal_(layer.bias)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    x, labels = torch.randn(5, 6, 3, 7), torch.tensor([3, 0, 0, 2, 3])
    results = []
    for function in (composition, lambda layer, x, labels: layer(x, labels)):
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        with default_impl(impl):
            output = function(layer, leaf, labels)
        (output * torch.linspace(-1, 1, output.numel()).reshape(output.shape)).sum().backward()
        results.append((output.detach(), leaf.grad, layer.weight.grad.clone(), layer.bias.grad.clone()))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not results[1][3][1].any()  # no sample is of class 1
    assert results[1][3][[0, 2, 3]].any(dim=1).all()


def test_classes_share_the_statistics_and_differ_in_the_affine_map_alone():
    layer = ConditionalBatchNormAct2d(2, 3)
    x = torch.randn(4, 2, 5, 5)
    same = layer(x, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(same, layer(x, torch.tensor([0, 1, 2, 0])))  # equal until the tables are trained
    with torch.no_grad():
        layer.weight[1] = 3
        layer.bias[1] = 0.5
    other = layer(x, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(other[1], same[1] * 3 + 0.5)
    torch.testing.assert_close(other[[0, 2, 3]], same[[0, 2, 3]])
    assert layer.num_batches_tracked == 3


def test_memory_order_copies_and_synchronisation_are_those_of_every_batch_norm():
    layer = ConditionalBatchNormAct2d(4, 3, activation="leaky_relu")
    x = torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    output = layer(x, torch.tensor([0, 2]))
    assert output.is_contiguous(memory_format=torch.channels_last)
    twin = copy.deepcopy(layer).eval()
    torch.testing.assert_close(twin(x, torch.tensor([0, 2])), layer.eval()(x, torch.tensor([0, 2])))
    assert synchronize_batch_norm(layer) == 1
    assert "num_classes=3" in repr(layer)


def test_half_precision_keeps_its_dtype():
    layer = ConditionalBatchNormAct2d(4, 3, activation="relu")
    x = torch.randn(2, 4, 5, 5)
    half = layer(x.bfloat16(), torch.tensor([0, 2]))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(x, torch.tensor([0, 2])), rtol=2e-2, atol=2e-2)
