"""Access checks of one request, without sockets: what a route pays for each."""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Hashable
from random import Random
from typing import Any, cast

import msgspec

from bench.micro.runner import Case
from ingress.exchange import Exchange, field_pieces
from ingress.middleware import basic_auth, external_auth, ip_access
from ingress.middleware.auth_cache import Answer
from ingress.middleware.auth_rules import ExternalAuth
from ingress.middleware.base import MiddlewareSpec, Scope, Services
from ingress.middleware.basic_auth import BasicAuth
from ingress.middleware.ip_access import IPAccess
from ingress.middleware.satisfy import join
from ingress.middleware.sidecalls import SideResponse
from ingress.routing.table import HostPattern, PathType, Route
from ingress.variables import parse_value

_ROUTE = Route(HostPattern("bench.test"), "/", PathType.PREFIX, "bench", "ing", "web", "80", None)
_FIELDS = (
    (b"User-Agent", b"Mozilla/5.0"),
    (b"Accept", b"*/*"),
    (b"Cookie", b"session=0123456789abcdef"),
    (b"Authorization", b"Basic " + base64.b64encode(b"jane:secret")),
)


def _hooks(
    spec: MiddlewareSpec[Any], policy: msgspec.Struct
) -> tuple[tuple[Callable[[Exchange], object], ...], dict[Hashable, Any]]:
    objects: dict[Hashable, Any] = {}

    def live(key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in objects:
            objects[key] = make()
        return objects[key]

    services = Services(cast(asyncio.AbstractEventLoop, None), lambda: 1.0, lambda: 1.0, Random(1))
    return join([spec.bind(policy, Scope(_ROUTE, services, live))]), objects


def _exchange() -> Exchange:
    made = Exchange(cast(Any, None), "10.77.3.1", b"http", b"", b"GET", b"/")
    made.fields = field_pieces(_FIELDS)
    return made


def _run(hooks: tuple[Callable[[Exchange], object], ...]) -> Callable[[], object]:
    subject = _exchange()
    fields = subject.fields

    def run() -> None:
        subject.fields = fields
        for hook in hooks:
            assert hook(subject) is None

    run()
    return run


def _addresses(count: int) -> Callable[[], Callable[[], object]]:
    def make() -> Callable[[], object]:
        cidrs = tuple(f"10.{n % 250}.{n // 250 * 2}.0/24" for n in range(count)) + ("10.77.3.0/24",)
        return _run(_hooks(ip_access.SPEC, IPAccess(allow=cidrs))[0])

    return make


def _remembered() -> Callable[[], object]:
    digest = base64.b64encode(hashlib.sha1(b"secret").digest()).decode()
    return _run(_hooks(basic_auth.SPEC, BasicAuth("bench", (("jane", "{SHA}" + digest),)))[0])


def _cached() -> Callable[[], object]:
    policy = ExternalAuth(
        False,
        parse_value("auth.test"),
        parse_value("auth.test"),
        parse_value("/"),
        response_headers=("X-User", "X-Email"),
        cache_key=parse_value("$cookie_session"),
        cache_durations=((200, 300.0),),
    )
    hooks, objects = _hooks(external_auth.SPEC, policy)
    cache = objects["external-auth-answers"]
    answer = Answer(200, headers=(b"jane", b"jane@example.com"))
    subject = _exchange()
    find = cache.find
    seen: list[bytes] = []
    cache_type = type(cache)
    cache_type.find = lambda self, key, exchange: seen.append(key)  # what key the hook asks for
    try:
        hooks[0](subject)
    finally:
        cache_type.find = find.__func__
    cache.keep(seen[0], subject, answer, SideResponse(200), 300.0)
    return _run(hooks)


CASES = (
    Case("address list of 10", _addresses(10)),
    Case("address list of 5,000", _addresses(5000)),
    Case("basic authentication, remembered", _remembered),
    Case("external authentication, cached, two response headers", _cached),
)
