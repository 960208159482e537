"""Tests of middlewares and of manifests, without a cluster. For pytest or anything else that runs coroutines.

One middleware, no sockets:

    outcome = await run(RequireTenant(""), request("GET", "https://shop.example.com/cart", {"X-Tenant": "a"}))
    assert outcome.reply is None

A set of manifests, by the very code that runs in production, with stand-ins for the Services:

    async with Edge("manifests/", middleware=[RequireTenant]) as edge:
        answer = await edge.get("http://shop.example.com/cart")
        assert (answer.status, answer.service) == (200, "default/cart")
        assert not edge.errors
"""

import asyncio
import random
import socket
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp import web
from yarl import URL

from ingress.config import ClassSettings, TranslateSettings
from ingress.errors import Severity, Verdict
from ingress.exchange import DirectResponse, Exchange, ResponseHead, field_pieces
from ingress.files.source import load
from ingress.metrics import WorkerMetrics
from ingress.middleware import registry
from ingress.middleware.api import Middleware, Reply, Request, Response
from ingress.middleware.base import Services
from ingress.middleware.loader import REGISTRY
from ingress.middleware.user import Caller
from ingress.proxy.dataplane import DataPlane
from ingress.proxy.snapshot import LinkedRoute
from ingress.routing.path import normalize_path
from ingress.routing.table import ANY_HOST, Endpoint, PathType, Route, RoutingTable, UpstreamProtocol
from ingress.store import Store
from ingress.translate.compiler import compile_table

__all__ = ["Answer", "Edge", "Outcome", "Received", "StandIn", "request", "run"]


# ---- one middleware -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a middleware did. `reply`: what it answered itself; `failed`: a hook raised or took too long, as it would in production.

    `request` as the endpoint would get it; `response`: the headers as the client would, None where `reply` ended it before.
    """

    request: Request
    reply: Reply | None
    response: Mapping[str, str] | None
    failed: bool


def request(
    method: str = "GET",
    url: str = "http://example.com/",
    headers: Mapping[str, str] | None = None,
    *,
    client_address: str = "192.0.2.1",
    namespace: str = "default",
    ingress: str = "test",
    service: str = "app",
) -> Request:
    """A request as it comes to the hooks: its route is settled, its path in normal form. Raises ValueError for a URL that has no meaning."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{url!r} is not an http or https URL")
    fields = field_pieces(
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in (headers or {}).items()
        if name.lower() != "host"
    )
    exchange = Exchange(
        _Nobody(),  # type: ignore[arg-type]
        client_address,
        parts.scheme.encode(),
        b"",
        method.encode(),
        (parts.path or "/").encode("ascii") + (b"?" + parts.query.encode("ascii") if parts.query else b""),
        fields,
    )
    exchange.authority = parts.netloc.encode("ascii")
    exchange.host = (parts.hostname or "").encode("ascii")
    exchange.path = normalize_path((parts.path or "/").encode("ascii"))
    exchange.query = b"?" + parts.query.encode("ascii") if parts.query else b""
    exchange.request_id = b"0" * 32
    route = Route(ANY_HOST, "/", PathType.PREFIX, namespace, ingress, service, "80", None)
    exchange.route = _Routed(route)
    return Request(exchange)


async def run(
    middleware: Middleware,
    asked: Request | None = None,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    error: bool = False,
) -> Outcome:
    """Call the hooks as a worker does: `on_request`, then, if it lets the request pass, `on_response` on an endpoint's answer with `status` and
    `headers`. With `error` the endpoint can't be had, and `status` is the one of the proxy's error page: `on_error`, then `on_response`.
    """
    asked = asked or request()
    exchange = asked._exchange
    failures = _Failures()
    loop = asyncio.get_running_loop()
    caller = Caller(middleware, Services(loop, loop.time, loop.time, random.Random(1), tally=failures.tally))
    outcome = caller.request(exchange) if caller.has_request else None
    if outcome is not None and not isinstance(outcome, DirectResponse):
        outcome = await outcome
    reply = None if outcome is None or failures.any else _reply(outcome)
    if outcome is None and error and caller.has_error:
        outcome = caller.error(exchange, status)
        reply = None if outcome is None else _reply(outcome)
    head = ResponseHead(
        status if reply is None else reply.status,
        field_pieces((name.encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items())
        if reply is None
        else field_pieces(reply.fields),
        -1,
    )
    if caller.has_response and not failures.any:
        caller.response(exchange, head)
    return Outcome(asked, reply, dict(Response(head).headers.items()), failures.any)


def _reply(response: DirectResponse) -> Reply:
    reply = Reply(response.status, response.body or b"")
    reply.fields = list(response.fields)
    return reply


class _Nobody:
    """Carries no bytes: hooks don't ask the listener for anything."""


class _Routed:
    def __init__(self, route: Route) -> None:
        self.route = route


class _Count:
    value: float = 0


class _Failures:
    def __init__(self) -> None:
        self._failed: list[_Count] = []

    def tally(self, name: str, *labels: str) -> _Count:
        count = _Count()
        if name == "aioingress_middleware_failures":
            self._failed.append(count)
        return count

    @property
    def any(self) -> bool:
        return any(count.value for count in self._failed)


# ---- a set of manifests -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A request as an endpoint got it. `target`: path and query."""

    service: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class StandIn:
    """What answers for a Service (`namespace/name`). Change `status`, `headers` and `body` as the test needs it."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    received: list[Received] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """`service` (`namespace/name`): whose endpoint answered; None: the proxy itself did. `received`: what that endpoint got."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    service: str | None
    received: Received | None

    @property
    def text(self) -> str:
        return self.body.decode()


class Edge:
    """Manifests served on loopback by a data plane of this process; every Service that they name has one stand-in endpoint.

    `manifests`: files, folders, or YAML text. Services must be among them, as they must in a cluster; their Endpoints needn't.
    """

    def __init__(
        self,
        *manifests: str | Path,
        middleware: Iterable[type[Middleware]] = (),
        without_endpoints: Iterable[str] = (),
        settings: TranslateSettings | None = None,
    ) -> None:
        """`without_endpoints`: Services (`namespace/name`) that have none."""
        self._manifests = manifests
        self._middleware = tuple(middleware)
        self._without = frozenset(without_endpoints)
        self._settings = settings or TranslateSettings(classes=ClassSettings(), allowed_middleware=("*",))
        self._stack = AsyncExitStack()
        self.services: dict[str, StandIn] = {}
        self.verdicts: tuple[Verdict, ...] = ()
        self.table = RoutingTable()

    @property
    def errors(self) -> list[str]:
        """What is not served as it was written, as text; warnings are in `verdicts` only."""
        return [str(verdict) for verdict in self.verdicts if verdict.severity is Severity.ERROR]

    async def __aenter__(self) -> Self:
        async with self._stack:
            before = dict(REGISTRY)
            self._stack.callback(_restore, before)
            REGISTRY.update({found.name: found for found in self._middleware})
            self._compile()
            await self._serve()
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _compile(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for number, given in enumerate(self._manifests):
                path = Path(given) if isinstance(given, Path) or "\n" not in given else Path(folder, f"{number}.yaml")
                if isinstance(given, str) and "\n" in given:
                    path.write_text(given)
                paths.append(path)
            objects, verdicts = load(paths, "manifests")
        store = Store(0.0, 0.0)
        store.update("files", objects, verdicts)
        change = store.collect()
        assert change is not None
        built = compile_table(change.state, self._settings, registry.SPECS)
        self.verdicts = (*change.verdicts, *(v for v in built.verdicts if v.reason != "NoEndpoints"))
        self.table = built.table

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        upstreams = {}
        for key, upstream in self.table.upstreams.items():
            name = f"{upstream.namespace}/{upstream.service}"
            endpoints: tuple[Endpoint, ...] = ()
            if name not in self._without:
                endpoints = (await self._stand_in(name),)
            upstreams[key] = msgspec.structs.replace(
                upstream, endpoints=endpoints, protocol=UpstreamProtocol.HTTP, tls=None
            )
        plane = DataPlane(self.table.settings or self._settings.proxy, WorkerMetrics(), None, loop)
        self._stack.push_async_callback(plane.close)
        plane.swap(msgspec.structs.replace(self.table, upstreams=upstreams))
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            await plane.listen([listening])
        self._plane = plane
        self._port = plane.addresses[0][1]
        self._client = await self._stack.enter_async_context(
            aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        )

    async def _stand_in(self, name: str) -> Endpoint:
        stand_in = self.services.setdefault(name, StandIn())

        async def answer(asked: web.BaseRequest) -> web.StreamResponse:
            headers = dict(asked.headers)
            stand_in.received.append(Received(name, asked.method, asked.raw_path, headers, await asked.read()))
            return web.Response(
                status=stand_in.status, body=stand_in.body, headers={**stand_in.headers, "X-Stand-In": name}
            )

        server = await asyncio.get_running_loop().create_server(web.Server(answer), "127.0.0.1", 0)
        self._stack.callback(server.close)
        return Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.request("GET", url, headers)

    async def request(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Redirects are not followed. `url` names the host as a client would; it is sent to this process. Only http."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.netloc:
            raise ValueError(f"{url!r} is not an http URL")
        target = f"http://127.0.0.1:{self._port}{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        async with self._client.request(
            method,
            URL(target, encoded=True),
            headers={**(headers or {}), "Host": parts.netloc},
            data=body,
            allow_redirects=False,
        ) as response:
            content = await response.read()
            found = dict(response.headers)
            service = found.pop("X-Stand-In", None)
            received = self.services[service].received[-1] if service is not None else None
            return Answer(response.status, found, content, service, received)

    def route(self, url: str) -> Route | None:
        """The route that a URL is served by; None: no host or path matches. Nothing is sent."""
        parts = urlsplit(url)
        snapshot = self._plane.forwarder.snapshot
        assert snapshot is not None
        _, trie = snapshot.host(parts.netloc.encode("ascii"))
        found: LinkedRoute = snapshot.find(trie, normalize_path((parts.path or "/").encode("ascii")))
        return found.route if found.route.ingress else None


def _restore(before: Mapping[str, type[Middleware]]) -> None:
    REGISTRY.clear()
    REGISTRY.update(before)
