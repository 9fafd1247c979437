"""Conditional networks: Mirza and Osindero's sizes, labels that reach samples and logits, the projection's formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genlab.models.conditional import (
    ConditionalDcganDiscriminator,
    ConditionalDcganGenerator,
    ConditionalMlpDiscriminator,
    ConditionalMlpGenerator,
    ProjectionMlpDiscriminator,
)
from genlab.nn import ConditionalBatchNormAct2d
from genlab.regularizers import apply_spectral_norm

GENERATORS = {
    "mlp": lambda: ConditionalMlpGenerator((1, 28, 28), 4, 6, noise_width=8, label_width=8, joint_width=16),
    "dcgan concat": lambda: ConditionalDcganGenerator(28, 1, 4, 6, 4),
    "dcgan batch_norm": lambda: ConditionalDcganGenerator(28, 1, 4, 6, 4, conditioning="batch_norm"),
}
DISCRIMINATORS = {
    "mlp concat": lambda: ConditionalMlpDiscriminator((1, 28, 28), 4, image_width=8, label_width=8, joint_width=8),
    "mlp projection": lambda: ProjectionMlpDiscriminator((1, 28, 28), 4, hidden=(8,)),
    "dcgan concat": lambda: ConditionalDcganDiscriminator(28, 1, 4, 4),
    "dcgan projection": lambda: ConditionalDcganDiscriminator(28, 1, 4, 4, conditioning="projection"),
}


def separate_classes(network: nn.Module) -> nn.Module:
    """Gives each class its own row of the conditional tables, which begin alike."""
    for layer in network.modules():
        if isinstance(layer, ConditionalBatchNormAct2d):
            nn.init.normal_(layer.weight)
    return network


@pytest.mark.parametrize("name", GENERATORS)
def test_another_label_makes_another_image_of_the_same_noise(name):
    generator = separate_classes(GENERATORS[name]()).eval()
    z = torch.randn(4, 6)
    images = generator(z, torch.arange(4))
    assert images.shape == (4, 1, 28, 28)
    assert images.abs().max() <= 1
    changed = generator(z, torch.tensor([0, 1, 2, 0]))
    assert torch.equal(changed[:3], images[:3])
    assert not torch.allclose(changed[3], images[3], atol=1e-6)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_another_label_gives_another_logit_of_the_same_image(name):
    discriminator = DISCRIMINATORS[name]().eval()
    images = torch.rand(4, 1, 28, 28) * 2 - 1
    logits = discriminator(images, torch.arange(4))
    assert logits.shape == (4,)
    changed = discriminator(images, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(changed[:3], logits[:3])
    assert (changed[3] - logits[3]).abs() > 1e-7


def test_the_mlps_have_the_sizes_of_mirza_and_osindero():
    generator, discriminator = ConditionalMlpGenerator((1, 28, 28), 10), ConditionalMlpDiscriminator((1, 28, 28), 10)
    sizes = [
        [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]
        for network in (generator, discriminator)
    ]
    assert sizes[0] == [(100, 200), (10, 1000), (1200, 1200), (1200, 784)]
    assert sizes[1] == [(784, 240 * 5), (10, 50 * 5), (290, 240 * 4), (240, 1)]


def test_the_projection_adds_the_inner_product_of_class_vector_and_features():
    """Miyato and Koyama 2018, equation 3: f(x, y) = y^T V phi(x) + psi(phi(x))."""
    network = ConditionalDcganDiscriminator(28, 1, 4, 4, conditioning="projection").eval()
    images, labels = torch.randn(5, 1, 28, 28), torch.tensor([0, 3, 3, 1, 2])
    features = network.body.layers[:-1](images).flatten(1)
    assert features.shape == (5, 8 * 7 * 7)
    v = network.projection.embedding.weight.T  # (classes, features)
    expected = torch.stack([v[y] @ f for y, f in zip(labels, features, strict=True)]) + network.body(images)
    torch.testing.assert_close(network(images, labels), expected)

    dense = ProjectionMlpDiscriminator((1, 28, 28), 4, hidden=(8,)).eval()
    features = dense.body.features(images)
    expected = dense.body(images) + (dense.projection.embedding.weight.T[labels] * features).sum(dim=1)
    torch.testing.assert_close(dense(images, labels), expected)


def test_spectral_normalisation_reaches_the_class_vectors():
    network = apply_spectral_norm(ConditionalDcganDiscriminator(28, 1, 4, 4, conditioning="projection"))
    for _ in range(50):
        network(torch.randn(2, 1, 28, 28), torch.tensor([0, 1]))
    assert torch.linalg.matrix_norm(network.projection.embedding.weight, 2).item() == pytest.approx(1, rel=1e-3)


def test_labels_stand_in_the_feature_maps_that_the_paper_of_the_network_says():
    generator = ConditionalDcganGenerator(28, 1, 4, 6, 4)
    assert [(b[0].in_channels, b[0].out_channels) for b in (generator.noise, generator.label)] == [(6, 4), (4, 4)]
    assert generator.body.layers[0].in_channels == 8
    conditional = ConditionalDcganGenerator(28, 1, 4, 6, 4, conditioning="batch_norm")
    assert conditional.body.layers[0].in_channels == 6
    layers = [m for m in conditional.modules() if isinstance(m, ConditionalBatchNormAct2d)]
    assert [(m.num_features, m.num_classes, m.activation) for m in layers] == [(8, 4, "relu"), (4, 4, "relu")]
    assert ConditionalDcganDiscriminator(28, 1, 4, 4).body.layers[0].in_channels == 1 + 4


def test_label_and_noise_have_equal_weight_in_the_first_map():
    """One number of size 1 beside a hundred would not be heard; each gets normalised maps of its own."""
    generator = ConditionalDcganGenerator(28, 1, 10, 100, 8)
    z, y = torch.randn(200, 100, 1, 1), torch.eye(10)[torch.arange(200) % 10][:, :, None, None]
    sizes = [float(branch(x).detach().square().mean()) for branch, x in ((generator.noise, z), (generator.label, y))]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.3)


def test_an_unknown_conditioning_is_refused():
    with pytest.raises(ValueError, match="one of concat, batch_norm, got 'film'"):
        ConditionalDcganGenerator(28, 1, 4, conditioning="film")
    with pytest.raises(ValueError, match="one of concat, projection, got 'film'"):
        ConditionalDcganDiscriminator(28, 1, 4, conditioning="film")
    with pytest.raises(ValueError, match="expected image_size to be one of 28, 32, 64, 128, got 40"):
        ConditionalDcganGenerator(40, 1, 4)
