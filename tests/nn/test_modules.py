"""genlab.nn modules beside their torch.nn twins: arguments, state, values, text."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import genlab.nn

CONVOLUTIONS = [
    ("Conv2d", (3, 6, 3), {}),
    ("Conv2d", (4, 6, (3, 2)), {"stride": 2, "padding": (1, 0), "dilation": 2, "groups": 2, "bias": False}),
    ("Conv2d", (3, 6, 4), {"padding": "same", "padding_mode": "reflect"}),
    ("Conv2d", (3, 6, 3), {"padding": 2, "padding_mode": "reflect"}),
    ("ConvTranspose2d", (3, 6, 4), {"stride": 2, "padding": 1}),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "output_padding": 1, "groups": 2, "bias": False, "dilation": 2}),
]


@pytest.mark.parametrize("impl", ["auto", "native", "reference"])
@pytest.mark.parametrize(("name", "arguments", "keywords"), CONVOLUTIONS)
def test_convolutions_load_torch_state_and_give_torch_values(name, arguments, keywords, impl):
    theirs = getattr(nn, name)(*arguments, **keywords)
    ours = getattr(genlab.nn, name)(*arguments, **keywords, impl=impl)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    input = torch.randn(2, arguments[0], 7, 8)
    torch.testing.assert_close(ours(input), theirs(input), rtol=1e-4, atol=1e-5)
    theirs.load_state_dict(ours.state_dict(), strict=True)


def test_one_seed_gives_the_initial_values_of_torch():
    torch.manual_seed(3)
    theirs = nn.Conv2d(3, 5, 3)
    torch.manual_seed(3)
    ours = genlab.nn.Conv2d(3, 5, 3, activation="relu")
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize(
    ("activation", "twin"), [("relu", nn.ReLU()), ("leaky_relu", nn.LeakyReLU(0.1)), ("silu", nn.SiLU())]
)
def test_the_activation_follows_the_layer(activation, twin):
    input = torch.randn(2, 3, 6, 6)
    for layer in (
        genlab.nn.Conv2d(3, 4, 3, activation=activation, negative_slope=0.1),
        genlab.nn.ConvTranspose2d(3, 4, 3, activation=activation, negative_slope=0.1),
        genlab.nn.BatchNormAct2d(3, activation=activation, negative_slope=0.1),
    ):
        plain = copy.deepcopy(layer)
        plain.activation = None
        torch.testing.assert_close(layer(input), twin(plain(input)))


def test_output_size_picks_among_the_open_sizes():
    layer, twin = genlab.nn.ConvTranspose2d(3, 4, 3, stride=2), nn.ConvTranspose2d(3, 4, 3, stride=2)
    layer.load_state_dict(twin.state_dict())
    input = torch.randn(1, 3, 5, 5)
    assert layer(input).shape[2:] == (11, 11)
    torch.testing.assert_close(layer(input, output_size=(12, 11)), twin(input, output_size=(12, 11)))
    with pytest.raises(ValueError, match="output size"):
        layer(input, output_size=(20, 20))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("keywords", [{}, {"affine": False}, {"track_running_stats": False}])
def test_batch_norm_follows_its_torch_twin_through_training_and_evaluation(keywords, momentum):
    theirs = nn.BatchNorm2d(3, momentum=momentum, **keywords)
    ours = genlab.nn.BatchNormAct2d(3, momentum=momentum, **keywords)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for training in (True, True, False, True):
        ours.train(training)
        theirs.train(training)
        input = torch.randn(4, 3, 5, 5)
        torch.testing.assert_close(ours(input), theirs(input))
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)


def test_batch_norm_adds_the_residual_before_the_activation():
    layer, input, residual = (
        genlab.nn.BatchNormAct2d(3, activation="relu"),
        torch.randn(2, 3, 4, 4),
        torch.randn(2, 3, 4, 4),
    )
    expected = torch.relu(nn.BatchNorm2d(3)(input) + residual)
    torch.testing.assert_close(layer(input, residual), expected)


def test_modules_copy_pickle_and_take_spectral_norm():
    for layer in (genlab.nn.Conv2d(3, 4, 3, activation="tanh"), genlab.nn.BatchNormAct2d(3, process_group="world")):
        input = torch.randn(2, 3, 4, 4)
        layer.eval()
        expected = layer(input)
        assert torch.equal(copy.deepcopy(layer)(input), expected)
        assert torch.equal(pickle.loads(pickle.dumps(layer))(input), expected)
    layer = nn.utils.parametrizations.spectral_norm(genlab.nn.Conv2d(3, 4, 3)).eval()
    norm = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
    assert 0.5 < norm.item() < 2


def test_text_names_what_is_fused():
    assert "activation=leaky_relu, negative_slope=0.2" in repr(genlab.nn.Conv2d(3, 4, 3, activation="leaky_relu"))
    assert repr(genlab.nn.ConvTranspose2d(3, 4, 3)) == repr(nn.ConvTranspose2d(3, 4, 3))
    assert "impl=native" in repr(genlab.nn.Conv2d(3, 4, 3, impl="native"))
    assert "activation=relu, synchronised" in repr(
        genlab.nn.BatchNormAct2d(4, activation="relu", process_group="world")
    )


REFUSALS = {
    "padding_mode": (
        lambda: genlab.nn.Conv2d(3, 4, 3, padding_mode="circular"),
        "zeros, reflect, got 'circular'; pad with",
    ),
    "conv_activation": (lambda: genlab.nn.Conv2d(3, 4, 3, activation="elu"), "^Conv2d: expected activation"),
    "conv_impl": (lambda: genlab.nn.Conv2d(3, 4, 3, impl="cudnn"), "^Conv2d: expected impl"),
    "transpose_activation": (
        lambda: genlab.nn.ConvTranspose2d(3, 4, 3, activation="elu"),
        "^ConvTranspose2d: expected",
    ),
    "norm_activation": (lambda: genlab.nn.BatchNormAct2d(3, activation="elu"), "^BatchNormAct2d: expected activation"),
    "norm_group": (lambda: genlab.nn.BatchNormAct2d(3, process_group="all"), "a group, \"world\" or None, got 'all'"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_when_it_is_made(name):
    make, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_synchronising_counts_its_layers_and_refuses_plain_batch_norm_by_name():
    network = nn.Sequential(genlab.nn.BatchNormAct2d(3), nn.Sequential(genlab.nn.BatchNormAct2d(4)))
    assert genlab.nn.synchronize_batch_norm(network) == 2
    assert [layer.process_group for layer in (network[0], network[1][0])] == ["world", "world"]
    genlab.nn.synchronize_batch_norm(network, None)
    assert network[0].process_group is None
    network[1].append(nn.BatchNorm2d(4))
    with pytest.raises(TypeError, match=r"expected genlab.nn.BatchNormAct2d at 1\.1, got BatchNorm2d"):
        genlab.nn.synchronize_batch_norm(network)


def test_world_means_this_process_where_nothing_is_distributed():
    layer, twin = genlab.nn.BatchNormAct2d(3, process_group="world"), nn.BatchNorm2d(3)
    input = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(layer(input), twin(input))


def test_normal_init_draws_what_dcgan_prescribes():
    network = nn.Sequential(
        genlab.nn.Conv2d(16, 64, 4), genlab.nn.ConvTranspose2d(64, 16, 4), genlab.nn.BatchNormAct2d(4096),
        nn.BatchNorm2d(8, affine=False), nn.Linear(100, 50), nn.Conv2d(3, 4, 1, bias=False),
    )  # fmt: skip
    assert genlab.nn.init.normal_init(network) is network
    for layer in (network[0], network[1], network[4]):
        assert layer.weight.mean().abs() < 0.002
        assert abs(layer.weight.std() - 0.02) < 0.002
        assert (layer.bias == 0).all()
    assert abs(network[2].weight.mean() - 1) < 0.002
    assert abs(network[2].weight.std() - 0.02) < 0.002
    assert (network[2].bias == 0).all()


def test_normal_init_follows_its_generator():
    layers = [genlab.nn.Conv2d(3, 4, 3) for _ in range(2)]
    for layer in layers:
        genlab.nn.init.normal_init(layer, 0.1, torch.Generator().manual_seed(5))
    assert torch.equal(layers[0].weight, layers[1].weight)
    with pytest.raises(ValueError, match="expected std >= 0, got -1"):
        genlab.nn.init.normal_init(layers[0], -1)
