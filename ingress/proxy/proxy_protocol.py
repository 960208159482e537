"""The PROXY protocol, versions 1 and 2: a header in front of everything else, by which a load balancer says who connected to it.

Source: "The PROXY protocol", HAProxy 2.x doc/proxy-protocol.txt. Sans-IO and strict: bytes in, in any pieces; a header or `Malformed` out, and never more than
`LIMIT_BYTES` held. What a version 2 header carries beyond addresses (TLVs) is skipped.
"""

import struct
from typing import NamedTuple

from ingress.routing.networks import packed_address, unpacked_address

LIMIT_BYTES = 4096  # of a version 2 header, as in nginx; far above any set of TLVs in use
_LIMIT_V1_BYTES = 107  # section 2.1: the longest line, CRLF included
_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = struct.Struct("!12sBBH")
_TCP4 = struct.Struct("!4s4sHH")
_TCP6 = struct.Struct("!16s16sHH")
_LOCAL, _PROXY = 0x20, 0x21
# Families and transports that exist, but name no TCP client: unspecified, UDP, Unix sockets.
_WITHOUT_CLIENT = frozenset((0x00, 0x12, 0x22, 0x31, 0x32))


class Malformed(Exception):
    """What came is no PROXY header: the connection can't be used."""


class ProxyHeader(NamedTuple):
    """Who connected to the sender, and where. `source` is empty where the header names nobody (LOCAL, UNKNOWN): a health check of the balancer itself."""

    source: str = ""
    source_port: int = 0
    destination: str = ""
    destination_port: int = 0


NOBODY = ProxyHeader()


class HeaderParser:
    """Of one connection. `feed` until it answers."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> tuple[ProxyHeader, bytes] | None:
        """The header and what stands behind it; None: more is needed. Raises Malformed as soon as no header can come of it."""
        buffer = self._buffer = self._buffer + data
        if buffer.startswith(_V2):
            parsed = _parse_v2(buffer)
        elif buffer.startswith(_V1):
            parsed = _parse_v1(buffer)
        elif _V2.startswith(buffer) or _V1.startswith(buffer):
            return None
        else:
            raise Malformed("no PROXY header")
        if parsed is not None:
            self._buffer = b""
        return parsed


def _parse_v1(buffer: bytes) -> tuple[ProxyHeader, bytes] | None:
    end = buffer.find(b"\r\n", 0, _LIMIT_V1_BYTES)
    if end < 0:
        if len(buffer) >= _LIMIT_V1_BYTES:
            raise Malformed("a line without end")
        return None
    rest = buffer[end + 2 :]
    try:
        words = buffer[:end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise Malformed("a line that is not ASCII") from None
    if words[1] == "UNKNOWN":
        return NOBODY, rest
    if words[1] not in ("TCP4", "TCP6") or len(words) != 6:
        raise Malformed("a line of another form")
    source, destination = (_address(word, words[1]) for word in words[2:4])
    return ProxyHeader(source, _port(words[4]), destination, _port(words[5])), rest


def _address(word: str, family: str) -> str:
    packed = packed_address(word)
    if packed is None or (":" in word) != (family == "TCP6"):
        raise Malformed("no address of its family")
    return unpacked_address(packed)


def _port(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) <= 5 and (word == "0" or word[0] != "0")):
        raise Malformed("no port")
    port = int(word)
    if port > 65535:
        raise Malformed("no port")
    return port


def _parse_v2(buffer: bytes) -> tuple[ProxyHeader, bytes] | None:
    if len(buffer) < _V2_FIXED.size:
        return None
    _, command, family, length = _V2_FIXED.unpack_from(buffer)
    end = _V2_FIXED.size + length
    if command not in (_LOCAL, _PROXY):
        raise Malformed("an unknown version or command")
    if end > LIMIT_BYTES:
        raise Malformed(f"a header of more than {LIMIT_BYTES} bytes")
    addresses = {0x11: _TCP4, 0x21: _TCP6}.get(family)
    if command == _PROXY and (
        (addresses is None and family not in _WITHOUT_CLIENT) or (addresses is not None and length < addresses.size)
    ):
        raise Malformed("an unknown family, or too short for it")
    if len(buffer) < end:
        return None
    rest = buffer[end:]
    if command == _LOCAL or addresses is None:
        return NOBODY, rest
    source, destination, source_port, destination_port = addresses.unpack_from(buffer, _V2_FIXED.size)
    return ProxyHeader(_text(source), source_port, _text(destination), destination_port), rest


def _text(packed: bytes) -> str:
    found = packed_address(unpacked_address(packed))  # IPv4-mapped as IPv4
    assert found is not None
    return unpacked_address(found)


def encode_v1(source: str, source_port: int, destination: str, destination_port: int) -> bytes:
    """As nginx sends it to endpoints. Addresses of two families, or none, make it UNKNOWN."""
    ends = packed_address(source), packed_address(destination)
    if ends[0] is None or ends[1] is None or len(ends[0]) != len(ends[1]):
        return b"PROXY UNKNOWN\r\n"
    family = "TCP4" if len(ends[0]) == 4 else "TCP6"
    addresses = f"{unpacked_address(ends[0])} {unpacked_address(ends[1])}"
    return f"PROXY {family} {addresses} {source_port} {destination_port}\r\n".encode("ascii")
