"""A sorted multiset that is cheap to change a little and cheap to read."""

from bisect import bisect_left, insort
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Any)  # anything that has an order

_BULK = 256  # with more additions than this at once, sorting anew is cheaper than inserting one by one


class SortedBag(Generic[T]):
    """Changes are gathered and applied by `items`: O(changes x log size), plus moving pointers."""

    __slots__ = ("_added", "_removed", "_sorted")

    def __init__(self) -> None:
        self._sorted: list[T] = []
        self._added: list[T] = []
        self._removed: list[T] = []

    def add(self, item: T) -> None:
        self._added.append(item)

    def remove(self, item: T) -> None:
        """`item` has been added before, and not yet been removed as often."""
        self._removed.append(item)

    def items(self) -> list[T]:
        """In order. The list belongs to the bag: neither keep nor change it."""
        if len(self._added) > _BULK:
            self._sorted += self._added
            self._sorted.sort()
        else:
            for item in self._added:
                insort(self._sorted, item)
        self._added.clear()
        for item in self._removed:
            del self._sorted[bisect_left(self._sorted, item)]
        self._removed.clear()
        return self._sorted
