"""Connections to endpoints: one pool an endpoint, and the HTTP/1.1 protocol on each connection.

An `UpstreamConnection` carries one exchange at a time. It parses what comes back with httptools, hands it to the exchange's `Downstream` in the same
call, and reports every failure to the `Forwarder`, which alone decides what happens next.
"""

import asyncio
import logging
import select
from collections.abc import Sequence
from typing import Protocol, cast

import httptools

from ingress.balancing.base import EndpointState
from ingress.config import ProxySettings
from ingress.errors import ProxyError, Reason
from ingress.exchange import (
    CHUNKED,
    COLON,
    CRLF,
    LENGTH,
    NO_BODY,
    Exchange,
    Field,
    FieldPieces,
    ResponseHook,
    iter_fields,
    without_fields,
)
from ingress.metrics import WorkerMetrics
from ingress.proxy.common import Common
from ingress.proxy.http1 import (
    CONNECTION,
    CONTENT_LENGTH,
    DATE,
    PASS,
    RESPONSE_FIELDS,
    TRAILER_FIELDS,
    TRANSFER_ENCODING,
    UPGRADE,
    connection_options,
    connection_tokens,
    last_chunk,
    reason_phrase,
)
from ingress.proxy.httpdate import http_date
from ingress.proxy.upstream_tls import Sessions
from ingress.proxy.wire import Wire

_log = logging.getLogger(__name__)

# Past this much of a body of known length, bytes are relayed without parsing: a copy less per segment.
_BYPASS_BYTES = 32768
_FIELD_LIMIT = 256
_DROP_LIMIT_BYTES = 65536
_KEEP_ALIVE = frozenset((b"keep-alive", b"Keep-Alive"))


class Forwarding(Protocol):
    """The decisions that a connection leaves to the forwarder (`proxy.forward.Forwarder`)."""

    @property
    def response_hooks(self) -> Sequence[ResponseHook]:
        """Of every response, whatever its route."""

    def response_started(self, exchange: Exchange, connection: "UpstreamConnection", status: int) -> bool:
        """False: the answer is not to be used (the request goes to another endpoint)."""

    def response_head(self, exchange: Exchange, status: int, fields: FieldPieces, content_length: int) -> FieldPieces:
        """The fields to send, where the route has response hooks. What it raises fails the response."""

    def upstream_failed(self, exchange: Exchange, connection: "UpstreamConnection", error: ProxyError) -> None: ...

    def finish(self, exchange: Exchange) -> None:
        """The response is complete."""

    def upgraded(self, exchange: Exchange, connection: "UpstreamConnection") -> None: ...


class Tunnel(Protocol):
    """The other side of an upgraded connection."""

    def tunnel_data(self, data: bytes) -> None: ...

    def tunnel_eof(self) -> None: ...

    def tunnel_lost(self) -> None: ...

    def pause_tunnel(self) -> None: ...

    def resume_tunnel(self) -> None: ...


class UpstreamContext:
    """What all connections of one data plane share."""

    __slots__ = ("connections", "forwarder", "loop", "metrics", "response_fields", "settings")

    def __init__(
        self, forwarder: Forwarding, settings: ProxySettings, metrics: WorkerMetrics, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.forwarder = forwarder
        self.settings = settings
        self.response_fields = RESPONSE_FIELDS
        self.metrics = metrics
        self.loop = loop
        self.connections: set[UpstreamConnection] = set()  # all that are open: what the sweep looks at

    def use(self, common: Common) -> None:
        """Other settings: connections heed them from their next exchange on."""
        self.settings = common.settings
        self.response_fields = common.response_fields


class Pool:
    """Idle connections to one endpoint, newest first."""

    __slots__ = ("_sessions", "context", "idle", "retired", "state", "wire")

    def __init__(self, state: EndpointState, context: "UpstreamContext", wire: Wire) -> None:
        self.state = state
        self.context = context
        self.wire = wire
        self._sessions = Sessions()
        self.idle: list[UpstreamConnection] = []
        self.retired = False

    async def connect(self) -> "UpstreamConnection":
        """A new connection. Raises OSError; ProxyError when it was made and can't be trusted."""
        endpoint = self.state.endpoint
        context = self.context
        tls = self.wire.tls
        if tls is None:
            _, connection = await context.loop.create_connection(
                lambda: UpstreamConnection(self), endpoint.address, endpoint.port
            )
        else:
            connection = await tls.connect(
                context.loop, lambda: UpstreamConnection(self), endpoint.address, endpoint.port, self._sessions
            )
        context.metrics.upstream_connections_opened += 1
        return connection

    def release(self, connection: "UpstreamConnection") -> None:
        """Take back a connection whose exchange is complete on both sides."""
        settings = self.context.settings
        if (
            self.retired
            or len(self.idle) >= settings.upstream_keepalive_connections
            or connection.requests >= settings.upstream_keepalive_requests
        ):
            connection.close()
        else:
            self.idle.append(connection)

    def retire(self) -> None:
        """The endpoint left every table: idle connections close now, busy ones when their exchange ends."""
        self.retired = True
        idle, self.idle = self.idle, []
        for connection in idle:
            connection.close()


class UpstreamConnection(asyncio.Protocol):
    """One TCP connection to an endpoint, speaking HTTP/1.1."""

    __slots__ = (
        "_actions",
        "_bypass_left",
        "_chunked",
        "_complete",
        "_content_length",
        "_context",
        "_created",
        "_date_seen",
        "_dropping",
        "_fields",
        "_forwarder",
        "_head",
        "_head_bytes",
        "_in_body",
        "_keep_alive",
        "_options",
        "_parser",
        "_paused_reading",
        "_poll",
        "_reason",
        "_seen",
        "_touched",
        "_trailers",
        "_transfer_encoding",
        "_tunnel",
        "_unsent",
        "_unusual",
        "_upgrade",
        "_writing_paused",
        "closed",
        "exchange",
        "half_closed",
        "pool",
        "requests",
        "transport",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._context = pool.context
        self._actions = pool.context.response_fields
        self._forwarder = pool.context.forwarder
        self._head = pool.wire.head
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.requests = 0
        self.closed = False
        self.half_closed = False  # of a tunnel: the endpoint has sent all it will
        self._parser: httptools.HttpResponseParser = httptools.HttpResponseParser(self)
        self._bypass_left = 0
        self._dropping = 0  # of a response that is read for nobody: how many bytes more, at most
        self._tunnel: Tunnel | None = None
        self._writing_paused = False
        self._paused_reading = False
        self._touched = True  # bytes came since the last sweep: cheaper than reading a clock per segment
        self._seen = 0.0  # last sweep that saw it touched
        self._created = 0.0
        self._unsent = 0  # write buffer at the last sweep
        self._keep_alive = False
        self._poll: select.poll | None = None
        self._unusual = True  # fields that most responses leave alone were set
        self._reset()

    def _reset(self) -> None:
        """Ready for the next response's head."""
        self._fields: FieldPieces = []
        self._reason = b""
        self._content_length = -1
        self._date_seen = self._in_body = self._complete = False
        if self._unusual:
            self._unusual = False
            self._clear_unusual()

    def _clear_unusual(self) -> None:
        self._chunked = self._transfer_encoding = False
        self._options: list[bytes] | None = None
        self._upgrade = b""
        self._head_bytes = 0
        self._trailers: Sequence[Field] = ()

    # ---- transport ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass of it
        self._context.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.transport = None
        self._forget()
        try:
            self._lost(exc)
        finally:
            del self._parser  # it holds our bound methods: a cycle

    def _lost(self, exc: Exception | None) -> None:
        if self._tunnel is not None:
            tunnel, self._tunnel = self._tunnel, None
            tunnel.tunnel_lost()
        elif self.exchange is not None:
            if exc is None and self._in_body and self._until_close:
                exchange = self.exchange
                self._end(exchange)  # the close is the end of such a body (RFC 9112 section 6.3)
                exchange.downstream.flush()
                return
            self._fail(
                Reason.UPSTREAM_CLOSED, str(exc) if exc is not None else "closed before the response was complete"
            )

    @property
    def _until_close(self) -> bool:
        return self._content_length < 0 and not self._chunked

    def eof_received(self) -> bool:
        if self._tunnel is not None and self._can_half_close():
            self.half_closed = True
            self._tunnel.tunnel_eof()
            return True
        self.closed = True
        self._forget()
        transport = self.transport
        if transport is not None and not transport.is_closing() and transport.get_write_buffer_size():
            transport.abort()  # closing would wait until the endpoint has read what it will perhaps never read
        return False  # the transport closes itself, connection_lost follows

    def close(self) -> None:
        """Close now; no exchange is told. Bytes written before are still sent."""
        self.closed = True
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close now and forget what was not sent yet."""
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    def _forget(self) -> None:
        self._context.connections.discard(self)
        try:
            self.pool.idle.remove(self)
        except ValueError:
            pass

    def peer_has_closed(self) -> bool:
        """Look at the socket itself: a FIN may be there that the loop has not read yet. Costs a system call, so it's only asked before
        sending what can't be sent twice."""
        if self.transport is None:
            return True
        poll = self._poll
        if poll is None:
            poll = self._poll = select.poll()
            poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)
        return bool(poll.poll(0))  # an idle connection has nothing to say: a FIN, a reset, or bytes nobody asked for

    # ---- request ------------------------------------------------------------------------------------------------

    def send(self, exchange: Exchange) -> None:
        """Begin an exchange: its head, and what there is of its body."""
        self.exchange = exchange
        exchange.upstream_connection = self
        self._actions = self._context.response_fields
        if self.requests:
            self._context.metrics.upstream_connections_reused += 1
        self.requests += 1
        self._touched = True
        transport = self.transport
        assert transport is not None
        if not exchange.body_framing:
            transport.write(self._head(exchange))
            return
        parts = [self._head(exchange)]
        body = exchange.body or ()
        if exchange.body_framing == CHUNKED:
            for chunk in body:
                parts += (b"%x\r\n" % len(chunk), chunk, b"\r\n")
            if exchange.body_complete:
                parts.append(last_chunk(exchange.trailers))
        else:
            parts += body
        transport.writelines(parts)

    def send_body(self, exchange: Exchange, chunk: bytes) -> None:
        transport = self.transport
        if transport is None:
            return  # connection_lost is on its way to the forwarder, or was there
        if exchange.body_framing == CHUNKED:
            transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))
        else:
            transport.write(chunk)
        if self._writing_paused:
            exchange.downstream.pause_request_body()

    def send_end(self, exchange: Exchange) -> None:
        if exchange.body_framing == CHUNKED and self.transport is not None:
            self.transport.write(last_chunk(exchange.trailers))

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._tunnel is not None:
            self._tunnel.pause_tunnel()
        elif self.exchange is not None:
            self.exchange.downstream.pause_request_body()

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._touched = True
        if self._tunnel is not None:
            self._tunnel.resume_tunnel()
        elif self.exchange is not None:
            self.exchange.downstream.resume_request_body()

    # ---- response -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._touched = True
        if self._tunnel is not None:
            self._tunnel.tunnel_data(data)
            return
        exchange = self.exchange
        if exchange is None:
            if self._dropping:
                self._drop(data)
                return
            self._forget()  # at once: the next request may come before connection_lost
            self.abort()  # an answer that nobody asked for: the connection can't be trusted any more
            return
        left = self._bypass_left
        if left:
            self._relay_unparsed(exchange, data, left)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switched(data[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Protocol):
                _log.error("failed to relay a response of %s", self.pool.state.key, exc_info=error.__context__)
            self._fail(Reason.UPSTREAM_PROTOCOL, str(error.__context__ or error))
        except httptools.HttpParserError as error:
            if self._complete:
                self._keep_alive = False  # junk behind a complete response costs the connection, not the response
            else:
                self._fail(Reason.UPSTREAM_PROTOCOL, str(error))
        if self._complete and self.exchange is exchange:
            if exchange.method == b"HEAD" and (data.count(b"\r\n\r\n") != 1 or data[-4:] != b"\r\n\r\n"):
                self._keep_alive = (
                    False  # something stands behind the head: the body that must not come, or its beginning
                )
            self._end(exchange)
        elif self._in_body:
            if len(self._fields) > 4 * _FIELD_LIMIT:
                self._fail(Reason.UPSTREAM_PROTOCOL, "too many trailer fields")
        elif self.exchange is not None:
            self._unusual = True
            self._head_bytes += len(data)
            limit = self._context.settings.response_head_limit_bytes
            if self._head_bytes > limit:
                self._fail(Reason.UPSTREAM_PROTOCOL, f"response head larger than {limit} bytes")
        if self._dropping:
            self._dropped(len(data))
        exchange.downstream.flush()

    def drop_response(self) -> None:
        """The exchange ends without this connection, but with the response that has begun: the rest of it is read and dropped, if it is
        short and the request was sent completely, so that the connection can be used again."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None and exchange.body_complete and not self._writing_paused and exchange.method != b"HEAD":
            self._dropping = _DROP_LIMIT_BYTES
            self._keep_alive = self._parser.should_keep_alive()
        else:
            self.abort()

    def _drop(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._dropping = 0
            self.abort()
            return
        self._dropped(len(data))

    def _dropped(self, size: int) -> None:
        self._dropping = max(self._dropping - size, 0)
        if self._complete:
            self._dropping = 0
            self._reset()
            if self._keep_alive and not self.closed:
                self.pool.release(self)
                return
        if not self._dropping:
            self.abort()

    def _relay_unparsed(self, exchange: Exchange, data: bytes, left: int) -> None:
        size = len(data)
        downstream = exchange.downstream
        if size < left:
            self._bypass_left = left - size
            exchange.response_bytes += size
            downstream.respond_body(exchange, data)
        else:
            self._bypass_left = 0
            self._parser = httptools.HttpResponseParser(self)  # the old one still waits for the body
            if size > left:
                data = data[:left]
                self._keep_alive = False  # more than was announced
            exchange.response_bytes += left
            downstream.respond_body(exchange, data)
            self._end(exchange)
        downstream.flush()

    def on_message_begin(self) -> None:
        if self._complete:
            self._keep_alive = False  # a second response to one request: nobody may ever read it

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        action = self._actions[name]
        if not action:  # PASS; trailer fields come here too
            self._fields += (name, COLON, value, CRLF)
        elif self._in_body:  # none of these may come as a trailer
            if action == CONNECTION:
                self._keep_alive = False  # llhttp heeds it even there, and would refuse the next response
        elif action == CONTENT_LENGTH:
            self._content_length = int(value)  # llhttp has checked it: digits, once, and not with Transfer-Encoding
        elif action == DATE:
            self._date_seen = True
            self._fields += (name, COLON, value, CRLF)
        elif action == TRANSFER_ENCODING:
            self._unusual = True
            self._chunked = value.strip().lower() == b"chunked" and not self._transfer_encoding
            self._transfer_encoding = True
        elif action == CONNECTION:
            if value in _KEEP_ALIVE:
                return
            self._unusual = True
            if self._options is None:
                self._options = []
            self._options.append(value)
        elif action == UPGRADE:
            self._unusual = True
            self._upgrade = value

    def on_headers_complete(self) -> None:
        exchange = self.exchange
        if exchange is None or self._complete:
            return
        status = self._parser.get_status_code()
        fields = self._fields
        reason = self._reason or reason_phrase(status)
        if self._options is not None:
            named = connection_options(self._options)
            if named:
                fields = without_fields(fields, named)
        if status < 200:
            if status < 100:
                raise _Protocol(f"status {status}")
            if status != 101:
                exchange.downstream.respond_informational(exchange, status, reason, fields)
                self._reset()
            elif exchange.upgrade:
                fields += (b"Upgrade", COLON, self._upgrade or exchange.upgrade, CRLF)
                self._fields, self._reason = fields, reason
            return
        if self._transfer_encoding and not self._chunked:
            raise _Protocol("a transfer coding other than chunked")
        if len(fields) > 4 * _FIELD_LIMIT:
            raise _Protocol("too many header fields")
        self._in_body = True
        if not self._forwarder.response_started(exchange, self, status):
            return
        self._fields = []
        if not self._date_seen:
            fields += (b"Date", COLON, http_date(), CRLF)
        keep_alive = self._keep_alive = self._parser.should_keep_alive()
        length = self._content_length
        if exchange.route.response_hooks or self._forwarder.response_hooks:
            fields = self._forwarder.response_head(exchange, status, fields, length)
        downstream = exchange.downstream  # a hook may have put something in between
        if exchange.method == b"HEAD":
            downstream.respond_head(exchange, status, reason, fields, NO_BODY, length)
            old = self._parser.get_http_version() == "1.0"
            # llhttp would wait for the body that Content-Length announces.
            self._parser = httptools.HttpResponseParser(self)
            self._keep_alive = keep_alive or (length < 0 and not old and not self._options_close())
            self._complete = True
        elif status in (204, 304):
            downstream.respond_head(exchange, status, reason, fields, NO_BODY, length if status == 304 else -1)
        elif length >= 0:
            downstream.respond_head(exchange, status, reason, fields, LENGTH, length)
        else:
            downstream.respond_head(exchange, status, reason, fields, CHUNKED, -1)

    def _options_close(self) -> bool:
        return b"close" in connection_tokens(self._options or ())

    def on_body(self, chunk: bytes) -> None:
        exchange = self.exchange
        if exchange is None or self._complete or not exchange.response_started:
            return
        exchange.response_bytes += len(chunk)
        exchange.downstream.respond_body(exchange, chunk)
        length = self._content_length
        if length > _BYPASS_BYTES and exchange.response_bytes < length:
            self._bypass_left = length - exchange.response_bytes

    def on_message_complete(self) -> None:
        if self._in_body and not self._complete:  # not for informational responses, nor for a second one
            # Only noted: what stands behind it in the same segment must be seen before the connection may carry another exchange.
            self._complete = True
            if self._fields:
                self._trailers = [f for f in iter_fields(self._fields) if TRAILER_FIELDS[f[0]] == PASS]
                self._fields = []
                self._unusual = True

    def _end(self, exchange: Exchange) -> None:
        """The response is complete: the connection goes back to its pool if it can carry another exchange."""
        trailers = self._trailers
        self.exchange = None
        self._reset()
        self._forwarder.finish(exchange)
        self.resume_response()  # a filter may have held it up in this very call; nobody would wake it later
        if exchange.body_complete and self._keep_alive and not self.closed:
            self.pool.release(self)
        else:
            self.abort()  # whatever was not sent yet is of no use: the answer is complete
        exchange.downstream.respond_end(exchange, trailers)

    def _switched(self, early: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        if not exchange.upgrade or self._parser.get_status_code() != 101:
            self._fail(Reason.UPSTREAM_PROTOCOL, "switched protocols without being asked")
            return
        fields, reason = self._fields, self._reason
        self.exchange = None
        self._forwarder.upgraded(exchange, self)
        exchange.downstream.respond_upgrade(exchange, reason, fields, self, early)

    def _fail(self, reason: Reason, detail: str) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            if self._dropping:
                self._dropping = 0
                self.abort()
            return
        self.abort()
        self._forwarder.upstream_failed(exchange, self, ProxyError(reason, detail))

    def detach(self) -> None:
        """The exchange ends without this connection (client gone, or the answer was rejected): it can't be used again."""
        self.exchange = None
        self._bypass_left = 0
        self.abort()

    # ---- back-pressure of the response --------------------------------------------------------------------------

    def pause_response(self) -> None:
        """The client is slower than the endpoint."""
        if not self._paused_reading and self.transport is not None and not self.transport.is_closing():
            self._paused_reading = True
            self.transport.pause_reading()

    def resume_response(self) -> None:
        if self._paused_reading:
            self._paused_reading = False
            self._touched = True
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()

    # ---- upgraded -----------------------------------------------------------------------------------------------

    def start_tunnel(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        if self._writing_paused:
            tunnel.pause_tunnel()

    def tunnel_write(self, data: bytes) -> None:
        self._touched = True
        if self.transport is not None:
            self.transport.write(data)

    def _can_half_close(self) -> bool:
        """TLS ends both ways at once; so does then a tunnel with such a side, as in nginx for every tunnel."""
        return self.transport is not None and self.transport.can_write_eof()

    def tunnel_write_eof(self) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.half_closed = True  # it will say nothing more
            self.transport.close()

    def end_tunnel(self) -> None:
        self._tunnel = None
        self.close()

    # ---- time ---------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Called a few times a second. `read` and `send` time-outs are between two operations, as in nginx."""
        settings = self._context.settings
        if self._created == 0.0:
            self._created = now
        exchange = self.exchange
        worn = now - self._created > settings.upstream_keepalive_time_s
        if worn and exchange is not None:
            self.requests += settings.upstream_keepalive_requests  # the pool won't take it back
        if self._touched:
            self._touched = False
            self._seen = now
            if not worn:
                return
        silent_s = now - self._seen
        if exchange is None:
            if self._tunnel is not None:
                return  # the client's side of the tunnel knows its route's time-outs
            if worn or silent_s > settings.upstream_keepalive_timeout_s:
                self._forget()
                self.close()
            return
        policy = exchange.route.policy
        if self._writing_paused:
            unsent = self.transport.get_write_buffer_size() if self.transport is not None else 0
            if unsent != self._unsent:
                self._unsent = unsent
                self._seen = now
            elif silent_s > policy.send_timeout_s:
                self._fail(Reason.SEND_TIMEOUT, f"nothing could be sent for {policy.send_timeout_s:g} s")
        elif self._paused_reading or not exchange.body_complete:
            self._seen = now  # it is the client that everybody waits for
        elif silent_s > policy.read_timeout_s:
            self._fail(Reason.READ_TIMEOUT, f"nothing came for {policy.read_timeout_s:g} s")

    def take_touched(self) -> bool:
        touched, self._touched = self._touched, False
        return touched


class _Protocol(Exception):
    """Raised inside parser callbacks for what llhttp accepts and we don't."""
