"""Side calls: a small HTTP/1.1 client for requests of the proxy's own. The contract is `middleware.sidecalls.SideCalls`.

Written here and not taken from a library, because a call is part of somebody's request: fields leave as the bytes they came as (aiohttp's client writes
text as UTF-8, so that a service would judge another cookie than the endpoint gets), and nothing is followed, decompressed or remembered. One object a
worker; connections are kept by target; names are looked up by the system, off the loop, and remembered for a while.
"""

import asyncio
import logging
import socket
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import cast

import httptools

from ingress.exchange import Field
from ingress.middleware.sidecalls import SideCallError, SideResponse, SideTarget, request_bytes

_log = logging.getLogger(__name__)

Lookup = Callable[[str], Awaitable[list[str]]]

CONNECT_TIMEOUT_S = 5.0  # to one address
IDLE_S = 15.0  # shorter than what servers keep idle connections for
IDLE_LIMIT = 32  # kept a target
CONNECTION_LIMIT = 256  # open a target; further calls wait, within their time
TARGET_LIMIT = 256  # a host may come from a variable, which a client may choose
ADDRESS_TTL_S = 15.0  # what getaddrinfo found; it doesn't tell the record's own
STALE_S = 300.0  # how long older addresses serve while the name can't be looked up
HEAD_LIMIT_BYTES = 65536
DRAIN_LIMIT_BYTES = 65536  # of an answer's body that nobody wants, so that its connection can be kept


class _Names:
    """Addresses by host name. A look-up belongs to nobody: callers that leave don't end it for the others."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], lookup: Lookup | None) -> None:
        self._loop = loop
        self._clock = clock
        self._lookup = lookup or self._system_lookup
        self._known: OrderedDict[str, tuple[list[str], float]] = OrderedDict()  # addresses, and when they were found
        self._pending: dict[str, asyncio.Task[list[str]]] = {}

    async def addresses(self, host: str) -> list[str]:
        """Not empty; raises SideCallError."""
        known = self._known.get(host)
        now = self._clock()
        if known is not None and now - known[1] < ADDRESS_TTL_S:
            return known[0]
        task = self._pending.get(host)
        if task is None:
            task = self._pending[host] = self._loop.create_task(self._look_up(host), name=f"side-call look-up {host}")
            task.add_done_callback(lambda done: self._looked_up(host, done))
        try:
            return await asyncio.shield(task)
        except OSError as problem:
            if known is not None and now - known[1] < STALE_S:
                return known[0]
            raise SideCallError(f"{host} has no address: {problem.strerror or problem}") from problem

    async def _look_up(self, host: str) -> list[str]:
        found = await self._lookup(host)
        if not found:
            raise OSError("the look-up found nothing")
        self._known[host] = (found, self._clock())
        self._known.move_to_end(host)
        while len(self._known) > TARGET_LIMIT:
            self._known.popitem(last=False)
        return found

    def _looked_up(self, host: str, task: asyncio.Task[list[str]]) -> None:
        del self._pending[host]
        if not task.cancelled():
            task.exception()  # retrieved: everybody who asked may have left

    async def _system_lookup(self, host: str) -> list[str]:
        try:
            found = await self._loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except UnicodeError as problem:  # a label longer than DNS allows
            raise OSError(str(problem)) from problem
        return list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))

    def suspect(self, host: str) -> None:
        """Its addresses didn't answer: look it up again."""
        known = self._known.get(host)
        if known is not None:
            self._known[host] = (known[0], min(known[1], self._clock() - ADDRESS_TTL_S))

    def cancel(self) -> None:
        for task in tuple(self._pending.values()):
            task.cancel()


class _Target:
    """Connections to one target. `using` counts calls that hold or wait for a slot: it is not forgotten before they are over."""

    __slots__ = ("idle", "key", "slots", "using")

    def __init__(self, key: SideTarget) -> None:
        self.key = key
        self.idle: list[_Connection] = []  # newest last
        self.slots = asyncio.Semaphore(CONNECTION_LIMIT)
        self.using = 0


class SideCallClient:
    """Cheap to make: nothing is opened before the first call."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], lookup: Lookup | None = None
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._names = _Names(loop, clock, lookup)
        self._targets: OrderedDict[SideTarget, _Target] = OrderedDict()
        self._tls: ssl.SSLContext | None = None
        self.connections: set[_Connection] = set()
        self.opened = 0  # ever

    async def send(
        self,
        target: SideTarget,
        method: bytes,
        path: bytes,
        fields: Iterable[Field],
        body: bytes = b"",
        *,
        timeout_s: float,
        body_limit_bytes: int = 0,
    ) -> SideResponse:
        try:
            request = request_bytes(method, path, fields, body)
        except ValueError as problem:
            raise SideCallError(str(problem)) from problem
        entry = self._target(target)
        entry.using += 1
        try:
            async with asyncio.timeout(timeout_s), entry.slots:
                return await self._send(entry, request, method == b"HEAD", body_limit_bytes)
        except TimeoutError as problem:
            raise SideCallError(f"no answer within {timeout_s:g} s") from problem
        finally:
            entry.using -= 1

    async def _send(self, entry: _Target, request: bytes, head_only: bool, body_limit_bytes: int) -> SideResponse:
        connection = self._idle(entry)
        if connection is not None:
            try:
                return await self._call(entry, connection, request, head_only, body_limit_bytes)
            except _ClosedUnanswered:
                pass  # kept too long: the server had closed it, and read nothing
        connection = await self._connect(entry.key)
        try:
            return await self._call(entry, connection, request, head_only, body_limit_bytes)
        except _ClosedUnanswered as problem:
            raise SideCallError("the connection was closed instead of an answer") from problem

    async def _call(
        self, entry: _Target, connection: "_Connection", request: bytes, head_only: bool, body_limit_bytes: int
    ) -> SideResponse:
        try:
            return await connection.call(request, head_only, body_limit_bytes)
        finally:
            if connection.reusable and len(entry.idle) < IDLE_LIMIT and self._targets.get(entry.key) is entry:
                connection.idle_since = self._clock()
                entry.idle.append(connection)
            else:
                connection.abort()  # given up, failed, or nobody knows where the next answer begins

    def _target(self, key: SideTarget) -> _Target:
        entry = self._targets.get(key)
        if entry is None:
            entry = self._targets[key] = _Target(key)
            if len(self._targets) > TARGET_LIMIT:
                self._forget_one()
        else:
            self._targets.move_to_end(key)
        return entry

    def _forget_one(self) -> None:
        for key, entry in self._targets.items():
            if not entry.using:
                del self._targets[key]
                for connection in entry.idle:
                    connection.abort()
                return

    def _idle(self, entry: _Target) -> "_Connection | None":
        while entry.idle:
            connection = entry.idle.pop()
            if not connection.closed and self._clock() - connection.idle_since < IDLE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self, target: SideTarget) -> "_Connection":
        addresses = [target.host] if _is_address(target.host) else await self._names.addresses(target.host)
        problem: Exception | None = None
        for address in addresses:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    _, connection = await self._loop.create_connection(
                        lambda: _Connection(self),
                        address,
                        target.port,
                        ssl=self._context() if target.tls else None,
                        server_hostname=target.host if target.tls else None,
                    )
            except (OSError, TimeoutError) as failed:  # TLS errors are OSErrors
                problem = failed
                continue
            self.opened += 1
            if not connection.closed:
                # Not in connection_made: uvloop doesn't call connection_lost where making it is cancelled in between.
                self.connections.add(connection)
            return connection
        self._names.suspect(target.host)
        reason = "" if problem is None else getattr(problem, "strerror", "") or str(problem) or "it took too long"
        raise SideCallError(f"no connection to {target.host}:{target.port}: {reason}") from problem

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = (
                False  # proxy_ssl_verify is off in nginx, and in-cluster services have certificates of their own making
            )
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["http/1.1"])
            self._tls = context
        return self._tls

    def sweep(self, now: float) -> None:
        """Close what has been idle for too long. Called a few times a second."""
        for entry in self._targets.values():
            if entry.idle and now - entry.idle[0].idle_since >= IDLE_S:
                old = [c for c in entry.idle if now - c.idle_since >= IDLE_S]
                entry.idle = [c for c in entry.idle if now - c.idle_since < IDLE_S]
                for connection in old:
                    connection.abort()

    def close(self) -> None:
        """Calls under way fail."""
        self._names.cancel()
        for connection in tuple(self.connections):
            connection.abort()
        self._targets.clear()


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


class _ClosedUnanswered(Exception):
    """The server closed the connection before the first byte of an answer."""


class _Connection(asyncio.Protocol):
    """One connection, one call at a time."""

    __slots__ = (
        "_answer",
        "_body",
        "_body_bytes",
        "_body_limit",
        "_client",
        "_fields",
        "_head_bytes",
        "_head_only",
        "_keep_alive",
        "_parser",
        "_seen",
        "_status",
        "_transport",
        "closed",
        "idle_since",
    )

    def __init__(self, client: SideCallClient) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[SideResponse] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self.closed = False
        self.idle_since = 0.0
        self._keep_alive = False
        self._seen = 0

    # ---- one call ------------------------------------------------------------------------------------------------

    async def call(self, request: bytes, head_only: bool, body_limit_bytes: int) -> SideResponse:
        """Raises _ClosedUnanswered, or SideCallError. Whoever cancels it must abort the connection."""
        transport = self._transport
        if self.closed or transport is None:
            raise _ClosedUnanswered
        self._parser = httptools.HttpResponseParser(self)
        self._head_only = head_only
        self._body_limit = body_limit_bytes
        self._body: list[bytes] | None = []
        self._keep_alive = False
        self._seen = 0
        self._begin()
        answer = self._answer = self._client._loop.create_future()
        transport.write(request)
        try:
            response: SideResponse = await answer
            return response
        finally:
            self._answer = None
            self._parser = None  # it holds our bound methods: a cycle

    @property
    def reusable(self) -> bool:
        return self._keep_alive and not self.closed

    def abort(self) -> None:
        self.closed = True
        self._keep_alive = False
        if self._transport is not None:
            self._transport.abort()

    def _begin(self) -> None:
        """Ready for a head: the first, or what follows an informational one."""
        self._fields: list[Field] = []
        self._status = 0
        self._head_bytes = self._body_bytes = 0

    def _complete(self, keep_alive: bool) -> None:
        answer = self._answer
        if answer is None or answer.done():
            return
        self._keep_alive = keep_alive
        body = None if self._body is None else b"".join(self._body)
        answer.set_result(SideResponse(self._status, tuple(self._fields), body))

    def _fail(self, problem: Exception) -> None:
        self._keep_alive = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(problem)

    # ---- transport -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._transport = None
        self._client.connections.discard(self)
        if self._answer is None or self._answer.done():
            return
        if not self._seen:
            self._fail(_ClosedUnanswered())
        elif exc is None and self._status >= 200 and self._until_close:
            self._complete(keep_alive=False)
        else:
            self._fail(SideCallError("the connection was closed inside the answer"))

    @property
    def _until_close(self) -> bool:
        """The close is the end of such a body (RFC 9112 section 6.3)."""
        return not any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self._fields)

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        parser, answer = self._parser, self._answer
        if parser is None or answer is None or answer.done():
            self.abort()  # an answer that nobody asked for, or more than one
            return
        self._seen += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as problem:
            if not answer.done():
                self._fail(SideCallError(f"the answer is not HTTP: {problem.__context__ or problem}"))
            self.abort()
            return
        if not self._status:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT_BYTES:
                self._fail(SideCallError("the head of the answer is too large"))

    # ---- parser --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.done():
            self._keep_alive = False  # a second answer to one call

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status:
            return  # of a trailer
        self._fields.append((name, value))
        if len(self._fields) > 256:
            raise SideCallError("too many header fields")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                raise SideCallError(f"status {status}")
            self._fields = []
            return
        if self._answer is None or self._answer.done():
            return
        self._status = status
        if self._head_only:
            self._complete(self._parser.should_keep_alive() and self._parser.get_http_version() == "1.1")

    def on_body(self, chunk: bytes) -> None:
        self._body_bytes += len(chunk)
        if self._head_only:
            self._keep_alive = False
            return
        if self._body is not None and self._body_bytes <= self._body_limit:
            self._body.append(chunk)
            return
        self._body = None
        if self._body_bytes > self._body_limit + DRAIN_LIMIT_BYTES:
            self._complete(keep_alive=False)

    def on_message_complete(self) -> None:
        if self._status >= 200:
            assert self._parser is not None
            self._complete(self._parser.should_keep_alive())
