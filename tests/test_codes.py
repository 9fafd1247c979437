"""Latent codes: their prior, Q's likelihood by formula, and the bound between nothing and H(c)."""

from __future__ import annotations

import math

import pytest
import torch

from genlab.codes import LOG_VARIANCE_RANGE, Codes


def draw(codes: Codes, count: int) -> torch.Tensor:
    return codes.draw(torch.rand(count, len(codes.categorical) + codes.uniform), torch.randn(count, codes.gaussian))


def test_the_papers_codes_take_twelve_places_and_fourteen_numbers_of_q():
    codes = Codes()
    assert (codes.width, codes.statistics_width) == (12, 14)
    assert codes.entropy() == pytest.approx({"categorical": math.log(10), "uniform": 2 * math.log(2)})
    assert Codes((), 0, 3).entropy() == pytest.approx({"gaussian": 1.5 * math.log(2 * math.pi * math.e)})


def test_draws_follow_their_priors_and_hit_every_category_equally():
    codes = Codes((10, 3), 2, 1)
    values = draw(codes, 30_000)
    assert values.shape == (30_000, 16)
    first, second = codes.split_categorical(values)
    for part, size in ((first, 10), (second, 3)):
        assert set(part.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(part.sum(dim=1), torch.ones(30_000))
        torch.testing.assert_close(part.mean(dim=0), torch.full((size,), 1 / size), rtol=0.06, atol=0)
    uniform, normal = values[:, 13:15], values[:, 15]
    assert uniform.min() >= -1
    assert uniform.max() < 1
    assert uniform.std().item() == pytest.approx(3**-0.5, rel=0.02)
    assert normal.std().item() == pytest.approx(1, rel=0.02)
    ends = codes.draw(torch.full((1, 4), 1 - 2**-24), torch.zeros(1, 1))
    assert ends[0, 9] == 1
    assert ends[0, 12] == 1


def test_log_q_is_that_of_torchs_distributions():
    codes = Codes((4, 3), 1, 2)
    values, statistics = draw(codes, 9), torch.randn(9, codes.statistics_width)
    got = codes.log_likelihood(statistics, values)
    first, second = codes.split_categorical(values)
    expected = torch.distributions.Categorical(logits=statistics[:, :4]).log_prob(first.argmax(1))
    expected = expected + torch.distributions.Categorical(logits=statistics[:, 4:7]).log_prob(second.argmax(1))
    torch.testing.assert_close(got["categorical"], expected)
    gaussian = torch.distributions.Normal(statistics[:, 7:10], (statistics[:, 10:13] / 2).exp())
    each = gaussian.log_prob(values[:, 7:])
    torch.testing.assert_close(got["uniform"], each[:, 0])
    torch.testing.assert_close(got["gaussian"], each[:, 1:].sum(1))


def test_a_q_that_knows_the_code_reaches_its_entropy_and_one_that_guesses_reaches_zero():
    codes = Codes((10,), 1, 1)
    values = draw(codes, 20_000)
    entropy = codes.entropy()
    blind = torch.zeros(20_000, codes.statistics_width)
    bound = codes.information_bound(blind, values)
    assert bound["categorical"].item() == pytest.approx(0, abs=1e-5)
    assert bound["gaussian"].item() == pytest.approx(0, abs=0.02)
    assert bound["uniform"].item() < 0  # a Gaussian is not the prior of a uniform code
    perfect = torch.cat([values[:, :10] * 50, values[:, 10:], torch.full((20_000, 2), -4.0)], dim=1)
    known = codes.information_bound(perfect, values)
    assert known["categorical"].item() == pytest.approx(entropy["categorical"], abs=1e-5)
    # A Gaussian at the code's place: -log sqrt(2 pi e^-4) nats of log Q each.
    log_q = -0.5 * (math.log(2 * math.pi) - 4)
    assert known["uniform"].item() == pytest.approx(entropy["uniform"] + log_q, abs=1e-5)
    wrong = codes.information_bound(torch.cat([values[:, :10].roll(1, 1) * 50, perfect[:, 10:]], dim=1), values)
    assert wrong["categorical"] < 0


def test_the_variance_of_q_is_bounded_on_both_sides():
    codes = Codes((), 1, 0)
    for raw, held in zip((-50.0, 50.0), LOG_VARIANCE_RANGE, strict=True):
        statistics = torch.tensor([[0.0, raw]], requires_grad=True)
        assert codes.log_variances(statistics).item() == held
        value = codes.log_likelihood(statistics, torch.zeros(1, 1))["uniform"]
        assert value.item() == pytest.approx(-0.5 * (math.log(2 * math.pi) + held))


def test_a_fixed_variance_of_one_makes_the_likelihood_a_squared_error():
    codes = Codes((), 2, 0, fixed_variance=True)
    values, means = draw(codes, 50), torch.randn(50, codes.statistics_width)
    assert codes.statistics_width == 2
    expected = torch.distributions.Normal(means, 1.0).log_prob(values).sum(1)
    torch.testing.assert_close(codes.log_likelihood(means, values)["uniform"], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), 0, 0), "expected at least one categorical, uniform or gaussian code, got none"),
        (((10, 1), 0, 0), r"expected categorical codes of at least 2 values, got \[10, 1\]"),
        (((10,), -1, 0), "expected numbers >= 0, got uniform -1, gaussian 0"),
    ],
)
def test_specifications_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Codes(*arguments)
