"""Side calls: requests that the proxy makes on its own account (external authentication, mirrors, error pages), as hooks see them.

`proxy.sidecalls` does the work; a worker has one, in `Services.side_calls`.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from ingress.errors import IngressError
from ingress.exchange import Field, field_pieces
from ingress.routing.trie import normalize_host


class SideTarget(NamedTuple):
    """Where a call goes; connections are kept by it. `host` is a name or an address without brackets. Certificates are not verified, as in nginx."""

    host: str
    port: int
    tls: bool = False


def target_of(authority: bytes, tls: bool) -> SideTarget:
    """Of `host` or `host:port`. Raises ValueError for what is neither."""
    host = normalize_host(authority)
    if not host:
        raise ValueError("it has no host")
    _, colon, port = authority[authority.rfind(b"]") + 1 :].partition(b":")
    number = int(port) if colon and port else 443 if tls else 80
    if not 0 < number < 65536:
        raise ValueError("its port is out of range")
    return SideTarget(host.strip(b"[]").decode("ascii"), number, tls)


class SideResponse:
    """The final answer, with its end-to-end and other fields as received. `body` is complete, or None where it was longer than asked for."""

    __slots__ = ("body", "fields", "status")

    def __init__(self, status: int, fields: tuple[Field, ...] = (), body: bytes | None = b"") -> None:
        self.status = status
        self.fields = fields
        self.body = body

    def values(self, name: bytes) -> list[bytes]:
        """Of the field with this lower-case name."""
        return [value for field, value in self.fields if len(field) == len(name) and field.lower() == name]

    def __repr__(self) -> str:
        return f"<SideResponse {self.status}>"


class SideCallError(IngressError):
    """There is no usable answer: no address, no connection, no time left, or what came was not HTTP."""


class SideCalls(Protocol):
    async def send(
        self,
        target: SideTarget,
        method: bytes,
        path: bytes,
        fields: Iterable[Field],
        body: bytes = b"",
        *,
        timeout_s: float,
        body_limit_bytes: int = 0,
    ) -> SideResponse:
        """Make one call; raises SideCallError. `fields` are sent as they are, with Host among them, and must be without CR and LF; framing is added.

        `timeout_s` bounds all of it. No redirect is followed, nothing is decompressed, no cookie is kept. Up to `body_limit_bytes` of the
        answer's body are kept. Cancelling gives the connection up.
        """


class _NoSideCalls:
    async def send(
        self,
        target: SideTarget,
        method: bytes,
        path: bytes,
        fields: Iterable[Field],
        body: bytes = b"",
        *,
        timeout_s: float,
        body_limit_bytes: int = 0,
    ) -> SideResponse:
        raise SideCallError("this process makes no calls")


NO_SIDE_CALLS: SideCalls = _NoSideCalls()

_FORBIDDEN = frozenset(b"\r\n\0")


def request_bytes(method: bytes, path: bytes, fields: Iterable[Field], body: bytes) -> bytes:
    """An HTTP/1.1 request. Raises ValueError where a byte would end a line: such a request is never sent."""
    pieces = field_pieces(fields)
    start = b"%b %b HTTP/1.1\r\n" % (method, path)
    if any(c <= 32 or c == 127 for c in path) or not method.isalpha() or path[:1] != b"/":
        raise ValueError("the request line is not one")
    for position in (0, 2):
        if any(not _FORBIDDEN.isdisjoint(text) for text in pieces[position::4]):
            raise ValueError("a header field has a line break")
    if body or method not in (b"GET", b"HEAD", b"OPTIONS", b"DELETE"):
        pieces.append(b"Content-Length: %d\r\n" % len(body))
    return b"".join((start, *pieces, b"\r\n", body))
