"""PROXY headers: every form, every way to be wrong, in any pieces."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.proxy.proxy_protocol import LIMIT_BYTES, NOBODY, HeaderParser, Malformed, ProxyHeader, encode_v1

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(command: int, family: int, payload: bytes, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return SIGNATURE + struct.pack("!BBH", command, family, size) + payload


def tcp4(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    packed = socket.inet_aton(source) + socket.inet_aton(destination)
    return packed + struct.pack("!HH", source_port, destination_port)


def tcp6(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    packed = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    return packed + struct.pack("!HH", source_port, destination_port)


V4 = ProxyHeader("192.0.2.1", 56324, "198.51.100.1", 443)
V6 = ProxyHeader("2001:db8::1", 1, "2001:db8::2", 65535)
TLV = b"\x04\x00\x03abc"

GOOD = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", V4),
    (b"PROXY TCP6 2001:db8::1 2001:DB8:0::2 1 65535\r\n", V6),
    (b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 65535\r\n", V6._replace(source="192.0.2.1")),
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 0 0\r\n", V4._replace(source_port=0, destination_port=0)),
    (b"PROXY UNKNOWN\r\n", NOBODY),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", NOBODY),
    (v2(0x21, 0x11, tcp4(*("192.0.2.1", "198.51.100.1", 56324, 443))), V4),
    (v2(0x21, 0x11, tcp4(*("192.0.2.1", "198.51.100.1", 56324, 443)) + TLV * 10), V4),
    (v2(0x21, 0x21, tcp6(*("2001:db8::1", "2001:db8::2", 1, 65535))), V6),
    (v2(0x21, 0x21, tcp6(*("2001:db8::1", "2001:db8::2", 1, 65535)) + bytes(LIMIT_BYTES - 52)), V6),
    (v2(0x20, 0x00, b""), NOBODY),
    (v2(0x20, 0x11, tcp4("192.0.2.1", "198.51.100.1", 1, 2)), NOBODY),  # LOCAL: addresses don't count
    (v2(0x20, 0xFF, b"anything"), NOBODY),
    (v2(0x21, 0x00, b""), NOBODY),
    (v2(0x21, 0x12, tcp4("192.0.2.1", "198.51.100.1", 1, 2)), NOBODY),
    (v2(0x21, 0x31, bytes(216)), NOBODY),
]

BAD = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00",
    b"proxy TCP4 192.0.2.1 198.51.100.1 1 2\r\n",
    b"PROXY  TCP4 192.0.2.1 198.51.100.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n",
    b"PROXY TCP4 192.0.2.1  198.51.100.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 1 65536\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 1 -2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 1 x\r\n",
    b"PROXY TCP4 192.0.2 198.51.100.1 1 2\r\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 198.51.100.1 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n",
    b"PROXY TCP5 192.0.2.1 198.51.100.1 1 2\r\n",
    b"PROXY \r\n",
    b"PROXY \xff\r\n",
    b"PROXY UNKNOWN " + b"x" * 100,
    v2(0x11, 0x11, tcp4("192.0.2.1", "198.51.100.1", 1, 2)),  # version 1 in a version 2 header
    v2(0x22, 0x11, tcp4("192.0.2.1", "198.51.100.1", 1, 2)),  # no such command
    v2(0x21, 0x13, tcp4("192.0.2.1", "198.51.100.1", 1, 2)),  # no such family
    v2(0x21, 0x11, b"short"),
    v2(0x21, 0x21, tcp4("192.0.2.1", "198.51.100.1", 1, 2)),
    v2(0x21, 0x11, b"", length=LIMIT_BYTES - 15),
    v2(0x20, 0x00, b"", length=0xFFFF),
]


def feed(data: bytes, step: int) -> tuple[ProxyHeader, bytes] | None:
    """Answered by the piece that completes it; what was not fed yet counts as behind it."""
    parser = HeaderParser()
    for at in range(0, len(data), step):
        parsed = parser.feed(data[at : at + step])
        if parsed is not None:
            return parsed[0], parsed[1] + data[at + step :]
    return None


@pytest.mark.parametrize(("data", "header"), GOOD)
@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize("rest", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n"])
def test_good(data: bytes, header: ProxyHeader, step: int, rest: bytes) -> None:
    assert feed(data + rest, step) == (header, rest)


@pytest.mark.parametrize("data", BAD)
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_bad(data: bytes, step: int) -> None:
    with pytest.raises(Malformed):
        feed(data, step)


@pytest.mark.parametrize(("data", "header"), GOOD)
def test_incomplete(data: bytes, header: ProxyHeader) -> None:
    """Nothing is guessed before the last byte, and a connection that stops there holds little."""
    for end in range(len(data)):
        assert HeaderParser().feed(data[:end]) is None


@given(st.lists(st.binary(max_size=64), max_size=8), st.sampled_from([b"", b"PROXY TCP4 ", SIGNATURE]))
def test_anything(pieces: list[bytes], beginning: bytes) -> None:
    parser = HeaderParser()
    try:
        for piece in (beginning, *pieces):
            parsed = parser.feed(piece)
            if parsed is not None:
                break
    except Malformed:
        pass


@given(
    st.one_of(
        st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
    ),
    st.integers(0, 65535),
    st.integers(0, 65535),
)
def test_encoded_is_parsed(addresses: tuple[object, object], source_port: int, destination_port: int) -> None:
    source, destination = map(str, addresses)
    parsed = HeaderParser().feed(encode_v1(source, source_port, destination, destination_port))
    assert parsed is not None
    header, rest = parsed
    assert (header.source_port, header.destination_port, rest) == (source_port, destination_port, b"") or (
        header is NOBODY
    )


def test_encoded() -> None:
    assert encode_v1("192.0.2.1", 1, "198.51.100.1", 2) == b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n"
    assert encode_v1("2001:db8::1", 1, "::1", 2) == b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n"
    assert encode_v1("192.0.2.1", 1, "::1", 2) == b"PROXY UNKNOWN\r\n"
    assert encode_v1("", 0, "", 0) == b"PROXY UNKNOWN\r\n"
    assert encode_v1("x\r\n", 0, "x\r\n", 0) == b"PROXY UNKNOWN\r\n"
