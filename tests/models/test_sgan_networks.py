"""Weight normalisation, its data-dependent start, and the networks of semi-supervised GANs."""

from __future__ import annotations

import pytest
import torch

from genlab.models.sgan import (
    GaussianNoise,
    SganConvGenerator,
    SganMlpGenerator,
    WeightNormalised,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
    conv_discriminator,
    mlp_discriminator,
)


@pytest.mark.parametrize(
    ("layer", "shape", "std"),
    [
        (WeightNormLinear(6, 4), (50, 6), 1.0),
        (WeightNormLinear(6, 4, train_scale=True, init_std=0.1), (50, 6), 0.1),
        (WeightNormConv2d(3, 4, 3, stride=2, padding=1), (5, 3, 8, 8), 1.0),
        (WeightNormConvTranspose2d(3, 4), (5, 3, 4, 4), 0.1),
    ],
    ids=["linear", "small", "conv", "transposed"],
)
def test_directions_have_unit_length_and_the_start_standardises_the_outputs(layer, shape, std):
    images = torch.randn(shape) * 3 + 1
    with torch.no_grad():
        layer.scale.fill_(2.5)
    assert torch.allclose(layer.weight().flatten(1).norm(dim=1), torch.full((4,), 2.5))
    output = layer.initialise(images, lambda value: value)
    axes = [axis for axis in range(output.dim()) if axis != 1]
    assert torch.allclose(output, layer(images))
    assert output.mean(axes).abs().max() < 1e-4
    assert torch.allclose(output.std(axes, correction=0), torch.full((4,), std), rtol=1e-3)


def test_the_length_of_a_direction_does_not_matter():
    layer, images = WeightNormLinear(5, 3, "relu", train_scale=True), torch.randn(7, 5)
    before = layer(images)
    with torch.no_grad():
        layer.direction.mul_(torch.tensor([2.0, 0.3, 5.0])[:, None])
    assert torch.allclose(layer(images), before, atol=1e-6)
    assert isinstance(layer.scale, torch.nn.Parameter)
    assert not isinstance(WeightNormLinear(5, 3).scale, torch.nn.Parameter)


def test_noise_stands_only_in_training():
    layer, images = GaussianNoise(0.5), torch.zeros(20000)
    assert layer(images).std().item() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(layer.eval()(images), images)


def test_the_perceptrons_are_those_of_the_authors_code():
    network = mlp_discriminator((1, 28, 28), 10, (1000, 500, 250, 250, 250), 0.3, 0.5)
    widths = [tuple(m.direction.shape) for m in network.modules() if isinstance(m, WeightNormalised)]
    assert widths == [(1000, 784), (500, 1000), (250, 500), (250, 250), (250, 250), (10, 250)]
    assert [m.std for m in network.modules() if isinstance(m, GaussianNoise)] == [0.3, 0.5, 0.5, 0.5, 0.5, 0.5]
    generator = SganMlpGenerator((1, 28, 28))
    assert generator(torch.rand(4, 100)).shape == (4, 1, 28, 28)
    bound = (6 / (500 + 784)) ** 0.5  # Glorot's
    assert 0.99 * bound < generator.output.direction.abs().max() <= bound
    assert not any(layer.weight.requires_grad for layer in generator.layers if isinstance(layer, torch.nn.BatchNorm1d))
    network.eval()
    images = torch.rand(4, 1, 28, 28) * 2 - 1
    assert network.features(images).shape == (4, 250)
    assert torch.allclose(network.classify(network.features(images)), network(images))


def test_dark_pixels_stay_apart_where_the_layers_compute_in_bfloat16():
    """The spacing of bfloat16 just above -1 is 2^-8, half a grey of 255; in [0, 1] there are hundreds of values."""
    generator = SganMlpGenerator((1, 28, 28), 8, (16,))
    generator.output.bias.data.fill_(-6.0)  # pixels of about 0.0025 in [0, 1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = generator(torch.rand(16, 8))
    assert images.dtype == torch.float32
    dark = images[images < -0.99]
    assert len(dark.unique()) > 4 * len(dark.bfloat16().unique())


def test_noise_is_measured_on_pixels_from_0_to_1():
    network = mlp_discriminator((1, 2, 2), 3, (4,), 0.0, 0.0)
    seen = []
    network.body[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(torch.tensor([-1.0, 0.0, 1.0, 0.5]).reshape(1, 1, 2, 2))
    assert seen[0].tolist() == [[0.0, 0.5, 1.0, 0.75]]


def test_the_convolutions_take_and_make_colour_pictures():
    network, generator = conv_discriminator((3, 32, 32), 10, 8), SganConvGenerator((3, 32, 32), 16, 4)
    images = generator(torch.rand(4, 16))
    assert images.shape == (4, 3, 32, 32)
    assert images.abs().max() < 1
    assert network(images).shape == (4, 10)
    assert network.features(images).shape == (4, 16)
    assert isinstance(network.head.scale, torch.nn.Parameter)
    norms = [layer for layer in generator.modules() if isinstance(layer, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    assert [layer.weight.requires_grad for layer in norms] == [False] * 3
    assert all(layer.bias.requires_grad for layer in norms)
    generator.initialise(torch.rand(50, 16), lambda value: value)
    made = torch.atanh(generator(torch.rand(500, 16)))
    assert made.std().item() == pytest.approx(0.1, rel=0.2)
    network.initialise(torch.randn(40, 3, 32, 32), lambda value: value)
    logits = network.eval()(torch.randn(200, 3, 32, 32))
    assert 0.02 < logits.std(0).mean() < 0.4
    with pytest.raises(ValueError, match="16x16"):
        conv_discriminator((3, 12, 12), 10)
    with pytest.raises(ValueError, match="multiple of 8"):
        SganConvGenerator((3, 28, 28))
