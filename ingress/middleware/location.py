"""What redirects have in common: the Location field, and the answer that carries it.

A Location is made of text from an annotation and of pieces of the request. Whatever they hold, it stays one header line of printable ASCII, and
what should lead to this host doesn't lead to another: a path never begins with `//`, and an absolute one is put behind our own scheme and host.
"""

import re
from http import HTTPStatus

from ingress.exchange import DirectResponse, Exchange
from ingress.routing.trie import normalize_host

_UNPRINTABLE = re.compile(rb"[^\x21-\x7e]")
# nginx: with other codes the URL is the body
_PAGES = {status: f"{status} {HTTPStatus(status).phrase}\n".encode() for status in (301, 302, 303, 307, 308)}
_PLAIN = (b"Content-Type", b"text/plain")


def clean(value: bytes) -> bytes:
    """Without white space, control characters and bytes outside ASCII: they are percent-encoded."""
    return _UNPRINTABLE.sub(lambda match: b"%%%02X" % match[0][0], value)


def redirect(status: int, location: bytes) -> DirectResponse:
    """`location` came through `clean`."""
    page = _PAGES.get(status)
    if page is None:
        return DirectResponse(status, (_PLAIN,), location)
    return DirectResponse(status, ((b"Location", location), _PLAIN), page)


def local_path(path: bytes) -> bytes:
    """A path that no browser takes for another host (`//evil.example`, `/\\evil.example`)."""
    if path[:2] in (b"//", b"/\\"):
        return b"/" + path.lstrip(b"/\\")
    return path


def absolute(exchange: Exchange, path: bytes, *, with_port: bool) -> bytes:
    """`path` on the host that the client asked for; as it is where the client named none. `with_port`: its port too, if it named one."""
    host = asked_host(exchange)
    if not host:
        return local_path(path)
    port = port_of(exchange.authority) if with_port else b""
    return b"%b://%b%b%b%b" % (exchange.scheme, host, b":" if port else b"", port, path)


def asked_host(exchange: Exchange) -> bytes:
    """The host that the client sees, without its port: behind a front that is believed, that of X-Forwarded-Host. Empty: it named none."""
    if not exchange.host:
        return b""
    try:
        return normalize_host(exchange.authority) or exchange.host
    except ValueError:
        return exchange.host


def port_of(authority: bytes) -> bytes:
    """As written; empty if there is none."""
    _, colon, port = authority.rpartition(b":")
    return port if colon and port.isdigit() else b""
