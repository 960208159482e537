"""HTTP/1.1 towards clients. The only module that touches aiohttp internals.

`ClientConnection` subclasses aiohttp's `RequestHandler` and is served by aiohttp's low-level `Server`, which keeps the register of connections.
It replaces the parser by httptools (raw bytes, trailers, exact limits: docs/adr/0001) and the task per connection by direct calls: a request
is matched, forwarded and written upstream inside `data_received`.

What it relies on in aiohttp is asserted by tests/proxy/test_aiohttp_contract.py: the constructor's signature, `_manager`, `transport`,
and that `Server` calls `connection_made`, `connection_lost`, `shutdown` and `close`.
"""

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

import httptools
from aiohttp.web_protocol import RequestHandler

from ingress.config import ProxySettings
from ingress.errors import Reason
from ingress.exchange import (
    CHUNKED,
    CRLF,
    NO_BODY,
    BodyFraming,
    ClientTLS,
    Exchange,
    Field,
    FieldPieces,
)
from ingress.proxy.client_address import NO_HOP, ClientResolver, ClientRules
from ingress.proxy.common import Common
from ingress.proxy.forward import Forwarder
from ingress.proxy.http1 import (
    clean_reason,
    last_chunk,
)
from ingress.proxy.proxy_protocol import ProxyHeader
from ingress.proxy.reader import PIPELINE, PIPELINE_LIMIT, SLICE, RequestReader
from ingress.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from aiohttp.web import Server

_log = logging.getLogger(__name__)

_LINGER_S = (
    5.0  # how long a connection that is closed with unread input goes on reading, so that the answer isn't reset away
)
_CONTINUE_AFTER_S = 1.0  # an endpoint that ignores Expect gets its body after this
# Reasons to pause reading from the client, as bits; PIPELINE is the reader's.
_UPSTREAM = 2  # the endpoint takes the body more slowly
_TUNNEL = 4

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_WRITE_HIGH_WATER = (
    65536  # larger buffers only leave the processor's cache: 1 MiB responses cost 10 % more with 256 KiB
)
_JOIN_BYTES = 8192


class ConnectionHost(Protocol):
    """What a connection needs of the data plane it belongs to."""

    settings: ProxySettings
    clients: ClientRules
    common: Common
    forwarder: Forwarder
    draining: bool

    def connection_opened(self, tls: bool) -> bool:
        """False: there are too many already."""

    def connection_closed(self, tls: bool) -> None: ...


class ClientConnection(RequestReader, RequestHandler):
    """One TCP connection of a client. Implements `Downstream` for the exchanges it carries, one at a time and in order."""

    __slots__ = (
        "_active",
        "_address",
        "_at_start",
        "_backlog",
        "_building",
        "_chunked_response",
        "_close_delimited",
        "_continue_due",
        "_discarding",
        "_failed",
        "_fed",
        "_fed_first",
        "_forwarded",
        "_forwarder",
        "_forwarder_host",
        "_half_closed",
        "_head_timer",
        "_header",
        "_hop",
        "_in_head",
        "_lingering_until",
        "_out",
        "_parsed_fields",
        "_pending",
        "_read_pauses",
        "_request_actions",
        "_request_limit",
        "_requests",
        "_resolver",
        "_resumed",
        "_scheme",
        "_seen",
        "_settings",
        "_slice",
        "_special",
        "_starts",
        "_tls",
        "_touched",
        "_tunnel",
        "_tunnel_exchange",
        "_unchecked",
        "_unchecked_pieces",
        "_unsent",
        "_uri",
        "_wire",
        "_writing_paused",
        "server_port",
    )

    def __init__(
        self,
        host: ConnectionHost,
        manager: "Server",
        loop: asyncio.AbstractEventLoop,
        header: ProxyHeader | None = None,  # that the connection began with
    ) -> None:
        super().__init__(manager, loop=loop, access_log=None, auto_decompress=False, tcp_keepalive=True)  # type: ignore[arg-type]
        self._forwarder_host = host
        self._forwarder = host.forwarder
        self._settings = settings = host.settings
        self._request_actions = host.common.request_fields
        self._starts = host.common.response_starts
        self._request_limit = settings.keepalive_requests if settings.keepalive_timeout_s else 1
        # A head that is no longer than this meets every limit of bytes.
        self._unchecked = min(
            settings.request_line_limit_bytes, settings.header_line_limit_bytes, settings.header_total_limit_bytes
        )
        self._unchecked_pieces = 4 * settings.header_count_limit
        self._wire: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._header = header
        self._hop = NO_HOP
        self._resolver: ClientResolver | None = None
        self._address = ""
        self.server_port = 0
        self._scheme = b"http"
        self._forwarded = b""
        self._tls: ClientTLS | None = None  # of a connection that came by TLS
        # parsing
        self._in_head = False
        self._at_start = False  # no request has begun before this segment
        self._uri = b""
        self._parsed_fields: FieldPieces = []
        self._special: list[tuple[int, bytes, bytes]] = []
        self._building: Exchange | None = None  # its body is still coming in
        self._resumed: Exchange | None = None  # its body needs another parser
        self._fed = 0  # bytes since the last element that was complete: bounds what the parser may hold
        self._fed_first = 0  # of them, those of the segment in which it began: some belong to what was before
        self._slice = b""  # what the parser is being given
        self._failed = False  # input can't be parsed any further
        self._backlog = b""  # input not given to the parser yet
        # serving
        self._pending: deque[Exchange] = deque()
        self._active: Exchange | None = None
        self._requests = 0
        self._read_pauses = 0  # bit set of the reasons below
        self._out: list[bytes] = []
        self._chunked_response = False
        self._close_delimited = False
        self._writing_paused = False
        self._discarding = False  # answered before its body was complete: the rest is read and dropped
        self._half_closed = False
        self._tunnel: UpstreamConnection | None = None
        self._tunnel_exchange: Exchange | None = None
        # time: the sweep looks, the hot path only leaves marks
        self._touched = True
        self._seen = 0.0
        self._head_timer = 0.0
        self._continue_due = 0.0
        self._lingering_until = 0.0
        self._unsent = 0

    # ---- transport -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass of it
        transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER)
        manager = self._manager
        assert manager is not None
        manager.connection_made(self, transport)
        peer = client_address(transport.get_extra_info("peername"))
        local = transport.get_extra_info("sockname")
        self._tls = transport.get_extra_info("tls")
        clients = self._forwarder_host.clients
        # The port of the TLS listener is behind a Service, whose clients know 443, as in ingress-nginx.
        port, scheme = (local[1] if local else 0, "http") if self._tls is None else (443, "https")
        hop = self._hop = clients.hop(peer, port, scheme, self._header)
        self._resolver = clients.resolver(hop)
        self._address = hop.address
        self.server_port = hop.port
        self._scheme = hop.scheme.encode("ascii")
        self._forwarded = hop.forwarded
        if not self._forwarder_host.connection_opened(self._tls is not None):
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        manager, self._manager = self._manager, None
        if manager is None:
            return
        manager.connection_lost(self, exc)
        self.transport = None
        self._wire = None  # it holds our bound methods: a cycle
        self._parser = None
        self._out.clear()
        self._forwarder_host.connection_closed(self._tls is not None)
        if self._tunnel is not None:
            self._end_tunnel()
        exchange, self._active = self._active, None
        if exchange is not None:
            self._forwarder.client_gone(exchange)
        self._pending.clear()
        self._building = None

    def eof_received(self) -> bool:  # type: ignore[override]
        if self._tunnel is not None:
            self._half_closed = True
            self._tunnel.tunnel_write_eof()
            if self._tunnel.half_closed:
                self._end_tunnel()
                return False
            return True
        # A client that closes its side has gone, as for nginx: nobody can tell a half-closed connection from an abandoned one.
        return False

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._tunnel is not None:
            self._tunnel.pause_response()
        elif self._active is not None and self._active.upstream_connection is not None:
            self._active.upstream_connection.pause_response()

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._touched = True
        if self._tunnel is not None:
            self._tunnel.resume_response()
        elif self._active is not None and self._active.upstream_connection is not None:
            self._active.upstream_connection.resume_response()

    def _pause(self, why: int) -> None:
        if not self._read_pauses and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
        self._read_pauses |= why

    def _resume(self, why: int) -> None:
        if self._read_pauses & why:
            self._read_pauses &= ~why
            if not self._read_pauses and self.transport is not None and not self.transport.is_closing():
                self._touched = True
                self.transport.resume_reading()

    # ---- reading -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._touched = True
        if self._tunnel is not None:
            self._tunnel.tunnel_write(data)
            return
        if self._failed:
            return  # lingering: read and forget
        if self._read_pauses & PIPELINE:
            self._backlog += data
            return
        # Each request in a segment ends its head with an empty line: few of those, and the queue can't be flooded.
        if len(data) <= SLICE or data.count(b"\r\n\r\n") <= PIPELINE_LIMIT:
            self._feed(data)
            if self._active is None and self._pending:
                self._next()
        else:
            self._feed_slices(data)

    # ---- serving -------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Hand the next request to the forwarder. It may be answered before this returns."""
        exchange = self._active = self._pending.popleft()
        self._requests += 1
        self._chunked_response = self._close_delimited = False
        if self._requests >= self._request_limit or self._forwarder_host.draining:
            exchange.keep_alive = False
        if exchange.expects_continue and not exchange.body_bytes:
            self._continue_due = -1.0
        if self._read_pauses and not exchange.body_complete and not self._backlog:
            self._resume(PIPELINE)  # its body was held back while others were before it
        self._forwarder.handle(exchange)

    def _done(self, exchange: Exchange) -> None:
        """The response is on its way; go on with the connection, or end it."""
        if exchange is not self._active:
            return
        self._resume(_UPSTREAM)
        if not exchange.keep_alive:
            self._active = None
            more = self._pending or self._backlog or self._read_pauses  # a pipeline: its rest may be in the socket
            self._finish_connection(unread=bool(more) or not exchange.body_complete or self._failed)
            return
        if not exchange.body_complete:
            self._discarding = True  # the rest of the body is read before the next request
            self._resume(PIPELINE)
            return
        self._active = None
        self._go_on()

    def _discarded(self) -> None:
        if not self._discarding:
            return  # its response is not complete yet: a filter holds the end back
        exchange, self._active = self._active, None
        self._discarding = False
        if exchange is not None and not exchange.keep_alive:
            self._finish_connection(unread=self._failed)
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self._pending or self._read_pauses:
            # From the loop, not from here: a chain of answers must not become a chain of stack frames.
            self._loop.call_soon(self._continue)

    def _continue(self) -> None:
        if self.transport is None or self._tunnel is not None:
            return
        if self._active is None and self._pending:
            self._next()
        if len(self._pending) < PIPELINE_LIMIT // 2 and self._active_allows_reading():
            backlog, self._backlog = self._backlog, b""
            self._resume(PIPELINE)
            if backlog:
                self._feed_slices(backlog)

    def _active_allows_reading(self) -> bool:
        """Behind a request that asked for an upgrade nothing is parsed until it is answered."""
        last = self._pending[-1] if self._pending else self._active
        return last is None or not last.upgrade

    def _finish_connection(self, unread: bool) -> None:
        """Close behind what was written. With input unread, closing at once would reset the connection and could take the answer with it."""
        self._pending.clear()
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self.flush()
        if not unread:
            transport.close()
            return
        self._failed = True
        self._backlog = b""
        self._lingering_until = -1.0
        if self._read_pauses:
            self._read_pauses = 0
            transport.resume_reading()
        if transport.can_write_eof():
            transport.write_eof()

    # ---- Downstream ----------------------------------------------------------------------------------------------

    def respond_informational(self, exchange: Exchange, status: int, reason: bytes, fields: FieldPieces) -> None:
        if exchange.version == 10 or exchange is not self._active:
            return
        if status == 100:
            if not self._continue_due:
                return  # the client did not ask, or was told already
            self._continue_due = 0.0
        self._out += (b"HTTP/1.1 %d %b\r\n" % (status, clean_reason(status, reason)), *fields, CRLF)

    def respond_head(
        self,
        exchange: Exchange,
        status: int,
        reason: bytes,
        fields: FieldPieces,
        framing: BodyFraming,
        content_length: int,
    ) -> None:
        if framing == CHUNKED:
            if exchange.version == 10:
                framing = NO_BODY
                self._close_delimited = True
                exchange.keep_alive = False
            else:
                self._chunked_response = True
        if self._continue_due:
            # The client was never told to send its body: it may or may not do so now (RFC 9110 section 10.1.1).
            self._continue_due = 0.0
            if not exchange.body_complete:
                exchange.keep_alive = False
        starts = self._starts
        parts = [starts.beside(fields, status, reason) if starts.yields else starts[status, reason], *fields]
        if exchange.set_cookie:
            parts += (b"Set-Cookie: ", exchange.set_cookie, b"\r\n")
        if framing == CHUNKED:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        elif content_length >= 0:
            parts.append(b"Content-Length: %d\r\n" % content_length)
        if not exchange.keep_alive:
            parts.append(b"Connection: close\r\n")
        elif exchange.version == 10:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        self._out.append(b"".join(parts))

    def respond_body(self, exchange: Exchange, chunk: bytes) -> None:
        if self._chunked_response:
            self._out += (b"%x\r\n" % len(chunk), chunk, b"\r\n")
        else:
            self._out.append(chunk)

    def respond_end(self, exchange: Exchange, trailers: Sequence[Field]) -> None:
        if self._chunked_response:
            self._out.append(last_chunk(trailers))
        if (
            exchange is self._active
            and exchange.keep_alive
            and exchange.body_complete
            and not self._pending
            and not self._read_pauses
        ):
            self._active = None  # nearly always: wait for the next request
        else:
            self._done(exchange)

    def respond_abort(self, exchange: Exchange) -> None:
        """A response cut short must look so: no last chunk, fewer bytes than announced; a reset where only the close would end it."""
        self._active = None
        self._pending.clear()
        transport = self.transport
        if transport is None:
            return
        if self._close_delimited:
            # Without this, abort() too ends with a FIN, which is the end of a complete response here.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        else:
            self.flush()
            transport.close()

    def flush(self) -> None:
        out = self._out
        if out:
            transport = self.transport
            if transport is not None:
                if len(out) == 1:
                    transport.write(out[0])
                elif len(out[-1]) <= _JOIN_BYTES:
                    transport.write(b"".join(out))  # copying a little is cheaper than a vectored write
                else:
                    transport.writelines(out)
                self._out = []
                if self._writing_paused and self._active is not None and self._active.upstream_connection is not None:
                    self._active.upstream_connection.pause_response()
            else:
                out.clear()

    def pause_request_body(self) -> None:
        self._pause(_UPSTREAM)

    def resume_request_body(self) -> None:
        self._resume(_UPSTREAM)

    # ---- upgraded ------------------------------------------------------------------------------------------------

    def respond_upgrade(
        self, exchange: Exchange, reason: bytes, fields: FieldPieces, upstream: UpstreamConnection, early: bytes
    ) -> None:
        # The client of a WebSocket may never ask for anything else: its session begins here.
        session = (b"Set-Cookie: ", exchange.set_cookie, b"\r\n") if exchange.set_cookie else ()
        self._out += (self._starts[101, reason], *fields, *session, b"Connection: upgrade\r\n\r\n")
        if early:
            exchange.response_bytes += len(early)
            self._out.append(early)
        self.flush()
        self._active = None
        self._tunnel = upstream
        self._tunnel_exchange = exchange
        upstream.start_tunnel(self)
        backlog, self._backlog = self._backlog, b""
        self._resume(PIPELINE)
        if backlog:
            upstream.tunnel_write(backlog)

    def tunnel_data(self, data: bytes) -> None:
        if self.transport is not None:
            exchange = self._tunnel_exchange
            if exchange is not None:
                exchange.response_bytes += len(data)
            self.transport.write(data)

    def tunnel_eof(self) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._half_closed:
            transport.close()
        elif transport.can_write_eof():
            transport.write_eof()

    def tunnel_lost(self) -> None:
        self._tunnel = None
        self._tunnel_ended()
        if self.transport is not None:
            self.transport.close()

    def _end_tunnel(self) -> None:
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.end_tunnel()
        self._tunnel_ended()

    def _tunnel_ended(self) -> None:
        exchange, self._tunnel_exchange = self._tunnel_exchange, None
        if exchange is not None:
            self._forwarder.tunnel_closed(exchange)

    def pause_tunnel(self) -> None:
        self._pause(_TUNNEL)

    def resume_tunnel(self) -> None:
        self._resume(_TUNNEL)

    # ---- time ----------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Called a few times a second by the data plane: time-outs as nginx has them, each since the last sign of life."""
        transport = self.transport
        if transport is None:
            return
        if self._lingering_until:
            if self._lingering_until < 0:
                self._lingering_until = now + _LINGER_S
            elif now > self._lingering_until:
                transport.abort()
            return
        touched, self._touched = self._touched, False
        if touched or not self._seen:
            self._seen = now
        silent_s = now - self._seen
        if (
            self._writing_paused or transport.get_write_buffer_size()
        ):  # also the rest of what is answered or closed already
            self._sweep_slow_reader(transport, now, silent_s)
            return
        if self._tunnel is not None:
            self._sweep_tunnel(now, silent_s)
            return
        active = self._active
        if active is None:
            self._sweep_idle(now, silent_s)
        elif not active.body_complete:
            if self._continue_due:
                self._sweep_continue(active, now)
            if self._read_pauses & _UPSTREAM:
                self._seen = now
            elif silent_s > self._settings.client_body_timeout_s:
                if self._discarding:
                    transport.close()
                else:
                    self._forwarder.request_refused(active, Reason.REQUEST_TIMEOUT)

    def _sweep_slow_reader(self, transport: asyncio.Transport, now: float, silent_s: float) -> None:
        unsent = transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent = unsent
            self._seen = now
        elif silent_s > self._settings.client_send_timeout_s:
            transport.abort()

    def _sweep_tunnel(self, now: float, silent_s: float) -> None:
        tunnel, exchange = self._tunnel, self._tunnel_exchange
        if tunnel is None or exchange is None:
            return
        if tunnel.take_touched():
            self._seen = now
        elif silent_s > exchange.route.policy.read_timeout_s:
            assert self.transport is not None
            self.transport.close()

    def _sweep_idle(self, now: float, silent_s: float) -> None:
        assert self.transport is not None
        settings = self._settings
        draining = self._forwarder_host.draining
        if self._in_head or not (self._requests or draining):
            # From the first byte to the end of the head, however it trickles in.
            if not self._head_timer:
                self._head_timer = now
            elif now - self._head_timer > settings.client_header_timeout_s:
                if self._in_head and not self._failed:
                    self._refuse(Reason.REQUEST_TIMEOUT)
                else:
                    self.transport.close()
            return
        self._head_timer = 0.0
        if silent_s > (_DRAIN_IDLE_S if draining else settings.keepalive_timeout_s):
            self.transport.close()

    def _sweep_continue(self, active: Exchange, now: float) -> None:
        if self._continue_due < 0:
            self._continue_due = now + _CONTINUE_AFTER_S
        elif now > self._continue_due and not active.response_started:
            self.respond_informational(active, 100, b"Continue", [])
            self.flush()

    # ---- what aiohttp's Server asks of a connection ----------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing is under way on it."""
        return self._active is None and not self._pending and self._tunnel is None and not self._in_head

    @property
    def served(self) -> int:
        """Requests so far."""
        return self._requests

    def begin_drain(self) -> None:
        """The answer that is under way is the last one on this connection; an idle one is left to the sweep."""
        if self._active is not None:
            self._active.keep_alive = False

    def close(self) -> None:
        """Close when the current exchange is over."""
        if self._active is not None:
            self._active.keep_alive = False
        elif self._tunnel is None and self.transport is not None:
            self.transport.close()

    def force_close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's signature
        self.force_close()

    def __repr__(self) -> str:
        return f"<ClientConnection {self._address} requests={self._requests}>"


class MisplacedConnection(ClientConnection):
    """Plain HTTP on a TLS port: the first request is told so, and nothing else happens."""

    __slots__ = ()

    def _next(self) -> None:
        exchange = self._pending[0]
        if exchange.error is None:
            exchange.error = Reason.PLAIN_HTTP
        super()._next()


_DRAIN_IDLE_S = 1.0  # while draining: a client that sends within this finds out by `Connection: close`, not by a reset


def client_address(peer: object) -> str:
    """Textual IP of a peer name; IPv4-mapped IPv6 addresses as IPv4 (a dual-stack listener sees those)."""
    if not isinstance(peer, tuple) or not peer:
        return "0.0.0.0"  # a client that was gone before it could be asked
    address = str(peer[0])
    if address.startswith("::ffff:") and "." in address:
        return address[7:]
    return address.partition("%")[0]
