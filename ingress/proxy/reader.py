"""Bytes of a client into exchanges: HTTP/1.1 requests by httptools (llhttp), strictly framed and bounded.

`RequestReader` is the reading half of a `ClientConnection`: a mixin, so that the split costs no indirection per request. It fills `_pending`
with exchanges whose heads are complete, streams their bodies to the forwarder, and refuses, as the last thing on a connection, what can't be
read on (RFC 9112 sections 2.2, 6 and 11.2; limits as nginx's large_client_header_buffers).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

import httptools

from ingress.config import ProxySettings
from ingress.errors import Reason
from ingress.exchange import (
    CHUNKED,
    COLON,
    CRLF,
    LENGTH,
    NO_BODY,
    ClientTLS,
    Exchange,
    FieldPieces,
    iter_fields,
    without_fields,
)
from ingress.proxy.client_address import ClientResolver, Hop
from ingress.proxy.forward import Forwarder
from ingress.proxy.http1 import (
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    FORWARDED_FOR,
    FORWARDED_HOST,
    HOST,
    PASS,
    REQUEST_ID,
    TRAILER_FIELDS,
    TRANSFER_ENCODING,
    UPGRADE,
    FieldActions,
    connection_options,
)

_log = logging.getLogger(__name__)

PIPELINE_LIMIT = 32  # requests parsed and not answered; reading pauses there
# Reason to pause reading from the client, as a bit (the listener has more): enough requests are queued, or what follows may be another protocol.
PIPELINE = 1
SLICE = 8192  # what the parser gets at once of a segment full of tiny requests, which could flood the queue
_BODY_SLICE = 65536
_HASH = ord("#")


_NONE_OF_ITS_OWN: tuple[str, ...] = ()


class Refused(Exception):
    """Raised inside parser callbacks: the request, and with it the connection, is refused."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class RequestReader:
    """See the module. The attributes are the slots of `ClientConnection`; what it calls there is at the end of the class."""

    __slots__ = _NONE_OF_ITS_OWN

    _settings: ProxySettings
    _request_actions: FieldActions
    _forwarder: Forwarder
    _address: str  # of the hop
    _forwarded: bytes  # of the hop
    _hop: Hop
    _resolver: ClientResolver | None  # who says what a request of this connection is to be taken for; None: the hop
    _scheme: bytes
    _tls: ClientTLS | None
    _wire: httptools.HttpRequestParser | None
    _in_head: bool
    _at_start: bool  # no request has begun before this segment
    _uri: bytes
    _parsed_fields: FieldPieces
    _special: list[tuple[int, bytes, bytes]]  # action, name, value of fields that aren't simply passed on
    _building: Exchange | None  # its body is still coming in
    _resumed: Exchange | None  # its body needs another parser
    _fed: int  # bytes since the last element that was complete: bounds what the parser may hold
    _fed_first: int  # of them, those of the segment in which it began: some belong to what was before
    _slice: bytes  # what the parser is being given
    _unchecked: int  # a head that is no longer than this meets every limit of bytes
    _unchecked_pieces: int
    _failed: bool  # input can't be parsed any further
    _backlog: bytes  # input not given to the parser yet
    _pending: deque[Exchange]
    _active: Exchange | None
    _read_pauses: int
    _touched: bool
    transport: asyncio.Transport | None
    _tunnel: object | None

    def _feed_slices(self, data: bytes) -> None:
        """Give input to the parser piece by piece, stopping where the queue of requests is full."""
        position, size = 0, len(data)
        while position < size and not self._failed and self._tunnel is None and self.transport is not None:
            if len(self._pending) >= PIPELINE_LIMIT:
                self._backlog = data[position:]
                self._pause(PIPELINE)
                break
            step = SLICE if self._building is None else _BODY_SLICE
            held = not self._feed(data[position : position + step] if position or size > step else data)
            position += step
            if self._backlog or (held and self._read_pauses & PIPELINE):
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
                if not isinstance(cause, Refused):
                    _log.error("failed to read a request of %s", self._address, exc_info=cause)
                    cause = Refused(Reason.INTERNAL)
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
        if len(self._pending) >= PIPELINE_LIMIT:
            self._pause(PIPELINE)
        return True

    def on_message_begin(self) -> None:
        self._in_head = True
        self._uri = b""

    def on_url(self, url: bytes) -> None:
        self._uri += url

    def on_header(self, name: bytes, value: bytes) -> None:
        action = self._request_actions[name]
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
        method = parser.get_method()
        uri = self._uri
        exchange = Exchange(
            self,  # type: ignore[arg-type]  # the other half is Downstream
            self._address,
            self._scheme,
            self._forwarded,
            method,
            uri,
            fields,
        )
        exchange.tls = self._tls
        exchange.keep_alive = parser.should_keep_alive()
        # get_http_version() formats a string: look at the bytes where the head is all in this segment.
        at = len(method) + len(uri) + 2
        fed = self._fed  # before this segment
        if fed or not self._at_start or self._slice[at : at + 10] != b"HTTP/1.1\r\n":
            version = parser.get_http_version()
            if version != "1.1":
                if version != "1.0":
                    raise Refused(Reason.BAD_REQUEST)  # llhttp takes 0.9 and 2.0 too
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
                    raise Refused(Reason.BAD_REQUEST)
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
                raise Refused(Reason.BAD_REQUEST)
            exchange.authority = b"_"
        if uri[:1] != b"/":
            self._absolute_form(exchange, uri)
        if fed + len(self._slice) > self._unchecked or len(fields) + 4 * len(special) > self._unchecked_pieces:
            self._check_limits(exchange, special)
        if _HASH in uri:
            raise Refused(Reason.BAD_REQUEST)
        if self._resolver is not None:
            told = [(name, value) for _, name, value in special]
            self._resolver.settle(exchange, self._hop, told, fields)
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
            raise Refused(Reason.BAD_REQUEST)
        end = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=len(rest))
        exchange.authority = rest[:end]
        if not exchange.authority:
            raise Refused(Reason.BAD_REQUEST)
        target = rest[end:]
        exchange.target = target if target[:1] == b"/" else b"/" + target

    def _check_limits(self, exchange: Exchange, special: Sequence[tuple[int, bytes, bytes]]) -> None:
        settings = self._settings
        if len(exchange.method) + len(self._uri) + 12 > settings.request_line_limit_bytes:
            raise Refused(Reason.URI_TOO_LONG)
        sizes = [len(name) + len(value) + 4 for name, value in iter_fields(exchange.fields)]
        sizes += [len(name) + len(value) + 4 for _, name, value in special]
        if (
            len(sizes) > settings.header_count_limit
            or max(sizes, default=0) > settings.header_line_limit_bytes
            or sum(sizes) > settings.header_total_limit_bytes
        ):
            raise Refused(Reason.HEADERS_TOO_LARGE)

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
                self._pause(PIPELINE)

    def on_message_complete(self) -> None:
        exchange = self._building
        self._building = None
        if exchange is None:
            return
        if self._parsed_fields:
            if len(self._parsed_fields) > 4 * self._settings.header_count_limit:
                raise Refused(Reason.HEADERS_TOO_LARGE)
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
        refused = Exchange(self, self._address, self._scheme, self._forwarded)  # type: ignore[arg-type]  # the other half is Downstream
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
        self._pause(PIPELINE)
        if self._active is None and self._pending:
            self._next()

    def _resume_body(self, exchange: Exchange) -> None:
        """Go on with the body of a request that llhttp has stopped behind: by a parser that was told of no switch."""
        chunked = exchange.body_framing == CHUNKED
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % exchange.content_length
        parser = self._wire = httptools.HttpRequestParser(self)
        parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")

    # ---- the serving half ----------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Hand the first pending request to the forwarder."""
        raise NotImplementedError

    def _discarded(self) -> None:
        """The rest of a body whose request was answered already has come, or will not."""
        raise NotImplementedError

    def _pause(self, why: int) -> None:
        """Stop reading from the client."""
        raise NotImplementedError
