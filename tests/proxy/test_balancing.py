"""Balancing and affinity seen through sockets: that the pieces of ingress/balancing and ingress/affinity are wired up rightly."""

import asyncio
from collections import Counter

import pytest

from ingress.routing.table import (
    AffinityMode,
    Balancing,
    CookieAffinity,
    CookieMode,
    LoadBalance,
    UpstreamKey,
)
from ingress.variables import Part, Variable
from tests.proxy.support import Backend, BackendConnection, Client, Clock, Proxy, Response, response, until

LEAST = Balancing(LoadBalance.LEAST_REQUEST)
EWMA = Balancing(LoadBalance.EWMA)
CLIENT_IP = Balancing(affinity=AffinityMode.CLIENT_IP, client_ip_timeout_s=100)


def hashed(*parts: Part) -> Balancing:
    return Balancing(LoadBalance.CONSISTENT_HASH, parts)


def cookies(mode: CookieMode, **changes: object) -> Balancing:
    return Balancing(affinity=AffinityMode.COOKIE, cookie=CookieAffinity("route", mode, **changes))  # type: ignore[arg-type]


async def several(proxy: Proxy, count: int) -> list[Backend]:
    return [await proxy.backend() for _ in range(count)]


async def spread(client: Client, count: int, *fields: str) -> Counter[bytes]:
    return Counter([(await client.get("/", "a", *fields)).body for _ in range(count)])


async def test_round_robin() -> None:
    async with Proxy() as proxy:
        proxy.serve(*await several(proxy, 3))
        assert await spread(await proxy.client(), 30) == {b"b0": 10, b"b1": 10, b"b2": 10}


async def test_round_robin_over_many_connections() -> None:
    async with Proxy() as proxy:
        proxy.serve(*await several(proxy, 3))
        clients = [await proxy.client() for _ in range(30)]
        bodies = Counter(got.body for got in await asyncio.gather(*(client.get() for client in clients)))
        assert bodies == {b"b0": 10, b"b1": 10, b"b2": 10}


async def test_least_request_prefers_the_idle_one() -> None:
    busy = asyncio.Event()

    async def script(connection: BackendConnection) -> None:
        while (request := await connection.request()) is not None:
            if request.target == b"/slow":
                await busy.wait()
            await connection.send(response(body=connection.backend.name.encode()))

    async with Proxy() as proxy:
        backends = [await proxy.backend(script) for _ in range(2)]
        proxy.serve(*backends, balancing=LEAST)
        waiting = await proxy.client()
        await waiting.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: sum(len(b.requests) for b in backends) == 1)
        idle = next(b for b in backends if not b.requests)
        counts = await spread(await proxy.client(), 30)
        assert counts[idle.name.encode()] > 25
        busy.set()
        await waiting.response()


async def test_ewma_prefers_the_fast_one() -> None:
    async def slow(connection: BackendConnection) -> None:
        while await connection.request() is not None:
            await asyncio.sleep(0.03)
            await connection.send(response(body=b"slow"))

    async with Proxy() as proxy:
        proxy.serve(await proxy.backend(slow), await proxy.backend(), balancing=EWMA)
        client = await proxy.client()
        await spread(client, 6)
        counts = await spread(client, 30)
        assert counts[b"slow"] < 10


@pytest.mark.parametrize(
    ("part", "target", "field"),
    [
        (Part(Variable.HTTP, "x_user"), "/", "X-User: {}"),
        (Part(Variable.COOKIE, "user"), "/", "Cookie: a=b; user={}"),
        (Part(Variable.ARG, "user"), "/?a=b&user={}", "X: y"),
        (Part(Variable.REQUEST_URI), "/{}", "X: y"),
    ],
)
async def test_consistent_hash(part: Part, target: str, field: str) -> None:
    async with Proxy() as proxy:
        backends = await several(proxy, 4)
        proxy.serve(*backends, balancing=hashed(part))
        clients = [await proxy.client() for _ in range(3)]

        async def of(user: int) -> bytes:
            bodies = {(await c.get(target.format(user), "a", field.format(user))).body for c in clients}
            assert len(bodies) == 1
            return bodies.pop()

        before = {user: await of(user) for user in range(40)}
        assert len(set(before.values())) == 4
        proxy.serve(*backends[:3], balancing=hashed(part), id="t2")
        after = {user: await of(user) for user in range(40)}
        assert all(after[user] == before[user] for user in before if before[user] != b"b3")


async def test_client_ip_affinity() -> None:
    clock = Clock()
    async with Proxy(clock=clock) as proxy:
        backends = await several(proxy, 3)
        proxy.serve(*backends, balancing=CLIENT_IP)
        clients = {number: await proxy.client(host=f"127.0.0.{number}") for number in range(2, 22)}
        before = {number: (await client.get()).body for number, client in clients.items()}
        assert len(set(before.values())) == 3
        more = await several(proxy, 3)
        proxy.serve(*backends, *more, balancing=CLIENT_IP, id="t2")
        for number in clients:  # also on another connection
            client = await proxy.client(host=f"127.0.0.{number}")
            assert (await client.get()).body == before[number]
        proxy.serve(*backends[1:], *more, balancing=CLIENT_IP, id="t3")
        after = {number: (await client.get()).body for number, client in clients.items()}
        assert b"b0" not in after.values()
        assert all(after[number] == before[number] for number in clients if before[number] != b"b0")


async def test_client_ip_assignments_travel_between_workers() -> None:
    async with Proxy() as proxy, Proxy() as other:
        backends = await several(proxy, 5)
        proxy.serve(*backends[:2], balancing=CLIENT_IP)
        client = await proxy.client()
        body = (await client.get()).body
        updates = proxy.plane.runtime.drain_affinity()
        assert list(updates) == [UpstreamKey("default/service-0:80")]
        assert not proxy.plane.runtime.drain_affinity()
        other.serve(*backends, balancing=CLIENT_IP)
        other.plane.runtime.merge_affinity(updates)
        assert (await (await other.client()).get()).body == body
        # an upstream that no table names any more has no assignments to tell
        proxy.plane.swap(type(proxy.serve(*backends, id="t2"))("t3"))
        assert not proxy.plane.runtime.client_ip


def cookie_of(got: Response) -> str:
    values = got.values("Set-Cookie")
    assert len(values) == 1, values
    return "Cookie: " + values[0].decode().split(";")[0]


@pytest.mark.parametrize("mode", list(CookieMode))
async def test_cookie_affinity(mode: CookieMode) -> None:
    async with Proxy() as proxy:
        backends = await several(proxy, 3)
        balancing = cookies(mode)
        proxy.serve(*backends, balancing=balancing)
        client = await proxy.client()
        sessions = {}
        for number in range(20):
            got = await client.get()
            assert b"route=" in got.values("Set-Cookie")[0]
            assert b"HttpOnly" in got.values("Set-Cookie")[0]
            sessions[number] = (cookie_of(got), got.body)
        assert {body for _, body in sessions.values()} == {b"b0", b"b1", b"b2"}
        for cookie, body in sessions.values():
            got = await client.get("/", "a", "Cookie: other=1", cookie)
            assert got.body == body
            assert got.values("Set-Cookie") == []
        # what names no endpoint is a new session; where the key is only hashed, any text is one
        got = await client.get("/", "a", "Cookie: route=garbage")
        assert bool(got.values("Set-Cookie")) is (mode is CookieMode.PERSISTENT)
        # more endpoints
        more = await several(proxy, 3)
        proxy.serve(*backends, *more, balancing=balancing, id="t2")
        moved = [(await client.get("/", "a", cookie)).body != body for cookie, body in sessions.values()]
        assert (not any(moved)) if mode is CookieMode.PERSISTENT else 0 < sum(moved) < 20
        # an endpoint goes
        proxy.serve(*backends[1:], balancing=balancing, id="t3")
        for cookie, body in sessions.values():
            got = await client.get("/", "a", cookie)
            if body != b"b0":
                assert (got.body, got.values("Set-Cookie")) == (body, [])
            else:
                assert got.body in (b"b1", b"b2")
                if mode is CookieMode.PERSISTENT:
                    assert (await client.get("/", "a", cookie_of(got))).body == got.body


@pytest.mark.parametrize("mode", list(CookieMode))
@pytest.mark.parametrize("change", [True, False])
async def test_a_session_whose_endpoint_fails(mode: CookieMode, change: bool) -> None:
    async def closes(connection: BackendConnection) -> None:
        await connection.request()

    async with Proxy() as proxy:
        backends = await several(proxy, 3)
        proxy.serve(*backends, balancing=cookies(mode, change_on_failure=change))
        client = await proxy.client()
        first = await client.get()
        own = next(b for b in backends if b.name.encode() == first.body)
        usual, own.script = own.script, closes
        await until(lambda: own.open)
        for connection in list(own.open):
            connection.writer.close()
        await until(lambda: not proxy.state_of(own).pool.idle)
        got = await client.get("/", "a", cookie_of(first))
        assert got.status == 200
        assert got.body != first.body
        if change:
            assert (await client.get("/", "a", cookie_of(got))).body == got.body
        else:
            assert got.values("Set-Cookie") == []
        own.script = usual
        assert (await client.get("/", "a", cookie_of(first))).body == first.body


async def test_an_endpoint_that_is_removed() -> None:
    go_on = asyncio.Event()

    async def slow(connection: BackendConnection) -> None:
        while (request := await connection.request()) is not None:
            if request.target == b"/slow":
                await go_on.wait()
            await connection.send(response(body=b"slow one"))

    async with Proxy() as proxy:
        leaving, staying = await proxy.backend(slow), await proxy.backend()
        proxy.serve(leaving)
        busy, idle = await proxy.client(), await proxy.client()
        await busy.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: leaving.requests)
        await idle.get()
        assert len(leaving.open) == 2
        proxy.serve(staying, id="t2")
        await until(lambda: len(leaving.open) == 1, "the idle connection closes")
        assert (await idle.get()).body == b"b1"
        go_on.set()
        assert (await busy.response()).body == b"slow one"
        await until(lambda: not leaving.open, "the busy one closes behind its response")


@pytest.mark.parametrize(
    ("same_site", "conditional", "browser", "sent"),
    [
        ("None", True, "Chrome/66.0", False),
        ("None", True, "Chrome/119.0", True),
        ("None", False, "Chrome/66.0", True),
        ("Lax", True, "Chrome/66.0", True),
    ],
)
async def test_browsers_that_mistake_same_site_none(
    same_site: str, conditional: bool, browser: str, sent: bool
) -> None:
    changes = {"same_site": same_site, "conditional_same_site_none": conditional}
    async with Proxy() as proxy:
        proxy.serve(*await several(proxy, 2), balancing=cookies(CookieMode.BALANCED, **changes))
        got = await (await proxy.client()).get("/", "a", f"User-Agent: Mozilla/5.0 {browser}")
        cookie = got.value("set-cookie")
        assert cookie is not None
        assert (f"SameSite={same_site}".encode() in cookie) is sent


async def test_a_subset_of_endpoints_for_each_key() -> None:
    balancing = Balancing(LoadBalance.CONSISTENT_HASH, (Part(Variable.HOST),), hash_subset_size=2)
    async with Proxy() as proxy:
        proxy.serve(*await several(proxy, 6), balancing=balancing)
        client = await proxy.client()
        seen: set[bytes] = set()
        for host in "abcdefghijkl":
            found = {(await client.get("/", host)).body for _ in range(20)}
            assert len(found) == 2
            seen |= found
        assert len(seen) == 6
