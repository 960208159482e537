"""Whatever stands in annotations and ConfigMaps: no exception leaves `parse`, what it made can be bound, and what is bound survives a request."""

import asyncio
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.exchange import Exchange, ResponseHead, field_pieces
from ingress.middleware import registry
from ingress.middleware.base import Scope, Services
from ingress.middleware.registry import SPECS
from ingress.translate.options import Options
from tests.middleware.rules import Rules, problems

MINE = ("cors", "custom-headers", "header-rules", "limit-rate", "maintenance", "mirror", "rewriting")
NAMES = sorted(
    {name for spec in SPECS if spec.name in MINE for name in spec.annotations}
    | {"custom-http-errors", "default-backend", "disable-proxy-intercept-errors", "enable-access-log"}
)
PIECES = (  # noqa: SIM905
    "true on off set add remove X-A: $host ${ $1 $nonsense ~ ~* ~( (a+)+ ^/x(.*)$ /one/ / .example.org localhost * *. null http:// "
    "https://a.test:8080 [::1] , ; : = \r\n \n \0 \x7f ä 0 -1 404 599 99999 10.0.0.0/8 default/maps maps other/maps web errors"
).split(" ")
TEXT = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(PIECES), max_size=6).map(" ".join),
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
)
OPTIONS = Options(allowed_response_headers=("X-A", "X-B", "Content-Length"), custom_http_errors=(404,))


class _Nobody:
    """A Downstream that is asked for nothing but its port."""

    server_port = 80

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


def _exchange() -> Exchange:
    exchange = Exchange(
        _Nobody(),  # type: ignore[arg-type]
        "192.0.2.1",
        b"http",
        b"\r\nX-Real-IP: 192.0.2.1\r\n",
        b"GET",
        b"/one/x?a=b",
        field_pieces([(b"Origin", b"https://a.test"), (b"X-A", b"v"), (b"Accept-Encoding", b"gzip")]),
    )
    exchange.path, exchange.query, exchange.authority, exchange.host = b"/one/x", b"?a=b", b"app.test", b"app.test"
    exchange.endpoint = object()  # type: ignore[assignment]
    return exchange


@given(
    st.dictionaries(st.sampled_from(NAMES), TEXT, max_size=8),
    st.dictionaries(st.one_of(st.sampled_from(["X-A", "x-b", "index.html", "Content-Length"]), TEXT), TEXT, max_size=3),
)
def test_any_values(annotations: dict[str, str], data: dict[str, str]) -> None:
    rules = Rules(annotations, OPTIONS, services=("web", "errors"), config_maps={"maps": data})
    assert not [v for v in rules.verdicts() if "bug of the controller" in v.message]
    route = rules.route()
    loop = asyncio.new_event_loop()
    try:
        services = Services(loop, lambda: 1.0, lambda: 1.0, random.Random(1))
        scope = Scope(route, services, lambda key, make: make())
        for feature in route.features:
            spec = registry.BY_NAME[feature.name]
            hooks = spec.bind(msgspec.convert(feature.policy, spec.policy), scope)
            exchange = _exchange()
            if hooks.request is not None and feature.name != "mirror":  # that one makes tasks
                hooks.request(exchange)
            head = ResponseHead(
                200,
                field_pieces(
                    [(b"Set-Cookie", b"a=b; Domain=localhost; Path=/one/"), (b"Location", b"http://a.test/x")]
                ),
                10,
            )
            if hooks.response is not None:
                hooks.response(exchange, head)
            for pieces in (head.fields, exchange.fields):
                assert len(pieces) % 4 == 0
                for text in (*pieces[::4], *pieces[2::4]):
                    assert not set(b"\r\n\0") & set(text)
    finally:
        loop.close()


@pytest.mark.parametrize("url", ["http://,/", "http://.", "https://-,-/x"])
def test_a_host_that_is_none_is_found_when_it_is_read(url: str) -> None:
    """And not by each worker, when it binds the route."""
    rules = Rules({"auth-url": url})
    assert list(problems(rules)) == ["auth-url"]
    assert rules.route().upstream is None
