"""Hooks of routes: when they run, what they may answer, that a request waits for them, and that their bugs let nothing pass."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from ingress.exchange import DirectResponse, Exchange, ResponseHead
from ingress.middleware import registry
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Scope
from ingress.routing.table import Feature, RoutingTable
from tests.proxy.support import Backend, Proxy, Truncated, table, until


class Policy(msgspec.Struct, frozen=True):
    label: str = ""


Bind = Callable[[Policy, Scope], Hooks]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(*specs: MiddlewareSpec[Any]) -> None:
        monkeypatch.setattr(registry, "SPECS", specs)
        monkeypatch.setattr(registry, "BY_NAME", {spec.name: spec for spec in specs})

    return install


def spec(name: str, bind: Bind, phase: Phase = Phase.ACCESS) -> MiddlewareSpec[Policy]:
    return MiddlewareSpec(name, phase, (), Policy, lambda _: None, bind)


def asks(hook: Any) -> Bind:
    return lambda policy, scope: Hooks(request=hook)


def served(backend: Backend, *names: str, id: str = "t1") -> RoutingTable:
    """Everything to the backend, by a route with these features."""
    made = table([backend], id=id)
    features = tuple(Feature(name, {"label": name}) for name in names)
    hosts = {
        host: msgspec.structs.replace(
            routes, routes=tuple(msgspec.structs.replace(route, features=features) for route in routes.routes)
        )
        for host, routes in made.hosts.items()
    }
    return msgspec.structs.replace(made, hosts=hosts)


async def test_order_is_by_phase_then_registry(install: Any) -> None:
    seen: list[str] = []

    def bind(policy: Policy, scope: Scope) -> Hooks:
        def request(exchange: Exchange) -> None:
            seen.append(f"> {policy.label}")

        def response(exchange: Exchange, head: ResponseHead) -> None:
            seen.append(f"< {policy.label}")
            head.add(b"X-Seen", policy.label.encode())

        return Hooks(request, response)

    install(spec("late", bind, Phase.UPSTREAM), spec("b", bind), spec("a", bind))
    async with Proxy() as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(served(backend, "a", "late", "b"))
        response = await (await proxy.client()).get()
    assert seen == ["> b", "> a", "> late", "< late", "< a", "< b"]
    assert response.values("x-seen") == [b"late", b"a", b"b"]


@pytest.mark.parametrize("later", [False, True])
async def test_a_direct_response_asks_no_endpoint(install: Any, later: bool) -> None:
    teapot = DirectResponse(418, [(b"X-Why", b"test")], b"short and stout")

    async def wait() -> DirectResponse:
        await asyncio.sleep(0)
        return teapot

    install(spec("stop", asks(lambda exchange: wait() if later else teapot)))
    async with Proxy() as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(served(backend, "stop"))
        client = await proxy.client()
        for _ in range(2):
            response = await client.post(b"unread")
            assert (response.status, response.value("x-why"), response.body) == (418, b"test", b"short and stout")
        head = await client.get(method="HEAD")
        assert (head.status, head.value("content-length"), head.body) == (418, b"15", b"")
        assert not backend.requests


@pytest.mark.parametrize("later", [False, True])
async def test_an_answer_that_cannot_be_made_is_a_500(install: Any, later: bool) -> None:
    bad = DirectResponse(200, [(b"X", None)], b"")  # type: ignore[list-item]

    async def wait() -> DirectResponse:
        await asyncio.sleep(0)
        return bad

    install(spec("stop", asks(lambda exchange: wait() if later else bad)))
    async with Proxy() as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(served(backend, "stop"))
        client = await proxy.client()
        try:
            assert (await client.get()).status == 500
        except Truncated:
            pass  # it had begun
        assert not backend.requests
        assert any("a middleware failed" in message for message in proxy._errors.messages)
        proxy._errors.messages.clear()


async def test_a_status_without_body(install: Any) -> None:
    install(spec("stop", asks(lambda exchange: DirectResponse(204, (), b""))))
    async with Proxy() as proxy:
        proxy.plane.swap(served(await proxy.backend(), "stop"))
        client = await proxy.client()
        response = await client.get()
        assert (response.status, response.values("content-length"), response.chunked) == (204, [], False)
        assert (await client.get()).status == 204


async def test_a_request_waits_for_its_hook_and_keeps_its_body(install: Any) -> None:
    allowed = asyncio.Event()

    async def wait() -> None:
        await allowed.wait()

    install(spec("slow", asks(lambda exchange: wait())))
    body = b"x" * 300_000
    async with Proxy() as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(served(backend, "slow"))
        client = await proxy.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:1000])
        await until(lambda: proxy.plane.forwarder.in_flight == 1)
        sending = asyncio.create_task(client.send(body[1000:]))
        await asyncio.sleep(0)
        assert not backend.requests
        allowed.set()
        await sending
        assert (await client.response()).status == 200
        assert backend.requests[0].body == body


async def test_a_client_that_leaves_cancels_the_hook(install: Any) -> None:
    ended: list[str] = []
    cleaned: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    def hook(exchange: Exchange) -> Any:
        exchange.at_end(lambda: cleaned.append("cleaned"))
        return wait()

    install(spec("slow", asks(hook)))
    async with Proxy() as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(served(backend, "slow"))
        client = await proxy.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: proxy.plane.forwarder.in_flight == 1)
        client.close()
        await until(lambda: ended)
        assert (ended, cleaned, backend.requests) == (["cancelled"], ["cleaned"], [])


@pytest.mark.parametrize("later", [False, True])
async def test_a_bug_in_a_hook_lets_nothing_pass(install: Any, later: bool) -> None:
    async def fail_later() -> None:
        await asyncio.sleep(0)
        raise RuntimeError("bug")

    def hook(exchange: Exchange) -> Any:
        if later:
            return fail_later()
        raise RuntimeError("bug")

    install(spec("broken", asks(hook)))
    async with Proxy() as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(served(backend, "broken"))
        assert (await (await proxy.client()).get()).status == 500
        assert not backend.requests
        await _forgive(proxy, "a middleware failed")


@pytest.mark.parametrize("fault", ["bind", "unknown", "policy"])
async def test_what_cannot_be_bound_closes_the_route(install: Any, fault: str) -> None:
    def bind(policy: Policy, scope: Scope) -> Hooks:
        if fault == "bind":
            raise RuntimeError("bug")
        return Hooks()

    made = spec("broken", bind)
    if fault == "policy":
        made = dataclasses.replace(made, policy=_Other)
    install(*([] if fault == "unknown" else [made]))
    async with Proxy() as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(served(backend, "broken"))
        assert (await (await proxy.client()).get()).status == 500
        assert not backend.requests
        await _forgive(proxy, "could not be bound")


async def test_hooks_see_the_answers_of_our_own(install: Any) -> None:
    def bind(policy: Policy, scope: Scope) -> Hooks:
        return Hooks(response=lambda exchange, head: head.set(b"X-Status", b"%d" % head.status))

    install(spec("mark", bind))
    async with Proxy() as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(served(backend, "mark"))
        await backend.refuse()
        response = await (await proxy.client()).get()
        assert (response.status, response.value("x-status")) == (502, b"502")


async def test_what_is_live_outlives_tables_but_not_its_routes(install: Any) -> None:
    made: list[_Counter] = []

    def bind(policy: Policy, scope: Scope) -> Hooks:
        counter = scope.live(("counter", policy.label), _Counter)
        if counter not in made:
            made.append(counter)

        def hook(exchange: Exchange) -> DirectResponse:
            counter.value += 1
            return DirectResponse(200, (), b"%d" % counter.value)

        return Hooks(request=hook)

    install(spec("count", bind))
    async with Proxy() as proxy:
        backend = await proxy.backend()
        client = await proxy.client()
        bodies = []
        for number in range(3):
            proxy.plane.swap(served(backend, "count", id=f"t{number}"))
            bodies.append((await client.get()).body)
        assert bodies == [b"1", b"2", b"3"]
        assert len(made) == 1
        made.clear()
        proxy.plane.swap(table([backend], id="without"))
        proxy.plane.swap(served(backend, "count", id="again"))
        assert (await client.get()).body == b"1"


class _Counter:
    def __init__(self) -> None:
        self.value = 0


class _Other(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    needed: int


async def _forgive(proxy: Proxy, message: str) -> None:
    """The error that the test provoked was logged, and is no fault of it."""
    found: Sequence[str] = proxy._errors.messages
    assert found, "nothing was logged"
    assert all(message in text for text in found), found
    proxy._errors.messages.clear()
