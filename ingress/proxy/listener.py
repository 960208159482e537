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
    COLON,
    CRLF,
    LENGTH,
    NO_BODY,
    BodyFraming,
    Exchange,
    Field,
    FieldPieces,
    iter_fields,
    without_fields,
)
from ingress.proxy.forward import Forwarder
from ingress.proxy.http1 import (
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    FORWARDED_FOR,
    FORWARDED_HOST,
    HOST,
    PASS,
    REQUEST_FIELDS,
    REQUEST_ID,
    STATUS_LINES,
    TRAILER_FIELDS,
    TRANSFER_ENCODING,
    UPGRADE,
    clean_reason,
    connection_options,
    forwarded_block,
    last_chunk,
    response_start,
)
from ingress.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from aiohttp.web import Server

_log = logging.getLogger(__name__)

_PIPELINE_LIMIT = 32  # requests parsed and not answered; reading pauses there
_SLICE = (
    8192  # what the parser gets at once outside a body, so that a segment full of tiny requests can't flood the queue
)
_BODY_SLICE = 65536
_LINGER_S = (
    5.0  # how long a connection that is closed with unread input goes on reading, so that the answer isn't reset away
)
_CONTINUE_AFTER_S = 1.0  # an endpoint that ignores Expect gets its body after this
# Reasons to pause reading from the client, as bits.
_PIPELINE = 1  # enough requests are queued, or what follows may be another protocol
_UPSTREAM = 2  # the endpoint takes the body more slowly
_TUNNEL = 4

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_WRITE_HIGH_WATER = (
    65536  # larger buffers only leave the processor's cache: 1 MiB responses cost 10 % more with 256 KiB
)
_HASH = ord("#")
_JOIN_BYTES = 8192


class ConnectionHost(Protocol):
    """What a connection needs of the data plane it belongs to."""

    settings: ProxySettings
    forwarder: Forwarder
    draining: bool

    def connection_opened(self) -> None: ...

    def connection_closed(self) -> None: ...


class ClientConnection(RequestHandler):
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
        "_in_head",
        "_lingering_until",
        "_out",
        "_parsed_fields",
        "_pending",
        "_read_pauses",
        "_requests",
        "_resumed",
        "_seen",
        "_settings",
        "_slice",
        "_special",
        "_touched",
        "_tunnel",
        "_tunnel_exchange",
        "_unchecked",
        "_unchecked_pieces",
        "_unsent",
        "_uri",
        "_wire",
        "_writing_paused",
    )

    def __init__(self, host: ConnectionHost, manager: "Server", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(manager, loop=loop, access_log=None, auto_decompress=False, tcp_keepalive=True)  # type: ignore[arg-type]
        self._forwarder_host = host
        self._forwarder = host.forwarder
        self._settings = settings = host.settings
        # A head that is no longer than this meets every limit of bytes.
        self._unchecked = min(
            settings.request_line_limit_bytes, settings.header_line_limit_bytes, settings.header_total_limit_bytes
        )
        self._unchecked_pieces = 4 * settings.header_count_limit
        self._wire: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._address = ""
        self._forwarded = b""
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
        peer = transport.get_extra_info("peername")
        local = transport.get_extra_info("sockname")
        self._address = client_address(peer)
        self._forwarded = forwarded_block(self._address, local[1] if local else 0, "http")
        self._forwarder_host.connection_opened()

    def connection_lost(self, exc: BaseException | None) -> None:
        manager, self._manager = self._manager, None
        if manager is None:
            return
        manager.connection_lost(self, exc)
        self.transport = None
        self._wire = None  # it holds our bound methods: a cycle
        self._parser = None
        self._out.clear()
        self._forwarder_host.connection_closed()
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

    # ---- parsing -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._touched = True
        if self._tunnel is not None:
            self._tunnel.tunnel_write(data)
            return
        if self._failed:
            return  # lingering: read and forget
        if self._read_pauses & _PIPELINE:
            self._backlog += data
            return
        # Each request in a segment ends its head with an empty line: few of those, and the queue can't be flooded.
        if len(data) <= _SLICE or data.count(b"\r\n\r\n") <= _PIPELINE_LIMIT:
            self._feed(data)
            if self._active is None and self._pending:
                self._next()
        else:
            self._feed_slices(data)

    def _feed_slices(self, data: bytes) -> None:
        """Give input to the parser piece by piece, stopping where the queue of requests is full."""
        position, size = 0, len(data)
        while position < size and not self._failed and self._tunnel is None and self.transport is not None:
            if len(self._pending) >= _PIPELINE_LIMIT:
                self._backlog = data[position:]
                self._pause(_PIPELINE)
                break
            step = _SLICE if self._building is None else _BODY_SLICE
            held = not self._feed(data[position : position + step] if position or size > step else data)
            position += step
            if self._backlog or (held and self._read_pauses & _PIPELINE):
                self._backlog += data[position:]  # what stands before it was not parsed either
                break
            if self._active is None and self._pending:
                self._next()

    def _feed(self, data: bytes) -> bool:
        """False when a part was left for later, behind a request that asks for a switch."""
        while True:
            parser = self._wire
            assert parser is not None
            self._slice = data
            self._at_start = not self._in_head and self._building is None
            try:
                parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                if self._resumed is None:
                    self._after_upgrade_request(data)
                    return False
                self._resume_body(self._resumed)
                if data:
                    continue
            except httptools.HttpParserCallbackError as error:
                cause = error.__context__
                if not isinstance(cause, _Refused):
                    _log.error("failed to read a request of %s", self._address, exc_info=cause)
                    cause = _Refused(Reason.INTERNAL)
                self._refuse(cause.reason)
                return True
            except httptools.HttpParserError as error:
                _log.debug("400 for %s: %s", self._address, error)
                self._refuse(Reason.BAD_REQUEST)
                return True
            break
        if self._in_head or self._building is not None:
            if not self._fed:
                self._fed_first = len(data)
            self._fed += len(data)
            settings = self._settings
            if self._fed - self._fed_first > settings.header_total_limit_bytes + settings.request_line_limit_bytes:
                # A head, a trailer section or chunk extensions without end.
                only_line = self._in_head and not self._parsed_fields and not self._special
                self._refuse(Reason.URI_TOO_LONG if only_line else Reason.HEADERS_TOO_LARGE)
        if len(self._pending) >= _PIPELINE_LIMIT:
            self._pause(_PIPELINE)
        return True

    def on_message_begin(self) -> None:
        self._in_head = True
        self._uri = b""

    def on_url(self, url: bytes) -> None:
        self._uri += url

    def on_header(self, name: bytes, value: bytes) -> None:
        action = REQUEST_FIELDS[name]
        if not action:  # PASS
            self._parsed_fields += (name, COLON, value, CRLF)
        else:
            self._special.append((action, name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._resumed is not None:
            self._building, self._resumed = self._resumed, None
            self._special = []
            return
        parser = self._wire
        assert parser is not None
        fields = self._parsed_fields
        special = self._special
        self._parsed_fields = []
        self._special = []
        exchange = Exchange(self, self._address, b"http", self._forwarded)
        method = exchange.method = parser.get_method()
        exchange.fields = fields
        uri = exchange.target = self._uri
        exchange.keep_alive = parser.should_keep_alive()
        # get_http_version() formats a string: look at the bytes where the head is all in this segment.
        at = len(method) + len(uri) + 2
        fed = self._fed  # before this segment
        if fed or not self._at_start or self._slice[at : at + 10] != b"HTTP/1.1\r\n":
            version = parser.get_http_version()
            if version != "1.1":
                if version != "1.0":
                    raise _Refused(Reason.BAD_REQUEST)  # llhttp takes 0.9 and 2.0 too
                exchange.version = 10
        self._at_start = False
        self._fed = 0
        hosts = 0
        options: list[bytes] | None = None
        for action, _, value in special:
            if action == HOST:
                hosts += 1
                exchange.authority = value.rstrip()
            elif action == CONNECTION:
                if options is None:
                    options = []
                options.append(value)
            elif action == CONTENT_LENGTH:
                exchange.body_framing = LENGTH
                exchange.content_length = int(value)  # llhttp: digits, once, never with Transfer-Encoding
            elif action == TRANSFER_ENCODING:
                if value.strip().lower() != b"chunked" or exchange.version == 10:
                    raise _Refused(Reason.BAD_REQUEST)
                exchange.body_framing = CHUNKED
            elif action == REQUEST_ID:
                if value and len(value) <= 128 and value.isascii():
                    exchange.request_id = value
            elif action == UPGRADE:
                exchange.upgrade = value
            elif action == EXPECT:
                exchange.expects_continue = exchange.version != 10 and value.strip().lower() == b"100-continue"
            elif action == FORWARDED_FOR:
                fields += (b"X-Original-Forwarded-For", COLON, value, CRLF)
            elif action == FORWARDED_HOST:
                fields += (b"X-Original-Forwarded-Host", COLON, value, CRLF)
        if options is not None:
            named = connection_options(options)
            if b"upgrade" not in named:
                exchange.upgrade = b""
            if named:
                exchange.fields = without_fields(fields, named)
        elif exchange.upgrade:
            exchange.upgrade = b""
        if exchange.version == 10:
            exchange.upgrade = b""
        if hosts != 1:
            if hosts or exchange.version != 10:
                raise _Refused(Reason.BAD_REQUEST)
            exchange.authority = b"_"
        if uri[:1] != b"/":
            self._absolute_form(exchange, uri)
        if fed + len(self._slice) > self._unchecked or len(fields) + 4 * len(special) > self._unchecked_pieces:
            self._check_limits(exchange, special)
        if _HASH in uri:
            raise _Refused(Reason.BAD_REQUEST)
        exchange.body_complete = exchange.body_framing == NO_BODY
        self._pending.append(exchange)
        if (
            not exchange.body_complete
            and parser.should_upgrade()
            and (exchange.content_length or exchange.body_framing == CHUNKED)
        ):
            # httptools takes what follows for the new protocol's bytes, but it's a body; the wish may be ignored (RFC 9110 section 7.8).
            exchange.upgrade = b""
            self._resumed = exchange
        else:
            self._building = exchange

    def _absolute_form(self, exchange: Exchange, uri: bytes) -> None:
        """`http://host/path` (RFC 9112 section 3.2.2): its authority stands in for Host. `*` and authority-form name no resource here."""
        if exchange.method == b"CONNECT":
            exchange.error = Reason.METHOD_NOT_ALLOWED
            return
        scheme, separator, rest = uri.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise _Refused(Reason.BAD_REQUEST)
        end = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=len(rest))
        exchange.authority = rest[:end]
        if not exchange.authority:
            raise _Refused(Reason.BAD_REQUEST)
        target = rest[end:]
        exchange.target = target if target[:1] == b"/" else b"/" + target

    def _check_limits(self, exchange: Exchange, special: Sequence[tuple[int, bytes, bytes]]) -> None:
        settings = self._settings
        if len(exchange.method) + len(self._uri) + 12 > settings.request_line_limit_bytes:
            raise _Refused(Reason.URI_TOO_LONG)
        sizes = [len(name) + len(value) + 4 for name, value in iter_fields(exchange.fields)]
        sizes += [len(name) + len(value) + 4 for _, name, value in special]
        if (
            len(sizes) > settings.header_count_limit
            or max(sizes, default=0) > settings.header_line_limit_bytes
            or sum(sizes) > settings.header_total_limit_bytes
        ):
            raise _Refused(Reason.HEADERS_TOO_LARGE)

    def on_body(self, chunk: bytes) -> None:
        self._fed = 0
        exchange = self._building
        if exchange is None:
            return
        exchange.body_bytes += len(chunk)
        if exchange is self._active:
            self._forwarder.request_body(exchange, chunk)
        elif not exchange.finished:
            if exchange.body is None:
                exchange.body = []
            exchange.body.append(chunk)
            if exchange.body_bytes > self._settings.replay_limit_bytes:
                self._pause(_PIPELINE)

    def on_message_complete(self) -> None:
        exchange = self._building
        self._building = None
        if exchange is None:
            return
        if self._parsed_fields:
            if len(self._parsed_fields) > 4 * self._settings.header_count_limit:
                raise _Refused(Reason.HEADERS_TOO_LARGE)
            exchange.trailers = [f for f in iter_fields(self._parsed_fields) if TRAILER_FIELDS[f[0]] == PASS]
            self._parsed_fields = []
        self._special = []  # of a trailer section: none of them may come there
        if exchange.body_complete:
            return
        exchange.body_complete = True
        if exchange is self._active:
            if exchange.finished:
                self._discarded()
            else:
                self._forwarder.request_end(exchange)

    def _refuse(self, reason: Reason) -> None:
        """The input can't be read on. Requests before it are answered first, then this one, then the connection closes."""
        self._failed = True
        self._backlog = b""
        exchange, self._building = self._building, None
        if exchange is not None and not exchange.body_complete:
            # The fault is in the body of a request that may be on its way: it must not look complete to the endpoint.
            exchange.keep_alive = False
            exchange.error = reason
            if exchange is self._active:
                if exchange.finished:
                    self._discarded()
                else:
                    self._forwarder.request_refused(exchange, reason)
            return
        refused = Exchange(self, self._address, b"http", self._forwarded)
        refused.error = reason
        refused.keep_alive = False
        refused.body_complete = True
        refused.target = self._uri or b"/"
        refused.fields = self._parsed_fields
        self._pending.append(refused)
        if self._active is None:
            self._next()

    def _after_upgrade_request(self, rest: bytes) -> None:
        """llhttp stops behind a request that asks for a switch; what follows belongs to the new protocol, if there will be one."""
        self._wire = httptools.HttpRequestParser(self)
        self._backlog = rest
        self._pause(_PIPELINE)
        if self._active is None and self._pending:
            self._next()

    def _resume_body(self, exchange: Exchange) -> None:
        """Go on with the body of a request that llhttp has stopped behind: by a parser that was told of no switch."""
        chunked = exchange.body_framing == BodyFraming.CHUNKED
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % exchange.content_length
        parser = self._wire = httptools.HttpRequestParser(self)
        parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")

    # ---- serving -------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Hand the next request to the forwarder. It may be answered before this returns."""
        exchange = self._active = self._pending.popleft()
        self._requests += 1
        self._chunked_response = self._close_delimited = False
        if self._requests >= self._settings.keepalive_requests or self._forwarder_host.draining:
            exchange.keep_alive = False
        if exchange.expects_continue and not exchange.body_bytes:
            self._continue_due = -1.0
        if self._read_pauses and not exchange.body_complete and not self._backlog:
            self._resume(_PIPELINE)  # its body was held back while others were before it
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
            self._resume(_PIPELINE)
            return
        self._active = None
        self._go_on()

    def _discarded(self) -> None:
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
        if len(self._pending) < _PIPELINE_LIMIT // 2 and self._active_allows_reading():
            backlog, self._backlog = self._backlog, b""
            self._resume(_PIPELINE)
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
        parts = [STATUS_LINES.get((status, reason)) or response_start(status, reason), *fields]
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
        self._out += (response_start(101, reason), *fields, b"Connection: upgrade\r\n\r\n")
        if early:
            exchange.response_bytes += len(early)
            self._out.append(early)
        self.flush()
        self._active = None
        self._tunnel = upstream
        self._tunnel_exchange = exchange
        upstream.start_tunnel(self)
        backlog, self._backlog = self._backlog, b""
        self._resume(_PIPELINE)
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


_DRAIN_IDLE_S = 1.0  # while draining: a client that sends within this finds out by `Connection: close`, not by a reset


class _Refused(Exception):
    """Raised inside parser callbacks: the request, and with it the connection, is refused."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


def client_address(peer: object) -> str:
    """Textual IP of a peer name; IPv4-mapped IPv6 addresses as IPv4 (a dual-stack listener sees those)."""
    if not isinstance(peer, tuple) or not peer:
        return "0.0.0.0"  # a client that was gone before it could be asked
    address = str(peer[0])
    if address.startswith("::ffff:") and "." in address:
        return address[7:]
    return address.partition("%")[0]
