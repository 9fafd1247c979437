import numpy as np
import pytest
import torch

from genlab.errors import MetricError
from genlab.metrics import Reservoir, kernel_distance, mode_coverage, polynomial_mmd, prdc


def written_out_mmd(x, y):
    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


def test_mmd_agrees_with_its_double_sums():
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.randn(13, 4, dtype=torch.float64) + 0.5
    assert polynomial_mmd(x, y) == pytest.approx(written_out_mmd(x, y), rel=1e-10)


def test_mmd_is_unbiased_for_equal_distributions():
    values = [polynomial_mmd(torch.randn(40, 3), torch.randn(60, 3)) for _ in range(300)]
    mean, error = np.mean(values), np.std(values) / np.sqrt(len(values))
    assert abs(mean) < 4 * error and min(values) < 0


def test_kid_grows_with_the_shift_and_repeats_exactly():
    real, fake = torch.randn(300, 8), torch.randn(300, 8)
    near, far = (kernel_distance(real, fake + shift, subsets=10, subset_size=100) for shift in (0.1, 1.0))
    assert near[0] < 0.2 * far[0] and far[1] > 0
    assert kernel_distance(real, fake + 0.1, subsets=10, subset_size=100) == near
    assert kernel_distance(real, fake + 0.1, subsets=10, subset_size=100, seed=1) != near


def test_kid_of_sets_no_larger_than_the_subset_is_the_mmd():
    real, fake = torch.randn(50, 8), torch.randn(50, 8)
    mean, std = kernel_distance(real, fake)
    assert mean == pytest.approx(polynomial_mmd(real, fake)) and std == 0.0


def test_kid_of_one_image_is_refused():
    with pytest.raises(MetricError, match="got 1 real, 5 fake"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(5, 3))


def brute_force_prdc(real, fake, k):
    real, fake = real.double().numpy(), fake.double().numpy()

    def distances(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    real_radius = np.sort(distances(real, real), axis=1)[:, k]
    fake_radius = np.sort(distances(fake, fake), axis=1)[:, k]
    cross = distances(real, fake)
    inside = cross <= real_radius[:, None]
    return {
        "precision": inside.any(axis=0).mean(),
        "recall": (cross <= fake_radius[None]).any(axis=1).mean(),
        "density": inside.sum() / (k * len(fake)),
        "coverage": (cross.min(axis=1) <= real_radius).mean(),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("chunk", [7, 1024])
def test_prdc_agrees_with_whole_distance_matrices(k, chunk):
    real, fake = torch.randn(60, 5), 0.7 * torch.randn(45, 5) + 0.4
    assert prdc(real, fake, k=k, chunk=chunk) == pytest.approx(brute_force_prdc(real, fake, k))


def test_prdc_of_a_set_with_itself_is_perfect():
    real = torch.randn(100, 6)
    values = prdc(real, real.clone(), k=3)
    assert (values["precision"], values["recall"], values["coverage"]) == (1.0, 1.0, 1.0)
    assert values["density"] >= 1.0


def test_prdc_tells_lost_diversity_from_lost_fidelity():
    real = torch.randn(300, 4)
    collapsed = prdc(real, 0.05 * torch.randn(300, 4))
    scattered = prdc(real, 10 * torch.randn(300, 4))
    assert collapsed["precision"] > 0.9 and collapsed["recall"] < 0.3
    assert scattered["precision"] < 0.3 and scattered["recall"] > 0.9


def test_prdc_needs_more_images_than_neighbours():
    with pytest.raises(MetricError, match="more than k = 5 images on each side, got 5 and 9"):
        prdc(torch.randn(5, 2), torch.randn(9, 2))
    with pytest.raises(MetricError, match=r"\(5, 2\) and \(9, 3\)"):
        prdc(torch.randn(5, 2), torch.randn(9, 3))


def test_reservoir_keeps_a_short_stream_whole_and_in_order():
    data = torch.randn(30, 4)
    reservoir = Reservoir(30, 4)
    for part in data.split(7):
        reservoir.update(part)
    assert torch.equal(reservoir.features(), data)


@pytest.mark.parametrize("batch", [1, 17, 400])
def test_reservoir_does_not_depend_on_batches(batch):
    data = torch.arange(400.0)[:, None]

    def kept(size, seed):
        reservoir = Reservoir(50, 1, seed)
        for part in data.split(size):
            reservoir.update(part)
        return reservoir.features()

    assert torch.equal(kept(batch, 3), kept(50, 3))
    assert not torch.equal(kept(batch, 3), kept(batch, 4))
    assert torch.equal(kept(batch, 3), kept(batch, 3).sort(dim=0).values)


def test_reservoir_is_uniform():
    hits = torch.zeros(40)
    for seed in range(2000):
        reservoir = Reservoir(10, 1, seed)
        reservoir.update(torch.arange(40.0)[:, None])
        hits[reservoir.features().long().flatten()] += 1
    # Each index is kept with probability 1/4: mean 500, deviation 19.4; five of these on 40 indices.
    assert (hits - 500).abs().max() < 5 * 19.4


RING = torch.stack([torch.tensor([np.cos(a), np.sin(a)]) for a in np.arange(8) * np.pi / 4])


def test_samples_of_every_mode_cover_all_of_them():
    points = RING.repeat(50, 1) + 0.02 * torch.randn(400, 2)
    result = mode_coverage(points, RING, std=0.02)
    assert result["modes_covered"] == result["num_modes"] == 8
    # within three deviations in two dimensions: 1 - exp(-4.5) = 0.989
    assert result["high_quality"] == pytest.approx(0.989, abs=0.02)
    assert result["balance"] == pytest.approx(1.0, abs=1e-3)


def test_a_collapsed_generator_covers_one_mode():
    result = mode_coverage(RING[:1].expand(100, 2), RING, std=0.02)
    assert result == {"modes_covered": 1, "num_modes": 8, "high_quality": 1.0, "balance": 0.0}


def test_points_off_every_mode_count_for_none():
    result = mode_coverage(torch.zeros(10, 2), RING, std=0.02)
    assert result == {"modes_covered": 0, "num_modes": 8, "high_quality": 0.0, "balance": 0.0}


@pytest.mark.parametrize(
    ("points", "std", "message"),
    [
        (torch.zeros(4, 3), 0.1, r"got \(4, 3\) and \(8, 2\)"),
        (torch.zeros(0, 2), 0.1, r"got \(0, 2\)"),
        (torch.zeros(4, 2), 0.0, "std > 0"),
        (torch.full((4, 2), float("nan")), 0.1, "NaN or Inf"),
    ],
)
def test_mode_coverage_refuses_what_it_cannot_judge(points, std, message):
    with pytest.raises(MetricError, match=message):
        mode_coverage(points, RING, std)
