"""Connections relayed as they are: bytes both ways between a client and an endpoint, TLS and all.

Each side that can't keep up pauses the other; each side that has said all it will lets the other finish; a relay on which nothing moves is
ended by the sweep. The endpoint is chosen as for a request, by the client's address where the balancing goes by a key.
"""

import asyncio
import logging
from typing import Protocol, cast

from ingress.balancing.base import EndpointState
from ingress.balancing.hashing import hash64
from ingress.errors import Reason
from ingress.proxy.link import UpstreamRuntime

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
IDLE_TIMEOUT_S = 600.0  # ingress-nginx's proxy-stream-timeout
_TRIES = 3
_WRITE_HIGH_WATER = 65536


class RelayHost(Protocol):
    """What a relay needs of the data plane it belongs to."""

    relays: "set[Relay]"

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def relay_began(self) -> None: ...

    def relay_failed(self, upstream: UpstreamRuntime, state: EndpointState, reason: Reason) -> None: ...

    def relay_ended(self) -> None: ...


class Relay(asyncio.Protocol):
    """The client's side, and owner of the other."""

    __slots__ = (
        "_backlog",
        "_client",
        "_endpoint",
        "_eof",
        "_host",
        "_seen",
        "_state",
        "_task",
        "_touched",
        "_upstream",
    )

    def __init__(self, host: RelayHost, upstream: UpstreamRuntime) -> None:
        self._host = host
        self._upstream = upstream
        self._client: asyncio.Transport | None = None
        self._endpoint: _EndpointSide | None = None
        self._state: EndpointState | None = None
        self._task: asyncio.Task[None] | None = None
        self._backlog: list[
            bytes
        ] = []  # of the client, while the endpoint is being connected to; reading is paused then
        self._eof = False  # of the client
        self._touched = True
        self._seen = 0.0

    # ---- client ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        client = self._client = cast(asyncio.Transport, transport)
        client.set_write_buffer_limits(high=_WRITE_HIGH_WATER)
        client.pause_reading()
        self._host.relays.add(self)
        self._host.relay_began()
        peer = client.get_extra_info("peername")
        key = hash64(str(peer[0]).encode()) if peer else 0
        self._task = self._host.loop.create_task(self._connect(key))

    def data_received(self, data: bytes) -> None:
        self._touched = True
        if self._endpoint is None:
            self._backlog.append(data)
        else:
            self._endpoint.write(data)

    def eof_received(self) -> bool:
        self._eof = True
        if self._endpoint is not None:
            self._endpoint.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._client = None
        self._end()

    def pause_writing(self) -> None:
        if self._endpoint is not None:
            self._endpoint.pause()

    def resume_writing(self) -> None:
        self._touched = True
        if self._endpoint is not None:
            self._endpoint.resume()

    # ---- endpoint --------------------------------------------------------------------------------------------------

    async def _connect(self, key: int) -> None:
        loop, upstream = self._host.loop, self._upstream
        tried: list[EndpointState] = []
        while len(tried) < _TRIES:
            now = loop.time()
            picker = upstream.picker
            state = None if picker is None else picker.pick_other(now, key, tried) if tried else picker.pick(now, key)
            if state is None:
                break
            tried.append(state)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    _, side = await loop.create_connection(
                        lambda: _EndpointSide(self), state.endpoint.address, state.endpoint.port
                    )
            except OSError as error:  # TimeoutError is one
                reason = Reason.CONNECT_TIMEOUT if isinstance(error, TimeoutError) else Reason.CONNECT_FAILED
                _log.info("relay to %s of %s failed: %s", state.key, upstream.name, str(error) or "timed out")
                self._host.relay_failed(upstream, state, reason)
                continue
            self._task = None
            self._connected(side, state)
            return
        self._task = None
        if self._client is not None:
            self._client.close()

    def _connected(self, side: "_EndpointSide", state: EndpointState) -> None:
        client = self._client
        if client is None or client.is_closing():
            side.abort()
            return
        self._endpoint, self._state = side, state
        state.inflight += 1
        state.consecutive_failures = 0
        for data in self._backlog:
            side.write(data)
        self._backlog.clear()
        if self._eof:
            side.write_eof()
        client.resume_reading()

    def from_endpoint(self, data: bytes) -> None:
        self._touched = True
        if self._client is not None:
            self._client.write(data)

    def endpoint_eof(self) -> None:
        client = self._client
        if client is not None and not client.is_closing():
            if self._eof:
                client.close()
            else:
                client.write_eof()

    def endpoint_lost(self, exc: Exception | None) -> None:
        self._endpoint = None
        if self._client is not None:
            if exc is None:
                self._client.close()
            else:
                self._client.abort()

    def pause_client(self) -> None:
        if self._client is not None and not self._client.is_closing():
            self._client.pause_reading()

    def resume_client(self) -> None:
        self._touched = True
        if self._client is not None and not self._client.is_closing():
            self._client.resume_reading()

    # ---- the end of it ---------------------------------------------------------------------------------------------

    def _end(self) -> None:
        if self not in self._host.relays:
            return
        self._host.relays.discard(self)
        if self._task is not None:
            self._task.cancel()
            self._task = None
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.close()
        if self._state is not None:
            self._state.inflight -= 1
            self._state = None
        self._host.relay_ended()

    def sweep(self, now: float) -> None:
        """Called a few times a second."""
        if self._touched or not self._seen:
            self._touched = False
            self._seen = now
        elif now - self._seen > IDLE_TIMEOUT_S:
            self.abort()

    def abort(self) -> None:
        if self._client is not None:
            self._client.abort()


class _EndpointSide(asyncio.Protocol):
    """The connection to the endpoint; hands everything to its relay."""

    __slots__ = ("_half_closed", "_relay", "_transport")

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        self._relay.from_endpoint(data)

    def eof_received(self) -> bool:
        self._relay.endpoint_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._relay.endpoint_lost(exc)

    def pause_writing(self) -> None:
        self._relay.pause_client()

    def resume_writing(self) -> None:
        self._relay.resume_client()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def write_eof(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
