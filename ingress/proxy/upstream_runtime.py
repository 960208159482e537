"""The live side of an upstream: the states of its endpoints, and who picks one of them. It outlives tables; `proxy.link` keeps it by key.

Changes of endpoints reach an `UpstreamRuntime` in place, so they cost nothing per route.
"""

import asyncio
import logging
import operator
from collections.abc import Callable, Iterable, Sequence
from random import Random

import msgspec

from ingress.affinity.client_ip import ClientIPAffinity
from ingress.balancing import ejection
from ingress.balancing.base import EndpointState, Picker
from ingress.balancing.consistent_hash import ConsistentHash
from ingress.balancing.hashing import hash64
from ingress.balancing.registry import build_picker, build_ring, observes_latency
from ingress.exchange import Exchange
from ingress.metrics import UpstreamStats
from ingress.proxy.sessions import CookieSessions
from ingress.proxy.wire import Wire
from ingress.routing.table import AffinityMode, Balancing, Endpoint, LoadBalance, Upstream, UpstreamProtocol
from ingress.variables import compile_value

_log = logging.getLogger(__name__)
SUPPORTED_PROTOCOLS = frozenset((UpstreamProtocol.HTTP, UpstreamProtocol.HTTPS))
_WIRE_FIELDS = ("protocol", "tls", "http_version", "connection_header")
_BY_SCHEME = {b"http": UpstreamProtocol.HTTP, b"https": UpstreamProtocol.HTTPS}
_SHUNNED = operator.attrgetter("shunned")


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
