"""Bounds on log p(x) against integrals that are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from genlab.likelihood import (
    Likelihood,
    estimate,
    gaussian_kl,
    gaussian_log_density,
    importance_bound,
    kl_weight,
    latent_log_ratio,
    with_free_bits,
)


def linear_model(noise: float = 0.7):
    """p(x|z) = N(Wz + b, noise^2 I), z two numbers, x three: log p(x) and p(z|x) in closed form."""
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(3, 2, generator=generator), torch.randn(3, generator=generator)
    marginal = MultivariateNormal(bias, weight @ weight.t() + noise**2 * torch.eye(3))
    precision = torch.eye(2) + weight.t() @ weight / noise**2
    x = marginal.sample((6,))
    posterior_mean = (x - bias) @ weight @ torch.linalg.inv(precision) / noise**2

    def log_likelihood(z):
        mean = z @ weight.t() + bias
        return gaussian_log_density(x.unsqueeze(1), mean, torch.tensor(2 * math.log(noise))).sum(-1)

    return log_likelihood, marginal.log_prob(x), posterior_mean, torch.linalg.inv(precision)


def run(draws, mean, log_variance, log_likelihood, *, groups=(), rows=10**6, seed=0):
    return estimate(
        mean, log_variance, log_likelihood, draws=draws, groups=groups, rows=rows,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def test_closed_form_kl_is_that_of_torch_and_of_monte_carlo():
    mean, log_variance = torch.randn(5, 4), torch.randn(5, 4)
    kl = gaussian_kl(mean, log_variance)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    torch.testing.assert_close(kl, kl_divergence(posterior, Normal(0.0, 1.0)))
    noise = torch.randn(200_000, 5, 4)
    z = mean + (0.5 * log_variance).exp() * noise
    ratio = latent_log_ratio(z, noise, log_variance)
    torch.testing.assert_close(-ratio.mean(0), kl.sum(1), rtol=0.02, atol=0.03)
    expected = (Normal(0.0, 1.0).log_prob(z) - posterior.log_prob(z)).sum(-1)
    torch.testing.assert_close(ratio, expected, rtol=1e-4, atol=1e-4)


def test_the_nll_of_a_linear_gaussian_model_is_the_analytic_one():
    log_likelihood, log_px, mean, covariance = linear_model()
    log_variance = covariance.diagonal().log().expand(6, 2)  # not exact: the posterior is correlated
    found = run(20_000, mean, log_variance, log_likelihood)
    torch.testing.assert_close(found.bounds[20_000], log_px.double(), rtol=0, atol=0.02)
    assert (found.elbo < log_px - 0.005).all(), "a posterior that is not exact leaves a gap"


def test_with_the_exact_posterior_every_weight_is_the_likelihood_itself():
    """One latent, so that the posterior is a diagonal Gaussian: the ELBO is tight and draws do not matter."""
    noise, x = 0.5, torch.tensor([[0.3], [-2.0], [1.1]])
    precision = 1 + 1 / noise**2

    def log_likelihood(z):
        return gaussian_log_density(x, z.squeeze(-1), torch.tensor(2 * math.log(noise)))

    mean = x / noise**2 / precision
    log_variance = torch.full_like(mean, -math.log(precision))
    exact = Normal(0.0, math.sqrt(1 + noise**2)).log_prob(x).squeeze(1).double()
    for draws in (1, 7):
        found = run(draws, mean, log_variance, log_likelihood)
        torch.testing.assert_close(found.bounds[draws], exact, rtol=1e-5, atol=1e-5)


def test_bounds_rise_with_k_towards_the_likelihood():
    log_likelihood, log_px, mean, covariance = linear_model()
    log_variance = (covariance.diagonal() * 4).log().expand(6, 2)  # far too wide, so that the gaps are plain
    found = run(100_000, mean, log_variance, log_likelihood, groups=(1, 5, 50))
    levels = torch.stack([found.bounds[k] for k in (1, 5, 50, 100_000)])
    assert (levels.diff(dim=0) > 0).all()
    torch.testing.assert_close(levels[-1], log_px.double(), rtol=0, atol=0.03)
    torch.testing.assert_close(levels[0], found.elbo, rtol=0, atol=0.05)


def test_the_importance_bound_is_the_log_of_a_mean_and_does_not_overflow():
    weights = torch.rand(4, 9).double() + 0.1
    torch.testing.assert_close(importance_bound(weights.log()), weights.mean(1).log())
    torch.testing.assert_close(importance_bound(weights.log() - 5000), weights.mean(1).log() - 5000)


def test_memory_is_bounded_and_a_bound_does_not_depend_on_how_it_is_cut():
    log_likelihood, log_px, mean, covariance = linear_model()
    log_variance = covariance.diagonal().log().expand(6, 2)
    sizes = []

    def spy(z):
        sizes.append(z.shape[0] * z.shape[1])
        return log_likelihood(z)

    cut = run(1000, mean, log_variance, spy, rows=60)
    assert max(sizes) <= 60
    assert sum(sizes) == 6 * 1000
    torch.testing.assert_close(cut.bounds[1000], log_px.double(), rtol=0, atol=0.1)
    sizes.clear()
    run(3, mean, log_variance, spy, rows=1)
    assert max(sizes) == 6, "one draw of each sample is the least"


def test_elbo_is_reconstruction_minus_kl_and_parts_can_be_joined():
    log_likelihood, _, mean, covariance = linear_model()
    found = run(10, mean, covariance.diagonal().log().expand(6, 2), log_likelihood)
    torch.testing.assert_close(found.elbo, found.reconstruction - found.kl.sum(1))
    joined = Likelihood.room_for(12, 2, (10,))
    joined.write(6, found)
    joined.write(0, found)
    for half in (slice(6), slice(6, 12)):
        assert torch.equal(joined.elbo[half], found.elbo)
        assert torch.equal(joined.bounds[10][half], found.bounds[10])
    assert joined.active_units == found.active_units


def test_active_units_are_those_whose_mean_varies():
    mean = torch.zeros(1000, 4)
    mean[:, 0] = torch.randn(1000)
    mean[:, 1] = 3.0  # far from the prior, but the same for every picture
    mean[:, 2] = 0.05 * torch.randn(1000)  # variance 0.0025
    mean[:, 3] = 0.2 * torch.randn(1000)  # variance 0.04
    found = run(1, mean, torch.zeros_like(mean), lambda z: z.sum(-1))
    assert found.active_units == 2


def test_groups_that_do_not_divide_the_draws_are_refused():
    with pytest.raises(ValueError, match=r"expected groups that divide draws=10, got \(3,\)"):
        run(10, torch.zeros(2, 1), torch.zeros(2, 1), lambda z: z.sum(-1), groups=(3,))


def test_free_bits_hold_the_gradient_of_a_latent_back_until_its_mean_exceeds_them():
    kl = torch.tensor([[0.1, 3.0, 0.0], [0.3, 1.0, 2.0]], requires_grad=True)  # means 0.2, 2, 1
    loss = with_free_bits(kl, 0.5, kl.detach().mean(0) > 0.5)
    assert loss.item() == pytest.approx(0.5 + 2 + 1)
    loss.backward()
    assert torch.equal(kl.grad, torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]))


def test_warm_up_rises_linearly_and_is_never_zero():
    assert [kl_weight(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert kl_weight(0, 0) == 1
