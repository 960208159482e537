"""Round robin: endpoints in turn, starting at a random one."""

from collections.abc import Sequence
from itertools import cycle
from random import Random

from ingress.balancing.base import EndpointState, Picker


class RoundRobin:
    """Every `len(endpoints)` picks in a row name each endpoint once.

    The start is random: a picker is rebuilt at every change, in every worker, and a fixed start would send the first
    request after each rebuild to the same endpoint (in a rolling update of an upstream with little traffic: nearly
    all of them).
    """

    __slots__ = ("_size", "_turn")

    def __init__(self, endpoints: Sequence[EndpointState], rng: Random) -> None:
        start = rng.randrange(len(endpoints))
        self._size = len(endpoints)
        self._turn = cycle((*endpoints[start:], *endpoints[:start]))

    def pick(self, now: float, key: int) -> EndpointState:
        return next(self._turn)

    def pick_other(self, now: float, key: int, tried: Sequence[EndpointState]) -> EndpointState | None:
        """A retry uses up the turn of the endpoint it goes to, so the neighbour of a dead one gets no double share."""
        for _ in range(self._size):
            state = next(self._turn)
            if state not in tried:
                return state
        return None


def build(endpoints: Sequence[EndpointState], rng: Random) -> Picker:
    return RoundRobin(endpoints, rng)
