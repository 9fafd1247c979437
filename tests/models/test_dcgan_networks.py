"""DCGAN's networks: shapes, layout and initial values of the paper, at every size."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch
from torch import nn

import genlab.models
from genlab.models import MODELS, DcganDiscriminator, DcganGenerator
from genlab.nn import BatchNormAct2d, Conv2d, ConvTranspose2d


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [28, 32, 64, 128])
def test_images_come_out_in_range_and_one_logit_each(size, channels):
    generator = DcganGenerator(size, channels, latent_dim=7, base_channels=2)
    images = generator(torch.randn(3, 7))
    assert images.shape == (3, channels, size, size)
    assert images.abs().max() <= 1
    assert DcganDiscriminator(size, channels, base_channels=2)(images).shape == (3,)


def test_the_default_64_px_networks_have_the_sizes_of_the_authors_code():
    """3,576,704 and 2,765,568 parameters, plus biases of the layers without normalisation."""
    generator, discriminator = DcganGenerator(64, 3), DcganDiscriminator(64, 3)
    assert sum(p.numel() for p in generator.parameters()) == 3_576_704 + 3
    assert sum(p.numel() for p in discriminator.parameters()) == 2_765_568 + 64 + 1


def test_normalisation_stands_everywhere_but_at_the_images_and_the_logit():
    generator, discriminator = DcganGenerator(32, 3, base_channels=2), DcganDiscriminator(32, 3, base_channels=2)
    kinds = {ConvTranspose2d: "t", Conv2d: "c", BatchNormAct2d: "b"}
    assert "".join(kinds[type(layer)] for layer in generator.layers) == "tbtbtbt"
    assert "".join(kinds[type(layer)] for layer in discriminator.layers) == "ccbcbc"
    assert [layer.activation for layer in generator.layers] == [None, "relu", None, "relu", None, "relu", "tanh"]
    activations = [(layer.activation, layer.negative_slope) for layer in discriminator.layers if layer.activation]
    assert activations == [("leaky_relu", 0.2)] * 3
    assert discriminator.layers[-1].activation is None
    plain = DcganDiscriminator(32, 3, base_channels=2, batch_norm=False)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in plain.modules())


def test_initial_weights_are_normal_with_deviation_002():
    generator = DcganGenerator(64, 3)
    weights = torch.cat([m.weight.flatten() for m in generator.modules() if isinstance(m, ConvTranspose2d)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert weights.mean().item() == pytest.approx(0, abs=1e-4)


def test_a_size_without_an_architecture_is_refused():
    for network in (DcganGenerator, DcganDiscriminator):
        with pytest.raises(ValueError, match="expected image_size to be one of 28, 32, 64, 128, got 48"):
            network(48, 3)


def test_models_are_listed():
    assert {"dcgan_generator", "dcgan_discriminator"} <= set(MODELS.names())


def test_every_network_of_the_package_is_registered():
    kinds = ("Generator", "Discriminator", "Critic", "Encoder", "Decoder", "Autoencoder", "Classifier")
    found = set()
    for module in pkgutil.iter_modules(genlab.models.__path__):
        members = vars(importlib.import_module(f"genlab.models.{module.name}")).values()
        found |= {m for m in members if isinstance(m, type) and issubclass(m, nn.Module) and m.__name__.endswith(kinds)}
    assert len(found) >= 28
    assert found <= {MODELS.get(name) for name in MODELS}
