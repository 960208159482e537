"""New tables under traffic, deltas, and that a delta leads to the same snapshot as the whole table."""

import asyncio
import itertools
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.balancing.base import EndpointState
from ingress.metrics import WorkerMetrics
from ingress.middleware.base import Services
from ingress.proxy.link import Runtime
from ingress.proxy.snapshot import LinkedRoute, Snapshot
from ingress.proxy.wire import Wire
from ingress.routing.table import (
    Endpoint,
    HostAlias,
    HostPattern,
    HostRoutes,
    PathType,
    Route,
    RoutingTable,
    TableDelta,
    Upstream,
    UpstreamKey,
    diff_tables,
)
from tests.proxy.support import BackendConnection, Proxy, response, routes, table, until

# ---- under traffic ------------------------------------------------------------------------------------------------


async def test_requests_under_way_finish_by_the_old_table() -> None:
    go_on = asyncio.Event()

    async def slow(connection: BackendConnection) -> None:
        while await connection.request() is not None:
            await go_on.wait()
            await connection.send(response(body=b"old"))

    async with Proxy() as proxy:
        old, new = await proxy.backend(slow), await proxy.backend()
        proxy.serve(old)
        clients = [await proxy.client() for _ in range(10)]
        for client in clients:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: len(old.requests) == 10)
        proxy.plane.swap(RoutingTable("gone"))
        proxy.plane.swap(table([new], id="t3"))
        assert (await (await proxy.client()).get()).body == b"b1"
        go_on.set()
        for client in clients:
            assert (await client.response()).body == b"old"
            assert (await client.get()).body == b"b1"
        await until(lambda: not old.open)


async def test_swaps_under_load_lose_nothing() -> None:
    async with Proxy() as proxy:
        backends = [await proxy.backend() for _ in range(4)]
        proxy.serve(*backends)
        stop = False
        statuses: set[int] = set()

        async def load() -> None:
            client = await proxy.client()
            while not stop:
                statuses.add((await client.post(b"body")).status)

        tasks = [asyncio.create_task(load()) for _ in range(8)]
        current = table(backends)
        for number in range(60):
            chosen = [backends[(number + i) % 4] for i in range(1 + number % 3)]
            new = table(chosen, id=f"n{number}")
            if number % 2:
                proxy.plane.apply(diff_tables(current, new))
            else:
                proxy.plane.swap(new)
            current = new
            assert proxy.plane.table_id == new.id
            await asyncio.sleep(0.003)
        stop = True
        await asyncio.gather(*tasks)
        assert statuses == {200}
        assert not proxy.failures()
        assert all(backend.requests for backend in backends)


async def test_deltas_only_apply_to_their_base() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend()
        with pytest.raises(ValueError, match="no table yet"):
            proxy.plane.apply(TableDelta("", "t1"))
        proxy.serve(backend)
        before = proxy.plane.forwarder.snapshot
        with pytest.raises(ValueError, match="t0"):
            proxy.plane.apply(TableDelta("t0", "t2", removed_hosts=(HostPattern(""),)))
        assert proxy.plane.forwarder.snapshot is before
        assert (await (await proxy.client()).get()).status == 200


async def test_a_change_of_endpoints_costs_nothing_per_route() -> None:
    async with Proxy() as proxy:
        one, two = await proxy.backend(), await proxy.backend()
        old = proxy.serve(one)
        client = await proxy.client()
        await client.get()
        before = proxy.plane.forwarder.snapshot
        assert before is not None
        proxy.plane.apply(diff_tables(old, table([one, two], id="t2")))
        after = proxy.plane.forwarder.snapshot
        assert after is not None
        assert after.hosts is before.hosts
        assert {(await client.get()).body for _ in range(4)} == {b"b0", b"b1"}
        assert one.connections == 1  # what stays keeps its connections


async def test_retired_states_are_let_go() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend()
        for number in range(5):
            proxy.plane.swap(routes({f"/{number}": [backend]}, id=f"t{number}"))
            await (await proxy.client()).get(f"/{number}")
            proxy.plane.swap(RoutingTable(f"none{number}"))
        assert not proxy.plane.runtime.upstreams
        await until(lambda: not proxy.upstream_connections)


# ---- a delta leads where the whole table does ---------------------------------------------------------------------

hosts = st.sampled_from(["", "a", "b.a", "*.a"])
alias_patterns = st.sampled_from(["a", "c.a", "d", "*.a", "~^d", "~a$"])
paths = st.sampled_from(["/", "/x", "/x/", "/x/y", "/z"])
keys = st.sampled_from(["default/a:80", "default/b:80", "default/c:http"])
endpoints = st.lists(st.integers(1, 4), unique=True, max_size=3)


@st.composite
def tables(draw: st.DrawFn, id: str) -> RoutingTable:
    upstreams = {}
    for text in ("default/a:80", "default/b:80", "default/c:http"):
        namespace, service, port = text.replace(":", "/").split("/")
        found = tuple(Endpoint(f"10.0.0.{n}", 80) for n in sorted(draw(endpoints)))
        upstreams[UpstreamKey(text)] = Upstream(UpstreamKey(text), namespace, service, port, found)

    def route(host: str, path: str) -> Route:
        key = draw(st.none() | keys)
        return Route(
            HostPattern(host),
            path,
            draw(st.sampled_from(list(PathType))),
            "default",
            draw(st.sampled_from(["i", "j"])),
            "s" if key is None else key.split("/")[1].split(":")[0],
            "80",
            None if key is None else UpstreamKey(key),
            closed_status=draw(st.sampled_from([503, 404])),
        )

    made = {}
    for host in draw(st.lists(hosts, unique=True)):
        rules = tuple(route(host, path) for path in draw(st.lists(paths, unique=True, max_size=4)))
        cause = draw(st.sampled_from(["", "Ingress default/i sets use-regex"]))
        if cause:
            rules = tuple(msgspec.structs.replace(rule, pattern=rule.path) for rule in rules)
        app_root = route(host, "/") if draw(st.booleans()) else None
        default_of_host = draw(st.none() | st.just(route(host, "/")))
        made[HostPattern(host)] = HostRoutes(HostPattern(host), rules, default_of_host, cause, app_root)
    default = route("", "/") if draw(st.booleans()) else None
    used = {r.upstream for h in made.values() for r in (*h.routes, *((h.default,) if h.default else ()))}
    used |= {default.upstream} if default else set()
    used |= {h.app_root.upstream for h in made.values() if h.app_root}
    aliases = {}
    for rank, pattern in enumerate(draw(st.lists(alias_patterns, unique=True, max_size=3)) if made else ()):
        if pattern not in made:
            host = draw(st.sampled_from(sorted(made)))
            aliases[HostPattern(pattern)] = HostAlias(HostPattern(pattern), host, rank)
    return RoutingTable(id, made, {k: u for k, u in upstreams.items() if k in used}, default, aliases=aliases)


class FakePool:
    def __init__(self, state: EndpointState, wire: Wire) -> None:
        self.retired = False

    def retire(self) -> None:
        self.retired = True


def runtime() -> Runtime:
    return Runtime(WorkerMetrics(), Services(None, lambda: 0.0, lambda: 0.0, random.Random(1)), FakePool)


def view(snapshot: Snapshot) -> list[object]:
    """What every request would get."""
    found: list[object] = []
    for host in (b"a", b"b.a", b"c.a", b"d", b"A:80"):
        for path in (b"/", b"/x", b"/x/", b"/x/y", b"/x/y/z", b"/z", b"/q"):
            normal, trie = snapshot.host(host)
            linked: LinkedRoute = snapshot.find(trie, path)
            upstream = linked.upstream
            states = None if upstream is None else [state.key for state in upstream.states]
            found.append((normal, path, linked.route, linked.status, states))
    return found


@given(
    st.lists(st.integers(0, 10**9).flatmap(lambda n: tables(f"t{n}")), min_size=2, max_size=5, unique_by=lambda t: t.id)
)
def test_link_delta_is_link(sequence: list[RoutingTable]) -> None:
    live = runtime()
    snapshot = live.link(sequence[0])
    for old, new in itertools.pairwise(sequence):
        pools = {id(s.pool): s.pool for u in live.upstreams.values() for s in u.states}
        snapshot = live.link_delta(snapshot, diff_tables(old, new))
        assert snapshot.table == new
        fresh = runtime()
        assert view(snapshot) == view(fresh.link(new))
        assert live.upstreams.keys() == fresh.upstreams.keys() == new.upstreams.keys()
        kept = {id(s.pool) for u in live.upstreams.values() for s in u.states}
        assert all(pool.retired == (number not in kept) for number, pool in pools.items())


@given(tables("t1"), tables("t2"))
def test_link_over_a_table_is_link(old: RoutingTable, new: RoutingTable) -> None:
    live = runtime()
    live.link(old)
    assert view(live.link(new)) == view(runtime().link(new))
    assert live.upstreams.keys() == new.upstreams.keys()
