"""ConvChain against its layers one by one: values, gradients, running statistics, state_dict, when it does not fuse."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from genlab import _extension, ops
from genlab.models.dcgan import DcganDiscriminator, DcganGenerator
from genlab.nn import BatchNormAct2d, Conv2d, ConvChain, ConvTranspose2d

pytestmark = pytest.mark.skipif(not _extension.available(), reason="the extension is not built")


def layers(dtype: torch.dtype = torch.float64) -> list[nn.Module]:
    torch.manual_seed(3)
    made = [
        Conv2d(3, 6, 3, padding=1, activation="leaky_relu"),
        Conv2d(6, 8, 4, stride=2, padding=1, bias=False),
        BatchNormAct2d(8, activation="leaky_relu"),
        ConvTranspose2d(8, 5, 4, stride=2, padding=1, bias=False),
        BatchNormAct2d(5, activation="relu", momentum=0.3),
        Conv2d(5, 2, 3, activation="tanh"),
    ]
    for layer in made:
        if isinstance(layer, BatchNormAct2d):
            nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    return [layer.to(dtype) for layer in made]


class Counter(torch.utils._python_dispatch.TorchDispatchMode):
    """How often an op was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.name().removeprefix("genlab::")
        self.calls[name] = self.calls.get(name, 0) + 1
        return function(*arguments, **(keywords or {}))


def pair(made: list[nn.Module]) -> tuple[ConvChain, nn.Sequential]:
    return ConvChain(*made, fuse=True), copy.deepcopy(nn.Sequential(*made))


@pytest.mark.parametrize("training", [True, False])
def test_gives_what_the_layers_give_one_by_one(training):
    chain, alone = (m.train(training) for m in pair(layers()))
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    for _ in range(2):
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        with Counter() as counter:
            found = chain(inputs[0])
        assert counter.calls["norm_conv2d"] == (3 if training else 2)
        expected = alone(inputs[1])
        torch.testing.assert_close(found, expected)
        grad = torch.randn_like(found)
        gradients = [
            torch.autograd.grad(y, [i, *m.parameters()], grad)
            for y, i, m in zip((found, expected), inputs, (chain, alone), strict=True)
        ]
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)
    for (name, a), b in zip(chain.state_dict().items(), alone.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_fuses_each_normalisation_between_convolutions_and_keeps_no_pass_for_it():
    chain, _ = pair(layers(torch.float32))
    with Counter() as counter:
        chain(torch.randn(4, 3, 6, 6))
    assert counter.calls["norm_conv2d"] == 3
    assert not {"norm_act", "norm_statistics"} & set(counter.calls)


def test_a_normalisation_at_the_end_takes_the_statistics_of_its_convolution_and_a_residual():
    made = layers()[1:3]
    chain, alone = pair(made)
    x = torch.randn(3, 6, 8, 8, dtype=torch.float64, requires_grad=True)
    residual = torch.randn(3, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    with Counter() as counter:
        found = chain(x, residual)
    assert counter.calls["norm_conv2d"] == counter.calls["norm_act"] == 1 and "norm_statistics" not in counter.calls
    expected = alone[1](alone[0](x), residual)
    torch.testing.assert_close(found, expected)
    gradients = [
        torch.autograd.grad(y.square().sum(), [x, residual, *m.parameters()])
        for y, m in ((found, chain), (expected, alone))
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_penalty_on_the_gradient_differentiates_through_the_chain():
    """WGAN-GP's shape of loss: the gradient of a norm of the input's gradient."""
    chain, alone = pair(layers())
    found = []
    for model in (chain, alone):
        x = torch.randn(3, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        penalty = (gradient.square().sum((1, 2, 3)).sqrt() - 1).square().mean()
        found.append(torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True, materialize_grads=True))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", ["off", "unasked", "layer_impl", "hook"])
def test_runs_layer_by_layer_where_it_must(case):
    chain = ConvChain(*layers(torch.float32), fuse={"off": False, "unasked": None}.get(case, True))
    seen = []
    if case == "layer_impl":
        chain[2].impl = "torch"
        chain[4].impl = "torch"
    if case == "hook":
        for layer in (chain[2], chain[4]):
            layer.register_forward_hook(lambda *_: seen.append(1))
    with Counter() as counter:
        chain(torch.randn(2, 3, 6, 6))
    assert "norm_conv2d" not in counter.calls
    assert len(seen) == (2 if case == "hook" else 0)


def test_cumulative_running_statistics_and_none_at_all():
    made = [Conv2d(2, 4, 3), BatchNormAct2d(4, momentum=None), Conv2d(4, 3, 3)]
    made.append(BatchNormAct2d(3, track_running_stats=False))
    chain, alone = pair([layer.double() for layer in made])
    for _ in range(3):
        x = torch.randn(2, 2, 7, 7, dtype=torch.float64)
        torch.testing.assert_close(chain(x), alone(x))
    torch.testing.assert_close(chain[1].running_var, alone[1].running_var)
    assert int(chain[1].num_batches_tracked) == 3
    chain.eval(), alone.eval()
    torch.testing.assert_close(chain(x), alone(x))


@pytest.mark.parametrize("network", [DcganGenerator, DcganDiscriminator])
def test_the_networks_of_dcgan_train_the_same_fused_and_unfused(network):
    torch.manual_seed(0)
    fused = network(32, 3, base_channels=8).double()
    unfused = copy.deepcopy(fused)
    assert list(fused.state_dict()) == [f"layers.{name}" for name in nn.Sequential(*fused.layers).state_dict()]
    x = torch.randn(3, 100, dtype=torch.float64) if network is DcganGenerator else torch.randn(3, 3, 32, 32).double()
    with ops.default_impl("native"), Counter() as counter:
        found = fused(x)
    assert counter.calls["norm_conv2d"] >= 3
    with ops.default_impl("native"):
        found.square().mean().backward()
    with ops.default_impl("torch"):
        expected = unfused(x)
        expected.square().mean().backward()
    torch.testing.assert_close(found, expected)
    for (name, a), b in zip(fused.named_parameters(), unfused.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda text, name=name: f"{name}: {text}")
    for a, b in zip(fused.buffers(), unfused.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_refusals():
    with pytest.raises(ValueError, match="ConvChain: expected a BatchNormAct2d as the last layer"):
        ConvChain(Conv2d(1, 1, 1))(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
    chain = ConvChain(Conv2d(1, 2, 2), BatchNormAct2d(2), Conv2d(2, 2, 1), fuse=True)
    with pytest.raises(ValueError, match="expected more than 1 value per channel when training"):
        chain(torch.randn(1, 1, 2, 2))
