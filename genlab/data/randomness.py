"""Random numbers as a function of (seed, epoch, index, draw): no state that workers, shards or resuming could change.

Each number is a splitmix64 hash of its coordinates (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators"). Integer arithmetic only: the same bits on every machine and with every version of numpy and torch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1

# Names of the draws that one sample may need; two decisions never share a number.
ORDER, FLIP, TOP, LEFT, PARTNER = range(5)
SECOND_DOMAIN = 16  # added for the second picture of an unpaired sample, which moves on its own


class EpochKey(NamedTuple):
    """Which pass over the data a random decision belongs to."""

    seed: int
    epoch: int


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def hash64(*coordinates: int | np.ndarray) -> np.ndarray:
    """One 64-bit hash for each broadcast combination of integer coordinates, at least 1-d."""
    state = np.zeros(1, dtype=np.uint64)
    for coordinate in coordinates:
        if isinstance(coordinate, np.ndarray):
            value = coordinate.astype(np.uint64)
        else:
            value = np.array([coordinate & _MASK], dtype=np.uint64)
        state = _mix((state ^ _mix(value + _GOLDEN)) + _GOLDEN)
    return state


def uniform(*coordinates: int | np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), float64, one for each broadcast combination of integer coordinates."""
    return (hash64(*coordinates) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform_rows(*coordinates: int | np.ndarray, count: int) -> np.ndarray:
    """`count` numbers in [0, 1), float32 (N, count), for each of N broadcast combinations of integer coordinates.

    Each row is splitmix64's own sequence from the hash of its coordinates: a tenth of the work of hashing every number.
    """
    states = hash64(*coordinates)[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
    return (_mix(states) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def normal(*coordinates: int | np.ndarray) -> np.ndarray:
    """Standard normal numbers by Box and Muller; the coordinates are extended by 0 and 1 for the two uniforms."""
    radius = np.sqrt(-2.0 * np.log1p(-uniform(*coordinates, 0)))
    return radius * np.cos(2.0 * np.pi * uniform(*coordinates, 1))


def permutation(key: EpochKey, length: int) -> np.ndarray:
    """Order of `length` samples in one epoch, int64 (length,)."""
    return np.argsort(hash64(key.seed, key.epoch, ORDER, np.arange(length)), kind="stable")
