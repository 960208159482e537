"""HTTP/1.1 bytes: which fields are hop-by-hop, and how heads are built. Pure functions and constant tables.

Sources: RFC 9110 section 7.6.1 (hop-by-hop), RFC 9112 sections 6 and 7 (framing), and the header set that ingress-nginx sends upstream.
"""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

from ingress.exchange import LENGTH, Exchange, Field, FieldPieces

# What to do with a request field. Plain integers: compared once per field of every request.
PASS = 0
DROP = 1  # hop-by-hop, or set by us alone
HOST = 2
CONNECTION = 3
CONTENT_LENGTH = 4
TRANSFER_ENCODING = 5
UPGRADE = 6
EXPECT = 7
REQUEST_ID = 8
FORWARDED_FOR = 9
FORWARDED_HOST = 10
DATE = 11

_NAME = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-")
_NAME_WITH_UNDERSCORES = _NAME | frozenset(b"_")


class FieldActions(dict[bytes, int]):
    """Action by field name as spelled on the wire; spellings are learned, up to a bound that a client can't push.

    Names with characters that are not in `allowed` (None: all are) are dropped: ingress-nginx's ignore-invalid-headers, and
    enable-underscores-in-headers off (`X_Forwarded_For` must not reach an application as X-Forwarded-For).
    """

    __slots__ = ("_allowed", "known")
    _LIMIT = 4096

    def __init__(self, known: Mapping[bytes, int], allowed: frozenset[int] | None = None) -> None:
        super().__init__()
        self.known = known
        self._allowed = allowed

    def __missing__(self, name: bytes) -> int:
        action = self.known.get(name.lower(), PASS)
        if self._allowed is not None and not self._allowed.issuperset(name):
            action = DROP
        if len(self) < self._LIMIT and len(name) <= 64:
            self[name] = action
        return action


_HOP_BY_HOP = {
    b"connection": CONNECTION,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"te": DROP,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"upgrade": UPGRADE,
    b"http2-settings": DROP,
}

REQUEST_FIELDS = FieldActions(
    {
        **_HOP_BY_HOP,
        b"host": HOST,
        b"content-length": CONTENT_LENGTH,
        b"expect": EXPECT,
        b"proxy": DROP,  # httpoxy
        b"x-request-id": REQUEST_ID,
        b"x-forwarded-for": FORWARDED_FOR,
        b"x-forwarded-host": FORWARDED_HOST,
        b"x-forwarded-port": DROP,
        b"x-forwarded-proto": DROP,
        b"x-forwarded-scheme": DROP,
        b"x-original-forwarded-for": DROP,
        b"x-original-forwarded-host": DROP,
        b"x-real-ip": DROP,
        b"x-scheme": DROP,
    },
    _NAME,
)
RESPONSE_FIELDS = FieldActions({**_HOP_BY_HOP, b"content-length": CONTENT_LENGTH, b"date": DATE, b"server": DROP})


def request_fields(underscores: bool, ignore_invalid: bool) -> FieldActions:
    """`REQUEST_FIELDS` by the options enable-underscores-in-headers and ignore-invalid-headers."""
    if not ignore_invalid:
        return FieldActions(REQUEST_FIELDS.known)
    return FieldActions(REQUEST_FIELDS.known, _NAME_WITH_UNDERSCORES) if underscores else REQUEST_FIELDS


def response_fields(hide: Sequence[str], server: bool) -> FieldActions:
    """`RESPONSE_FIELDS` by the options hide-headers (lower case) and allow-backend-server-header."""
    known = dict(RESPONSE_FIELDS.known)
    if server:
        del known[b"server"]
    # Nobody can hide what frames a message.
    hidden = {name.encode(): DROP for name in hide if known.get(name.encode(), PASS) == PASS}
    return FieldActions(known | hidden) if hidden or server else RESPONSE_FIELDS


# Fields that must not come as trailers (RFC 9110 section 6.5.1): framing, routing, authentication and what we set ourselves.
TRAILER_FIELDS = FieldActions(
    {
        **dict.fromkeys(
            (
                *REQUEST_FIELDS.known,
                b"trailer",
                b"authorization",
                b"proxy-authorization",
                b"cookie",
                b"set-cookie",
                b"content-encoding",
                b"content-type",
                b"content-range",
                b"max-forwards",
                b"cache-control",
                b"range",
                b"age",
                b"expires",
                b"location",
                b"vary",
                b"www-authenticate",
                b"server",
                b"date",
            ),
            DROP,
        )
    },
    _NAME,
)

SERVER_TOKEN = b"aioingress"
_STANDARD_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


def reason_phrase(status: int) -> bytes:
    return _STANDARD_REASONS.get(status, b"Unknown")


_CONTROLS = bytes((*range(9), *range(10, 32), 127))


def clean_reason(status: int, reason: bytes) -> bytes:
    """`reason` as the upstream wrote it, or the standard one where it has control characters, which llhttp lets pass."""
    return reason if reason.translate(None, _CONTROLS) == reason else reason_phrase(status)


class ResponseStarts(dict[tuple[int, bytes], bytes]):
    """Status line and Server field by status and reason, the latter as the upstream wrote it. Learned, up to a bound."""

    __slots__ = ("_token", "yields")

    def __init__(self, token: bytes = SERVER_TOKEN, yields: bool = False) -> None:
        """`yields`: to a Server field of the endpoint."""
        super().__init__()
        self._token = token
        self.yields = yields

    def __missing__(self, key: tuple[int, bytes]) -> bytes:
        status, reason = key
        line = b"HTTP/1.1 %d %b\r\nServer: %b\r\n" % (status, clean_reason(status, reason), self._token)
        if len(self) < 256 and len(reason) <= 64:
            self[key] = line
        return line

    def beside(self, fields: FieldPieces, status: int, reason: bytes) -> bytes:
        """The start before `fields`, which may have the endpoint's Server."""
        if any(name.lower() == b"server" for name in fields[::4]):
            return b"HTTP/1.1 %d %b\r\n" % (status, clean_reason(status, reason))
        return self[status, reason]


RESPONSE_STARTS = ResponseStarts()


_NO_OPTIONS: frozenset[bytes] = frozenset()
_COMMON_OPTIONS = {
    b"keep-alive": _NO_OPTIONS,
    b"Keep-Alive": _NO_OPTIONS,
    b"close": _NO_OPTIONS,
    b"Close": _NO_OPTIONS,
    b"upgrade": frozenset((b"upgrade",)),
    b"Upgrade": frozenset((b"upgrade",)),
    b"keep-alive, Upgrade": frozenset((b"upgrade",)),
}


def connection_options(values: Sequence[bytes]) -> frozenset[bytes]:
    """Lower-case option names listed in Connection fields, without close and keep-alive."""
    if len(values) == 1:
        common = _COMMON_OPTIONS.get(values[0])
        if common is not None:
            return common
    return connection_tokens(values) - {b"close", b"keep-alive"}


def connection_tokens(values: Sequence[bytes]) -> frozenset[bytes]:
    """Lower-case option names listed in Connection fields."""
    return frozenset(token.strip().lower() for value in values for token in value.split(b",") if token.strip())


def forwarded_block(client_address: str, port: int, scheme: str, chain: str = "") -> bytes:
    """Fields about the client's connection, as ingress-nginx sends them. `chain` is X-Forwarded-For where that isn't the client alone."""
    return (
        f"\r\nX-Real-IP: {client_address}\r\nX-Forwarded-For: {chain or client_address}\r\nX-Forwarded-Port: {port}"
        f"\r\nX-Forwarded-Proto: {scheme}\r\nX-Forwarded-Scheme: {scheme}\r\nX-Scheme: {scheme}\r\n"
    ).encode("latin-1")


RequestHead = Callable[[Exchange], bytes]


def request_head_writer(http_version: str, connection: str) -> RequestHead:
    """How the heads of an upstream are written. `connection`: the value of Connection, in place of the proxy's own; empty: its own."""
    if http_version == "1.1" and not connection:
        return request_head
    # Without a word about it, an HTTP/1.0 connection ends with the response.
    line = b" HTTP/%b\r\nHost: " % http_version.encode("ascii")
    end = b"Connection: %b\r\n\r\n" % (connection or "close").encode("ascii")

    def write(exchange: Exchange) -> bytes:
        return _head(exchange, line, end)

    return write


def request_head(exchange: Exchange) -> bytes:
    """The head sent upstream: our own framing, end-to-end fields in their order, never both Content-Length and Transfer-Encoding."""
    return _head(exchange, b" HTTP/1.1\r\nHost: ", b"")


def _head(exchange: Exchange, line: bytes, end: bytes) -> bytes:
    """`end` empty: the connection is kept, and a wish for another protocol passed on."""
    authority = exchange.authority
    parts = [
        exchange.method,
        b" ",
        exchange.path,
        exchange.query,
        line,
        exchange.upstream_authority or authority,
        b"\r\nX-Request-ID: ",
        exchange.request_id,
        b"\r\nX-Forwarded-Host: ",
        authority,
        exchange.forwarded,
        *exchange.fields,
    ]
    if not exchange.request_id:
        parts[6] = b""  # generate-request-id is off, and the client sent none
    framing = exchange.body_framing
    if framing:
        if framing == LENGTH:
            parts.append(b"Content-Length: %d\r\n" % exchange.content_length)
        else:
            parts.append(b"Transfer-Encoding: chunked\r\n")
    if exchange.upgrade and not end:
        parts += (b"Connection: upgrade\r\nUpgrade: ", exchange.upgrade, b"\r\n")
    if exchange.expects_continue:
        parts.append(b"Expect: 100-continue\r\n")
    parts.append(end or b"\r\n")
    return b"".join(parts)


def last_chunk(trailers: Sequence[Field]) -> bytes:
    """End of a chunked body, with the trailer fields that may be passed on."""
    if not trailers:
        return b"0\r\n\r\n"
    parts = [b"0\r\n"]
    for name, value in trailers:
        if TRAILER_FIELDS[name] == PASS:
            parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)
