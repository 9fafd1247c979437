"""Growing networks: fade-in, equalised learning rate, pixel norm and minibatch standard deviation."""

from __future__ import annotations

import math

import pytest
import torch

from genlab.models.progressive import (
    EqualizedConv2d,
    MinibatchStandardDeviation,
    PixelNorm,
    ProgressiveDiscriminator,
    ProgressiveGenerator,
    double,
    halve,
    widths_of,
)


def networks(side: int = 16) -> tuple[ProgressiveGenerator, ProgressiveDiscriminator]:
    torch.manual_seed(0)
    return ProgressiveGenerator(side, 3, 8, 64, 16), ProgressiveDiscriminator(side, 3, 64, 16)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_each_level_makes_and_judges_its_own_resolution(level):
    generator, discriminator = networks()
    generator.grow(level, 0.5)
    discriminator.grow(level, 0.5)
    images = generator(torch.randn(4, 8))
    assert images.shape == (4, 3, 4 * 2**level, 4 * 2**level)
    assert discriminator(images).shape == (4,)
    with pytest.raises(ValueError, match=f"{4 * 2**level} px"):
        discriminator(double(images))


@pytest.mark.parametrize("level", [1, 2])
def test_fading_in_begins_at_the_smaller_network_and_ends_at_the_larger_one(level):
    generator, discriminator = networks()
    z = torch.randn(4, 8)
    values = {}
    for at, alpha in [(level - 1, 1.0), (level, 0.0), (level, 0.25), (level, 1.0)]:
        generator.grow(at, alpha)
        values[at, alpha] = generator(z)
    assert torch.allclose(values[level, 0.0], double(values[level - 1, 1.0]), atol=1e-6)
    mixed = 0.75 * values[level, 0.0] + 0.25 * values[level, 1.0]
    assert torch.allclose(values[level, 0.25], mixed, atol=1e-5)

    images = torch.randn(4, 3, 4 * 2**level, 4 * 2**level)
    discriminator.grow(level - 1, 1.0)
    smaller = discriminator(halve(images))
    discriminator.grow(level, 0.0)
    assert torch.allclose(discriminator(images), smaller, atol=1e-5)
    discriminator.grow(level, 1.0)
    assert not torch.allclose(discriminator(images), smaller, atol=1e-3)


def test_only_layers_in_use_get_gradients():
    generator, discriminator = networks()
    for network in (generator, discriminator):
        network.grow(1, 1.0)
    discriminator(generator(torch.randn(4, 8))).sum().backward()
    without = {name for name, p in generator.named_parameters() if p.grad is None}
    expected = ("blocks.2", "to_image.0", "to_image.2")
    assert without == {n for n, _ in generator.named_parameters() if n.startswith(expected)}
    without = {name for name, p in discriminator.named_parameters() if p.grad is None}
    expected = ("blocks.1", "from_image.0", "from_image.2")
    assert without == {n for n, _ in discriminator.named_parameters() if n.startswith(expected)}


def test_weights_are_scaled_at_run_time_by_hes_constant():
    layer = EqualizedConv2d(16, 8, 3, padding=1)
    assert layer.weight.std().item() == pytest.approx(1, rel=0.1)
    assert layer.scale == pytest.approx(math.sqrt(2) / math.sqrt(16 * 9))
    images = torch.randn(2, 16, 5, 5)
    expected = torch.nn.functional.conv2d(images, layer.weight * layer.scale, layer.bias, padding=1)
    assert torch.allclose(layer(images), expected, atol=1e-5)


def test_pixel_norm_gives_every_pixel_unit_mean_square():
    images = torch.randn(2, 6, 3, 3) * 7
    output = PixelNorm()(images)
    assert torch.allclose(output.square().mean(1), torch.ones(2, 3, 3), atol=1e-5)
    assert torch.allclose(output * images.square().mean(1, keepdim=True).sqrt(), images, atol=1e-4)


def test_minibatch_standard_deviation_is_zero_for_equal_samples_and_goes_by_group():
    layer = MinibatchStandardDeviation(4)
    same = torch.randn(1, 3, 2, 2).expand(4, 3, 2, 2)
    varied = torch.randn(4, 3, 2, 2)
    output = layer(torch.cat([same, varied]))
    assert output.shape == (8, 4, 2, 2)
    assert output[:4, 3].max() < 1e-3
    expected = varied.var(0, correction=0).sqrt().mean()
    assert torch.allclose(output[4:, 3], expected.expand(4, 2, 2), atol=1e-4)
    assert layer(torch.randn(6, 3, 2, 2)).shape == (6, 4, 2, 2)


def test_widths_follow_the_budget():
    assert widths_of(9, 8192, 512) == [512, 512, 512, 512, 256, 128, 64, 32, 16]


@pytest.mark.parametrize("side", [28, 6, 2, 48])
def test_sides_that_doubling_from_four_does_not_reach_are_refused(side):
    with pytest.raises(ValueError, match=f"got {side}"):
        ProgressiveGenerator(side, 1)
