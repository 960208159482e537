"""Limits by client: `limit-rps`, `limit-rpm`, `limit-burst-multiplier`, `limit-connections`, `limit-allowlist` (`limit-whitelist`).

As in ingress-nginx: a client is an address, a zone is an Ingress with all its paths, a rate is a leaky bucket with a burst of limit x multiplier that is served
without delay, and a connection is a request under way (an upgraded one as long as its tunnel). Refused requests get the status of the options
limit-req-status-code and limit-conn-status-code (503). Unlike there, all workers of a Pod count together whichever of them a connection meets, as nginx's do.
"""

from collections.abc import Callable

import msgspec
from cachetools import LRUCache

from ingress.exchange import DirectResponse, Exchange
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Reader, Scope
from ingress.middleware.shared import Bucket, SharedCounts
from ingress.routing.networks import NetworkSet
from ingress.translate.access import networks
from ingress.translate.annotations.values import count

_BURST_MULTIPLIER = 5
_CLIENTS = 4096  # whose digests a route remembers
_ALLOW = ("limit-allowlist", "limit-whitelist")  # the first wins where both are set
_TOO_MANY = (
    "Too many requests came from here. Try again later."  # whatever the status: 503 alone would blame the service
)


class RateLimit(msgspec.Struct, frozen=True):
    """0: no such limit; at least one is set. `burst_multiplier` belongs to both rates. `allow`: CIDRs that are exempt."""

    zone: str  # namespace/name of the Ingress
    requests_per_second: int = 0
    requests_per_minute: int = 0
    connections: int = 0
    burst_multiplier: int = _BURST_MULTIPLIER
    allow: tuple[str, ...] = ()
    rate_status: int = 503
    connections_status: int = 503


def parse(reader: Reader) -> RateLimit | None:
    rps = reader.require("limit-rps", count, 0)
    rpm = reader.require("limit-rpm", count, 0)
    connections = reader.require("limit-connections", count, 0)
    multiplier = reader.take("limit-burst-multiplier", count, _BURST_MULTIPLIER)
    if not (rps or rpm or connections):
        for name in ("limit-burst-multiplier", *_ALLOW):
            if reader.text(name) is not None:
                reader.warn(name, "It has no effect without limit-rps, limit-rpm or limit-connections.")
        return None
    allow: tuple[str, ...] = ()
    nobody: tuple[str, ...] = ()
    for name in reversed(_ALLOW):
        if reader.text(name):
            allow = reader.require(name, networks, nobody)
    options = reader.options
    return RateLimit(
        f"{reader.namespace}/{reader.ingress}",
        rps,
        rpm,
        connections,
        multiplier,
        allow,
        options.limit_req_status,
        options.limit_conn_status,
    )


def bind(policy: RateLimit, scope: Scope) -> Hooks:
    counts: SharedCounts = scope.services.shared_counts()
    clock = scope.services.clock
    exempt = scope.live(("networks", policy.allow), lambda: NetworkSet(policy.allow)) if policy.allow else None
    key_of = scope.live(("limits", policy.zone), lambda: _Clients(counts, policy.zone))
    refused = scope.services.tally("aioingress_limited", scope.route.namespace, scope.route.ingress, "rate")
    crowded = scope.services.tally("aioingress_limited", scope.route.namespace, scope.route.ingress, "connections")
    rates = tuple(
        (at, limit / per_s, float(limit * policy.burst_multiplier))
        for at, limit, per_s in ((0, policy.requests_per_second, 1.0), (1, policy.requests_per_minute, 60.0))
        if limit
    )
    take, enter, leave = counts.take, counts.enter, counts.leave

    def limit(exchange: Exchange) -> DirectResponse | None:
        address = exchange.client_address
        if exempt is not None and exempt.contains(address):
            return None
        digests = key_of(address)
        if rates:
            buckets: list[Bucket] = [(digests[at], rate, burst) for at, rate, burst in rates]
            if not take(buckets, clock()):
                refused.value += 1
                return DirectResponse(policy.rate_status, message=_TOO_MANY)
        if policy.connections:
            digest = digests[2]
            if not enter(digest, policy.connections):
                crowded.value += 1
                return DirectResponse(policy.connections_status, message=_TOO_MANY)
            exchange.at_end(lambda: leave(digest))
        return None

    return Hooks(request=limit)


class _Clients:
    """Digests by client address, remembered: three hashes cost as much as the rest of the hook. Bounded, so a client can't grow it."""

    __slots__ = ("__weakref__", "_counts", "_known", "_zone")

    def __init__(self, counts: SharedCounts, zone: str) -> None:
        self._counts = counts
        self._zone = zone
        self._known: LRUCache[str, tuple[int, int, int]] = LRUCache(_CLIENTS)

    def __call__(self, address: str) -> tuple[int, int, int]:
        known: tuple[int, int, int] | None = self._known.get(address)
        if known is None:
            digest: Callable[[str, str], int] = self._counts.digest
            known = (
                digest(f"{self._zone} rps", address),
                digest(f"{self._zone} rpm", address),
                digest(f"{self._zone} connections", address),
            )
            self._known[address] = known
        return known


SPEC = MiddlewareSpec(
    "rate-limit",
    Phase.LIMIT,
    ("limit-rps", "limit-rpm", "limit-connections", "limit-burst-multiplier", *_ALLOW),
    RateLimit,
    parse,
    bind,
    fails_closed=True,
)
