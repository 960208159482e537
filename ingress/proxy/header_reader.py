"""In front of any protocol: reads the PROXY header that a connection must begin with, then makes way.

Everything that can go wrong ends the connection: a header that is malformed, too long, or not there in time.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, cast

from ingress.proxy.proxy_protocol import HeaderParser, Malformed, ProxyHeader

_log = logging.getLogger(__name__)
_WARN_EVERY_S = 60.0

Successor = Callable[[asyncio.Transport, ProxyHeader], asyncio.Protocol]
"""Makes the protocol that goes on with the connection."""


class HeaderHost(Protocol):
    """What it needs of the data plane."""

    def opening_ended(self) -> None:
        """One that was waiting is something now, or gone."""


class HeaderReaders:
    """What all of one data plane share."""

    __slots__ = ("clock", "host", "loop", "waiting", "warned_at")

    def __init__(self, host: HeaderHost, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self.host = host
        self.loop = loop
        self.clock = clock
        self.waiting: set[HeaderReader] = set()
        self.warned_at = float("-inf")

    def warn(self, peer: object, problem: str) -> None:
        """Somebody speaks another protocol: one line a minute, for there may be many."""
        now = self.clock()
        if now - self.warned_at >= _WARN_EVERY_S:
            self.warned_at = now
            _log.warning("closed a connection of %s, which must begin with a PROXY header: %s", peer, problem)


class HeaderReader(asyncio.Protocol):
    """One connection until its header is complete."""

    __slots__ = ("_parser", "_shared", "_successor", "_timeout_s", "_timer", "_transport")

    def __init__(self, shared: HeaderReaders, timeout_s: float, successor: Successor) -> None:
        self._shared = shared
        self._timeout_s = timeout_s
        self._successor = successor
        self._parser = HeaderParser()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        shared = self._shared
        self._transport = cast(asyncio.Transport, transport)
        shared.waiting.add(self)
        self._timer = shared.loop.call_later(self._timeout_s, self._close, "it did not come in time")

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        try:
            parsed = self._parser.feed(data)
        except Malformed as problem:
            self._close(str(problem))
            return
        if parsed is None:
            return
        header, rest = parsed
        protocol = self._successor(transport, header)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._over()
        if rest:
            protocol.data_received(rest)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._over()

    def _close(self, problem: str) -> None:
        transport = self._transport
        if transport is not None:
            self._shared.warn(transport.get_extra_info("peername"), problem)
            self._over()
            transport.abort()

    def abort(self) -> None:
        transport = self._transport
        if transport is not None:
            transport.abort()

    def _over(self) -> None:
        if self._transport is None:
            return
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._shared.waiting.discard(self)
        self._shared.host.opening_ended()
