"""InfoGAN's networks: the table of appendix C.1, one trunk for both heads, and sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genlab.models.infogan import InfoGanDiscriminator, InfoGanGenerator
from genlab.nn import BatchNormAct1d, BatchNormAct2d


def layers_with_weights(network: nn.Module) -> list[tuple[int, ...]]:
    return [
        tuple(m.weight.shape) for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    ]


def test_the_layers_are_those_of_appendix_c1():
    generator, discriminator = InfoGanGenerator(28, 1), InfoGanDiscriminator(28, 1, 10 + 4)
    assert layers_with_weights(generator) == [(1024, 74), (6272, 1024), (128, 64, 4, 4), (64, 1, 4, 4)]
    assert layers_with_weights(discriminator) == [
        (64, 1, 4, 4), (128, 64, 4, 4), (1024, 6272), (128, 1024), (14, 128), (1, 1024),
    ]  # fmt: skip
    norms = [m for m in discriminator.modules() if isinstance(m, (BatchNormAct1d, BatchNormAct2d))]
    assert [m.num_features for m in norms] == [128, 1024, 128]
    assert {(m.activation, m.negative_slope) for m in norms} == {("leaky_relu", 0.1)}


def test_the_authors_code_makes_and_reads_pixels_from_0_to_1():
    generator = InfoGanGenerator(8, 1, 5, base_channels=4, dense_width=8, pixels="sigmoid")
    discriminator = InfoGanDiscriminator(
        8, 1, 7, base_channels=4, dense_width=8, recognition_width=4, pixels="sigmoid", negative_slope=0.01
    )
    z, inside = torch.randn(3, 5), {}
    for name, layers in (("made", generator.layers), ("read", discriminator.trunk)):
        layers.register_forward_hook(lambda module, given, output, name=name: inside.update({name: (given[0], output)}))
    images = generator(z)
    torch.testing.assert_close((images + 1) / 2, inside["made"][1].sigmoid())
    logits, _ = discriminator.eval().recognise(images)
    torch.testing.assert_close(inside["read"][0], inside["made"][1].sigmoid())
    torch.testing.assert_close(discriminator(images), logits)
    leaky = [m for m in discriminator.trunk if getattr(m, "activation", None) is not None]
    assert {m.negative_slope for m in leaky} == {0.01}


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (8, 2)])
def test_images_come_out_in_range_with_one_logit_and_the_statistics_of_q(size, channels):
    generator = InfoGanGenerator(size, channels, 5, base_channels=4, dense_width=8)
    discriminator = InfoGanDiscriminator(size, channels, 7, base_channels=4, dense_width=8, recognition_width=4)
    images = generator(torch.randn(3, 5))
    assert images.shape == (3, channels, size, size)
    assert images.abs().max() <= 1
    logits, statistics = discriminator.eval().recognise(images)
    assert (logits.shape, statistics.shape) == ((3,), (3, 7))
    torch.testing.assert_close(discriminator(images), logits)


def test_both_heads_send_gradients_into_one_trunk():
    discriminator = InfoGanDiscriminator(8, 1, 7, base_channels=4, dense_width=8, recognition_width=4)
    for head in range(2):
        discriminator.zero_grad(set_to_none=True)
        discriminator.recognise(torch.randn(6, 1, 8, 8))[head].square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in discriminator.trunk.parameters())
        assert (discriminator.head.weight.grad is None) == (head == 1)
        assert (discriminator.recognition[0].weight.grad is None) == (head == 0)


def test_without_normalisation_the_trunk_judges_each_image_alone():
    discriminator = InfoGanDiscriminator(8, 1, 7, base_channels=4, dense_width=8, batch_norm=False)
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(discriminator(images)[:2], discriminator(images[:2]))


@pytest.mark.parametrize("size", [4, 30])
def test_a_size_that_does_not_halve_twice_is_refused(size):
    for build in (lambda: InfoGanGenerator(size, 1), lambda: InfoGanDiscriminator(size, 1, 14)):
        with pytest.raises(ValueError, match=f"expected image_size to be a multiple of 4 from 8 on, got {size}"):
            build()
