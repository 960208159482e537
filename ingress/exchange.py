"""Per-request state, as seen by match, hooks, pick and forwarding. Knows nothing of HTTP/1.1 or HTTP/2 bytes.

A listener protocol fills an `Exchange` in, hands it to the forwarder and is told through the `Downstream` methods what to answer. So the decisions
exist once, and a protocol only reads and writes. Sans-IO: no asyncio, no clock.
"""

import enum
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Sequence
from typing import Any, Protocol

from ingress.balancing.base import EndpointState
from ingress.errors import Reason
from ingress.routing.client_auth import ClientIdentity
from ingress.routing.tls import TLSHost

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

    @property
    def server_port(self) -> int:
        """The port that the client's connection came in on."""

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


class ClientTLS(Protocol):
    """What may be asked of the connection of an exchange that came by TLS (`tls.transport.ConnectionInfo`)."""

    server_name: str  # SNI, lower case; empty: none
    host: TLSHost | None  # chosen by it

    @property
    def client(self) -> ClientIdentity:
        """The client's certificate and what it was worth."""


class DirectResponse:
    """An answer without asking an endpoint. `body` None: the error page of the status, in the form that the client accepts.

    Framing and `Date` are added; `fields` may have a Content-Type for a `body`. `message`: a fixed sentence for the error page, in place of
    the one that its status has.
    """

    __slots__ = ("body", "fields", "message", "status")

    def __init__(self, status: int, fields: Iterable[Field] = (), body: bytes | None = None, message: str = "") -> None:
        self.status = status
        self.fields = tuple(fields)
        self.body = body
        self.message = message

    def __repr__(self) -> str:
        return f"<DirectResponse {self.status}>"


class ResponseHead:
    """The final response's head on its way to the client: an endpoint's, or an answer of our own. Hooks change `fields` in place or replace it.

    `fields` are end-to-end, without framing. `content_length` -1: not known.
    """

    __slots__ = ("content_length", "fields", "status")

    def __init__(self, status: int, fields: FieldPieces, content_length: int) -> None:
        self.status = status
        self.fields = fields
        self.content_length = content_length

    def header(self, name: bytes) -> bytes | None:
        """First value; `name` in lower case."""
        for field_name, value in iter_fields(self.fields):
            if len(field_name) == len(name) and field_name.lower() == name:
                return value
        return None

    def add(self, name: bytes, value: bytes) -> None:
        self.fields += (name, COLON, value, CRLF)

    def set(self, name: bytes, value: bytes) -> None:
        """In place of all fields of that name."""
        self.remove(name)
        self.add(name, value)

    def remove(self, *names: bytes) -> None:
        wanted = {name.lower() for name in names}
        if any(name.lower() in wanted for name in self.fields[::4]):
            self.fields = without_fields(self.fields, wanted)


class Exchange:
    """One request and its response. Created by a listener protocol when a request's head is complete."""

    __slots__ = (
        "attempts",
        "authority",
        "body",
        "body_bytes",
        "body_complete",
        "body_discarded",
        "body_filter",
        "body_framing",
        "body_held",
        "body_tap",
        "body_whole",
        "captures",
        "cleanups",
        "client_address",
        "content_length",
        "downstream",
        "endpoint",
        "error",
        "expects_continue",
        "fields",
        "finished",
        "forwarded",
        "hash_key",
        "held_bytes",
        "host",
        "intercepted",
        "keep_alive",
        "log",
        "method",
        "notes",
        "path",
        "query",
        "remote_user",
        "request_id",
        "response_bytes",
        "response_started",
        "route",
        "scheme",
        "set_cookie",
        "started",
        "status",
        "target",
        "task",
        "tls",
        "trailers",
        "tried",
        "upgrade",
        "upstream",
        "upstream_authority",
        "upstream_connection",
        "version",
    )

    def __init__(
        self,
        downstream: Downstream,
        client_address: str,
        scheme: bytes,
        forwarded: bytes,
        method: bytes = b"",
        target: bytes = b"/",
        fields: FieldPieces | None = None,
    ) -> None:
        self.downstream = downstream
        self.client_address = client_address
        self.scheme = scheme
        self.forwarded = forwarded  # header block about who the client is, for the endpoint
        self.method = method
        self.target = target  # as received
        self.path = b"/"  # normalised
        self.query = b""  # with its question mark
        self.captures: Sequence[bytes] = ()  # groups of the regular expression that matched last: $1, $2 ...
        self.version = 11  # 10, 11, 20
        self.authority = b""  # Host as received, or :authority; X-Forwarded-Host of a trusted peer
        self.host = b""  # lower case, without port: what the route was chosen by. Before that: Host as received, where `authority` isn't
        self.upstream_authority = b""  # Host for the endpoint, where it isn't the client's
        self.fields: FieldPieces = [] if fields is None else fields  # end-to-end request fields
        self.trailers: Sequence[Field] = ()
        self.keep_alive = True
        self.upgrade = b""  # value of Upgrade when the client asked for a switch
        self.expects_continue = False
        self.request_id = b""
        self.error: Reason | None = None  # the request can't be served at all
        self.started = 0.0  # monotonic clock

        self.body_framing = NO_BODY
        self.content_length = 0
        self.body: list[bytes] | None = None  # kept for a retry, or not sent yet; None: nothing kept
        self.body_bytes = 0  # received so far
        self.body_complete = False
        self.body_discarded = False  # a part was sent and not kept: no retry
        self.held_bytes = 0  # counted as held by the forwarder
        self.body_held = False  # no endpoint is asked before it is complete (request buffering)
        self.body_whole = False  # kept for a retry up to the bound of request buffering

        self.route: Any = None  # proxy.snapshot.LinkedRoute
        self.upstream: Any = None  # proxy.upstream_runtime.UpstreamRuntime
        self.endpoint: EndpointState | None = None
        self.tried: list[EndpointState] | None = None
        self.attempts = 0
        self.hash_key = 0
        self.set_cookie = b""
        self.upstream_connection: Any = None
        self.task: Any = None  # what it waits for: a connection, a hook, endpoints; cancelled when the client goes
        self.log: list[tuple[str, int]] | None = (
            None  # endpoint and status of the attempts that failed, for the access log
        )

        self.status = 0
        self.response_started = False
        self.response_bytes = 0  # of body
        self.finished = False
        self.body_tap: Any = None  # middleware.mirror.Copy: sees what comes of the request's body
        self.body_filter: Any = None  # middleware.filters.BodyFilter: the first that the response's body goes through
        self.intercepted: Any = None  # proxy.interception.Intercepted: another upstream answers, in place of an error

        self.tls: ClientTLS | None = None  # None: the connection came without TLS
        self.remote_user = b""  # who authenticated, for the access log
        self.notes: dict[str, Any] | None = None  # what hooks tell each other, by middleware
        self.cleanups: list[Callable[[], None]] | None = None

    @property
    def server_port(self) -> int:
        return self.downstream.server_port

    def at_end(self, cleanup: Callable[[], None]) -> None:
        """Call `cleanup` once when the exchange is over, however it ends. Synchronous, must not raise."""
        if self.cleanups is None:
            self.cleanups = []
        self.cleanups.append(cleanup)

    def add_field(self, name: bytes, value: bytes) -> None:
        """One more request field for the endpoint."""
        self.fields += (name, COLON, value, CRLF)

    def set_field(self, name: bytes, value: bytes) -> None:
        """In place of all request fields of that name."""
        self.remove_fields(name)
        self.fields += (name, COLON, value, CRLF)

    def remove_fields(self, *names: bytes) -> None:
        wanted = {name.lower() for name in names}
        if any(name.lower() in wanted for name in self.fields[::4]):
            self.fields = without_fields(self.fields, wanted)

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


RequestHook = Callable[[Exchange], "DirectResponse | Awaitable[DirectResponse | None] | None"]
"""Called between match and pick. None: go on. An awaitable takes the request off the synchronous path; its result means the same."""

ResponseHook = Callable[[Exchange, ResponseHead], None]
"""Called once, when the final response's head is known, before it is written."""

ErrorHook = Callable[[Exchange, int], DirectResponse | None]
"""Called where the proxy would answer with its error page of a status. None: it does."""
