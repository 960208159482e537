"""Sets of IP networks: whether an address is in one of thousands, in the time of a binary search."""

import ipaddress
import socket
from bisect import bisect_right
from collections.abc import Iterable

_MAPPED = b"\0" * 10 + b"\xff\xff"  # ::ffff:a.b.c.d


class NetworkSet:
    """Sorted, disjoint intervals of each family. IPv4-mapped IPv6 addresses count as IPv4."""

    __slots__ = ("__weakref__", "_ends4", "_ends6", "_starts4", "_starts6", "size")

    def __init__(self, cidrs: Iterable[str]) -> None:
        """`cidrs` as `translate.access.networks` gives them; raises ValueError for others."""
        four: list[tuple[int, int]] = []
        six: list[tuple[int, int]] = []
        for text in cidrs:
            network = ipaddress.ip_network(text)
            interval = int(network.network_address), int(network.broadcast_address)
            (four if network.version == 4 else six).append(interval)
        self.size = len(four) + len(six)
        self._starts4, self._ends4 = _merged(four)
        self._starts6, self._ends6 = _merged(six)

    def contains(self, address: str) -> bool:
        """Raises ValueError for what is no address."""
        try:
            if ":" not in address:
                return _within(int.from_bytes(socket.inet_pton(socket.AF_INET, address)), self._starts4, self._ends4)
            packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
        except OSError:
            raise ValueError(f"{address!r} is not an address") from None
        if packed[:12] == _MAPPED:
            return _within(int.from_bytes(packed[12:]), self._starts4, self._ends4)
        return _within(int.from_bytes(packed), self._starts6, self._ends6)

    def __repr__(self) -> str:
        return f"<NetworkSet of {self.size}>"


def _within(number: int, starts: list[int], ends: list[int]) -> bool:
    at = bisect_right(starts, number)
    return at > 0 and number <= ends[at - 1]


def _merged(intervals: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    starts: list[int] = []
    ends: list[int] = []
    for start, end in sorted(intervals):
        if ends and start <= ends[-1] + 1:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)
    return starts, ends
