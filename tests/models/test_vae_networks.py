"""Networks and likelihoods of variational autoencoders."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, Normal

from genlab.models.vae import (
    MIN_LOG_DEVIATION,
    BernoulliLikelihood,
    ConvDecoder,
    ConvEncoder,
    DenseDecoder,
    DenseEncoder,
    GaussianLikelihood,
    halvings,
    log_one_plus_exp,
)


def test_the_dense_networks_are_those_of_the_400_unit_vae():
    """784-400-2x40 and 40-400-784, as the reproduced result was trained with."""
    encoder = DenseEncoder((1, 28, 28), 40)
    decoder = DenseDecoder((1, 28, 28), 40, likelihood=BernoulliLikelihood())
    assert sum(p.numel() for p in encoder.parameters()) == 784 * 400 + 400 + 2 * (400 * 40 + 40)
    assert sum(p.numel() for p in decoder.parameters()) == 40 * 400 + 400 + 400 * 784 + 784
    mean, log_variance = encoder(torch.rand(3, 1, 28, 28))
    assert mean.shape == log_variance.shape == (3, 40)
    assert decoder(mean).shape == (3, 1, 28, 28)


@pytest.mark.parametrize(("shape", "times"), [((1, 28, 28), 2), ((3, 64, 64), 4), ((1, 8, 8), 1), ((3, 32, 48), 3)])
def test_convolutions_halve_and_double_back_to_the_same_size(shape, times):
    assert halvings(shape) == times
    encoder = ConvEncoder(shape, 5, base_channels=4, hidden=16)
    decoder = ConvDecoder(shape, 5, base_channels=4, hidden=16, likelihood=GaussianLikelihood("per_pixel"))
    mean, _ = encoder(torch.rand(2, *shape))
    assert mean.shape == (2, 5)
    assert decoder(mean).shape == (2, 2 * shape[0], *shape[1:])


def test_without_hidden_layers_both_networks_are_linear():
    encoder = DenseEncoder((1, 4, 4), 3, hidden=())
    decoder = DenseDecoder((1, 4, 4), 3, hidden=(), likelihood=GaussianLikelihood())
    for function in (lambda x: encoder(x.view(-1, 1, 4, 4))[0], lambda x: decoder(x[:, :3]).flatten(1)):
        a, b, zero = torch.rand(1, 16), torch.rand(1, 16), torch.zeros(1, 16)
        torch.testing.assert_close(function(a + b) - function(zero), function(a) + function(b) - 2 * function(zero))


def test_labels_change_what_both_networks_give_and_must_be_there():
    for shape, encoder_kind, decoder_kind in [
        ((1, 8, 8), DenseEncoder, DenseDecoder),
        ((1, 8, 8), ConvEncoder, ConvDecoder),
    ]:
        encoder = encoder_kind(shape, 3, label_count=4)
        decoder = decoder_kind(shape, 3, label_count=4, likelihood=BernoulliLikelihood())
        x, z = torch.rand(1, *shape).expand(2, -1, -1, -1), torch.randn(1, 3).expand(2, -1)
        labels = torch.tensor([0, 3])
        for out in (encoder(x, labels)[0], decoder(z, labels)):
            assert not torch.allclose(out[0], out[1])
        for network, given in ((encoder, x), (decoder, z)):
            with pytest.raises(ValueError, match="expected a label for each of 2 samples, got none"):
                network(given)
            with pytest.raises(ValueError, match=r"got labels of shape \(1,\)"):
                network(given, torch.tensor([1]))


def test_bernoulli_log_likelihood_is_that_of_torch():
    logits, bits = 4 * torch.randn(3, 5, 1, 6, 6), (torch.rand(3, 1, 6, 6) > 0.5).float()
    found = BernoulliLikelihood().log_prob(logits, bits)
    torch.testing.assert_close(found, Bernoulli(logits=logits).log_prob(bits.unsqueeze(1)).flatten(2).sum(2))
    grey = torch.rand(3, 1, 6, 6)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, grey.unsqueeze(1).expand_as(logits), reduction="none")
    torch.testing.assert_close(BernoulliLikelihood().log_prob(logits, grey), -cross_entropy.flatten(2).sum(2))


def test_softplus_and_its_gradient_hold_for_every_logit():
    x = torch.tensor([-200.0, -40, -20, -3, 0, 3, 20, 29.9, 30.1, 80, 1000], requires_grad=True)
    value = log_one_plus_exp(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    exact = F.softplus(x.detach().double())
    torch.testing.assert_close(value.detach().double(), exact, rtol=1e-6, atol=2e-7)
    torch.testing.assert_close(gradient.double(), torch.sigmoid(x.detach().double()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("variance", ["fixed", "shared", "per_pixel"])
def test_gaussian_log_likelihood_is_that_of_torch(variance):
    likelihood = GaussianLikelihood(variance, deviation=0.4)
    raw, x = torch.randn(2, 3, likelihood.outputs * 3, 4, 4), torch.rand(2, 3, 4, 4) * 2 - 1
    mean, log_deviation = raw[:, :, :3], torch.full((), math.log(0.4))
    if variance == "per_pixel":
        log_deviation = raw[:, :, 3:]
    if variance != "fixed":
        log_deviation = MIN_LOG_DEVIATION + F.softplus(log_deviation - MIN_LOG_DEVIATION)
    expected = Normal(mean, log_deviation.exp()).log_prob(x.unsqueeze(1)).flatten(2).sum(2)
    torch.testing.assert_close(likelihood.log_prob(raw, x), expected, rtol=1e-4, atol=1e-3)
    assert len(list(likelihood.parameters())) == (variance == "shared")
    picture = likelihood.picture(raw[:, 0])
    assert picture.shape == (2, 3, 4, 4)
    assert picture.abs().max() <= 1


def test_a_learned_deviation_cannot_fall_below_a_grey_level():
    likelihood = GaussianLikelihood("shared", deviation=1e-9)
    density = likelihood.log_prob(torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    assert density.item() <= math.log(255 / math.sqrt(2 * math.pi)) + 1e-3


def test_bad_sizes_and_variances_are_refused():
    with pytest.raises(ValueError, match=r"even sides of at least 8 px, got \(27, 28\)"):
        ConvEncoder((1, 27, 28), 2)
    with pytest.raises(ValueError, match="expected variance fixed, shared or per_pixel"):
        GaussianLikelihood("learned")
    with pytest.raises(ValueError, match="deviation > 0"):
        GaussianLikelihood("fixed", 0.0)
