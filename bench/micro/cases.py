"""The functions that are timed, over one table: 1,000 hosts with 10 routes, 2,000 upstreams with 10 endpoints."""

from collections.abc import Callable
from random import Random

import msgspec

from bench.micro import access, tls
from bench.micro.plumbing import BROWSER, SMALL, exchange
from bench.micro.responses import RESPONSE_CASES
from bench.micro.runner import Case
from ingress.balancing.base import EndpointState
from ingress.balancing.registry import build_picker
from ingress.routing.path import normalize_path
from ingress.routing.regex import RegexPaths
from ingress.routing.table import (
    Balancing,
    Endpoint,
    Feature,
    HostPattern,
    HostRoutes,
    LoadBalance,
    PathType,
    Route,
    RoutingTable,
    TableDelta,
    Upstream,
    UpstreamKey,
    apply_delta,
    diff_tables,
)
from ingress.routing.trie import HostIndex, PathTrie

HOSTS, PATHS, UPSTREAMS, ENDPOINTS = 1000, 10, 2000, 10


def upstream(number: int, port: int = 8080) -> Upstream:
    return Upstream(
        key=UpstreamKey(f"bench/svc-{number:04d}:80"),
        namespace="bench",
        service=f"svc-{number:04d}",
        port="80",
        endpoints=tuple(Endpoint(f"10.{number // 200}.{number % 200}.{k + 1}", port) for k in range(ENDPOINTS)),
    )


def host_routes(number: int, prefix: str = "app") -> HostRoutes:
    host = HostPattern(f"host-{number:04d}.example.com")
    routes = []
    for path in range(PATHS):
        service = (number * PATHS + path) % UPSTREAMS
        routes.append(
            Route(
                host=host,
                path=f"/{prefix}-{path}",
                path_type=PathType.PREFIX,
                namespace="bench",
                ingress=f"ing-{number * PATHS + path:05d}",
                service=f"svc-{service:04d}",
                port="80",
                upstream=UpstreamKey(f"bench/svc-{service:04d}:80"),
            )
        )
    return HostRoutes(host=host, routes=tuple(routes))


def routing_table() -> RoutingTable:
    hosts = [host_routes(number) for number in range(HOSTS)]
    upstreams = [upstream(number) for number in range(UPSTREAMS)]
    return RoutingTable(id="old", hosts={one.host: one for one in hosts}, upstreams={one.key: one for one in upstreams})


def edited(table: RoutingTable) -> RoutingTable:
    """One host and one upstream differ; the others are the same objects, as after an incremental compile."""
    host, changed = host_routes(500, "new"), upstream(1000, 9090)
    hosts, upstreams = table.hosts | {host.host: host}, table.upstreams | {changed.key: changed}
    return RoutingTable(id="new", hosts=hosts, upstreams=upstreams)


def _diff_one_edit() -> Callable[[], object]:
    old = routing_table()
    new = edited(old)
    return lambda: diff_tables(old, new)


def _diff_rebuilt() -> Callable[[], object]:
    """Equal in value, nothing identical: what a full compile of the same objects gives."""
    old, new = routing_table(), edited(routing_table())
    return lambda: diff_tables(old, new)


def _apply() -> Callable[[], object]:
    old = routing_table()
    delta = diff_tables(old, edited(old))
    return lambda: apply_delta(old, delta)


def _encode_delta() -> Callable[[], object]:
    old = routing_table()
    delta, encoder = diff_tables(old, edited(old)), msgspec.msgpack.Encoder()
    return lambda: encoder.encode(delta)


def _decode_delta() -> Callable[[], object]:
    old = routing_table()
    raw = msgspec.msgpack.encode(diff_tables(old, edited(old)))
    decoder = msgspec.msgpack.Decoder(TableDelta)
    return lambda: decoder.decode(raw)


def _encode_table() -> Callable[[], object]:
    table, encoder = routing_table(), msgspec.msgpack.Encoder()
    return lambda: encoder.encode(table)


def _index() -> HostIndex[Route]:
    table = routing_table()
    index: HostIndex[Route] = HostIndex()
    for host, routes in table.hosts.items():
        trie: PathTrie[Route] = PathTrie()
        for route in routes.routes:
            trie.add(route.path.encode(), route.path_type, route)
        index.set(host, trie)
    return index


def _match() -> Callable[[], object]:
    index = _index()

    def match() -> Route | None:
        trie = index.lookup(b"host-0500.example.com")
        return None if trie is None else trie.match(b"/app-5/item/42")

    return match


def _match_expressions(count: int) -> Callable[[], Callable[[], object]]:
    """A host in regex mode; the path is that of the last expression in the middle of the order."""

    def make() -> Callable[[], object]:
        paths: RegexPaths[int] = RegexPaths()
        for number in range(count):
            paths.add(f"/svc-{number:04d}(/|$)(.*)", number)
        paths.finish()
        asked = b"/svc-%04d/api/items/42" % (count // 2)
        return lambda: paths.match(asked)

    return make


def _rewritten(table: RoutingTable) -> RoutingTable:
    """Every route of one host a regular expression, with what an Ingress with rewrite-target and upstream-vhost has."""
    name = HostPattern("host-0500.example.com")
    target = {"path": [{"variable": "text", "argument": "/"}, {"variable": "capture", "argument": "2"}]}
    features = (Feature("rewrite", {"written": "/$2", "target": target}),)
    routes = tuple(
        msgspec.structs.replace(
            route, path=f"{route.path}(/|$)(.*)", pattern=f"{route.path}(/|$)(.*)", features=features
        )
        for route in table.hosts[name].routes
    )
    host = HostRoutes(name, routes, regex_cause="Ingress bench/ing-05000 sets rewrite-target")
    return msgspec.structs.replace(table, hosts=table.hosts | {name: host})


def _pick(load_balance: LoadBalance) -> Callable[[], Callable[[], object]]:
    def make() -> Callable[[], object]:
        states = [EndpointState(e) for e in upstream(1).endpoints]
        picker = build_picker(Balancing(load_balance=load_balance), states, Random(1))
        return lambda: picker.pick(1.0, 0x123456789ABCDEF)

    return make


def _exchange(
    request: bytes, change: Callable[[RoutingTable], RoutingTable] = lambda table: table
) -> Callable[[], Callable[[], object]]:
    def make() -> Callable[[], object]:
        table = change(routing_table())
        host = table.hosts[HostPattern("host-0500.example.com")]
        route = host.routes[5]
        assert route.upstream is not None
        one = msgspec.structs.replace(table.upstreams[route.upstream], endpoints=(Endpoint("10.0.0.1", 80),))
        table = msgspec.structs.replace(table, upstreams=table.upstreams | {one.key: one})
        path = route.path.partition("(")[0].encode()
        return exchange(table, one.key, request % (path + b"/item?id=42", host.host.encode()))

    return make


CASES = (
    Case("match, 10,000 routes", _match),
    *(Case(f"match, {n:,} regular expressions on a host", _match_expressions(n)) for n in (1, 10, 1000)),
    Case("normal form of a clean path", lambda: lambda: normalize_path(b"/app-5/item/42")),
    Case(
        "normal form of a path with dots and escapes", lambda: lambda: normalize_path(b"/app-5/./%7Euser//item/../42")
    ),
    *(Case(f"pick of 10 endpoints, {lb}", _pick(lb)) for lb in LoadBalance),
    Case("request and response, no sockets, 1 header", _exchange(SMALL)),
    Case("request and response, no sockets, 10 headers", _exchange(BROWSER)),
    Case("request and response, no sockets, 1 header, regex mode and rewrite-target", _exchange(SMALL, _rewritten)),
    Case("diff_tables, 10,000 routes, one edit", _diff_one_edit),
    Case("diff_tables, 10,000 routes, all rebuilt", _diff_rebuilt),
    Case("apply_delta, one edit", _apply),
    Case("encode a delta, one edit", _encode_delta),
    Case("decode a delta, one edit", _decode_delta),
    Case("encode a table of 10,000 routes", _encode_table),
    *(Case(name, prepare) for name, prepare in tls.layers().items()),
    *access.CASES,
    *RESPONSE_CASES,
)
