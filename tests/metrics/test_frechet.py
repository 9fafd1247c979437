import numpy as np
import pytest
import torch

from genlab.errors import MetricError
from genlab.metrics import frechet_distance


def random_covariance(dim, rank=None, scale=1.0, seed=0):
    factor = np.random.default_rng(seed).normal(size=(dim, rank or dim + 5)) * scale
    return factor @ factor.T / factor.shape[1]


def test_equal_covariances_leave_the_squared_distance_of_the_means():
    sigma = random_covariance(16)
    mu1, mu2 = np.arange(16.0), np.arange(16.0)[::-1].copy()
    assert frechet_distance(mu1, sigma, mu2, sigma) == pytest.approx(((mu1 - mu2) ** 2).sum(), rel=1e-10)


def test_identical_gaussians_are_at_distance_zero():
    sigma = random_covariance(64, scale=10.0)
    assert frechet_distance(np.ones(64), sigma, np.ones(64), sigma) == pytest.approx(0.0, abs=1e-9)


def test_commuting_covariances_give_the_distance_of_their_roots():
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    a, b = rng.uniform(0.1, 4, 12), rng.uniform(0.1, 4, 12)
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    value = frechet_distance(np.zeros(12), basis * a @ basis.T, np.zeros(12), basis * b @ basis.T)
    assert value == pytest.approx(expected, rel=1e-10)


def test_one_dimension_follows_the_closed_form():
    assert frechet_distance(np.array([1.0]), np.array([[4.0]]), np.array([3.0]), np.array([[9.0]])) == pytest.approx(
        5.0
    )


@pytest.mark.parametrize("rank", [1, 3, 30])
def test_low_rank_covariances_on_orthogonal_subspaces_share_nothing(rank):
    sigma1, sigma2 = np.zeros((64, 64)), np.zeros((64, 64))
    sigma1[:rank, :rank] = random_covariance(rank, seed=2)
    sigma2[-rank:, -rank:] = random_covariance(rank, seed=3)
    value = frechet_distance(np.zeros(64), sigma1, np.zeros(64), sigma2)
    assert value == pytest.approx(np.trace(sigma1) + np.trace(sigma2), rel=1e-12)


def test_low_rank_covariance_scaled_by_four_gives_its_trace():
    # roots differ by a factor of two: Tr(S + 4 S - 2 * 2 S) = Tr S
    sigma = random_covariance(128, rank=7, seed=4)
    value = frechet_distance(np.zeros(128), sigma, np.zeros(128), 4 * sigma)
    assert value == pytest.approx(np.trace(sigma), rel=1e-9)


def test_zero_covariances_leave_the_means():
    zero = np.zeros((5, 5))
    assert frechet_distance(np.zeros(5), zero, np.full(5, 2.0), zero) == pytest.approx(20.0)


def test_arguments_can_change_places():
    one, two = (np.zeros(32), random_covariance(32, seed=5)), (np.ones(32), random_covariance(32, rank=9, seed=6))
    assert frechet_distance(*one, *two) == pytest.approx(frechet_distance(*two, *one), rel=1e-9)


@pytest.mark.parametrize("rank2", [None, 20])
def test_agrees_with_pytorch_fid(rank2):
    from pytorch_fid.fid_score import calculate_frechet_distance

    rng = np.random.default_rng(7)
    mu1, mu2 = rng.normal(size=48), rng.normal(size=48)
    sigma1, sigma2 = random_covariance(48, seed=8), random_covariance(48, rank=rank2, seed=9)
    expected = calculate_frechet_distance(mu1, sigma1, mu2, sigma2)
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(expected, rel=1e-6)


def test_float32_tensors_are_computed_in_float64():
    sigma = torch.from_numpy(random_covariance(24, seed=10)).float()
    mu = torch.randn(24)
    expected = frechet_distance(mu.double(), sigma.double(), mu.double() + 1, sigma.double())
    assert frechet_distance(mu, sigma, mu.double() + 1, sigma) == pytest.approx(expected, rel=1e-12)


def test_other_dimensions_are_refused():
    with pytest.raises(MetricError, match="one dimension, got 3 and 4"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(4), np.eye(4))


def test_covariance_of_another_shape_is_refused():
    with pytest.raises(MetricError, match=r"\(3,\) and \(2, 2\) for the second"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(3), np.eye(2))


def test_nan_is_refused():
    sigma = np.eye(3)
    sigma[1, 1] = np.nan
    with pytest.raises(MetricError, match="NaN or Inf in the first"):
        frechet_distance(np.zeros(3), sigma, np.zeros(3), np.eye(3))


def test_asymmetric_covariance_is_refused():
    sigma = np.eye(3)
    sigma[0, 2] = 0.5
    with pytest.raises(MetricError, match="symmetric covariance"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(3), sigma)
