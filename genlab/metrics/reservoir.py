"""A bounded uniform sample of a stream of features, the same for every batch size."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Reservoir:
    """Keeps `capacity` features of a stream, every subset equally likely, chosen by seed alone.

    Each sample draws a priority from the seeded stream; the smallest `capacity` stay (bottom-k sampling, Cohen and
    Kaplan 2007). The n-th sample's priority does not depend on how the stream was cut into batches. Where the stream is
    no longer than the capacity all of it is kept, in order.

    Args:
        capacity: features kept at most.
        dim: length of a feature.
        seed: seed of the priorities.
    """

    def __init__(self, capacity: int, dim: int, seed: int = 0) -> None:
        self.capacity = capacity
        self.dim = dim
        self.seed = seed
        self.seen = 0
        self._random = np.random.default_rng(seed)
        self._features = torch.empty(0, dim)
        self._priority = np.empty(0)
        self._index = np.empty(0, dtype=np.int64)

    def update(self, features: Tensor) -> None:
        """Offers a batch of features, shape (n, dim)."""
        features = features.detach().to("cpu", torch.float32)
        priority = self._random.random(len(features))
        index = np.arange(self.seen, self.seen + len(features))
        self.seen += len(features)
        free = min(self.capacity - len(self._index), len(features))
        if free > 0:
            self._features = torch.cat([self._features, features[:free]])
            self._priority = np.concatenate([self._priority, priority[:free]])
            self._index = np.concatenate([self._index, index[:free]])
        for row in range(max(free, 0), len(features)):
            largest = int(self._priority.argmax())
            if priority[row] < self._priority[largest]:
                self._features[largest] = features[row]
                self._priority[largest] = priority[row]
                self._index[largest] = index[row]

    def features(self) -> Tensor:
        """The kept features in stream order, float32, shape (min(capacity, seen), dim)."""
        return self._features[torch.from_numpy(np.argsort(self._index))]
