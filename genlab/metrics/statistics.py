"""Mean and covariance of a stream of features, in float64 and in memory that does not grow with the stream."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlab.errors import MetricError


class FeatureStatistics:
    """Streaming mean and unbiased covariance.

    Batches are merged by Chan, Golub and LeVeque's pairwise update (1979, "Updating formulae and a pairwise algorithm
    for computing sample variances", eq. 2.1): sums of squares are taken about each batch's own mean, so a mean that is
    large against the spread costs no digits, unlike E[x^2] - E[x]^2.

    Attributes:
        dim: length of a feature.
        count: samples seen, or None for statistics loaded from a file that does not say.
        extractor: name of the feature extractor, or None where unknown.
        hash: hash of the extractor's weights, or None where unknown.
        protocol: everything else that the numbers depend on, JSON values only.
    """

    def __init__(
        self,
        dim: int,
        *,
        extractor: str | None = None,
        hash: str | None = None,
        protocol: dict[str, Any] | None = None,
    ) -> None:
        self.dim = dim
        self.count: int | None = 0
        self.extractor = extractor
        self.hash = hash
        self.protocol = dict(protocol or {})
        self._mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    @property
    def mean(self) -> Tensor:
        """Mean, float64, shape (dim,)."""
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (divided by count - 1), float64, shape (dim, dim).

        Raises:
            MetricError: fewer than two samples were seen.
        """
        if self.count is None:
            return self._scatter
        if self.count < 2:
            raise MetricError(f"statistics: expected at least 2 samples for a covariance, got {self.count}")
        return self._scatter / (self.count - 1)

    def update(self, features: Tensor) -> None:
        """Adds a batch of features, any float dtype and device, shape (n, dim).

        Raises:
            MetricError: wrong shape, or a value that is not finite (the message names the first sample).
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise MetricError(f"statistics: expected features of shape (n, {self.dim}), got {tuple(features.shape)}")
        if self.count is None:
            raise MetricError("statistics: expected statistics with a sample count to add to, got a file without 'n'")
        if features.shape[0] == 0:
            return
        features = features.detach().to("cpu", torch.float64)
        finite = torch.isfinite(features).all(dim=1)
        if not finite.all():
            first = self.count + int((~finite).nonzero()[0])
            raise MetricError(
                f"statistics: expected finite features, got NaN or Inf in {int((~finite).sum())} of {len(finite)} "
                f"samples, first in sample {first}; check the images or the generator's output"
            )
        mean = features.mean(dim=0)
        centred = features - mean
        self._scatter.addmm_(centred.T, centred)
        self._shift(mean, features.shape[0])

    def merge(self, other: FeatureStatistics) -> None:
        """Adds the samples of `other`, as if they had been streamed into this one.

        Raises:
            MetricError: dimensions, extractors or hashes differ, or a count is unknown.
        """
        check_comparable(self, other)
        if self.count is None or other.count is None:
            raise MetricError("statistics: expected sample counts on both sides of a merge, got a file without 'n'")
        if other.count == 0:
            return
        self._scatter += other._scatter
        self._shift(other._mean, other.count)

    def _shift(self, mean: Tensor, count: int) -> None:
        """Moves mean and scatter for `count` new samples about `mean`, whose own scatter is already added."""
        total = self.count + count
        delta = mean - self._mean
        self._scatter.addr_(delta, delta, alpha=self.count * count / total)
        self._mean += delta * (count / total)
        self.count = total

    def require_full_rank(self, what: str = "images") -> None:
        """Refuses statistics whose covariance cannot have full rank.

        Raises:
            MetricError: fewer than dim + 1 samples. Unknown counts (files of pytorch-fid) pass.
        """
        if self.count is not None and self.count < self.dim + 1:
            raise MetricError(
                f"{what}: expected at least {self.dim + 1} images (features of {self.extractor or 'the extractor'} "
                f"have {self.dim} dimensions, and fewer give a singular covariance), got {self.count}; "
                "give more images or choose an extractor with fewer dimensions"
            )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes an npz with pytorch-fid's keys `mu` and `sigma`, plus n, extractor, hash and protocol.

        The file appears under its name only when complete.
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise MetricError(f"statistics file: expected a name that ends in .npz, got {path}")
        arrays = {"mu": self._mean.numpy(), "sigma": self.covariance.numpy(), "protocol": json.dumps(self.protocol)}
        if self.count is not None:
            arrays["n"] = self.count
        for key in ("extractor", "hash"):
            if getattr(self, key) is not None:
                arrays[key] = getattr(self, key)
        save_arrays(path, arrays)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeatureStatistics:
        """Reads an npz written by `save` or by `python -m pytorch_fid --save-stats`.

        Raises:
            MetricError: no such file, not an npz, keys missing, shapes that disagree, or values that are not finite.
        """
        path = Path(path)
        arrays = load_arrays(path)
        missing = [key for key in ("mu", "sigma") if key not in arrays]
        if missing:
            raise MetricError(
                f"{path}: expected an npz with the keys 'mu' and 'sigma', got {sorted(arrays) or 'none'}; "
                "write one with genlab.metrics.save_statistics or python -m pytorch_fid --save-stats"
            )
        mean, covariance = arrays["mu"], arrays["sigma"]
        if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
            raise MetricError(
                f"{path}: expected mu (dim,) and sigma (dim, dim), got {mean.shape} and {covariance.shape}"
            )
        if mean.dtype.kind != "f" or covariance.dtype.kind != "f":
            raise MetricError(f"{path}: expected float mu and sigma, got {mean.dtype} and {covariance.dtype}")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise MetricError(f"{path}: expected finite statistics, got NaN or Inf")
        statistics = cls(mean.size)
        statistics.extractor = str(arrays["extractor"]) if "extractor" in arrays else None
        statistics.hash = str(arrays["hash"]) if "hash" in arrays else None
        statistics.protocol = json.loads(str(arrays["protocol"])) if "protocol" in arrays else {}
        statistics.count = int(arrays["n"]) if "n" in arrays else None
        statistics._mean = torch.from_numpy(mean.astype(np.float64))
        scale = 1 if statistics.count is None else statistics.count - 1
        statistics._scatter = torch.from_numpy(covariance.astype(np.float64)) * scale
        return statistics


def check_comparable(first: FeatureStatistics, second: FeatureStatistics) -> None:
    """Refuses two statistics that cannot come from the same features.

    Raises:
        MetricError: dimensions differ, or both name an extractor (or a hash) and these differ.
    """
    remedy = "recompute one of them with the other's extractor"
    if first.dim != second.dim:
        raise MetricError(f"statistics: expected equal dimensions, got {first.dim} and {second.dim}; {remedy}")
    for key in ("extractor", "hash"):
        left, right = getattr(first, key), getattr(second, key)
        if left is not None and right is not None and left != right:
            raise MetricError(f"statistics: expected one feature extractor, got {key} {left} and {right}; {remedy}")


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Writes an npz under a temporary name beside `path` and renames it: readers see all of it or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".npz")
    except OSError as error:
        raise MetricError(f"{path}: expected a writable folder, got {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
        os.replace(name, path)
    except OSError as error:
        raise MetricError(f"{path}: could not be written: {error.strerror or error}") from error
    finally:
        if os.path.exists(name):
            os.unlink(name)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads every array of an npz without running pickles.

    Raises:
        MetricError: no such file, not an npz, or an npz that holds Python objects.
    """
    if not path.is_file():
        raise MetricError(f"{path}: expected an npz file, got nothing at that path")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise MetricError(f"{path}: expected an npz of plain arrays, got a single array")
        with loaded as file:
            return {key: file[key] for key in file.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError) as error:
        raise MetricError(f"{path}: expected an npz of plain arrays, got {str(error).splitlines()[0]}") from error
