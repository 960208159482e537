"""From a `RoutingTable` (pure data) to a `Snapshot` (bound to live things) that one request reads once.

Live things outlive tables: endpoints with their connections, in-flight counts, latency and health, round-robin positions, affinity and
counters. They are kept by key in `Runtime`; a swap binds the new table to those still named and retires the rest.
Endpoint changes reach the `UpstreamRuntime` in place, so they cost nothing per route.
"""

import asyncio
import logging
import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from random import Random
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from ingress.affinity.client_ip import ClientIPAffinity, Update
from ingress.balancing import ejection
from ingress.balancing.base import EndpointState, Picker
from ingress.balancing.consistent_hash import ConsistentHash
from ingress.balancing.hashing import hash64
from ingress.balancing.registry import build_picker, build_ring, observes_latency
from ingress.exchange import DirectResponse, ErrorHook, Exchange, RequestHook, ResponseHook
from ingress.metrics import RouteStats, UpstreamStats, WorkerMetrics
from ingress.middleware import registry
from ingress.middleware.base import Hooks, Phase, Scope, Services
from ingress.middleware.satisfy import join as join_access
from ingress.proxy import canary
from ingress.proxy.health import HealthChecks
from ingress.proxy.interception import keep_fields
from ingress.proxy.sessions import CookieSessions
from ingress.proxy.upstream import Wire
from ingress.routing.regex import RegexPaths, find_host
from ingress.routing.table import (
    AffinityMode,
    Balancing,
    Endpoint,
    Fallback,
    Feature,
    HostPattern,
    HostRoutes,
    LoadBalance,
    PathType,
    RetryOn,
    Route,
    RoutingTable,
    TableDelta,
    TrafficPolicy,
    Upstream,
    UpstreamKey,
    UpstreamProtocol,
    apply_delta,
)
from ingress.routing.trie import HostIndex, PathIndex, PathTrie, normalize_host
from ingress.variables import compile_value

_log = logging.getLogger(__name__)
_STATUS_RETRIES = {
    RetryOn.HTTP_403: 403,
    RetryOn.HTTP_404: 404,
    RetryOn.HTTP_429: 429,
    RetryOn.HTTP_500: 500,
    RetryOn.HTTP_502: 502,
    RetryOn.HTTP_503: 503,
    RetryOn.HTTP_504: 504,
}
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
SUPPORTED_PROTOCOLS = frozenset((UpstreamProtocol.HTTP, UpstreamProtocol.HTTPS))
_WIRE_FIELDS = ("protocol", "tls", "http_version", "connection_header")
_BY_SCHEME = {b"http": UpstreamProtocol.HTTP, b"https": UpstreamProtocol.HTTPS}


class RetryRule:
    """`TrafficPolicy.retry_*` in the form the forwarder asks for. Shared by the routes of equal policy."""

    __slots__ = ("invalid_header", "non_idempotent", "on_error", "on_timeout", "statuses", "timeout_s", "tries")

    def __init__(self, policy: TrafficPolicy) -> None:
        self.on_error = RetryOn.ERROR in policy.retry_on
        self.on_timeout = RetryOn.TIMEOUT in policy.retry_on
        self.invalid_header = RetryOn.INVALID_HEADER in policy.retry_on
        self.non_idempotent = RetryOn.NON_IDEMPOTENT in policy.retry_on
        self.statuses = frozenset(_STATUS_RETRIES[r] for r in policy.retry_on if r in _STATUS_RETRIES)
        self.tries = policy.retry_tries
        self.timeout_s = policy.retry_timeout_s

    def method_allows(self, method: bytes) -> bool:
        """Whether a request of this method may be sent a second time (RFC 9110 section 9.2.2)."""
        return self.non_idempotent or method in IDEMPOTENT


class UpstreamRuntime:
    """The live side of an `Upstream`: its endpoints' states and the picker over those that are usable now."""

    __slots__ = (
        "_by_key",
        "_change",
        "_hash_key",
        "_open_pool",
        "_ring",
        "_rng",
        "_states",
        "_variants",
        "_wall_clock",
        "_wire",
        "balancing",
        "client_ip",
        "cookies",
        "name",
        "observes_latency",
        "picker",
        "readmit_at",
        "servable",
        "stats",
        "sticky",
        "unreachable_since",
        "upstream",
        "waiting",
    )

    def __init__(
        self,
        upstream: Upstream,
        now: float,
        rng: Random,
        stats: UpstreamStats,
        wall_clock: Callable[[], float],
        open_pool: Callable[[EndpointState, Wire], object],
    ) -> None:
        self._rng = rng
        self.stats = stats
        self._open_pool = open_pool
        self._wire: Wire | None = None
        self._variants: dict[bytes, UpstreamRuntime] = {}  # by scheme of the request, where that decides the protocol
        self._states: dict[Endpoint, EndpointState] = {}
        self._by_key: dict[str, EndpointState] = {}
        self.picker: Picker | None = None
        self._ring: ConsistentHash | None = None
        self.readmit_at: float | None = None  # when an ejection ends
        self.unreachable_since: float | None = None  # no endpoint of it takes connections any more
        self.waiting = 0  # requests for other endpoints
        self._change: asyncio.Event | None = None  # when somebody waits: these endpoints are replaced
        self.upstream = upstream
        self.name = f"{upstream.namespace}-{upstream.service}-{upstream.port}"
        self._wall_clock = wall_clock
        self.client_ip: ClientIPAffinity | None = None
        self._bind(upstream.balancing, now)
        self.update(upstream, now)

    def _bind(self, balancing: Balancing, now: float) -> None:
        self.balancing = balancing
        self.observes_latency = observes_latency(balancing)
        hashed = balancing.load_balance is LoadBalance.CONSISTENT_HASH and balancing.affinity is AffinityMode.NONE
        self._hash_key = compile_value(balancing.hash_key) if hashed else None
        before, self.client_ip = self.client_ip, None
        if balancing.affinity is AffinityMode.CLIENT_IP:
            self.client_ip = ClientIPAffinity(balancing.client_ip_timeout_s)
            if before is not None:  # another timeout: who is assigned stays so
                self.client_ip.merge(before.snapshot(now), now)
        cookie = balancing.cookie if balancing.affinity is AffinityMode.COOKIE else None
        self.cookies = (
            None if cookie is None else CookieSessions(cookie, self.upstream.key, self._rng, self._wall_clock)
        )
        self.sticky = self.client_ip is not None or self.cookies is not None or self._hash_key is not None

    def update(self, upstream: Upstream, now: float) -> None:
        """Take the endpoints of `upstream`; those that stay keep their state, those that left are retired. The balancing can
        change under one key too: by the Service's `sessionAffinity`."""
        before, self.upstream = self.upstream, upstream
        if upstream.balancing != self.balancing:
            self._bind(upstream.balancing, now)
        self._update_variants(upstream, now)
        if self._wire is None or any(getattr(before, f) != getattr(upstream, f) for f in _WIRE_FIELDS):
            self._bind_wire(upstream)
        states = self._states
        endpoints = upstream.endpoints if self.servable else ()
        current = {e: states.get(e) or self._open(e) for e in endpoints}
        for endpoint, state in states.items():
            if endpoint not in current:
                state.pool.retire()
        self._states = current
        self._by_key = {state.key: state for state in current.values()}
        if self.cookies is not None:
            self.cookies.rebind(self._by_key)
        self.rebuild(now)
        if current.keys() != states.keys():
            self.unreachable_since = None
            change, self._change = self._change, None
            if change is not None:
                change.set()

    def _bind_wire(self, upstream: Upstream) -> None:
        """Settle how its endpoints are spoken to. Connections that were made otherwise carry on until their exchange ends, and no further."""
        self._wire = None
        if upstream.protocol in SUPPORTED_PROTOCOLS:
            try:
                self._wire = Wire(upstream)
            except ValueError as e:
                _log.error("%s can't be spoken to over TLS, and answers 502: %s", upstream.key, e)
        self.servable = self._wire is not None
        for state in self._states.values():
            state.pool.retire()
            if self._wire is not None:
                state.pool = self._open_pool(state, self._wire)

    def _update_variants(self, upstream: Upstream, now: float) -> None:
        wanted = _BY_SCHEME if upstream.protocol is UpstreamProtocol.AUTO_HTTP else {}
        for scheme in self._variants.keys() - wanted.keys():
            self._variants.pop(scheme).retire()
        for scheme, protocol in wanted.items():
            changed = msgspec.structs.replace(upstream, protocol=protocol)
            variant = self._variants.get(scheme)
            if variant is not None:
                variant.update(changed, now)
                continue
            made = self._variants[scheme] = UpstreamRuntime(
                changed, now, self._rng, self.stats, self._wall_clock, self._open_pool
            )
            made.client_ip = self.client_ip or made.client_ip  # one memory, which the workers share

    @property
    def serves(self) -> bool:
        """Whether it has endpoints, and they can be spoken to."""
        return self.picker is not None or any(variant.serves for variant in self._variants.values())

    def variant(self, scheme: bytes) -> "UpstreamRuntime":
        """The one for a request of this scheme; asked where there is no picker, as only an upstream with variants has none of its own."""
        return self._variants.get(scheme, self)

    async def other_endpoints(self) -> None:
        """Wait until it has any."""
        if self._change is None:
            self._change = asyncio.Event()
        self.waiting += 1
        try:
            await self._change.wait()
        finally:
            self.waiting -= 1

    @property
    def reached(self) -> bool:
        """Whether any of its endpoints ever took a connection."""
        return any(state.reached for state in self._states.values())

    def _open(self, endpoint: Endpoint) -> EndpointState:
        state = EndpointState(endpoint)
        assert self._wire is not None
        state.pool = self._open_pool(state, self._wire)
        return state

    def rebuild(self, now: float) -> None:
        """Recompute the pickers: after a change of endpoints, an ejection or a readmission."""
        states = list(self._states.values())
        usable = ejection.usable(states, now)
        # No picker either for a protocol that is not spoken yet: there are no states then, and the hot path has one thing to look at.
        self.picker = build_picker(self.balancing, usable, self._rng) if usable else None
        self._ring = build_ring(self.balancing, usable) if usable else None
        self.readmit_at = ejection.next_readmission(states, now)

    def retire(self) -> None:
        for state in self.states:
            state.pool.retire()

    @property
    def parts(self) -> "Sequence[UpstreamRuntime]":
        """Those that have the endpoints' states and the pickers over them."""
        return tuple(self._variants.values()) or (self,)

    @property
    def states(self) -> Iterable[EndpointState]:
        if not self._variants:
            return self._states.values()
        return [state for variant in self._variants.values() for state in variant.states]

    def pick_sticky(self, exchange: Exchange, now: float, picker: Picker) -> EndpointState:
        """The endpoint for the first attempt where affinity or a hash decides; elsewhere `picker` alone does."""
        if self._hash_key is not None:
            exchange.hash_key = hash64(self._hash_key(exchange, exchange.route.route))
            return picker.pick(now, exchange.hash_key)
        ring = self._ring
        assert ring is not None
        if self.client_ip is not None:
            client = exchange.client_address
            exchange.hash_key = hash64(client.encode())
            return self._pick_client(self.client_ip, client, exchange.hash_key, now, ring)
        assert self.cookies is not None
        return self.cookies.pick(exchange, self._by_key, ring, now)

    def _pick_client(
        self, affinity: ClientIPAffinity, client: str, key: int, now: float, ring: ConsistentHash
    ) -> EndpointState:
        known = affinity.lookup(client, now)
        state = self._by_key.get(known) if known is not None else None
        if state is None:
            state = ring.pick(now, key)
            affinity.assign(client, state.key, now)
        elif state.ejected_until > now or state.shunned:
            # It may be over in seconds and must not move the session for hours: go elsewhere, this time.
            return ring.pick_other(now, key, (state,)) or state
        return state

    def pick_stream(self, client: str, key: int, now: float) -> EndpointState | None:
        """The endpoint for a connection that is relayed as it is: of a request nothing is known but its client. `key` is the hash of that."""
        picker, ring = self.picker, self._ring
        if picker is None:
            return None
        if self.client_ip is not None and ring is not None:
            return self._pick_client(self.client_ip, client, key, now, ring)
        return picker.pick(now, key)

    def pick_untried(self, key: int, now: float, tried: Sequence[EndpointState]) -> EndpointState | None:
        """The endpoint for a further attempt, less what a cookie must be told. Ejected and unhealthy ones are the last resort."""
        picker = self.picker if self._ring is None else self._ring
        state = None if picker is None else picker.pick_other(now, key, tried)
        if state is None:
            left = [state for state in self._states.values() if state not in tried]
            state = min(left, key=_SHUNNED, default=None)
        return state

    def pick_other(self, exchange: Exchange, now: float, tried: Sequence[EndpointState]) -> EndpointState | None:
        """The endpoint for a further attempt: one that was not tried."""
        state = self.pick_untried(exchange.hash_key, now, tried)
        ring = self._ring
        if state is not None and self.cookies is not None and ring is not None:
            self.cookies.moved(exchange, state, ring)
        return state


_SHUNNED = operator.attrgetter("shunned")
AllHooks = tuple[tuple[RequestHook, ...], tuple[ResponseHook, ...], tuple[ErrorHook, ...]]
NO_HOOKS: AllHooks = ((), (), ())


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
        hooks = self._hooks(route, features, certificate) if features else NO_HOOKS
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

    def _hooks(self, route: Route, features: tuple[Feature, ...], certificate: bool) -> AllHooks:
        """Those of `features`, in the order in which they are called. What can't be bound closes the route: a bug must not open it."""
        scope = Scope(route, self.services, self._live, certificate)
        request: list[RequestHook] = []
        access: list[Hooks] = []  # joined in their place, when the next phase begins
        response: list[ResponseHook] = []
        error: list[ErrorHook] = []
        try:
            for feature in sorted(features, key=lambda f: registry.order(f.name)):
                spec = registry.BY_NAME[feature.name]
                hooks = spec.bind(msgspec.convert(feature.policy, spec.policy), scope)
                if spec.phase is Phase.ACCESS:
                    access.append(hooks)
                else:
                    if access and spec.phase > Phase.ACCESS:
                        request += join_access(access)
                        access = []
                    if hooks.request is not None:
                        request.append(hooks.request)
                if hooks.response is not None:
                    response.insert(0, hooks.response)
                if hooks.error is not None:
                    error.insert(0, hooks.error)
            request += join_access(access)
        except Exception:
            _log.exception("the features of %s could not be bound: it answers 500", route.id)
            return (_refuse,), (), ()
        return tuple(request), tuple(response), tuple(error)

    def _live(self, key: Hashable, make: Callable[[], Any]) -> Any:
        found = self._live_objects.get(key)
        if found is None:
            found = self._live_objects[key] = make()
        return found


def merge_features(host: tuple[Feature, ...], route: tuple[Feature, ...]) -> tuple[Feature, ...]:
    """A feature of the route wins over one of the host by the same name."""
    if not host or not route:
        return host or route
    return tuple({feature.name: feature for feature in (*host, *route)}.values())


def _refuse(exchange: Exchange) -> DirectResponse:
    return DirectResponse(500)


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
