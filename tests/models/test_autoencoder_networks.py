"""Encoders and their mirror images: shapes at any size, weights that are really shared, layers that undo each other."""

from __future__ import annotations

import pytest
import torch

from genlab.models import MODELS
from genlab.models.autoencoder import Autoencoder, CodeClassifier, Encoder, most_halvings

SHAPES = [(1, 28, 28), (3, 32, 32), (2, 17, 23), (4, 9, 8)]


def build(network: str, shape=(1, 8, 8), *, tied: bool, hidden=(6, 5), **settings) -> Autoencoder:
    return Autoencoder(Encoder(shape, hidden, 3, network=network, **settings), tied=tied)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("network", ["dense", "conv"])
def test_images_of_any_size_come_back_in_their_shape(network, shape, tied):
    model = build(network, shape, tied=tied)
    images = torch.rand(3, *shape)
    assert model.encode(images).shape == (3, 3)
    assert model(images).shape == images.shape
    assert torch.equal(model(images), model.decode(model.encode(images))) or network == "conv"  # batch statistics move


def test_the_sizes_of_2006_give_the_papers_net():
    model = Autoencoder(Encoder((1, 28, 28), [1000, 500, 250], 30), tied=False)
    assert [layer.weight.shape for layer in model.encoder.layers] == [(1000, 784), (500, 1000), (250, 500), (30, 250)]
    assert [layer.weight.shape for layer in model.decoder] == [(784, 1000), (1000, 500), (500, 250), (250, 30)]
    assert model.encoder.layers[-1].activation is None
    assert model.decoder[0].activation is None
    tied = Autoencoder(Encoder((1, 28, 28), [1000, 500, 250], 30), tied=True)
    weights = 784 * 1000 + 1000 * 500 + 500 * 250 + 250 * 30
    biases = (1000 + 500 + 250 + 30) + (784 + 1000 + 500 + 250)
    assert sum(p.numel() for p in tied.parameters()) == weights + biases
    assert sum(p.numel() for p in model.parameters()) == 2 * weights + biases


@pytest.mark.parametrize("network", ["dense", "conv"])
def test_a_tied_weights_gradient_is_the_sum_of_both_its_uses(network):
    settings = {"batch_norm": False, "activation": "tanh"}
    tied, free = build(network, tied=True, **settings), build(network, tied=False, **settings)
    free.load_state_dict(tied.state_dict(), strict=False)
    with torch.no_grad():
        for mirror, layer in zip(free.decoder, free.encoder.layers, strict=True):
            dense = layer.weight.dim() == 2
            mirror.weight.copy_(layer.weight.t() if dense else layer.weight)
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(tied(images), free(images))
    for model in (tied, free):
        (model(images) - images).square().sum().backward()
    for both, layer, mirror in zip(tied.encoder.layers, free.encoder.layers, free.decoder, strict=True):
        back = mirror.weight.grad.t() if mirror.weight.dim() == 2 else mirror.weight.grad
        assert back.abs().max() > 0
        assert layer.weight.grad.abs().max() > 0
        torch.testing.assert_close(both.weight.grad, layer.weight.grad + back, rtol=1e-4, atol=1e-5)


def test_a_tied_network_holds_no_decoding_weight():
    for network in ("dense", "conv"):
        names = [name for name in build(network, tied=True).state_dict() if name.startswith("decoder")]
        assert names
        assert not any(name.split(".")[2] == "weight" for name in names)


@pytest.mark.parametrize("sides", [(8, 8), (7, 9)])
def test_a_tied_convolutions_way_back_is_its_transpose(sides):
    """<W x, y> = <x, W^T y>, the definition."""
    model = Autoencoder(
        Encoder((2, *sides), [5], 3, network="conv", batch_norm=False, activation="leaky_relu"), tied=True
    )
    layer, mirror = model.encoder.layers[0], model.decoder[0]
    layer.conv.activation = None
    x, y = torch.randn(1, 2, *sides), torch.randn(1, *layer.output_shape)
    forward, backward = (layer(x) * y).sum(), (x * mirror(y, layer)).sum()
    torch.testing.assert_close(forward, backward, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu"])
@pytest.mark.parametrize("network", ["dense", "conv"])
def test_hidden_layers_have_the_activation_and_ends_have_none(network, activation):
    model = build(network, tied=False, activation=activation, batch_norm=False)
    images = torch.rand(64, 1, 8, 8)
    hidden = model.encoder(images, depth=1)
    back = model.decode_layer(torch.randn(64, *model.encoder.layers[1].output_shape), 1)
    low = {"relu": 0.0, "sigmoid": 0.0, "tanh": -1.0, "gelu": -0.17, "silu": -0.279, "leaky_relu": None}[activation]
    for values in (hidden, back):
        assert low is None or values.min() >= low - 1e-3
        assert activation not in ("tanh", "sigmoid") or values.max() <= 1
    for linear in (model.encode(images * 20), model(images * 20)):
        assert linear.min() < 0
    assert model.encoder.layers[-1].activation is model.decoder[0].activation is None


def test_normalisation_stands_between_feature_maps_only():
    model = build("conv", (1, 16, 16), tied=False)
    assert [layer.norm is not None for layer in model.encoder.layers[:2]] == [True, True]
    assert model.decoder[0].norm is None
    assert model.decoder[0].bias is not None
    assert model.decoder[1].norm is not None


def test_more_convolutions_than_the_image_can_be_halved_are_refused():
    assert [most_halvings((1, side, side)) for side in (1, 2, 3, 4, 28, 32, 64)] == [0, 1, 1, 2, 4, 5, 6]
    with pytest.raises(ValueError, match="expected at most 4 convolutions of stride 2 for images of 28x28 px, got 5"):
        Encoder((1, 28, 28), [2] * 5, 3, network="conv")
    Encoder((1, 28, 28), [2] * 4, 3, network="conv")
    with pytest.raises(ValueError, match="expected network to be one of dense, conv, got 'rnn'"):
        Encoder((1, 28, 28), [2], 3, network="rnn")


def test_a_head_without_hidden_layers_is_softmax_regression():
    assert [tuple(p.shape) for p in CodeClassifier(4, 10).parameters()] == [(10, 4), (10,)]
    head = CodeClassifier(4, 10, [7, 6])
    assert head(torch.randn(5, 4)).shape == (5, 10)
    assert [layer.activation for layer in head.layers] == ["relu", "relu", None]


def test_the_networks_are_listed():
    assert {"autoencoder", "encoder", "code_classifier"} <= set(MODELS.names())
