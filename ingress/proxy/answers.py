"""The answers that the proxy makes itself: what they say, and how they are written. `forward.py` decides when."""

import logging

from ingress.exchange import LENGTH, NO_BODY, DirectResponse, Exchange, Field, FieldPieces, field_pieces
from ingress.proxy.errorpages import ErrorPages
from ingress.proxy.http1 import reason_phrase
from ingress.proxy.httpdate import http_date

_log = logging.getLogger(__name__)


def error_response(exchange: Exchange, status: int, message: str) -> DirectResponse:
    """The answer to a failure, as the route's features want it or with an error page."""
    route = exchange.route
    if route is not None and route.error_hooks and not exchange.response_started:
        for hook in route.error_hooks:
            try:
                response: DirectResponse | None = hook(exchange, status)
            except Exception:
                _log.exception("a middleware failed on an error %d", status)
                continue
            if response is not None:
                return response
    return DirectResponse(status, message=message)


def compose(exchange: Exchange, response: DirectResponse, pages: ErrorPages) -> tuple[FieldPieces, bytes]:
    """Header fields and body of `response`; the page of its status, where it brings no body."""
    status, body = response.status, response.body
    fields: list[Field] = [(b"Date", http_date()), *response.fields]
    if body is None:
        content_type, body = pages.page(status, exchange.header(b"accept"), exchange.request_id, response.message)
        fields += ((b"Content-Type", content_type), (b"Vary", b"Accept"))
        if status == 405:
            fields.append((b"Allow", b"GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"))
    return field_pieces(fields), body


def send(exchange: Exchange, status: int, pieces: FieldPieces, body: bytes) -> None:
    """Write all but the end."""
    downstream = exchange.downstream
    bodiless = status in (204, 304)
    if exchange.method == b"HEAD" or bodiless:
        length = -1 if bodiless else len(body)
        downstream.respond_head(exchange, status, reason_phrase(status), pieces, NO_BODY, length)
    else:
        downstream.respond_head(exchange, status, reason_phrase(status), pieces, LENGTH, len(body))
        exchange.response_bytes += len(body)
        downstream.respond_body(exchange, body)
