"""Multilayer perceptrons: the authors' sizes, maxout, dropout, output ranges and conditions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genlab.models.mlp import Maxout, MlpDiscriminator, MlpGenerator
from genlab.nn import BatchNormAct1d


def test_the_default_networks_have_the_sizes_of_goodfellows_code():
    generator = MlpGenerator((1, 28, 28), weight_range=0.05)
    discriminator = MlpDiscriminator((1, 28, 28), activation="maxout", weight_range=0.005)
    linear = [m for m in generator.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(100, 1200), (1200, 1200), (1200, 784)]
    linear = [m for m in discriminator.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(784, 1200), (240, 1200), (240, 1)]
    for network, bound in ((generator, 0.05), (discriminator, 0.005)):
        weights = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.Linear)])
        assert weights.abs().max() <= bound
        assert weights.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
        assert all(not m.bias.any() for m in network.modules() if isinstance(m, nn.Linear))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 7), (2,)])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "gelu", "silu", "maxout"])
def test_samples_have_the_shape_of_the_data_and_each_gets_one_logit(shape, activation):
    generator = MlpGenerator(shape, 6, (9, 7), activation=activation)
    discriminator = MlpDiscriminator(shape, (8,), activation=activation)
    samples = generator(torch.randn(3, 6))
    assert samples.shape == (3, *shape)
    assert discriminator(samples).shape == (3,)
    assert discriminator.features(samples).shape == (3, discriminator.feature_dim)


def test_maxout_is_the_largest_of_its_affine_maps():
    layer = Maxout(4, 3, pieces=5)
    x = torch.randn(6, 4)
    expected = torch.stack(
        [
            torch.stack([x @ layer.linear.weight[u * 5 + k] + layer.linear.bias[u * 5 + k] for k in range(5)]).amax(0)
            for u in range(3)
        ],
        dim=1,
    )
    torch.testing.assert_close(layer(x), expected)


def test_sigmoid_pixels_are_the_papers_in_the_range_of_the_lab():
    generator = MlpGenerator((1, 4, 4), 3, (5,), output="sigmoid")
    z = torch.randn(7, 3) * 10
    pixels = torch.sigmoid(generator.head(generator.hidden(z)))
    torch.testing.assert_close(generator(z), (pixels * 2 - 1).unflatten(1, (1, 4, 4)))


def test_points_are_not_bounded_and_images_are():
    z = torch.randn(64, 3) * 100
    assert MlpGenerator((2,), 3, (16,))(z).abs().max() > 1
    assert MlpGenerator((1, 4, 4), 3, (16,))(z).abs().max() <= 1


def test_dropout_acts_in_training_alone_and_on_black_pixels_in_the_unit_range():
    black, grey = -torch.ones(5, 1, 6, 6), torch.zeros(5, 1, 6, 6)
    settings = {"hidden": (9,), "input_dropout": 0.5, "activation": "relu"}
    unit = MlpDiscriminator((1, 6, 6), **settings, unit_range=True)
    assert torch.equal(unit(black), unit(black))  # a black pixel is 0: nothing to drop
    assert not torch.equal(unit(grey), unit(grey))
    signed = MlpDiscriminator((1, 6, 6), **settings)
    assert not torch.equal(signed(black), signed(black))
    signed.eval()
    assert torch.equal(signed(black), signed(black))
    hidden = MlpDiscriminator((1, 6, 6), (9,), dropout=0.5)
    assert not torch.equal(hidden(grey), hidden(grey))


def test_a_condition_reaches_samples_and_logits():
    generator = MlpGenerator((1, 4, 4), 3, (16,), condition_dim=2)
    discriminator = MlpDiscriminator((1, 4, 4), (16,), condition_dim=2)
    z, (a, b) = torch.randn(5, 3), torch.eye(2)
    first, second = generator(z, a.expand(5, 2)), generator(z, b.expand(5, 2))
    assert not torch.allclose(first, second)
    assert not torch.allclose(discriminator(first, a.expand(5, 2)), discriminator(first, b.expand(5, 2)))


def test_normalised_layers_have_no_bias_and_match_torch():
    generator = MlpGenerator((1, 4, 4), 3, (16,), batch_norm=True)
    linear, norm = generator.hidden
    assert linear.bias is None
    assert isinstance(norm, BatchNormAct1d)
    twin = nn.BatchNorm1d(16)
    twin.load_state_dict(norm.state_dict())
    x = torch.randn(8, 16)
    torch.testing.assert_close(norm(x), twin(x).relu())
    torch.testing.assert_close(norm.running_var, twin.running_var)
    with pytest.raises(ValueError, match=r"expected input of shape \(N, C\) or \(N, C, L\), got \(2, 16, 1, 1\)"):
        norm(torch.zeros(2, 16, 1, 1))


def test_the_first_layers_may_stay_without_normalisation_and_eps_is_passed_on():
    generator = MlpGenerator((1, 4, 4), 3, (8, 16, 32), batch_norm=True, batch_norm_from=1, batch_norm_eps=0.8)
    norms = [m for m in generator.modules() if isinstance(m, BatchNormAct1d)]
    assert [(m.num_features, m.eps) for m in norms] == [(16, 0.8), (32, 0.8)]
    hidden = [m for m in generator.hidden if isinstance(m, nn.Linear)]
    assert [m.bias is None for m in hidden] == [False, True, True]
    discriminator = MlpDiscriminator((2,), (4, 5), batch_norm=True, batch_norm_from=1, batch_norm_eps=0.1)
    assert [m.eps for m in discriminator.modules() if isinstance(m, BatchNormAct1d)] == [0.1]


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="pieces of at least 1, got 0"):
        Maxout(2, 2, 0)
    with pytest.raises(ValueError, match="expected batch_norm=False with maxout"):
        MlpDiscriminator((2,), (4,), activation="maxout", batch_norm=True)
    with pytest.raises(ValueError, match="expected output to be auto, tanh, sigmoid or none, got 'softmax'"):
        MlpGenerator((2,), 2, (4,), output="softmax")
    with pytest.raises(ValueError, match="expected activation"):
        MlpGenerator((2,), 2, (4,), activation="swish")
