"""When work may be done: a token bucket, a back-off, and a queue that is ordered by due time. Pure: times are seconds, `now` comes in."""

import asyncio
import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SHORTEST_WAIT_S = 0.001


class TokenBucket:
    """`burst` at once, then `rate_per_s`. Starts full."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        if rate_per_s <= 0 or burst < 1:
            raise ValueError(f"rate {rate_per_s} and burst {burst} would let nothing through")
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._updated = now

    def wait_s(self, now: float) -> float:
        """Until a token is there; 0: it is."""
        self._tokens = min(self._burst, self._tokens + max(now - self._updated, 0.0) * self._rate)
        self._updated = max(now, self._updated)
        # A hair below one counts as one: sums of floats must not make a waiter wake up just too early again and again.
        return 0.0 if self._tokens >= 1 - 1e-9 else (1 - self._tokens) / self._rate

    def take(self, now: float) -> None:
        """Only after `wait_s` said 0."""
        if self.wait_s(now) > 0:
            raise ValueError("no token")
        self._tokens -= 1


def backoff_s(failures: int, first_s: float, longest_s: float, chance: float) -> float:
    """Seconds to wait after `failures` (1 or more) in a row: doubled each time. `chance` in [0, 1) takes off up to a
    fifth, so that many who failed together don't come back together.
    """
    base = min(longest_s, first_s * 2.0 ** min(max(failures - 1, 0), 30))
    return base * (1.0 - 0.2 * chance)


class DelayQueue(Generic[K]):
    """Keys by due time, each once; of equal times, the one added first."""

    __slots__ = ("_due", "_heap", "_numbers")

    def __init__(self) -> None:
        self._due: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: K) -> bool:
        return key in self._due

    def add(self, key: K, due: float) -> None:
        """A key that waits already keeps the earlier of the two times."""
        known = self._due.get(key)
        if known is not None and known[0] <= due:
            return
        number = next(self._numbers)
        self._due[key] = (due, number)
        heapq.heappush(self._heap, (due, number, key))

    def discard(self, key: K) -> None:
        self._due.pop(key, None)

    def clear(self) -> None:
        self._due.clear()
        self._heap.clear()

    def pop(self, now: float) -> K | None:
        """The first that is due, taken out."""
        first = self._first()
        if first is None or first[0] > now:
            return None
        heapq.heappop(self._heap)
        del self._due[first[2]]
        return first[2]

    def wait_s(self, now: float) -> float | None:
        """Until the first is due; None: there is none."""
        first = self._first()
        return None if first is None else max(first[0] - now, 0.0)

    def drop_first(self) -> K | None:
        """Take out the first, due or not."""
        first = self._first()
        return None if first is None else self.pop(first[0])

    def _first(self) -> tuple[float, int, K] | None:
        while self._heap:
            due, number, key = self._heap[0]
            if self._due.get(key) == (due, number):
                return self._heap[0]
            heapq.heappop(self._heap)  # discarded, or added again for an earlier time
        return None


async def wait_for(event: asyncio.Event, limit_s: float | None) -> None:
    """Until the event is set or the time is over (None: never)."""
    try:
        async with asyncio.timeout(None if limit_s is None else max(limit_s, _SHORTEST_WAIT_S)):
            await event.wait()
    except TimeoutError:
        pass
