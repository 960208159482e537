"""Sets of networks, and the one form of an address that everything else compares. Pure.

Addresses are text, as in `Exchange.client_address`: IPv4 dotted, IPv6 as RFC 5952 writes it, IPv4-mapped IPv6 as IPv4.
"""

from collections.abc import Iterable
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

_MAPPED = b"\0" * 10 + b"\xff\xff"
_LONGEST = 45  # characters of an IPv6 address, one with an IPv4 tail included


def packed_address(text: str) -> bytes | None:
    """4 or 16 bytes; None for what is no address. Zone names are none: they mean something on one machine only."""
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


class Networks:
    """Whether an address is in any of some networks: one look-up for each prefix length that occurs among them.

    `texts` are CIDR networks or single addresses; host bits may be set. Raises ValueError for anything else.
    """

    __slots__ = ("_v4", "_v6")

    def __init__(self, texts: Iterable[str]) -> None:
        v4: dict[int, set[int]] = {}
        v6: dict[int, set[int]] = {}
        for text in texts:
            network = ip_network(text.strip(), strict=False)
            bits, found, length = network.max_prefixlen, v4 if network.version == 4 else v6, network.prefixlen
            base = int(network.network_address)
            if network.version == 6 and length >= 96 and base >> 32 == 0xFFFF:  # ::ffff:10.0.0.0/104
                bits, found, length, base = 32, v4, length - 96, base & 0xFFFFFFFF
            found.setdefault(bits - length, set()).add(base >> (bits - length))
        self._v4 = tuple(sorted(v4.items(), reverse=True))
        self._v6 = tuple(sorted(v6.items(), reverse=True))

    def has(self, packed: bytes) -> bool:
        """`packed` as from `packed_address`."""
        number = int.from_bytes(packed, "big")
        for shift, bases in self._v4 if len(packed) == 4 else self._v6:  # noqa: SIM110 - a generator costs more
            if number >> shift in bases:
                return True
        return False

    def __contains__(self, address: str) -> bool:
        packed = packed_address(address)
        return packed is not None and self.has(packed)

    def __bool__(self) -> bool:
        return bool(self._v4 or self._v6)
