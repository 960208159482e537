"""Redirects from plain HTTP to HTTPS (ingress-nginx's ssl-redirect and force-ssl-redirect). Whether a certificate is configured for the host is
known when the table is linked, so a route without one has no hook.

The scheme is the one that was settled for the request: behind a load balancer that ends TLS, X-Forwarded-Proto with use-forwarded-headers.
"""

from typing import Any

from ingress.exchange import DirectResponse, Exchange
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Scope
from ingress.middleware.location import asked_host
from ingress.routing.https import TLS_REDIRECT, RedirectWhen, TLSRedirect

_SLASH = ord("/")


def never_parsed(reader: Any) -> None:
    """Its policies are made where a host is put together (`translate.tls.hosts`), because no Ingress knows them alone."""
    return


def bind(policy: TLSRedirect, scope: Scope) -> Hooks:
    wanted = policy.when is RedirectWhen.ALWAYS or (policy.when is RedirectWhen.CERTIFICATE and scope.certificate)
    if not wanted or scope.route.path.startswith(policy.exempt):
        return Hooks()
    status, keep_slash = policy.status, policy.keep_trailing_slash
    port = b":%d" % policy.port if policy.port else b""

    def redirect_to_https(exchange: Exchange) -> DirectResponse | None:
        if exchange.scheme != b"http":
            return None
        host = asked_host(exchange)
        if not host:
            return DirectResponse(400)  # HTTP/1.0 without Host: there is nowhere to go
        target = exchange.target
        if not target.startswith(b"/"):  # absolute form, or the * of OPTIONS
            path = exchange.path
            target = path + exchange.query if path.startswith(b"/") else b"/"
        if not keep_slash and target[-1] == _SLASH:
            target = target[:-1]
        return DirectResponse(status, ((b"Location", b"https://%b%b%b" % (host, port, target)),), b"")

    return Hooks(redirect_to_https)


SPEC = MiddlewareSpec(TLS_REDIRECT, Phase.TLS_REDIRECT, (), TLSRedirect, never_parsed, bind)
