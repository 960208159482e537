"""Per-request state, as seen by match, hooks, pick and forwarding. Knows nothing of HTTP/1.1 or HTTP/2 bytes.

A listener protocol fills an `Exchange` in, hands it to the forwarder and is told through the `Downstream` methods what to answer. So the decisions
exist once, and a protocol only reads and writes. Sans-IO: no asyncio, no clock.
"""

import enum
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, Protocol

import msgspec

from ingress.balancing.base import EndpointState
from ingress.errors import Reason

Field = tuple[bytes, bytes]
"""Name as received and value without surrounding white space."""

FieldPieces = list[bytes]
"""Fields as HTTP/1.1 writes them, in pieces: name, `: `, value, CRLF, name, … To relay them is one join; who wants to look inside
uses `iter_fields`. Measured: half the cost of pairs, which is a tenth of a request."""

COLON, CRLF = b": ", b"\r\n"


def iter_fields(pieces: FieldPieces) -> Iterator[Field]:
    """The pairs in `pieces`, in order."""
    return zip(pieces[::4], pieces[2::4], strict=True)


def field_pieces(fields: Iterable[Field]) -> FieldPieces:
    """The inverse of `iter_fields`."""
    pieces: FieldPieces = []
    for name, value in fields:
        pieces += (name, COLON, value, CRLF)
    return pieces


def without_fields(pieces: FieldPieces, names: Container[bytes]) -> FieldPieces:
    """Less the fields whose lower-case name is in `names`."""
    return field_pieces(f for f in iter_fields(pieces) if f[0].lower() not in names)


class BodyFraming(enum.IntEnum):
    NONE = 0
    LENGTH = 1  # exactly `content_length` bytes
    CHUNKED = 2  # until the sender says so; HTTP/2 bodies without content-length too


NO_BODY, LENGTH, CHUNKED = BodyFraming  # an enum's attribute costs more than a comparison is worth


class Downstream(Protocol):
    """What the forwarder may ask of the protocol that carries an exchange. All synchronous; bytes are buffered by the transport.

    Order for one exchange: any number of `respond_informational`, then `respond_head`, `respond_body`*, and one of `respond_end` or
    `respond_abort`; or `respond_upgrade` instead. `flush` sends what has been gathered since the last one.
    """

    def respond_informational(self, exchange: "Exchange", status: int, reason: bytes, fields: FieldPieces) -> None: ...

    def respond_head(
        self,
        exchange: "Exchange",
        status: int,
        reason: bytes,
        fields: FieldPieces,
        framing: BodyFraming,
        content_length: int,
    ) -> None:
        """`fields` are end-to-end; framing and connection management are the protocol's. `content_length` -1: not to be sent."""

    def respond_body(self, exchange: "Exchange", chunk: bytes) -> None: ...

    def respond_end(self, exchange: "Exchange", trailers: Sequence[Field]) -> None:
        """The response is complete."""

    def respond_abort(self, exchange: "Exchange") -> None:
        """The response can't be completed: the client must not take it for a complete one."""

    def respond_upgrade(
        self, exchange: "Exchange", reason: bytes, fields: FieldPieces, upstream: Any, early: bytes
    ) -> None:
        """101 came back: relay bytes both ways between this connection and `upstream`, beginning with `early`."""

    def flush(self) -> None: ...

    def pause_request_body(self) -> None:
        """The upstream is slower than the client."""

    def resume_request_body(self) -> None: ...


class Exchange(msgspec.Struct, eq=False):
    """One request and its response. Created by a listener protocol when a request's head is complete.

    A msgspec struct for its constructor: with this many fields it is several times as fast as `__init__` of a slotted class.
    """

    downstream: Downstream
    client_address: str
    scheme: bytes
    forwarded: bytes  # header block about the client's connection, the same for all its requests
    method: bytes = b""
    target: bytes = b"/"  # as received
    path: bytes = b"/"  # normalised
    query: bytes = b""  # with its question mark
    version: int = 11  # 10, 11, 20
    authority: bytes = b""  # Host as received, or :authority
    host: bytes = b""  # lower case, without port
    fields: FieldPieces = []  # end-to-end request fields
    trailers: Sequence[Field] = ()
    keep_alive: bool = True
    upgrade: bytes = b""  # value of Upgrade when the client asked for a switch
    expects_continue: bool = False
    request_id: bytes = b""
    error: Reason | None = None  # the request can't be served at all
    started: float = 0.0  # monotonic clock

    body_framing: BodyFraming = BodyFraming.NONE
    content_length: int = 0
    body: list[bytes] | None = None  # kept for a retry, or not sent yet; None: nothing kept
    body_bytes: int = 0  # received so far
    body_complete: bool = False
    body_discarded: bool = False  # a part was sent and not kept: no retry

    route: Any = None  # proxy.link.LinkedRoute
    upstream: Any = None  # proxy.link.UpstreamRuntime
    endpoint: EndpointState | None = None
    tried: list[EndpointState] | None = None
    attempts: int = 0
    hash_key: int = 0
    set_cookie: bytes = b""
    upstream_connection: Any = None
    connect_task: Any = None
    log: list[tuple[str, int]] | None = None  # endpoint and status of the attempts that failed, for the access log

    status: int = 0
    response_started: bool = False
    response_bytes: int = 0  # of body
    finished: bool = False

    def header(self, name: bytes) -> bytes | None:
        """First value of a request field; `name` in lower case. `host` is answered too, though it isn't in `fields`."""
        for field_name, value in iter_fields(self.fields):
            if len(field_name) == len(name) and field_name.lower() == name:
                return value
        if name == b"host":
            return self.authority
        return None

    def header_values(self, name: bytes) -> list[bytes]:
        return [
            value
            for field_name, value in iter_fields(self.fields)
            if len(field_name) == len(name) and field_name.lower() == name
        ]

    def head_length(self) -> int:
        """Bytes of the request line and the fields, as HTTP/1.1 writes them (less the fields that stay at this hop)."""
        line = len(self.method) + len(self.target) + 12
        return line + sum(map(len, self.fields)) + len(self.authority) + 10

    def __repr__(self) -> str:
        return f"<Exchange {self.method!r} {self.authority!r} {self.target!r} status={self.status} attempts={self.attempts}>"
