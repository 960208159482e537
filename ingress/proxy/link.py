"""From a `RoutingTable` (pure data) to a `Snapshot` (bound to live things) that one request reads once.

Live things outlive tables: endpoints with their connections, in-flight counts, latency and health, round-robin positions, affinity and
counters. They are kept by key in `Runtime`; a swap binds the new table to those still named and retires the rest.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from ingress.affinity.client_ip import Update
from ingress.balancing import ejection
from ingress.balancing.base import EndpointState
from ingress.metrics import WorkerMetrics
from ingress.middleware.base import Scope, Services
from ingress.proxy import canary
from ingress.proxy.health import HealthChecks
from ingress.proxy.hooks import NO_HOOKS, bind_hooks, merge_features
from ingress.proxy.interception import keep_fields
from ingress.proxy.retry import RetryRule
from ingress.proxy.snapshot import LinkedFallback, LinkedRoute, Snapshot
from ingress.proxy.upstream_runtime import UpstreamRuntime
from ingress.proxy.wire import Wire
from ingress.routing.regex import RegexPaths, find_host
from ingress.routing.table import (
    HostPattern,
    HostRoutes,
    PathType,
    Route,
    RoutingTable,
    TableDelta,
    TrafficPolicy,
    Upstream,
    UpstreamKey,
    apply_delta,
)
from ingress.routing.trie import HostIndex, PathIndex, PathTrie


class Runtime:
    """The live things of one worker, by key, and the linking of tables to them."""

    def __init__(
        self,
        metrics: WorkerMetrics,
        services: Services,
        open_pool: Callable[[EndpointState, Wire], object],
    ) -> None:
        self._metrics = metrics
        self._rng = services.rng
        self._clock = services.clock
        self._wall_clock = services.wall_clock
        self._open_pool = open_pool
        self.client_ip: dict[UpstreamKey, UpstreamRuntime] = {}  # those with client-IP affinity
        self.recovering: set[UpstreamRuntime] = set()  # those with an ejected endpoint
        self.services = services
        # What hooks share and what outlives tables; an object goes when the last route that holds it does.
        self._live_objects: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
        self._retry_rules: dict[TrafficPolicy, RetryRule] = {}
        self.upstreams: dict[UpstreamKey, UpstreamRuntime] = {}
        self.health_checks = HealthChecks(services, metrics.unhealthy_endpoints)

    def record_failure(self, upstream: UpstreamRuntime, state: EndpointState, now: float) -> bool:
        """Count a failure of an endpoint; True when it was ejected by it."""
        if not ejection.record_failure(state, now):
            return False
        upstream.rebuild(now)
        self.recovering.add(upstream)
        return True

    def readmit(self, now: float) -> None:
        """Take endpoints back whose ejection is over. Called from time to time."""
        for upstream in tuple(self.recovering):
            if upstream.readmit_at is not None and upstream.readmit_at <= now:
                upstream.rebuild(now)
            if upstream.readmit_at is None:
                self.recovering.discard(upstream)

    def drain_affinity(self) -> dict[UpstreamKey, list[Update]]:
        """Client-IP assignments that the other workers don't know of yet."""
        return {
            key: updates
            for key, upstream in self.client_ip.items()
            if upstream.client_ip is not None and (updates := upstream.client_ip.drain_updates())
        }

    def merge_affinity(self, updates: Mapping[UpstreamKey, Iterable[Update]]) -> None:
        """Take over assignments of other workers. Their clock is ours: one machine's monotonic clock."""
        now = self._clock()
        for key, changes in updates.items():
            upstream = self.client_ip.get(key)
            if upstream is not None and upstream.client_ip is not None:
                upstream.client_ip.merge(changes, now)

    def link(self, table: RoutingTable) -> Snapshot:
        """Bind a whole table."""
        self._update_upstreams(table.upstreams.values())
        hosts = HostIndex((h, self._paths(r, table.default)) for h, r in table.hosts.items())
        self._set_aliases(hosts, table)
        snapshot = self._snapshot(table, hosts)
        self._retire(self.upstreams.keys() - table.upstreams.keys())
        return snapshot

    def link_delta(self, snapshot: Snapshot, delta: TableDelta) -> Snapshot:
        """Bind what changed since `snapshot`; raises ValueError when the delta is against another table."""
        table = apply_delta(snapshot.table, delta)
        self._update_upstreams(delta.upstreams.values())
        changed = delta.hosts
        if delta.default_changed:  # it answers on hosts with features of their own, too
            changed = {h: r for h, r in table.hosts.items() if r.features and r.default is None} | changed
        if changed or delta.removed_hosts or delta.aliases or delta.removed_aliases:
            hosts = snapshot.hosts.copy()
            for host in (*delta.removed_hosts, *delta.removed_aliases):
                hosts.remove(host)
            for host, routes in changed.items():
                hosts.set(host, self._paths(routes, table.default))
            self._set_aliases(hosts, table)
        else:
            hosts = snapshot.hosts
        linked = self._snapshot(table, hosts)
        self._retire(delta.removed_upstreams)
        return linked

    def _snapshot(self, table: RoutingTable, hosts: HostIndex[LinkedRoute]) -> Snapshot:
        default = table.default or BUILT_IN_DEFAULT
        return Snapshot(table, hosts, self._linked(default))

    def _update_upstreams(self, upstreams: Iterable[Upstream]) -> None:
        now = self._clock()
        for upstream in upstreams:
            runtime = self.upstreams.get(upstream.key)
            if runtime is None:
                stats = self._metrics.upstream(upstream.namespace, upstream.service)
                runtime = self.upstreams[upstream.key] = UpstreamRuntime(
                    upstream, now, self._rng, stats, self._wall_clock, self._open_pool
                )
                if runtime.client_ip is not None:
                    self.client_ip[upstream.key] = runtime
            elif runtime.upstream != upstream:
                runtime.update(upstream, now)
            if runtime.client_ip is not None:
                self.client_ip[upstream.key] = runtime
            else:
                self.client_ip.pop(upstream.key, None)
            self.health_checks.follow(runtime)

    def _retire(self, keys: Iterable[UpstreamKey]) -> None:
        for key in list(keys):
            runtime = self.upstreams.pop(key, None)
            self.client_ip.pop(key, None)
            if runtime is not None:
                self.health_checks.forget(runtime)
                runtime.retire()

    def _paths(self, routes: HostRoutes, table_default: Route | None) -> PathIndex[LinkedRoute]:
        """`table_default` answers where the host has no default; linked for the host if it has features, which act on it as well."""
        if routes.default is not None:
            default: LinkedRoute | None = self._linked(routes.default, routes)
        elif routes.features or routes.unmatched:
            unmatched = table_default or BUILT_IN_DEFAULT
            own = merge_features(unmatched.features, routes.unmatched)
            default = self._linked(msgspec.structs.replace(unmatched, features=own), routes)
        else:
            default = None
        if routes.regex_cause:
            expressions: RegexPaths[LinkedRoute] = RegexPaths(default)
            if routes.app_root is not None:
                expressions.add_exact(b"/", self._linked(routes.app_root, routes))
            for route in routes.routes:
                expressions.add(route.pattern, self._linked(route, routes))
            expressions.finish()
            return expressions
        trie: PathTrie[LinkedRoute] = PathTrie(default)
        if routes.app_root is not None:
            trie.add(b"/", PathType.EXACT, self._linked(routes.app_root, routes))
        for route in routes.routes:
            trie.add(route.path.encode("ascii"), route.path_type, self._linked(route, routes))
        return trie

    def _set_aliases(self, hosts: HostIndex[LinkedRoute], table: RoutingTable) -> None:
        """Let every alias lead to the paths that its host has now; paths of its own, where the certificate of the host is not for it."""
        expressions: list[tuple[str, PathIndex[LinkedRoute]]] = []
        for alias in sorted(table.aliases.values(), key=lambda alias: alias.rank):
            paths = hosts.get(alias.host)
            if paths is None:
                continue
            routes = table.hosts.get(alias.host)
            if routes is not None and routes.certificate and not alias.certificate:
                paths = self._paths(msgspec.structs.replace(routes, certificate=False), table.default)
            if alias.pattern.startswith("~"):
                expressions.append((alias.pattern[1:], paths))
            elif alias.pattern not in table.hosts:
                hosts.set(alias.pattern, paths)
        hosts.set_regex(find_host(expressions) if expressions else None)

    def _linked(self, route: Route, host: HostRoutes | None = None) -> LinkedRoute:
        rule = self._retry_rules.get(route.policy)
        if rule is None:
            rule = self._retry_rules[route.policy] = RetryRule(route.policy)
        upstream = None if route.upstream is None else self.upstreams[route.upstream]
        stats = self._metrics.route(route.namespace, route.ingress, route.service, route.port)
        features = route.features if host is None else merge_features(host.features, route.features)
        certificate = host is not None and host.certificate
        hooks = NO_HOOKS
        if features:
            hooks = bind_hooks(features, Scope(route, self.services, self._live, certificate))
        fallback = None
        if route.fallback is not None:
            fallback = LinkedFallback(route.fallback, self.upstreams)
            hooks = (hooks[0], (keep_fields, *hooks[1]), hooks[2])
        linked = LinkedRoute(route, upstream, stats, rule, *hooks, fallback)
        if route.canaries and upstream is not None:
            linked.request_hooks += (canary.hook(self._split(linked)),)
        return linked

    def _split(self, main: LinkedRoute) -> canary.CanarySplit[LinkedRoute]:
        """Canaries have the hooks of their main route, and counters of their own."""
        targets = []
        for found in main.route.canaries:
            route = found.route
            upstream = None if route.upstream is None else self.upstreams[route.upstream]
            stats = self._metrics.route(route.namespace, route.ingress, route.service, route.port)
            hooks = main.request_hooks, main.response_hooks, main.error_hooks
            target = LinkedRoute(route, upstream, stats, main.retry, *hooks, main.fallback)
            target.main = main
            targets.append((target, found.rule))
        return canary.CanarySplit(main, targets, self._rng)

    def _live(self, key: Hashable, make: Callable[[], Any]) -> Any:
        found = self._live_objects.get(key)
        if found is None:
            found = self._live_objects[key] = make()
        return found


BUILT_IN_DEFAULT = Route(
    host=HostPattern(""),
    path="/",
    path_type=PathType.PREFIX,
    namespace="",
    ingress="",
    service="",
    port="",
    upstream=None,
    closed_status=404,
)
