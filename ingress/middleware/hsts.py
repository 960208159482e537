"""Strict-Transport-Security (RFC 6797) on every response over TLS of a host that has a certificate, in place of the endpoint's own."""

from ingress.exchange import Exchange, ResponseHead
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Scope
from ingress.middleware.tls_redirect import never_parsed
from ingress.routing.https import HSTS, StrictTransport


def bind(policy: StrictTransport, scope: Scope) -> Hooks:
    if not scope.certificate:  # an alias that the certificate of its host is not for
        return Hooks()
    value = policy.value.encode("ascii")

    def promise_https(exchange: Exchange, head: ResponseHead) -> None:
        if exchange.tls is not None:
            head.set(b"Strict-Transport-Security", value)

    return Hooks(response=promise_https)


SPEC = MiddlewareSpec(HSTS, Phase.HOST, (), StrictTransport, never_parsed, bind)
