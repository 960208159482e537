"""One worker's data plane: listeners, the snapshot in force, the sweep, the drain."""

import asyncio
import gc
import itertools
import logging
import random
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from aiohttp import web

from ingress.accesslog import AccessLog
from ingress.balancing.base import EndpointState
from ingress.config import ProxySettings
from ingress.errors import Reason
from ingress.metrics import WorkerMetrics
from ingress.middleware.base import Services
from ingress.middleware.shared import SharedCounts
from ingress.proxy.accept import ListenerKind, Opening
from ingress.proxy.common import Common
from ingress.proxy.errorpages import ErrorPages
from ingress.proxy.forward import Forwarder
from ingress.proxy.link import Runtime, Snapshot, UpstreamRuntime
from ingress.proxy.listener import ClientConnection, MisplacedConnection
from ingress.proxy.passthrough import Relay
from ingress.proxy.sidecalls import SideCallClient
from ingress.proxy.upstream import Pool, UpstreamContext, Wire
from ingress.routing.table import RoutingTable, TableDelta, UpstreamKey
from ingress.routing.tls import TLSHost
from ingress.tls.contexts import Contexts

_log = logging.getLogger(__name__)
_SWEEP_S = 0.25
BACKLOG = 4096
_ROOM = 32  # idle connections closed at once when there are too many
_REFUSALS_LOGGED_S = 10.0  # at most one line in so long


class DataPlane:
    """Accepts on sockets that somebody else bound, and serves them by the table that was swapped in last.

    Everything runs on one loop; `swap` and `apply` take effect between two requests.
    """

    def __init__(
        self,
        settings: ProxySettings,
        metrics: WorkerMetrics,
        access_log: AccessLog | None,
        loop: asyncio.AbstractEventLoop,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        shared: SharedCounts | None = None,
    ) -> None:
        """`shared`: what all workers count together; None: this one counts alone."""
        self.settings = self._started_with = settings
        self.common = Common(settings, clock)
        self.draining = False
        self.loop = self._loop = loop
        self._clock = clock
        self.metrics = self._metrics = metrics
        self.connections = 0
        self._shared = shared
        self._own_shared: SharedCounts | None = None
        self.openings: set[Opening] = set()  # connections whose protocol isn't settled
        self.relays: set[Relay] = set()  # connections passed through
        self.contexts = Contexts(clock)
        self.side_calls = SideCallClient(loop, clock)
        services = Services(
            loop,
            clock,
            time.time,
            rng or random.Random(),
            tally=metrics.tally,
            side_calls=self.side_calls,
            shared_counts=self._shared_counts,
        )
        self.runtime = Runtime(metrics, services, self._open_pool)
        self.forwarder = Forwarder(settings, self.runtime, metrics, ErrorPages(), access_log, loop, clock)
        self._upstream = UpstreamContext(self.forwarder, settings, metrics, loop)
        self._access_log = access_log
        self._refused_at = -_REFUSALS_LOGGED_S
        if access_log is not None and self.common.log.template is not None:
            access_log.use(self.common.log.template)
        self._manager = web.Server(_unused, handler_cancellation=True, loop=loop)
        self._listeners: list[tuple[asyncio.Server, socket.socket, Callable[[], asyncio.Protocol]]] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    def _shared_counts(self) -> SharedCounts:
        if self._shared is None:
            self._shared = self._own_shared = SharedCounts.create()
        return self._shared

    def _open_pool(self, state: EndpointState, wire: Wire) -> Pool:
        return Pool(state, self._upstream, wire)

    # ---- tables --------------------------------------------------------------------------------------------------

    @property
    def table_id(self) -> str:
        snapshot = self.forwarder.snapshot
        return "" if snapshot is None else snapshot.table.id

    def swap(self, table: RoutingTable) -> None:
        """Serve by `table` from the next request on; nothing that is under way is touched."""
        self._applied(self.runtime.link(table))

    def apply(self, delta: TableDelta) -> None:
        """Raises ValueError when the delta is not against the table in force: the whole table is needed then."""
        snapshot = self.forwarder.snapshot
        if snapshot is None:
            raise ValueError("no table yet")
        self._applied(self.runtime.link_delta(snapshot, delta))

    def _applied(self, snapshot: Snapshot) -> None:
        table = snapshot.table
        settings = table.settings or self._started_with
        if settings != self.settings:  # new connections are accepted with them
            self._use(settings)
        self.forwarder.snapshot = snapshot
        self.contexts.use(table, settings.tls)
        self._metrics.table_applied(table.id)

    def _use(self, settings: ProxySettings) -> None:
        before, self.settings = self.settings, settings
        common = self.common = Common(settings, self._clock)
        if self._access_log is not None and (settings.log.format, settings.log.escape) != (
            before.log.format,
            before.log.escape,
        ):
            self._access_log.use(common.log.format(self._access_log.default))
        self.forwarder.use(common)
        self._upstream.use(common)

    def settle_memory(self) -> None:
        """Take what lives long (the table) out of the collector's sight: at 10,000 routes a full collection costs tens of milliseconds."""
        gc.collect()
        gc.freeze()

    # ---- listeners -----------------------------------------------------------------------------------------------

    async def listen(self, sockets: Iterable[socket.socket], kind: ListenerKind = ListenerKind.HTTP) -> None:
        """Accept on bound sockets. Each is duplicated: closing here does not close the owner's copy."""
        factory = self._factory(kind)
        for sock in sockets:
            own = sock.dup()
            own.setblocking(False)
            server = await self._loop.create_server(factory, sock=own.dup(), backlog=BACKLOG)
            self._listeners.append((server, own, factory))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    def _factory(self, kind: ListenerKind) -> Callable[[], asyncio.Protocol]:
        match kind:
            case ListenerKind.HTTP:
                return self.accept
            case ListenerKind.HTTPS:
                return lambda: Opening(self)

    def accept(self) -> ClientConnection:
        """The protocol for one more connection."""
        return ClientConnection(self, self._manager, self._loop)

    def accept_misplaced(self) -> ClientConnection:
        return MisplacedConnection(self, self._manager, self._loop)

    def relay(self, host: TLSHost) -> Relay | None:
        upstream = self.runtime.upstreams.get(UpstreamKey(host.passthrough))
        if upstream is not None:
            upstream = upstream.variant(b"https")
        return None if upstream is None or upstream.picker is None else Relay(self, upstream)

    @property
    def addresses(self) -> Sequence[tuple[str, int]]:
        return [sock.getsockname()[:2] for _, sock, _ in self._listeners]

    @property
    def client_connections(self) -> list[ClientConnection]:
        return cast(list[ClientConnection], self._manager.connections)

    def connection_opened(self, scheme: bytes) -> bool:
        """False: there are too many, and this one is to be closed again."""
        self.connections += 1
        if scheme == b"https":
            self._metrics.tls_connections_open += 1
        self._metrics.connections_accepted += 1
        self._metrics.connections_open += 1
        limit = self.settings.max_connections
        return not limit or self.connections <= limit or self._make_room()

    def _make_room(self) -> bool:
        """At the limit idle connections make room, as in nginx, a few at a time: there may be thousands to look at."""
        idle = itertools.islice((c for c in self.client_connections if c.idle and c.served), _ROOM)
        closed = 0
        for connection in idle:
            connection.close()
            closed += 1
        now = self._clock()
        if not closed and now - self._refused_at >= _REFUSALS_LOGGED_S:
            self._refused_at = now
            _log.warning(
                "connections are refused: %d are open, and max-worker-connections allows no more", self.connections - 1
            )
        return closed > 0

    def connection_closed(self, scheme: bytes) -> None:
        self.connections -= 1
        self._metrics.connections_open -= 1
        if scheme == b"https":
            self._metrics.tls_connections_open -= 1
        self._empty.set()

    def opening_ended(self) -> None:
        self._empty.set()

    def relay_began(self) -> None:
        self._metrics.connections_accepted += 1
        self._metrics.connections_open += 1

    def relay_ended(self) -> None:
        self._metrics.connections_open -= 1
        self._empty.set()

    def relay_failed(self, upstream: UpstreamRuntime, state: EndpointState, reason: Reason) -> None:
        upstream.stats.failed(reason.name.lower())
        self.runtime.record_failure(upstream, state, self._clock())

    # ---- time ----------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Time-outs, expiry and readmission for everything, by marks that the hot path left: no timer per request."""
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)  # first: a fault below must not end all time-outs
        now = self._clock()
        for connection in self.client_connections:
            connection.sweep(now)
        for upstream_connection in tuple(self._upstream.connections):
            upstream_connection.sweep(now)
        for opening in tuple(self.openings):
            opening.sweep(now)
        for relay in tuple(self.relays):
            relay.sweep(now)
        self.side_calls.sweep(now)
        self.runtime.readmit(now)

    # ---- drain ---------------------------------------------------------------------------------------------------

    def _begin_drain(self) -> None:
        self.draining = True
        self.runtime.health_checks.stop()
        for connection in self.client_connections:
            connection.begin_drain()

    async def stop_accepting(self, last: bool) -> None:
        """Close the listeners. With `last` nobody else accepts on these sockets: what the kernel has queued is taken in first."""
        self._begin_drain()
        listeners, self._listeners = self._listeners, []
        for server, _, _ in listeners:
            server.close()
        for _, sock, factory in listeners:
            if last:
                await self._accept_queued(sock, factory)
            sock.close()

    async def _accept_queued(self, sock: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        while True:
            try:
                accepted, _ = sock.accept()
            except OSError:
                return
            accepted.setblocking(False)
            await self._loop.connect_accepted_socket(factory, accepted)

    async def drain(self, timeout_s: float) -> bool:
        """Let what is under way finish; idle connections are closed by the sweep. False when time was up and the rest was cut."""
        self._begin_drain()
        try:
            async with asyncio.timeout(timeout_s):
                while self.connections or self.openings or self.relays:
                    self._empty.clear()
                    await self._empty.wait()
            return True
        except TimeoutError:
            left = self.connections + len(self.openings) + len(self.relays)
            _log.warning("drain: %d connections were still open after %g s", left, timeout_s)
            return False

    async def close(self) -> None:
        """Cut everything that is left."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        await self.stop_accepting(last=False)
        for connection in self.client_connections:
            connection.force_close()
        for opening in tuple(self.openings):
            opening.abort()
        for relay in tuple(self.relays):
            relay.abort()
        self.runtime.health_checks.stop()
        for upstream in self.runtime.upstreams.values():
            upstream.retire()
        for upstream_connection in tuple(self._upstream.connections):
            upstream_connection.abort()
        self.side_calls.close()
        await asyncio.sleep(0)  # connection_lost of all of them
        if self._own_shared is not None:
            self._own_shared.close()
            self._shared = self._own_shared = None


async def _unused(request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("requests are handled in ClientConnection.data_received")
