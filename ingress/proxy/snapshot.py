"""All that a request needs, reachable from one reference: what `proxy.link` makes of a routing table."""

from collections.abc import Mapping

from ingress.exchange import ErrorHook, RequestHook, ResponseHook
from ingress.metrics import RouteStats
from ingress.proxy.retry import RetryRule
from ingress.proxy.upstream_runtime import UpstreamRuntime
from ingress.routing.table import Fallback, Route, RoutingTable, UpstreamKey
from ingress.routing.trie import HostIndex, PathIndex, normalize_host


class LinkedFallback:
    """`routing.table.Fallback` bound to its upstreams."""

    __slots__ = ("of_endpoints", "stand_in", "statuses", "upstreams")

    def __init__(self, fallback: Fallback, upstreams: Mapping[UpstreamKey, UpstreamRuntime]) -> None:
        self.statuses = frozenset(fallback.statuses)
        self.of_endpoints = fallback.of_endpoints
        self.upstreams = tuple(upstreams[key] for key in fallback.upstreams)
        self.stand_in = None if fallback.stand_in is None else upstreams[fallback.stand_in]


class LinkedRoute:
    """A route bound to what serving it needs. Immutable but for what hangs behind `upstream` and `stats`."""

    __slots__ = (
        "body_limit_bytes",
        "error_hooks",
        "fallback",
        "main",
        "policy",
        "request_hooks",
        "response_hooks",
        "retry",
        "route",
        "stats",
        "status",
        "upstream",
    )

    def __init__(
        self,
        route: Route,
        upstream: UpstreamRuntime | None,
        stats: RouteStats,
        retry: RetryRule,
        request_hooks: tuple[RequestHook, ...] = (),
        response_hooks: tuple[ResponseHook, ...] = (),
        error_hooks: tuple[ErrorHook, ...] = (),
        fallback: LinkedFallback | None = None,
    ) -> None:
        self.route = route
        self.upstream = upstream
        self.stats = stats
        self.policy = route.policy
        self.body_limit_bytes = route.policy.body_limit_bytes
        self.retry = retry
        self.request_hooks = request_hooks
        self.response_hooks = response_hooks
        self.error_hooks = error_hooks
        self.fallback = fallback
        self.main: LinkedRoute | None = None  # of a canary: the route that it has its share of
        self.status = route.closed_status if upstream is None else 0  # what to answer when there is no upstream


class Snapshot:
    """Everything a request needs, reachable from one reference. `find` is the whole routing decision."""

    __slots__ = ("_authorities", "asks_certificates", "hosts", "not_found", "table")
    _AUTHORITY_CACHE = 8192

    def __init__(self, table: RoutingTable, hosts: HostIndex[LinkedRoute], not_found: LinkedRoute) -> None:
        self.table = table
        self.hosts = hosts
        self.asks_certificates = any(host.client_auth is not None for host in table.tls_hosts.values())
        self.not_found = not_found  # the table's default backend, or the built-in 404
        self._authorities: dict[bytes, tuple[bytes, PathIndex[LinkedRoute] | None]] = {}

    def host(self, authority: bytes) -> tuple[bytes, PathIndex[LinkedRoute] | None]:
        """(normalised host, its paths). Raises ValueError for what is no host."""
        entry = self._authorities.get(authority)
        if entry is None:
            host = normalize_host(authority)
            trie = self.hosts.lookup(host)
            entry = (host, trie)
            # Only authorities that reach a trie are worth keeping; the bound keeps clients from growing it with wildcards.
            if trie is not None and len(self._authorities) < self._AUTHORITY_CACHE:
                self._authorities[authority] = entry
        return entry

    def find(self, trie: PathIndex[LinkedRoute] | None, path: bytes) -> LinkedRoute:
        if trie is None:
            return self.not_found
        return trie.match(path) or trie.default or self.not_found
