"""The leading eigenvalue against the whole Hessian, and SAM's step against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genlab.sharpness import at_worst_neighbour, leading_eigenvalue


def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return network, torch.randn(20, 3, dtype=torch.double), torch.arange(20) % 2


def test_the_leading_eigenvalue_is_that_of_the_whole_hessian():
    network, images, labels = problem()
    names = [name for name, _ in network.named_parameters()]

    def loss_of(*values):
        outputs = torch.func.functional_call(network, dict(zip(names, values, strict=True)), (images,))
        return nn.functional.cross_entropy(outputs, labels)

    values = tuple(network.parameters())
    blocks = torch.autograd.functional.hessian(loss_of, values)
    rows = [torch.cat([b.reshape(p.numel(), -1) for b in row], 1) for p, row in zip(values, blocks, strict=True)]
    eigenvalues = torch.linalg.eigvalsh(torch.cat(rows))
    expected = eigenvalues[eigenvalues.abs().argmax()].item()
    found, count = leading_eigenvalue(
        lambda: nn.functional.cross_entropy(network(images), labels), values, iterations=500, tolerance=1e-9
    )
    assert found == pytest.approx(expected, rel=1e-4)
    assert 1 < count <= 500


def test_of_a_quadratic_it_is_the_largest_curvature_by_magnitude():
    weight = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    curvature = torch.tensor([2.0, -7.0, 3.0])
    value, _ = leading_eigenvalue(lambda: 0.5 * (curvature * weight**2).sum(), [weight], iterations=100)
    assert value == pytest.approx(-7.0, rel=1e-2)
    assert leading_eigenvalue(lambda: weight.sum() * 3, [weight])[0] == 0.0
    with pytest.raises(ValueError, match="expected iterations of at least 1, got 0"):
        leading_eigenvalue(lambda: weight.sum(), [weight], iterations=0)


@pytest.mark.parametrize("adaptive", [False, True])
def test_inside_the_weights_are_the_worst_neighbour_and_come_back_bit_for_bit(adaptive):
    network, images, labels = problem()
    norm = nn.BatchNorm1d(2).double()
    whole = nn.Sequential(network, norm)
    loss = nn.functional.cross_entropy(whole(images), labels)
    loss.backward()
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    weights = torch.cat([p.detach().flatten() for p in whole.parameters()])
    gradient = torch.cat([p.grad.flatten() for p in whole.parameters()])
    step = weights.abs() * gradient if adaptive else gradient
    expected = 0.1 * (step * weights.abs() if adaptive else step) / step.norm()
    with at_worst_neighbour(whole, 0.1, adaptive):
        moved = torch.cat([p.detach().flatten() for p in whole.parameters()]) - weights
        torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-12)
        assert all(p.grad is None for p in whole.parameters())
        higher = nn.functional.cross_entropy(whole(images), labels)
        assert higher > loss
        higher.backward()
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    assert all(p.grad is not None for p in whole.parameters())


def test_the_mean_of_several_losses_has_the_eigenvalue_of_the_whole():
    network, images, labels = problem()
    parts = [slice(0, 10), slice(10, 20)]

    def loss_of(part):
        return lambda: nn.functional.cross_entropy(network(images[part]), labels[part])

    values = list(network.parameters())
    found = [
        leading_eigenvalue(losses, values, iterations=300, tolerance=1e-10, generator=torch.Generator().manual_seed(1))
        for losses in (loss_of(slice(None)), [loss_of(part) for part in parts])
    ]
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-9) and found[0][1] == found[1][1]
    with pytest.raises(ValueError, match="expected at least one loss, got none"):
        leading_eigenvalue([], values)
