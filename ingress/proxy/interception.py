"""Errors that the default backend answers (`custom-http-errors`, `default-backend`): which, and what it is asked. Pure; `forward.py` acts on it.

As ingress-nginx has it: a response with a listed status, of an endpoint or of our own, is dropped. The default backend is asked for `/` with the query of
the request and told by header fields what happened; its answer, whatever its status, is the client's. Where that backend fails, our own page of the
original status is sent. What differs: it is asked with GET (HEAD for HEAD) and without the body, which may not be there any more, and without the
fields that only make sense for what was asked for at first (conditions, ranges, a description of the body).
"""

from collections.abc import Mapping

from ingress.exchange import (
    COLON,
    CRLF,
    NO_BODY,
    DirectResponse,
    Exchange,
    Field,
    FieldPieces,
    ResponseHead,
    iter_fields,
    without_fields,
)
from ingress.proxy.snapshot import LinkedFallback, LinkedRoute
from ingress.proxy.upstream_runtime import UpstreamRuntime

_TOLD = (
    b"X-Code",
    b"X-Format",
    b"X-Original-URI",
    b"X-Namespace",
    b"X-Ingress-Name",
    b"X-Service-Name",
    b"X-Service-Port",
)
_NOT_SENT = frozenset(
    (
        *(name.lower() for name in _TOLD),
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"if-range",
        b"range",
        b"content-type",
        b"content-encoding",
        b"content-language",
        b"content-range",
        b"trailer",
    )
)
_STANDS_IN = frozenset(name.lower() for name in _TOLD if name != b"X-Original-URI")
# Of an answer of our own whose body is replaced: what its status is nothing without (RFC 9110 sections 11.6.1, 10.2.3).
_KEPT = frozenset((b"www-authenticate", b"retry-after", b"set-cookie", b"allow"))


class Intercepted:
    """What the request was before the default backend was asked instead."""

    __slots__ = ("fields", "method", "status")

    def __init__(self, status: int, method: bytes, fields: tuple[Field, ...]) -> None:
        self.status = status
        self.method = method
        self.fields = fields  # of the answer that was dropped, and belong to the new one too


def default_backend(exchange: Exchange, fallback: LinkedFallback, status: int) -> UpstreamRuntime | None:
    """Who is to be asked about a response with `status`; None: the response is sent as it is."""
    if status not in fallback.statuses or exchange.intercepted is not None:
        return None
    for upstream in fallback.upstreams:
        if upstream.picker is not None:
            return upstream
    return None


def turn(exchange: Exchange, route: LinkedRoute, status: int, dropped: DirectResponse | None) -> None:
    """Make `exchange` the question to the default backend. `dropped`: the answer of our own that it replaces."""
    fields = () if dropped is None else tuple(f for f in dropped.fields if f[0].lower() in _KEPT)
    exchange.intercepted = Intercepted(status, exchange.method, fields)
    told = _told(exchange, route, status)
    told[b"X-Original-URI"] = exchange.target
    exchange.fields = _with(without_fields(exchange.fields, _NOT_SENT), told)
    if exchange.method != b"HEAD":
        exchange.method = b"GET"
    exchange.path = b"/"
    exchange.upstream_authority = b""
    exchange.upgrade = b""
    exchange.expects_continue = False
    exchange.body_framing = NO_BODY
    exchange.body = None
    exchange.body_discarded = False
    exchange.trailers = ()
    exchange.tried = None
    exchange.attempts = 0


def introduce(exchange: Exchange, route: LinkedRoute) -> None:
    """Tell the default backend that it stands in for a Service without endpoints. The request stays what it is."""
    exchange.fields = _with(without_fields(exchange.fields, _STANDS_IN), _told(exchange, route, 503))


def _told(exchange: Exchange, route: LinkedRoute, status: int) -> dict[bytes, bytes]:
    rule = route.route
    return {
        b"X-Code": b"%d" % status,
        b"X-Format": exchange.header(b"accept") or b"",
        b"X-Namespace": rule.namespace.encode("ascii", "replace"),
        b"X-Ingress-Name": rule.ingress.encode("ascii", "replace"),
        b"X-Service-Name": rule.service.encode("ascii", "replace"),
        b"X-Service-Port": rule.port.encode("ascii", "replace"),
    }


def _with(fields: FieldPieces, told: Mapping[bytes, bytes]) -> FieldPieces:
    """nginx sends no field with an empty value."""
    for name, value in told.items():
        if value:
            fields += (name, COLON, value, CRLF)
    return fields


def keep_fields(exchange: Exchange, head: ResponseHead) -> None:
    """Response hook of every route with a fallback: what belongs to the answer that was replaced."""
    intercepted: Intercepted | None = exchange.intercepted
    if intercepted is not None and intercepted.fields:
        have = {name.lower() for name, _ in iter_fields(head.fields)}
        for name, value in intercepted.fields:
            if name.lower() not in have or name.lower() == b"set-cookie":
                head.add(name, value)
