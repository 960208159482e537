"""`from-to-www-redirect`: the twin of a host, with or without `www.`, leads to it. `translate.derived` makes the twin."""

import msgspec

from ingress.exchange import DirectResponse, Exchange
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Scope
from ingress.middleware.location import clean, port_of, redirect
from ingress.middleware.redirects import not_by_annotation


class WWWRedirect(msgspec.Struct, frozen=True):
    host: str
    code: int = 308


def bind(policy: WWWRedirect, scope: Scope) -> Hooks:
    """Scheme, port and URI stay; the port is written out, and one trailing slash is cut, as in ingress-nginx. Its port is that of the listening
    socket, which behind a Service isn't the one that clients use: here it is that of the Host field, else the scheme's."""
    host = policy.host.encode("ascii")

    def answer(exchange: Exchange) -> DirectResponse:
        port = port_of(exchange.authority) or (b"443" if exchange.scheme == b"https" else b"80")
        target = exchange.target
        if target[:1] != b"/":  # OPTIONS *
            target = exchange.path
        location = b"%b://%b:%b%b" % (exchange.scheme, host, port, clean(target.removesuffix(b"/")))
        return redirect(policy.code, location)

    return Hooks(request=answer)


SPEC = MiddlewareSpec(
    "www-redirect", phase=Phase.REDIRECT, annotations=(), policy=WWWRedirect, parse=not_by_annotation, bind=bind
)
