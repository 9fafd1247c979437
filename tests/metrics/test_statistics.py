import numpy as np
import pytest
import torch

from genlab.errors import MetricError
from genlab.metrics import FeatureStatistics


def features(n=500, dim=12, seed=0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) @ mixing + offset


def streamed(data, sizes):
    statistics = FeatureStatistics(data.shape[1])
    for part in data.split(sizes):
        statistics.update(part)
    return statistics


@pytest.mark.parametrize("sizes", [[500], [1] * 500, [499, 1], [7, 93, 400]])
def test_any_cut_of_the_stream_gives_numpys_mean_and_covariance(sizes):
    data = features()
    statistics = streamed(data, sizes)
    assert statistics.count == 500
    np.testing.assert_allclose(statistics.mean.numpy(), data.numpy().mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        statistics.covariance.numpy(), np.cov(data.numpy(), rowvar=False), rtol=1e-10, atol=1e-12
    )


def test_a_mean_large_against_the_spread_costs_no_digits():
    data = features(offset=0.0)
    shifted = streamed(data + 1e7, [100] * 5)
    # E[x^2] - E[x]^2 would be off by about 1e14 * 1e-16 * 500 here; centred sums lose only the rounding of the data.
    torch.testing.assert_close(shifted.covariance, streamed(data, [500]).covariance, rtol=1e-6, atol=1e-6)


def test_merge_equals_one_stream():
    data = features()
    left, right = streamed(data[:123], [123]), streamed(data[123:], [100, 277])
    left.merge(right)
    whole = streamed(data, [500])
    assert left.count == 500
    torch.testing.assert_close(left.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(left.covariance, whole.covariance, rtol=1e-10, atol=1e-12)


def test_merge_with_nothing_changes_nothing():
    statistics = streamed(features(), [500])
    before = statistics.covariance.clone()
    statistics.merge(FeatureStatistics(12))
    statistics.update(torch.zeros(0, 12))
    assert statistics.count == 500 and torch.equal(statistics.covariance, before)


def test_merge_of_other_extractors_is_refused():
    with pytest.raises(MetricError, match="one feature extractor, got hash aa and bb"):
        FeatureStatistics(3, extractor="x", hash="aa").merge(FeatureStatistics(3, extractor="x", hash="bb"))


def test_dim_samples_are_too_few_and_one_more_is_enough():
    data = features(n=13)
    with pytest.raises(MetricError, match=r"fake: expected at least 13 images \(features of net have 12 dim.* got 12"):
        statistics = FeatureStatistics(12, extractor="net")
        statistics.update(data[:12])
        statistics.require_full_rank("fake")
    statistics.update(data[12:])
    statistics.require_full_rank("fake")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_names_its_sample(value):
    data = features(n=20)
    data[13, 5] = value
    statistics = FeatureStatistics(12)
    statistics.update(data[:10])
    with pytest.raises(MetricError, match="1 of 10 samples, first in sample 13"):
        statistics.update(data[10:])
    assert statistics.count == 10


def test_wrong_shape_is_refused():
    with pytest.raises(MetricError, match=r"shape \(n, 12\), got \(4, 11\)"):
        FeatureStatistics(12).update(torch.zeros(4, 11))


def test_one_sample_has_no_covariance():
    statistics = streamed(features(n=1), [1])
    with pytest.raises(MetricError, match="at least 2 samples"):
        statistics.covariance.sum()


def test_saved_statistics_come_back_whole_and_go_on(tmp_path):
    data = features()
    statistics = FeatureStatistics(12, extractor="net", hash="abc", protocol={"resize": "none", "k": 3})
    statistics.update(data[:300])
    path = statistics.save(tmp_path / "deeper" / "a.npz")
    loaded = FeatureStatistics.load(path)
    assert (loaded.count, loaded.extractor, loaded.hash, loaded.protocol) == (
        300,
        "net",
        "abc",
        {"resize": "none", "k": 3},
    )
    loaded.update(data[300:])
    torch.testing.assert_close(loaded.covariance, streamed(data, [500]).covariance, rtol=1e-10, atol=1e-12)
    assert [file.name for file in path.parent.iterdir()] == ["a.npz"]


def test_files_are_read_by_pytorch_fid_and_its_files_by_us(tmp_path):
    from pytorch_fid.fid_score import compute_statistics_of_path

    statistics = streamed(features(), [500])
    mu, sigma = compute_statistics_of_path(str(statistics.save(tmp_path / "ours.npz")), None, 1, 12, "cpu")
    np.testing.assert_array_equal(mu, statistics.mean.numpy())
    np.savez_compressed(tmp_path / "theirs.npz", mu=mu, sigma=sigma)
    theirs = FeatureStatistics.load(tmp_path / "theirs.npz")
    assert theirs.count is None and theirs.extractor is None
    np.testing.assert_array_equal(theirs.covariance.numpy(), sigma)
    theirs.require_full_rank()
    with pytest.raises(MetricError, match="without 'n'"):
        theirs.update(torch.zeros(1, 12))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "keys 'mu' and 'sigma', got \\['mu'\\]"),
        ({"other": np.zeros(3)}, "got \\['other'\\]"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "got \\(3,\\) and \\(4, 4\\)"),
        ({"mu": np.zeros((3, 1)), "sigma": np.eye(3)}, "mu \\(dim,\\)"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "finite statistics"),
        ({"mu": np.array(["a", "b"]), "sigma": np.eye(2)}, "expected float mu"),
        ({"mu": np.array([{}], dtype=object), "sigma": np.eye(1)}, "plain arrays"),
    ],
)
def test_npz_of_other_contents_is_refused_by_name(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(MetricError, match=message) as caught:
        FeatureStatistics.load(tmp_path / "bad.npz")
    assert str(tmp_path / "bad.npz") in str(caught.value) and "\n" not in str(caught.value)


def test_missing_truncated_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(MetricError, match="nothing at that path"):
        FeatureStatistics.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(MetricError, match="plain arrays"):
        FeatureStatistics.load(tmp_path / "text.npz")
    whole = streamed(features(), [500]).save(tmp_path / "whole.npz")
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(MetricError, match="plain arrays"):
        FeatureStatistics.load(tmp_path / "cut.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    with pytest.raises(MetricError, match="single array"):
        FeatureStatistics.load(tmp_path / "single.npz")


def test_name_without_npz_is_refused(tmp_path):
    with pytest.raises(MetricError, match="ends in .npz"):
        streamed(features(), [500]).save(tmp_path / "a.npy")


def test_unwritable_folder_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MetricError, match="writable folder"):
        streamed(features(), [500]).save(tmp_path / "file" / "a.npz")
