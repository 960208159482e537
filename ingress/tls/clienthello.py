"""The first message of a TLS connection (RFC 8446 section 4.1.2, RFC 5246 section 7.4.1.2), read before any decision about the connection.

Sans-IO, strict and bounded. It only looks: the bytes go to whatever is chosen by what they say.
"""

import re
from dataclasses import dataclass

HELLO_LIMIT_BYTES = 16384  # of handshake message; browsers send up to 2 KiB, the protocol would allow 16 MiB
_RECORDS_LIMIT = 64  # records over which it is spread
_RECORD_LIMIT_BYTES = 16384
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS = 0, 16, 43
# What SNI may name (RFC 6066 section 3): a DNS name in ASCII. Underscores are in use.
_HOST_NAME = re.compile(rb"(?=.{1,253}\.?\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?", re.IGNORECASE)


class NotTLS(Exception):
    """The first bytes are no TLS handshake at all: perhaps plain HTTP."""


class BadHello(Exception):
    """A TLS handshake that begins with something other than a well-formed ClientHello."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """`server_name`: lower case, without a final dot; empty where there is none, or none that a host could have. `versions`: as on the
    wire (0x0304 is TLS 1.3), in the client's order.
    """

    server_name: str
    alpn: tuple[bytes, ...]
    versions: tuple[int, ...]


def parse_client_hello(data: bytes | bytearray) -> ClientHello | None:
    """What the connection's first bytes say; None: more are needed. Raises NotTLS or BadHello as soon as it is certain.

    Call it again with everything received so far; the first record header decides about NotTLS.
    """
    message = _message(data)
    return None if message is None else _parse(message)


def _message(data: bytes | bytearray) -> bytes | None:
    """The body of the ClientHello, put together from its records."""
    if not data:
        return None
    if data[0] != _HANDSHAKE:
        raise NotTLS(f"first byte {data[0]:#04x}")
    message = bytearray()
    position, records = 0, 0
    while True:
        header = data[position : position + 5]
        if len(header) > 1 and header[1] != 3:
            raise BadHello("a record of an unknown version")
        if header and header[0] != _HANDSHAKE:
            raise BadHello("another record inside the ClientHello")
        if len(header) < 5:
            return None
        size = header[3] << 8 | header[4]
        if not 0 < size <= _RECORD_LIMIT_BYTES:
            raise BadHello(f"a record of {size} bytes")
        records += 1
        if records > _RECORDS_LIMIT:
            raise BadHello("too many records")
        message += data[position + 5 : position + 5 + size]
        if message and message[0] != _CLIENT_HELLO:
            raise BadHello(f"handshake message {message[0]}")
        if len(message) >= 4:
            length = int.from_bytes(message[1:4], "big")
            if length > HELLO_LIMIT_BYTES:
                raise BadHello(f"a ClientHello of {length} bytes")
            if len(message) >= 4 + length:
                if len(message) > 4 + length:
                    raise BadHello("bytes behind the ClientHello")
                return bytes(message[4:])
        position += 5 + size
        if position >= len(data):
            return None


class _Reader:
    """Vectors with length prefixes, within bounds."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._position

    def take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise BadHello("a field reaches beyond its message")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int, least: int = 0) -> bytes:
        """Bytes behind a length of `size` bytes."""
        found = self.take(self.number(size))
        if len(found) < least:
            raise BadHello("a field is too short")
        return found


def _parse(message: bytes) -> ClientHello:
    reader = _Reader(message)
    legacy_version = reader.number(2)
    reader.take(32)  # random
    if len(reader.vector(1)) > 32:
        raise BadHello("a session id of more than 32 bytes")
    if len(reader.vector(2, 2)) % 2:
        raise BadHello("half a cipher suite")
    reader.vector(1, 1)  # compression methods
    server_name = ""
    alpn: tuple[bytes, ...] = ()
    versions: tuple[int, ...] = (legacy_version,)
    if reader.left:
        extensions = reader.vector(2)
        if reader.left:
            raise BadHello("bytes behind the extensions")
        # Without a _Reader: there are about 15 of them, and three are of interest.
        seen: set[int] = set()
        position, end = 0, len(extensions)
        while position < end:
            body = position + 4
            if body > end:
                raise BadHello("half an extension")
            kind = extensions[position] << 8 | extensions[position + 1]
            position = body + (extensions[position + 2] << 8 | extensions[position + 3])
            if position > end:
                raise BadHello("an extension reaches beyond its message")
            if kind in seen:
                raise BadHello(f"extension {kind} comes twice")  # RFC 8446 section 4.2
            seen.add(kind)
            if kind == _SERVER_NAME:
                server_name = _server_name(extensions[body:position])
            elif kind == _ALPN:
                alpn = _alpn(extensions[body:position])
            elif kind == _SUPPORTED_VERSIONS:
                versions = _versions(extensions[body:position])
    return ClientHello(server_name, alpn, versions)


def _server_name(body: bytes) -> str:
    """RFC 6066 section 3: a list with one entry of type host_name. Empty for what no host can be called."""
    reader = _Reader(body)
    names = _Reader(reader.vector(2, 1))
    if reader.left:
        raise BadHello("bytes behind the server names")
    if names.number(1) != 0:
        raise BadHello("a server name of an unknown type")
    name = names.vector(2, 1)
    if names.left:
        raise BadHello("more than one server name")
    if not _HOST_NAME.fullmatch(name):
        return ""  # `name:port` and the like come from clients that nginx serves as if they had sent none
    return name.decode("ascii").lower().removesuffix(".")


def _alpn(body: bytes) -> tuple[bytes, ...]:
    reader = _Reader(body)
    names = _Reader(reader.vector(2, 2))
    if reader.left:
        raise BadHello("bytes behind the protocol names")
    found = []
    while names.left:
        found.append(names.vector(1, 1))
    return tuple(found)


def _versions(body: bytes) -> tuple[int, ...]:
    reader = _Reader(body)
    versions = reader.vector(1, 2)
    if reader.left or len(versions) % 2:
        raise BadHello("half a version")
    return tuple(versions[i] << 8 | versions[i + 1] for i in range(0, len(versions), 2))
