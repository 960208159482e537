"""Sets of IP networks, and the one form of an address that everything else compares. Pure.

Addresses are text, as in `Exchange.client_address`: IPv4 dotted, IPv6 as RFC 5952 writes it, IPv4-mapped IPv6 as IPv4. Packed they are 4 or 16 bytes.
"""

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

_MAPPED = b"\0" * 10 + b"\xff\xff"  # ::ffff:a.b.c.d
_LONGEST = 45  # characters of an IPv6 address, one with an IPv4 tail included


def packed_address(text: str) -> bytes | None:
    """None for what is no address. Zone names are none: they mean something on one machine only."""
    if len(text) > _LONGEST:
        return None
    try:
        if ":" not in text:
            return inet_pton(AF_INET, text)
        packed = inet_pton(AF_INET6, text)
    except (OSError, ValueError):  # ValueError: characters that no C string has
        return None
    return packed[12:] if packed.startswith(_MAPPED) else packed


def unpacked_address(packed: bytes) -> str:
    """The inverse of `packed_address`, up to the form."""
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


class NetworkSet:
    """Whether an address is in one of thousands of networks, in the time of a binary search: sorted, disjoint intervals of each family."""

    __slots__ = ("__weakref__", "_ends4", "_ends6", "_starts4", "_starts6", "size")

    def __init__(self, cidrs: Iterable[str]) -> None:
        """Networks or single addresses; host bits may be set, IPv4-mapped IPv6 counts as IPv4. Raises ValueError for anything else."""
        four: list[tuple[int, int]] = []
        six: list[tuple[int, int]] = []
        for text in cidrs:
            network = ip_network(text, strict=False)
            interval = int(network.network_address), int(network.broadcast_address)
            if network.version == 6 and network.prefixlen >= 96 and interval[0] >> 32 == 0xFFFF:
                four.append((interval[0] & 0xFFFFFFFF, interval[1] & 0xFFFFFFFF))
            else:
                (four if network.version == 4 else six).append(interval)
        self.size = len(four) + len(six)
        self._starts4, self._ends4 = _merged(four)
        self._starts6, self._ends6 = _merged(six)

    def has(self, packed: bytes) -> bool:
        """`packed` as from `packed_address`."""
        starts, ends = (self._starts4, self._ends4) if len(packed) == 4 else (self._starts6, self._ends6)
        number = int.from_bytes(packed)
        at = bisect_right(starts, number)
        return at > 0 and number <= ends[at - 1]

    def contains(self, address: str) -> bool:
        """Raises ValueError for what is no address."""
        packed = packed_address(address.partition("%")[0])
        if packed is None:
            raise ValueError(f"{address!r} is not an address")
        return self.has(packed)

    def __bool__(self) -> bool:
        return self.size > 0

    def __repr__(self) -> str:
        return f"<NetworkSet of {self.size}>"


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
