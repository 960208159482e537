"""limit-rps, limit-rpm, limit-connections and their companions: what they come to, and what a client meets."""

import asyncio
from typing import Any

import pytest

from ingress.errors import Severity, VerdictReason
from ingress.middleware import rate_limit
from ingress.middleware.rate_limit import RateLimit
from ingress.routing.table import Feature, RoutingTable
from ingress.translate import Compilation
from tests.proxy.support import Backend, BackendConnection, Clock, Proxy, response, until
from tests.proxy.test_hooks import served
from tests.translate.build import compiled, ingress, rule, service, slice_of

NGINX = "nginx.ingress.kubernetes.io/"
OWN = "aioingress.io/"


def build(prefix: str = NGINX, **annotations: str) -> Compilation:
    texts = {prefix + name.replace("_", "-"): value for name, value in annotations.items()}
    return compiled(ingress("i", rule("a.test"), annotations=texts), service(), slice_of(), parsers=[rate_limit.SPEC])


def policy(built: Compilation) -> dict[str, Any] | None:
    (route,) = built.table.hosts["a.test"].routes  # type: ignore[index]
    return route.features[0].policy if route.features else None


# ---- translation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [NGINX, OWN])
def test_all_of_them(prefix: str) -> None:
    built = build(
        prefix,
        limit_rps="10",
        limit_rpm="100",
        limit_connections="3",
        limit_burst_multiplier="2",
        limit_allowlist="10.0.0.0/8, 2001:db8::/32,192.0.2.1",
    )
    assert built.verdicts == ()
    assert policy(built) == {
        "zone": "default/i",
        "requests_per_second": 10,
        "requests_per_minute": 100,
        "connections": 3,
        "burst_multiplier": 2,
        "allow": ("10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"),
        "rate_status": 503,
        "connections_status": 503,
    }


@pytest.mark.parametrize("name", ["limit_rps", "limit_rpm", "limit_connections"])
def test_zero_is_no_limit(name: str) -> None:
    built = build(**{name: "0"})
    assert (policy(built), built.verdicts) == (None, ())


def test_the_old_spelling_of_the_allowlist() -> None:
    assert (policy(build(limit_rps="1", limit_whitelist="10.0.0.1")) or {})["allow"] == ("10.0.0.1/32",)
    both = build(limit_rps="1", limit_whitelist="10.0.0.1", limit_allowlist="10.0.0.2")
    assert (policy(both) or {})["allow"] == ("10.0.0.2/32",)


def test_a_list_of_the_exempt_closes_nothing_where_there_is_no_limit() -> None:
    built = build(limit_whitelist="10.0.0.0/8,x")
    (route,) = built.table.hosts["a.test"].routes  # type: ignore[index]
    assert route.upstream is not None
    (verdict,) = built.verdicts
    assert (verdict.severity, verdict.reason) == (Severity.WARNING, VerdictReason.INVALID_ANNOTATION)


@pytest.mark.parametrize("name", ["limit_burst_multiplier", "limit_whitelist", "limit_allowlist"])
def test_companions_alone_have_no_effect(name: str) -> None:
    built = build(**{name: "10"} if "multiplier" in name else {name: "10.0.0.1"})
    assert policy(built) is None
    (verdict,) = built.verdicts
    assert verdict.severity is Severity.WARNING
    assert verdict.field == f"metadata.annotations[{NGINX}{name.replace('_', '-')}]"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit_rps", "ten"),
        ("limit_rps", "-1"),
        ("limit_rps", "1.5"),
        ("limit_rps", ""),
        ("limit_rpm", "10r/m"),
        ("limit_connections", "9999999999"),
        ("limit_allowlist", "10.0.0.0/33"),
        ("limit_allowlist", "somebody"),
        ("limit_whitelist", "10.0.0.1,,10.0.0.2"),
    ],
)
def test_a_limit_that_cannot_be_kept_closes_the_routes(name: str, value: str) -> None:
    """A limit guards an endpoint: serving without it would fail open."""
    built = build(**{"limit_rps": "10", name: value})
    (verdict,) = built.verdicts
    assert verdict.field == f"metadata.annotations[{NGINX}{name.replace('_', '-')}]"
    assert (verdict.reason, verdict.value) == (VerdictReason.ACCESS_RULE_REJECTED, value)
    (route,) = built.table.hosts["a.test"].routes  # type: ignore[index]
    assert (route.upstream, route.closed_status) == (None, 503)


def test_a_bad_multiplier_costs_only_itself() -> None:
    built = build(limit_rps="10", limit_burst_multiplier="x")
    assert (policy(built) or {})["burst_multiplier"] == 5
    (verdict,) = built.verdicts
    assert verdict.reason is VerdictReason.INVALID_ANNOTATION


# ---- requests -------------------------------------------------------------------------------------------------------


def limited(backend: Backend, limit: RateLimit, id: str = "t1") -> RoutingTable:
    import msgspec

    made = served(backend, id=id)
    features = (Feature("rate-limit", msgspec.to_builtins(limit)),)
    return msgspec.structs.replace(
        made,
        hosts={
            host: msgspec.structs.replace(
                found, routes=tuple(msgspec.structs.replace(r, features=features) for r in found.routes)
            )
            for host, found in made.hosts.items()
        },
    )


async def statuses(proxy: Proxy, count: int, host: str = "127.0.0.1") -> list[int]:
    client = await proxy.client(host=host)
    return [(await client.get()).status for _ in range(count)]


async def test_a_refusal_does_not_blame_the_service() -> None:
    async with Proxy(clock=Clock()) as proxy:
        proxy.plane.swap(limited(await proxy.backend(), RateLimit("z", requests_per_second=1, burst_multiplier=0)))
        client = await proxy.client()
        assert (await client.get()).status == 200
        answer = await client.get()
        assert answer.status == 503
        assert b"Too many requests" in answer.body


@pytest.mark.parametrize(
    ("limit", "first", "refill_s"),
    [
        (RateLimit("z", requests_per_second=2, burst_multiplier=1), 3, 0.5),
        (RateLimit("z", requests_per_second=2), 11, 0.5),
        (RateLimit("z", requests_per_minute=2, burst_multiplier=1), 3, 30.0),
        (RateLimit("z", requests_per_second=2, burst_multiplier=0), 1, 0.5),
        (RateLimit("z", requests_per_second=100, requests_per_minute=2, burst_multiplier=1), 3, 30.0),
    ],
)
async def test_rates(limit: RateLimit, first: int, refill_s: float) -> None:
    clock = Clock()
    async with Proxy(clock=clock) as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(limited(backend, limit))
        assert await statuses(proxy, first + 2) == [200] * first + [503] * 2
        clock.now += refill_s * 1.01
        assert await statuses(proxy, 2) == [200, 503]
        assert await statuses(proxy, 1, "127.0.0.2") == [200]  # another client
        assert len(backend.requests) == first + 2
        tallies = proxy.metrics.snapshot().tallies
        assert tallies["aioingress_limited", "default", "ingress", "rate"] == 3


async def test_a_new_table_forgets_nothing() -> None:
    clock = Clock()
    limit = RateLimit("z", requests_per_minute=1, burst_multiplier=1)
    async with Proxy(clock=clock) as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(limited(backend, limit))
        assert await statuses(proxy, 3) == [200, 200, 503]
        proxy.plane.swap(limited(backend, limit, "t2"))
        assert await statuses(proxy, 1) == [503]


async def test_who_is_exempt_and_what_others_get() -> None:
    limit = RateLimit(
        "z", requests_per_minute=1, burst_multiplier=0, allow=("127.0.0.2/32",), rate_status=429, connections=1
    )
    async with Proxy(clock=Clock()) as proxy:
        proxy.plane.swap(limited(await proxy.backend(), limit))
        assert await statuses(proxy, 2) == [200, 429]
        assert await statuses(proxy, 5, "127.0.0.2") == [200] * 5


async def test_connections_are_requests_under_way() -> None:
    go_on = asyncio.Event()

    async def slow(connection: BackendConnection) -> None:
        while await connection.request() is not None:
            await go_on.wait()
            await connection.send(response(body=b"late"))

    async with Proxy() as proxy:
        backend = await proxy.backend(slow)
        proxy.plane.swap(limited(backend, RateLimit("z", connections=2, connections_status=429)))
        waiting = [await proxy.client() for _ in range(2)]
        for client in waiting:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: len(backend.requests) == 2)
        third = await proxy.client()
        assert (await third.get()).status == 429
        waiting.pop().reset()  # a client that vanishes makes room
        await until(lambda: proxy.plane.forwarder.in_flight == 1)
        await third.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: len(backend.requests) == 3)
        go_on.set()
        for client in (*waiting, third):
            assert (await client.response()).body == b"late"
            assert (await client.get()).status == 200  # kept connections that are idle don't count
        assert proxy.metrics.snapshot().tallies["aioingress_limited", "default", "ingress", "connections"] == 1
