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
from ingress.metrics import WorkerMetrics
from ingress.middleware.base import Services
from ingress.middleware.shared import SharedCounts
from ingress.proxy.accept import ListenerKind, Opening
from ingress.proxy.client_address import ClientRules
from ingress.proxy.common import Common
from ingress.proxy.errorpages import ErrorPages
from ingress.proxy.forward import Forwarder
from ingress.proxy.header_reader import HeaderReader, HeaderReaders, Successor
from ingress.proxy.link import Runtime
from ingress.proxy.listener import ClientConnection, MisplacedConnection, client_address
from ingress.proxy.proxy_protocol import ProxyHeader
from ingress.proxy.sidecalls import SideCallClient
from ingress.proxy.snapshot import Snapshot
from ingress.proxy.stream import StreamConnection, StreamContext
from ingress.proxy.stream_ports import StreamPorts
from ingress.proxy.upstream import Pool, UpstreamContext
from ingress.proxy.wire import Wire
from ingress.routing.table import RoutingTable, TableDelta, UpstreamKey
from ingress.routing.tls import TLSHost
from ingress.tls.contexts import Contexts

_log = logging.getLogger(__name__)
_SWEEP_S = 0.25
BACKLOG = 4096
_ROOM = 32  # idle connections closed at once when there are too many
_LOOK_AGAIN_S = 0.1
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
        self.clients = ClientRules(settings.client)
        self.common = Common(settings, clock)
        self.draining = False
        self.loop = self._loop = loop
        self._clock = clock
        self.metrics = self._metrics = metrics
        self.connections = 0
        self._shared = shared
        self._own_shared: SharedCounts | None = None
        self.openings: set[Opening] = set()  # connections whose protocol isn't settled
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
        self.headers = HeaderReaders(self, loop, clock)
        self.streams = StreamContext(self, metrics, access_log, loop, clock)
        self.ports = StreamPorts(self, self.streams, self.headers, metrics)
        self._access_log = access_log
        self._refused_at = self._looked_at = -_REFUSALS_LOGGED_S
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
        self.ports.apply(table.tcp_services)
        self._metrics.table_applied(table.id)

    def _use(self, settings: ProxySettings) -> None:
        before, self.settings = self.settings, settings
        self.clients = ClientRules(settings.client)
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
        self.ports.listen_on(str(host) for host, _ in self.addresses)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    def _factory(self, kind: ListenerKind) -> Callable[[], asyncio.Protocol]:
        """Protocols for the connections of a listener. Whether they begin with a PROXY header may change at any time."""
        first: Callable[[], asyncio.Protocol]
        announced: Successor
        match kind:
            case ListenerKind.HTTP:
                first, announced = self.accept, lambda _, header: self.accept(header)
            case ListenerKind.HTTPS:
                first, announced = lambda: Opening(self), lambda _, header: Opening(self, header)

        def accept() -> asyncio.Protocol:
            clients = self.clients
            if clients.proxy_header:
                return HeaderReader(self.headers, clients.proxy_header_timeout_s, announced)
            return first()

        return accept

    def accept(self, header: ProxyHeader | None = None) -> ClientConnection:
        """The protocol for one more connection."""
        return ClientConnection(self, self._manager, self._loop, header)

    def accept_misplaced(self, header: ProxyHeader | None = None) -> ClientConnection:
        return MisplacedConnection(self, self._manager, self._loop, header)

    def relay(
        self, host: TLSHost, transport: asyncio.Transport, header: ProxyHeader | None = None
    ) -> StreamConnection | None:
        upstream = self.runtime.upstreams.get(UpstreamKey(host.passthrough))
        if upstream is not None:
            upstream = upstream.variant(b"https")
        if upstream is None or upstream.picker is None:
            return None
        local = transport.get_extra_info("sockname")
        port = local[1] if local else 0
        client = self.clients.hop(client_address(transport.get_extra_info("peername")), port, "", header).address
        stats = self.metrics.stream(upstream.upstream.namespace, upstream.upstream.service, port)
        return StreamConnection(self.streams, upstream, stats, client)

    @property
    def relays(self) -> set[StreamConnection]:
        """Connections that are relayed as they are, those of TCP services too."""
        return self.streams.connections

    @property
    def addresses(self) -> Sequence[tuple[str, int]]:
        return [sock.getsockname()[:2] for _, sock, _ in self._listeners]

    @property
    def client_connections(self) -> list[ClientConnection]:
        return cast(list[ClientConnection], self._manager.connections)

    def connection_opened(self, tls: bool) -> bool:
        """False: there are too many, and this one is to be closed again."""
        self.connections += 1
        if tls:
            self._metrics.tls_connections_open += 1
        self._metrics.connections_accepted += 1
        self._metrics.connections_open += 1
        limit = self.settings.max_connections
        return not limit or self.connections <= limit or self._make_room()

    def _make_room(self) -> bool:
        """At the limit idle connections make room, as in nginx, a few at a time: there may be thousands to look at."""
        now = self._clock()
        if now - self._looked_at < _LOOK_AGAIN_S:
            return False  # none was idle a moment ago: a flood must not make us look through all of them each time
        idle = itertools.islice((c for c in self.client_connections if c.idle and c.served), _ROOM)
        closed = 0
        for connection in idle:
            connection.close()
            closed += 1
        if not closed:
            self._looked_at = now
        if not closed and now - self._refused_at >= _REFUSALS_LOGGED_S:
            self._refused_at = now
            _log.warning(
                "connections are refused: %d are open, and max-worker-connections allows no more", self.connections - 1
            )
        return closed > 0

    def connection_closed(self, tls: bool) -> None:
        self.connections -= 1
        self._metrics.connections_open -= 1
        if tls:
            self._metrics.tls_connections_open -= 1
        self._empty.set()

    def opening_ended(self) -> None:
        self._empty.set()

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
        for stream in tuple(self.streams.connections):
            stream.sweep(now)
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
        await self.ports.stop()

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
                while self.connections or self.openings or self.headers.waiting:
                    self._empty.clear()
                    await self._empty.wait()
            return True
        except TimeoutError:
            left = self.connections + len(self.openings) + len(self.headers.waiting)
            _log.warning("drain: %d connections were still open after %g s", left, timeout_s)
            return False

    async def close(self) -> None:
        """Cut everything that is left."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        await self.stop_accepting(last=False)
        self.runtime.health_checks.stop()
        self.cut()
        for upstream in self.runtime.upstreams.values():
            upstream.retire()
        for upstream_connection in tuple(self._upstream.connections):
            upstream_connection.abort()
        self.side_calls.close()
        await asyncio.sleep(0)  # connection_lost of all of them
        if self._own_shared is not None:
            self._own_shared.close()
            self._shared = self._own_shared = None

    def cut(self) -> None:
        """End every client's connection now."""
        for connection in self.client_connections:
            connection.force_close()
        for opening in tuple(self.openings):
            opening.abort()
        for stream in tuple(self.streams.connections):
            stream.abort()
        for waiting in tuple(self.headers.waiting):
            waiting.abort()


async def _unused(request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("requests are handled in ClientConnection.data_received")
