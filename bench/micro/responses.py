"""What features that act on responses cost: the fast path of `plumbing.exchange`, with one of them on the route."""

from collections.abc import Callable

import msgspec

from bench.micro.plumbing import BROWSER, exchange
from bench.micro.runner import Case
from ingress.middleware.codecs import make_encoder
from ingress.middleware.compression import SLICE_BYTES, Codec, CompressionPolicy
from ingress.middleware.cors import CORSPolicy
from ingress.middleware.custom_headers import CustomHeaders
from ingress.middleware.encoding import Coding
from ingress.middleware.header_rules import Action, HeaderRules, Rule
from ingress.middleware.limit_rate import LimitRate
from ingress.middleware.rewriting import Rewrite, RewritingPolicy
from ingress.routing.table import (
    Endpoint,
    Fallback,
    Feature,
    HostPattern,
    HostRoutes,
    PathType,
    Route,
    RoutingTable,
    Upstream,
    UpstreamKey,
)
from ingress.variables import Part, Variable, parse_value

_KEY = UpstreamKey("bench/web:80")
_HOST = HostPattern("web.example.com")
_REQUEST = BROWSER.replace(b"\r\n\r\n", b"\r\nOrigin: https://shop.example.com\r\n\r\n") % (
    b"/item",
    b"web.example.com",
)
PAGE = b"".join(b"<li class=item><a href='/item/%d'>Item number %d</a></li>\n" % (n, n * n) for n in range(200))


def response(body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Mon, 23 Nov 2026 06:44:50 GMT\r\nContent-Type: text/html\r\n"
        b"Set-Cookie: session=0123456789abcdef; Domain=web.internal; Path=/app/\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    ) + body


def table(*features: Feature, fallback: Fallback | None = None) -> RoutingTable:
    route = Route(_HOST, "/", PathType.PREFIX, "bench", "web", "web", "80", _KEY, features=features, fallback=fallback)
    upstream = Upstream(_KEY, "bench", "web", "80", (Endpoint("10.0.0.1", 80),))
    return RoutingTable("bench", {_HOST: HostRoutes(_HOST, (route,))}, {_KEY: upstream})


def _with(name: str, policy: msgspec.Struct | None, body: bytes = b"x" * 60) -> Callable[[], Callable[[], object]]:
    features = () if policy is None else (Feature(name, msgspec.to_builtins(policy)),)
    return lambda: exchange(table(*features), _KEY, _REQUEST, response(body))


def _encode(coding: Coding, level: int) -> Callable[[], Callable[[], object]]:
    def make() -> Callable[[], object]:
        encoder = make_encoder(coding, level, -1)
        data = (PAGE * (SLICE_BYTES // len(PAGE) + 1))[:SLICE_BYTES]
        return lambda: encoder.compress(data) + encoder.sync()

    return make


def _compression(coding: Coding, level: int) -> CompressionPolicy:
    return CompressionPolicy((Codec(coding, level, 256),))


_TEXT = Variable.TEXT
_CASES = (
    ("nothing", "", None),
    ("cors, listed origins", "cors", CORSPolicy(("https://shop.example.com", "https://*.example.org"))),
    ("custom-headers, 2", "custom-headers", CustomHeaders((("X-A", "1"), ("X-B", "2")))),
    (
        "header rules, 1 and 1",
        "header-rules",
        HeaderRules(
            (Rule(Action.SET, "X-Team", (Part(_TEXT, "a"),)),), (Rule(Action.SET, "X-Host", parse_value("$host")),)
        ),
    ),
    (
        "proxy-cookie-domain and -path",
        "rewriting",
        RewritingPolicy(Rewrite("web.internal", (Part(_TEXT, "example.com"),)), Rewrite("/app/", (Part(_TEXT, "/"),))),
    ),
    ("limit-rate, short response", "limit-rate", LimitRate(1 << 20)),
    ("gzip, too short", "compression", _compression(Coding.GZIP, 1)),
)
RESPONSE_CASES = (
    *(Case(f"request and response, {name}", _with(feature, policy)) for name, feature, policy in _CASES),
    Case(
        "request and response, custom-http-errors, no error",
        lambda: exchange(table(fallback=Fallback((404,), True, (_KEY,))), _KEY, _REQUEST, response(b"x" * 60)),
    ),
    Case("request and response, page of 11 KB", _with("", None, PAGE)),
    *(
        Case(
            f"request and response, page of 11 KB, {coding} {level}",
            _with("compression", _compression(coding, level), PAGE),
        )
        for coding, level in ((Coding.GZIP, 1), (Coding.GZIP, 6), (Coding.BROTLI, 4), (Coding.ZSTD, 3))
    ),
    *(
        Case(f"a slice of 32 KiB, {coding} {level}", _encode(coding, level))
        for coding, level in (
            (Coding.GZIP, 1),
            (Coding.GZIP, 6),
            (Coding.GZIP, 9),
            (Coding.BROTLI, 4),
            (Coding.BROTLI, 11),
            (Coding.ZSTD, 3),
            (Coding.ZSTD, 19),
        )
    ),
)
