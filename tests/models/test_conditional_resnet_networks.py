"""Residual networks with labels: labels that reach samples and logits, whose normalisations go by the class."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genlab.manifold_entropy import last_layer
from genlab.models.conditional_resnet import ConditionalResnetDiscriminator, ConditionalResnetGenerator
from genlab.models.wgan_gp_resnet import WganGpGenerator
from genlab.nn import BatchNormAct2d, ConditionalBatchNormAct2d


def generator(size: int, conditioning: str) -> ConditionalResnetGenerator:
    network = ConditionalResnetGenerator(size, 2, 4, 6, 4, conditioning=conditioning)
    for layer in network.modules():  # the classes' tables begin alike
        if isinstance(layer, ConditionalBatchNormAct2d):
            nn.init.normal_(layer.weight)
    return network.eval()


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("conditioning", ["concat", "batch_norm"])
def test_another_label_makes_another_image_of_the_same_noise(size, conditioning):
    network, z = generator(size, conditioning), torch.randn(3, 6)
    images = network(z, torch.tensor([0, 1, 2]))
    assert images.shape == (3, 2, size, size)
    assert images.abs().max() <= 1
    changed = network(z, torch.tensor([0, 1, 3]))
    assert torch.equal(changed[:2], images[:2])
    assert not torch.allclose(changed[2], images[2], atol=1e-5)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("conditioning", ["concat", "projection"])
def test_another_label_gives_another_logit_of_the_same_image(size, conditioning):
    network = ConditionalResnetDiscriminator(size, 2, 4, 4, conditioning=conditioning)
    images = torch.rand(3, 2, size, size) * 2 - 1
    logits = network(images, torch.tensor([0, 1, 2]))
    assert logits.shape == (3,)
    changed = network(images, torch.tensor([0, 1, 3]))
    torch.testing.assert_close(changed[:2], logits[:2])
    assert (changed[2] - logits[2]).abs() > 1e-7
    alone = torch.cat([network(image[None], torch.tensor([label])) for label, image in enumerate(images)])
    torch.testing.assert_close(alone, logits, rtol=1e-4, atol=1e-6)  # no normalisation mixes samples


@pytest.mark.parametrize("size", [32, 64])
def test_the_projection_adds_the_inner_product_of_class_vector_and_features(size):
    """Miyato and Koyama 2018, equation 3: f(x, y) = y^T V phi(x) + psi(phi(x))."""
    network = ConditionalResnetDiscriminator(size, 1, 4, 4, conditioning="projection")
    images, labels = torch.randn(4, 1, size, size), torch.tensor([0, 3, 3, 1])
    features = network.body.features(images)
    v = network.projection.embedding.weight.T
    expected = network.body(images) + torch.stack([v[y] @ f for y, f in zip(labels, features, strict=True)])
    torch.testing.assert_close(network(images, labels), expected)
    assert last_layer(network) is network.body.head, "penalties on codes look at phi"


def test_every_block_is_normalised_by_class_and_the_map_before_the_image_by_one_for_all():
    """As in the code of Miyato and Koyama 2018, whose last normalisation knows no classes."""
    network = ConditionalResnetGenerator(32, 3, 4, 6, 4, conditioning="batch_norm")
    kinds = {name: type(layer) for name, layer in network.named_modules() if isinstance(layer, BatchNormAct2d)}
    assert kinds.pop("body.norm") is BatchNormAct2d
    assert set(kinds.values()) == {ConditionalBatchNormAct2d}
    assert len(kinds) == 6


def test_one_table_for_all_classes_is_the_unconditional_generator():
    conditional = ConditionalResnetGenerator(32, 3, 4, 6, 4, conditioning="batch_norm").train()
    plain = WganGpGenerator(32, 3, 6, 4).train()
    state = {name.removeprefix("body."): value for name, value in conditional.state_dict().items()}
    state |= {name: value[0] for name, value in state.items() if value.shape[:1] == (4,) and "blocks" in name
              and "norm" in name and value.dim() == 2}  # fmt: skip
    plain.load_state_dict(state)
    z = torch.randn(5, 6)
    torch.testing.assert_close(conditional(z, torch.arange(5) % 4), plain(z), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConditionalResnetGenerator(28, 1, 4), "image_size to be 32 or 64, got 28"),
        (lambda: ConditionalResnetGenerator(32, 1, 4, conditioning="film"), "concat, batch_norm, got 'film'"),
        (lambda: ConditionalResnetGenerator(32, 1, 4, base_channels=1), "base_channels of at least 2"),
        (lambda: ConditionalResnetDiscriminator(32, 1, 4, conditioning="film"), "concat, projection, got 'film'"),
    ],
)
def test_what_cannot_be_built_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
