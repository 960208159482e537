"""Strict-Transport-Security: on every response over TLS, in place of the endpoint's own."""

from typing import Any

from ingress.exchange import Exchange, ResponseHead, field_pieces
from ingress.middleware import hsts
from ingress.middleware.base import Scope
from ingress.routing.https import StrictTransport


def after(fields: list[tuple[bytes, bytes]], tls: Any, scheme: bytes = b"https") -> list[bytes]:
    scope = Scope(None, None, None, True)  # type: ignore[arg-type]
    hooks = hsts.bind(StrictTransport("max-age=86400; includeSubDomains"), scope)
    assert hooks.request is None
    assert hooks.response is not None
    exchange = Exchange(None, "192.0.2.1", scheme, b"")  # type: ignore[arg-type]
    exchange.tls = tls
    head = ResponseHead(200, field_pieces(fields), -1)
    hooks.response(exchange, head)
    return head.fields[2::4]


def test_over_tls() -> None:
    assert after([], object()) == [b"max-age=86400; includeSubDomains"]


def test_in_place_of_the_endpoints_own() -> None:
    own = [(b"strict-transport-security", b"max-age=1"), (b"Strict-Transport-Security", b"max-age=2")]
    assert after(own, object()) == [b"max-age=86400; includeSubDomains"]


def test_plain_http_says_nothing_whatever_it_was_settled_to_be() -> None:
    """Behind a load balancer that ends TLS, it is for that to promise: so does nginx, which looks at the connection."""
    assert after([(b"A", b"1")], None, b"https") == [b"1"]
    assert after([(b"A", b"1")], None, b"http") == [b"1"]
