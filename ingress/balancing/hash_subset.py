"""Consistent hash onto subsets: a key belongs to a few endpoints, and each of its requests goes to one of them at random.

ingress-nginx's upstream-hash-by-subset: endpoints are cut into sets of `size` in their order, and what the last one lacks is filled up with the
first endpoints. Which set has a key is decided by jump consistent hash (Lamping and Veach, 2014): when a set more is needed, keys only
move there. Which endpoints are in a set changes when one before them comes or goes.
"""

from collections.abc import Sequence
from random import Random

from ingress.balancing.base import EndpointState

_MASK = (1 << 64) - 1


class HashSubset:
    __slots__ = ("_endpoints", "_rng", "_sets")

    def __init__(self, endpoints: Sequence[EndpointState], size: int, rng: Random) -> None:
        self._endpoints = tuple(endpoints)
        self._rng = rng
        count = -(-len(endpoints) // size)
        size = min(size, len(endpoints))
        filled = [*endpoints, *endpoints][: count * size]
        self._sets = [tuple(filled[at : at + size]) for at in range(0, count * size, size)]

    def pick(self, now: float, key: int) -> EndpointState:
        """`key` is a 64-bit hash (`hashing.hash64`); `now` is not used."""
        members = self._sets[_jump(key, len(self._sets))]
        return members[int(self._rng.random() * len(members))]

    def pick_other(self, now: float, key: int, tried: Sequence[EndpointState]) -> EndpointState | None:
        """Another of the key's set; if all those were tried, any other."""
        members = self._sets[_jump(key, len(self._sets))]
        for choice in (members, self._endpoints):
            left = [state for state in choice if state not in tried]
            if left:
                return left[int(self._rng.random() * len(left))]
        return None


def _jump(key: int, buckets: int) -> int:
    """Of `buckets` numbered from 0. O(log buckets)."""
    bucket, following = -1, 0
    while following < buckets:
        bucket = following
        key = (key * 2862933555777941757 + 1) & _MASK
        following = int((bucket + 1) * ((1 << 31) / ((key >> 33) + 1)))
    return bucket
