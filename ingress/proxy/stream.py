"""Connections relayed as they are: TCP services, and TLS that is passed through to its endpoint.

A `StreamConnection` is the client's side; it connects to an endpoint of an upstream, tries others where that is refused, and relays bytes with
back-pressure, half-closing each direction by itself (a client may finish sending and still wait for the answer; nginx cuts both there).
It can be a listener's protocol, or be put in place of one that has looked at the first bytes:

    stream = StreamConnection(context, upstream, stats, client_address, prologue=b"PROXY ...")
    transport.set_protocol(stream)
    stream.connection_made(transport)
    stream.data_received(bytes_read_before)      # if any

A stream belongs to no table: it lasts until either side ends it, is silent for too long, or a drain runs out of time. Semantics: nginx's stream
proxy module (proxy_timeout, proxy_connect_timeout, proxy_next_upstream).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol, cast

from ingress.accesslog import AccessLog, AccessRecord
from ingress.balancing import ejection
from ingress.balancing.base import EndpointState
from ingress.balancing.hashing import hash64
from ingress.config import ProxySettings
from ingress.errors import Reason
from ingress.metrics import StreamStats, WorkerMetrics
from ingress.proxy.common import Common
from ingress.proxy.link import Runtime
from ingress.proxy.upstream_runtime import UpstreamRuntime

_log = logging.getLogger(__name__)
_HIGH_WATER_BYTES = 65536
_LAST_BYTES_S = 30.0  # what an endpoint gets to take the rest after the client has gone properly
_EARLY_BYTES = 16384  # read from a client before there is an endpoint (nginx: preread_buffer_size); then it waits


class StreamHost(Protocol):
    """What a stream needs of the data plane it belongs to."""

    settings: ProxySettings
    common: Common
    runtime: Runtime

    def connection_opened(self, tls: bool) -> bool:
        """False: there are too many already."""

    def connection_closed(self, tls: bool) -> None: ...


class StreamContext:
    """What all streams of one data plane share."""

    __slots__ = ("access_log", "clock", "connections", "host", "loop", "metrics")

    def __init__(
        self,
        host: StreamHost,
        metrics: WorkerMetrics,
        access_log: AccessLog | None,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
    ) -> None:
        self.host = host
        self.metrics = metrics
        self.access_log = access_log
        self.loop = loop
        self.clock = clock
        self.connections: set[StreamConnection] = set()  # all that are open: what the sweep looks at


class _Side(asyncio.Protocol):
    """One of the two connections of a relay; reading from it stops while the other takes no more."""

    __slots__ = ("_paused", "eof", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.eof = False  # it has sent all it will
        self._paused = False  # reading from it

    def pause_reading(self) -> None:
        if not self._paused and self.transport is not None and not self.transport.is_closing() and not self.eof:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()


class StreamConnection(_Side):
    """The client's side of one relayed connection.

    `prologue` is sent to the endpoint before anything else. `upstream` None: there is nobody to connect to, the connection ends at once.
    """

    __slots__ = (
        "_attempts",
        "_client_address",
        "_context",
        "_early",
        "_early_bytes",
        "_endpoint",
        "_peer",
        "_prologue",
        "_received",
        "_seen",
        "_sent",
        "_started",
        "_stats",
        "_status",
        "_task",
        "_touched",
        "_unsent",
        "_upstream",
        "_writing_paused",
    )

    def __init__(
        self,
        context: StreamContext,
        upstream: UpstreamRuntime | None,
        stats: StreamStats,
        client_address: str,
        prologue: bytes = b"",
    ) -> None:
        super().__init__()
        self._context = context
        self._upstream = upstream
        self._stats = stats
        self._client_address = client_address
        self._prologue = prologue
        self._peer: _EndpointSide | None = None  # connected
        self._endpoint: EndpointState | None = None  # counted as in use
        self._task: asyncio.Task[None] | None = None  # connects
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._writing_paused = False  # the client is slower than the endpoint
        self._attempts: list[tuple[str, int]] = []  # endpoint and what came of it, as a status
        self._status = 200
        self._received = self._sent = 0
        self._started = context.clock()
        self._touched = True  # bytes moved since the last sweep
        self._seen = self._started
        self._unsent = 0

    # ---- the client's transport ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        context = self._context
        context.connections.add(self)
        allowed = context.host.connection_opened(False)
        self._stats.opened += 1
        self._stats.open += 1
        if self._upstream is None or not allowed:
            self._refuse(Reason.NO_ENDPOINT)
        else:
            self._task = context.loop.create_task(self._connect(self._upstream))

    def data_received(self, data: bytes) -> None:
        self._touched = True
        self._received += len(data)
        peer = self._peer
        if peer is not None:
            peer.write(data)
        elif self._task is not None:
            self._early.append(data)
            self._early_bytes += len(data)
            if self._early_bytes >= _EARLY_BYTES:
                self.pause_reading()

    def eof_received(self) -> bool:
        self._touched = True
        self.eof = True
        if self._peer is not None:
            self._peer.write_eof()
            return not self._peer.eof  # both directions are over: the transport closes itself behind what is unsent
        return self._task is not None

    def connection_lost(self, exc: BaseException | None) -> None:
        context = self._context
        if self not in context.connections:
            return
        context.connections.discard(self)
        self.transport = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self._status = 499
        peer, self._peer = self._peer, None
        if peer is not None:
            if exc is None and self.eof and peer.eof:
                peer.close()  # what is still in its buffer goes out
                if peer.unsent():
                    context.loop.call_later(_LAST_BYTES_S, peer.abort)
            else:
                peer.abort()
        self._leave_endpoint()
        self._early.clear()
        self._stats.open -= 1
        self._stats.received_bytes += self._received
        self._stats.sent_bytes += self._sent
        self._log()
        context.host.connection_closed(False)

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._peer is not None:
            self._peer.pause_reading()

    def resume_writing(self) -> None:
        self._touched = True
        self._writing_paused = False
        if self._peer is not None:
            self._peer.resume_reading()

    # ---- the endpoint --------------------------------------------------------------------------------------------

    async def _connect(self, upstream: UpstreamRuntime) -> None:
        """Connect to an endpoint, to another one where that fails. Each attempt ends in a span without an await."""
        context = self._context
        settings = context.host.settings.stream
        loop = context.loop
        key = hash64(self._client_address.encode())
        tried: list[EndpointState] = []
        state = upstream.pick_stream(self._client_address, key, context.clock())
        reason = Reason.NO_ENDPOINT
        while state is not None:
            self._endpoint = state
            state.inflight += 1
            endpoint = state.endpoint
            try:
                async with asyncio.timeout(settings.connect_timeout_s):
                    _, peer = await loop.create_connection(lambda: _EndpointSide(self), endpoint.address, endpoint.port)
            except TimeoutError:
                reason = Reason.CONNECT_TIMEOUT
            except OSError as problem:
                reason = Reason.CONNECT_FAILED
                _log.debug("%s of %s refused a stream: %s", state.key, upstream.name, problem)
            else:
                self._connected(upstream, state, peer)
                return
            now = context.clock()
            self._leave_endpoint()
            self._failed(upstream, state, reason, now)
            tried.append(state)
            if not _may_try_another(settings.next_upstream, settings.next_upstream_tries, len(tried)):
                break
            if settings.next_upstream_timeout_s and now - self._started > settings.next_upstream_timeout_s:
                break
            state = upstream.pick_untried(key, now, tried)
            if state is not None:
                upstream.stats.retries += 1
        self._task = None
        _log.info(
            "a stream of %s to %s ended: no endpoint could be reached (%s)",
            self._client_address,
            upstream.name,
            reason.name.lower(),
        )
        self._refuse(reason)

    def _connected(self, upstream: UpstreamRuntime, state: EndpointState, peer: "_EndpointSide") -> None:
        self._task = None
        self._attempts.append((state.key, 200))
        state.reached = True
        upstream.unreachable_since = None
        if state.consecutive_failures or state.ejections:
            ejection.record_success(state)
        if peer.transport is None:
            # It was closed in the meantime: nothing more to relay than this end.
            self._close()
            return
        self._peer = peer
        self._touched = True
        early, self._early = self._early, []
        if self._prologue:
            early.insert(0, self._prologue)
        if early:
            peer.transport.writelines(early)
        if self.eof:
            peer.write_eof()
        if self._writing_paused:
            peer.pause_reading()  # it spoke first, and much
        if not peer.writing_paused:
            self.resume_reading()

    def _failed(self, upstream: UpstreamRuntime, state: EndpointState, reason: Reason, now: float) -> None:
        upstream.stats.failed(reason.name.lower())
        self._attempts.append((state.key, 504 if reason is Reason.CONNECT_TIMEOUT else 502))
        if self._context.host.runtime.record_failure(upstream, state, now):
            upstream.stats.ejections += 1
            _log.warning("endpoint %s of %s ejected: %s", state.key, upstream.name, reason.name.lower())

    def _refuse(self, reason: Reason) -> None:
        self._status = 502 if reason is Reason.CONNECT_FAILED else 504 if reason is Reason.CONNECT_TIMEOUT else 503
        self._stats.refused += 1
        if self.transport is not None:
            self.transport.abort()

    def _leave_endpoint(self) -> None:
        state, self._endpoint = self._endpoint, None
        if state is not None:
            state.inflight -= 1

    def write(self, data: bytes) -> None:
        """From the endpoint."""
        self._touched = True
        self._sent += len(data)
        if self.transport is not None:
            self.transport.write(data)

    def write_eof(self) -> None:
        """The endpoint has sent all it will."""
        self._touched = True
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self.eof or not transport.can_write_eof():
            transport.close()
        else:
            transport.write_eof()

    def peer_lost(self, exc: BaseException | None) -> None:
        """The connection to the endpoint is gone. What it sent before still reaches the client, unless it was cut."""
        self._peer = None
        if exc is None:
            self._close()
        elif self.transport is not None:
            self.transport.abort()

    def _close(self) -> None:
        if self.transport is not None:
            self.resume_reading()
            self.transport.close()

    # ---- time ----------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Called a few times a second by the data plane: ends what has been silent for too long."""
        transport = self.transport
        if transport is None:
            return
        peer = self._peer
        unsent = transport.get_write_buffer_size() + (peer.unsent() if peer is not None else 0)
        if self._touched or unsent != self._unsent or self._task is not None:
            self._touched = False
            self._unsent = unsent
            self._seen = now
        elif now - self._seen > self._context.host.settings.stream.idle_timeout_s:
            transport.abort()

    def abort(self) -> None:
        """Cut it now."""
        if self.transport is not None:
            self.transport.abort()

    # ---- accounts ------------------------------------------------------------------------------------------------

    def _log(self) -> None:
        log, host = self._context.access_log, self._context.host
        if log is None or not host.settings.stream.access_log:
            return
        template = host.common.log.template
        upstream = self._upstream.upstream if self._upstream is not None else None
        duration_s = self._context.clock() - self._started
        log.write(
            AccessRecord(
                time_s=time.time(),
                remote_addr=self._client_address,
                method=b"",
                target=b"",
                version=b"TCP",
                host=b"",
                status=self._status,
                body_bytes_sent=self._sent,
                referer=b"",
                user_agent=b"",
                request_length=self._received,
                request_time_s=duration_s,
                namespace=upstream.namespace if upstream is not None else "",
                ingress="",
                service=upstream.service if upstream is not None else "",
                port=upstream.port if upstream is not None else "",
                upstream_addr=", ".join(key for key, _ in self._attempts),
                upstream_response_length=self._sent,
                upstream_response_time_s=duration_s,
                upstream_status=", ".join(str(status) for _, status in self._attempts),
                request_id=b"",
                remote_user=b"",
                extra=() if template is None else (None,) * len(template.captures),
            )
        )

    def __repr__(self) -> str:
        return f"<StreamConnection {self._client_address} received={self._received} sent={self._sent}>"


class _EndpointSide(_Side):
    """The connection to the endpoint: hands everything to the client's side."""

    __slots__ = ("_client", "writing_paused")

    def __init__(self, client: StreamConnection) -> None:
        super().__init__()
        self._client = client
        self.writing_paused = False  # it is slower than the client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def eof_received(self) -> bool:
        self.eof = True
        self._client.write_eof()
        return not self._client.eof

    def connection_lost(self, exc: BaseException | None) -> None:
        self.transport = None
        self._client.peer_lost(exc)

    def pause_writing(self) -> None:
        self.writing_paused = True
        self._client.pause_reading()

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._client.resume_reading()

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def write_eof(self) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing() and transport.can_write_eof():
            transport.write_eof()

    def unsent(self) -> int:
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


def _may_try_another(wanted: bool, tries: int, tried: int) -> bool:
    return wanted and (not tries or tried < tries)
