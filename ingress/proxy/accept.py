"""What protocol a new connection gets.

A plain HTTP listener needs none of this: its connections are `ClientConnection`s from the start. On an HTTPS listener the first bytes decide:

    [PROXY header] -> first bytes -> ClientHello -> relayed as it is, to the endpoints of a host with passthrough
                                                 -> TLS ended here -> ClientConnection
                                  -> plain HTTP  -> ClientConnection that answers 400

An `Opening` is the protocol of the connection until then, and watches over its handshake.
"""

import asyncio
import enum
from typing import Protocol, cast

from ingress.config import ProxySettings
from ingress.metrics import WorkerMetrics
from ingress.proxy.listener import ClientConnection
from ingress.proxy.proxy_protocol import ProxyHeader
from ingress.proxy.stream import StreamConnection
from ingress.routing.tls import TLSHost
from ingress.tls.clienthello import BadHello, ClientHello, NotTLS, parse_client_hello
from ingress.tls.contexts import Contexts, Refusal
from ingress.tls.transport import ConnectionInfo, TLSTransport, failure_reason


class ListenerKind(enum.StrEnum):
    """What is spoken on a listening socket."""

    HTTP = "http"
    HTTPS = "https"


_DECODE_ERROR = 50
_DRAIN_IDLE_S = 1.0  # while draining: what a client that has sent nothing yet is given
_SSLV2_HELLO = 0x80  # how SSL 2 begins; whatever else isn't TLS is read as HTTP, as nginx does


def fatal_alert(code: int) -> bytes:
    """A record with a fatal alert (RFC 8446 section 6), before any version is agreed on."""
    return b"\x15\x03\x01\x00\x02\x02" + bytes((code,))


class OpeningHost(Protocol):
    """What an opening connection needs of the data plane it belongs to."""

    settings: ProxySettings
    draining: bool
    contexts: Contexts
    openings: "set[Opening]"

    @property
    def metrics(self) -> WorkerMetrics: ...

    def accept(self, header: ProxyHeader | None) -> ClientConnection:
        """The protocol of one more client's HTTP/1.1."""

    def accept_misplaced(self, header: ProxyHeader | None) -> ClientConnection:
        """The same for plain HTTP on a TLS port."""

    def relay(self, host: TLSHost, transport: asyncio.Transport, header: ProxyHeader | None) -> StreamConnection | None:
        """The protocol of a client that is to be relayed to `host.passthrough`; None when that has no endpoint."""

    def opening_ended(self) -> None: ...


class Opening(asyncio.Protocol):
    """A connection on an HTTPS listener, from its first byte (behind its PROXY header, if it began with one) until its handshake is over."""

    __slots__ = ("_began", "_buffer", "_header", "_host", "_raw")

    def __init__(self, host: OpeningHost, header: ProxyHeader | None = None) -> None:
        self._host = host
        self._header = header
        self._raw: asyncio.Transport | None = None
        self._buffer = b""
        self._began = 0.0

    # ---- until it is known what it is ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass of it
        self._host.openings.add(self)

    def data_received(self, data: bytes) -> None:
        raw = self._raw
        if raw is None or raw.is_closing():
            return
        data = self._buffer = self._buffer + data if self._buffer else data
        try:
            hello = parse_client_hello(data)
        except NotTLS:
            if data[0] & _SSLV2_HELLO:
                self._fail("protocol_error", 0)
            else:
                self._end("plain_http")
                self._become(self._host.accept_misplaced(self._header), data)
        except BadHello:
            self._fail("protocol_error", _DECODE_ERROR)
        else:
            if hello is not None:
                self._decide(hello, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("closed")

    # ---- the decision ----------------------------------------------------------------------------------------------

    def _decide(self, hello: ClientHello, data: bytes) -> None:
        host = self._host
        name = hello.server_name
        found = host.contexts.host(name)
        if found is not None and found.passthrough:
            assert self._raw is not None
            relay = host.relay(found, self._raw, self._header)
            if relay is None:
                self._fail("no_endpoint", 0)
            else:
                self._end("")
                self._become(relay, data)
            return
        try:
            context = host.contexts.choose(name, found)
        except Refusal as refusal:
            self._fail(refusal.reason, refusal.alert)
            return
        engine = context.open()
        transport = TLSTransport(engine, self._protocol, self._handshaken, ConnectionInfo(engine, name, found))
        self._become(transport, data)

    def _become(self, protocol: asyncio.Protocol, data: bytes) -> None:
        """Hand the connection over, with what came of it."""
        raw = self._raw
        assert raw is not None
        self._buffer = b""
        raw.set_protocol(protocol)
        protocol.connection_made(raw)
        protocol.data_received(data)

    def _protocol(self, transport: TLSTransport) -> asyncio.Protocol:
        return self._host.accept(self._header)

    def _handshaken(self, transport: TLSTransport, error: BaseException | None) -> None:
        if error is not None:
            self._end(failure_reason(error))
            return
        info = transport.info
        resumed = info.resumed
        self._host.metrics.tally(
            "aioingress_tls_handshakes", info.protocol, "resumed" if resumed else "full"
        ).value += 1
        if not resumed:
            self._host.contexts.session_made()
        self._end("")

    # ---- the end of it ---------------------------------------------------------------------------------------------

    def _fail(self, reason: str, alert: int) -> None:
        """Close; `alert` 0: without a word."""
        raw = self._raw
        self._end(reason)
        if raw is not None and not raw.is_closing():
            if alert:
                raw.write(fatal_alert(alert))
            raw.close()

    def _end(self, reason: str) -> None:
        """Not opening any more; `reason` says what it failed for, empty: it didn't."""
        host = self._host
        if self in host.openings:
            host.openings.discard(self)
            if reason:
                host.metrics.tally("aioingress_tls_failures", reason).value += 1
                host.metrics.connections_accepted += 1  # what comes to something counts itself
            host.opening_ended()

    def sweep(self, now: float) -> None:
        """Called a few times a second."""
        if not self._began:
            self._began = now
            return
        limit_s = self._host.settings.tls.handshake_timeout_s
        if self._host.draining and not self._buffer:
            limit_s = min(limit_s, _DRAIN_IDLE_S)
        if now - self._began > limit_s:
            raw = self._raw
            self._end("timeout")
            if raw is not None:
                raw.abort()

    def abort(self) -> None:
        if self._raw is not None:
            self._raw.abort()
