"""A data plane in process, between clients and upstreams that speak raw bytes.

    async with Proxy() as proxy:
        backend = await proxy.backend(answer(b"hello"))
        proxy.serve(backend)
        client = await proxy.client()
        response = await client.get("/")

Leaving the block asserts what has to hold after every test, whatever went wrong in it: no request counted as under way, no endpoint
in use, no connect pending, no connection open that isn't idle in a pool, nothing logged as an error.
"""

import asyncio
import dataclasses
import logging
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from ingress.accesslog import AccessLog, AccessRecord, JSONFormat, TextFormat
from ingress.balancing.base import EndpointState
from ingress.config import ProxySettings
from ingress.metrics import WorkerMetrics
from ingress.proxy import dataplane
from ingress.proxy.accept import ListenerKind
from ingress.proxy.dataplane import DataPlane
from ingress.proxy.upstream import Pool, UpstreamConnection
from ingress.routing.table import (
    ANY_HOST,
    Balancing,
    Endpoint,
    HostPattern,
    HostRoutes,
    PathType,
    Route,
    RoutingTable,
    TrafficPolicy,
    Upstream,
    UpstreamKey,
)

DEADLINE_S = 10.0  # of every wait: far above what anything takes, so that only a real hang meets it
Fields = list[tuple[bytes, bytes]]


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Poll until `condition()` is true; fail after DEADLINE_S."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"never came true: {what or condition}"
        await asyncio.sleep(0.002)


# ---- messages -----------------------------------------------------------------------------------------------------


class Truncated(Exception):
    """The connection ended inside a message; holds what had come."""

    def __init__(self, message: "Message | None", text: str) -> None:
        super().__init__(text)
        self.message = message


@dataclasses.dataclass
class Message:
    start: bytes  # request or status line
    fields: Fields
    head: bytes  # raw, with the empty line
    body: bytes = b""
    trailers: Fields = dataclasses.field(default_factory=list)
    chunked: bool = False

    def values(self, name: str) -> list[bytes]:
        wanted = name.lower().encode()
        return [value for field, value in self.fields if field.lower() == wanted]

    def value(self, name: str) -> bytes | None:
        """The only value of a field; None without one, and an assertion when there are several."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


@dataclasses.dataclass
class Request(Message):
    method: bytes = b""
    target: bytes = b""


@dataclasses.dataclass
class Response(Message):
    status: int = 0
    reason: bytes = b""
    informational: list["Response"] = dataclasses.field(default_factory=list)


async def _read_head(reader: asyncio.StreamReader) -> bytes | None:
    """None when the connection ended before the first byte."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise Truncated(None, f"inside a head: {error.partial!r}") from None
        return None


def _parse_head(head: bytes) -> tuple[bytes, Fields]:
    start, *lines = head[:-4].split(b"\r\n")
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        assert colon, f"a line without a colon: {line!r} in {head!r}"
        assert name.strip() == name != b"", f"a bad field name: {line!r}"
        fields.append((name, value.strip(b" \t")))
    return start, fields


async def _read_chunked(reader: asyncio.StreamReader, message: Message) -> None:
    message.chunked = True
    body = bytearray()
    try:
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line[:-2], 16)  # we never write extensions
            if size == 0:
                break
            body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            name, _, value = line[:-2].partition(b":")
            message.trailers.append((name, value.strip(b" \t")))
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        body += getattr(error, "partial", b"")
        message.body = bytes(body)
        raise Truncated(message, f"inside a chunked body after {len(body)} bytes") from None
    message.body = bytes(body)


async def _read_exactly(reader: asyncio.StreamReader, size: int, message: Message) -> None:
    body = bytearray()
    while len(body) < size:
        try:
            piece = await reader.read(min(size - len(body), 1 << 20))
        except ConnectionError:
            piece = b""
        if not piece:
            message.body = bytes(body)
            raise Truncated(message, f"{len(body)} of {size} bytes of a body")
        body += piece
    message.body = bytes(body)


async def read_request(reader: asyncio.StreamReader, body: bool = True) -> Request | None:
    """What the proxy sent, read strictly: it must be the kind of request that nobody can understand in two ways."""
    head = await _read_head(reader)
    if head is None:
        return None
    start, fields = _parse_head(head)
    parts = start.split(b" ")
    assert len(parts) == 3, start
    assert parts[2] == b"HTTP/1.1", start
    request = Request(start, fields, head, method=parts[0], target=parts[1])
    assert request.target.startswith(b"/"), start
    assert len(request.values("host")) == 1, head
    lengths, codings = request.values("content-length"), request.values("transfer-encoding")
    assert len(lengths) + len(codings) <= 1, head
    assert b"\0" not in head, head
    assert b"\n" not in head.replace(b"\r\n", b""), head
    if not body:
        return request
    if codings:
        assert codings == [b"chunked"], head
        await _read_chunked(reader, request)
    elif lengths:
        assert lengths[0].isdigit(), head
        await _read_exactly(reader, int(lengths[0]), request)
    return request


async def read_response(reader: asyncio.StreamReader, method: str = "GET", body: bool = True) -> Response:
    informational: list[Response] = []
    while True:
        try:
            head = await _read_head(reader)
        except ConnectionError as error:
            raise Truncated(None, f"before a head: {error}") from None
        if head is None:
            raise Truncated(None, "closed instead of a response")
        start, fields = _parse_head(head)
        version, status, reason = start.split(b" ", 2)
        assert version == b"HTTP/1.1", start
        response = Response(start, fields, head, status=int(status), reason=reason, informational=informational)
        if response.status >= 200 or response.status == 101:
            break
        informational.append(response)
    if method == "HEAD" or response.status in (101, 204, 304) or not body:
        return response
    length, coding = response.value("content-length"), response.value("transfer-encoding")
    assert length is None or coding is None, head
    if coding is not None:
        assert coding == b"chunked", head
        await _read_chunked(reader, response)
    elif length is not None:
        await _read_exactly(reader, int(length), response)
    else:
        pieces = bytearray()
        try:
            while piece := await reader.read(65536):
                pieces += piece
        except ConnectionError:
            response.body = bytes(pieces)
            raise Truncated(response, f"reset after {len(pieces)} bytes") from None
        response.body = bytes(pieces)
    return response


# ---- upstreams ----------------------------------------------------------------------------------------------------


class BackendConnection:
    """The upstream's end of a connection that the proxy made."""

    def __init__(self, backend: "Backend", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.backend = backend
        self.reader = reader
        self.writer = writer
        self.served = 0

    async def request(self, body: bool = True) -> Request | None:
        request = await read_request(self.reader, body)
        if request is not None:
            self.served += 1
            self.backend.requests.append(request)
        return request

    async def body_of(self, request: Request) -> Request:
        """The body of a request that was read without it."""
        length = request.value("content-length")
        if request.values("transfer-encoding"):
            await _read_chunked(self.reader, request)
        elif length is not None:
            await _read_exactly(self.reader, int(length), request)
        return request

    async def send(self, data: bytes) -> None:
        try:
            self.writer.write(data)
        except RuntimeError as error:  # uvloop's word for it
            raise ConnectionResetError from error
        await self.writer.drain()

    def reset(self) -> None:
        """RST instead of FIN."""
        reset(self.writer)

    async def closed(self) -> None:
        """Wait until the proxy has closed it."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while await self.reader.read(65536):
                    pass
        except ConnectionError:
            pass


Script = Callable[[BackendConnection], Awaitable[None]]


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


def response(status: int = 200, body: bytes = b"", fields: Fields | None = None, length: bool = True) -> bytes:
    lines = [b"HTTP/1.1 %d %b" % (status, b"Some Reason")]
    lines += [name + b": " + value for name, value in fields or []]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


def answer(body: bytes = b"ok", status: int = 200, fields: Fields | None = None) -> Script:
    """Answers every request of every connection the same."""
    return reply(lambda request: response(status, body, fields))


def reply(make: Callable[[Request], bytes]) -> Script:
    async def script(connection: BackendConnection) -> None:
        while (request := await connection.request()) is not None:
            await connection.send(make(request))

    return script


class Backend:
    """An upstream on a port of the loopback interface that runs a script for every connection."""

    def __init__(self, script: Script, name: str) -> None:
        self.script = script
        self.name = name
        self.requests: list[Request] = []
        self.connections = 0  # ever made
        self.open: set[BackendConnection] = set()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.faults: list[BaseException] = []

    async def start(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, host, port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = BackendConnection(self, reader, writer)
        self.connections += 1
        self.open.add(connection)
        try:
            await self.script(connection)
        except (ConnectionError, Truncated, asyncio.CancelledError):
            pass
        except BaseException as fault:
            self.faults.append(fault)
        finally:
            self.open.discard(connection)
            self._tasks.discard(task)
            writer.close()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)

    async def refuse(self) -> None:
        """Stop listening, keep what is open."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def stop(self) -> None:
        await self.refuse()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=DEADLINE_S)


# ---- clients ------------------------------------------------------------------------------------------------------


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def port(self) -> int:
        port: int = self.writer.get_extra_info("sockname")[1]
        return port

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            await self.writer.drain()

    async def trickle(self, data: bytes, step: int = 1) -> None:
        """In segments of `step` bytes, each of which the proxy's loop gets to see."""
        for at in range(0, len(data), step):
            self.writer.write(data[at : at + step])
            await asyncio.sleep(0)

    async def response(self, method: str = "GET", body: bool = True) -> Response:
        async with asyncio.timeout(DEADLINE_S):
            return await read_response(self.reader, method, body)

    async def request(self, data: bytes, method: str = "GET") -> Response:
        await self.send(data)
        return await self.response(method)

    async def get(self, target: str = "/", host: str = "a", *fields: str, method: str = "GET") -> Response:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "", ""]
        return await self.request("\r\n".join(lines).encode("latin-1"), method)

    async def post(
        self, body: bytes, target: str = "/", host: str = "a", *fields: str, method: str = "POST"
    ) -> Response:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", *fields, "", ""]
        return await self.request("\r\n".join(lines).encode("latin-1") + body, method)

    async def rest(self) -> bytes:
        """Everything up to the end of the connection; a reset counts as the end."""
        data = bytearray()
        try:
            async with asyncio.timeout(DEADLINE_S):
                while piece := await self.reader.read(65536):
                    data += piece
        except ConnectionError:
            pass
        return bytes(data)

    async def closed(self) -> bool:
        """Wait for the end; True when nothing came before it."""
        return await self.rest() == b""

    def reset(self) -> None:
        reset(self.writer)

    def close(self) -> None:
        self.writer.close()


STREAMED = TrafficPolicy(request_buffering=False)
"""The default of these tables: most tests are about what happens while a body is on its way."""


def table(
    endpoints: Sequence[Backend | Endpoint],
    *,
    policy: TrafficPolicy | None = None,
    balancing: Balancing | None = None,
    id: str = "t1",
) -> RoutingTable:
    """Any host, any path: to these endpoints."""
    return routes({"/": endpoints}, policy=policy, balancing=balancing, id=id)


def routes(
    paths: Mapping[str, Sequence[Backend | Endpoint] | int],
    *,
    host: str = "",
    policy: TrafficPolicy | None = None,
    balancing: Balancing | None = None,
    id: str = "t1",
) -> RoutingTable:
    """Paths of one host, by prefix (or exactly, with `=` before the path); a number closes the route with that status."""
    upstreams: dict[UpstreamKey, Upstream] = {}
    made: list[Route] = []
    for number, (text, target) in enumerate(paths.items()):
        key: UpstreamKey | None = None
        status = 503
        service = f"service-{number}"
        if isinstance(target, int):
            status = target
        else:
            key = UpstreamKey(f"default/{service}:80")
            found = sorted({e.endpoint if isinstance(e, Backend) else e for e in target})
            upstreams[key] = Upstream(key, "default", service, "80", tuple(found), balancing or Balancing())
        made.append(
            Route(
                HostPattern(host),
                text.removeprefix("="),
                PathType.EXACT if text.startswith("=") else PathType.PREFIX,
                "default",
                "ingress",
                service,
                "80",
                key,
                policy or STREAMED,
                status,
            )
        )
    pattern = HostPattern(host) if host else ANY_HOST
    return RoutingTable(id, {pattern: HostRoutes(pattern, tuple(made))}, upstreams)


# ---- the proxy between them ---------------------------------------------------------------------------------------


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


class Clock:
    """A clock that tests move: for what would take seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Proxy:
    """A `DataPlane` on port 0, with the upstreams and clients of one test."""

    def __init__(
        self,
        settings: ProxySettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sweep_s: float = 0.02,
        send_buffer: int = 0,
        **changes: Any,
    ) -> None:
        self.settings = dataclasses.replace(settings or ProxySettings(), **changes)
        self.metrics = WorkerMetrics()
        self.backends: list[Backend] = []
        self.clients: list[Client] = []
        self.expected_errors = 0
        self._clock = clock
        self._sweep_s = sweep_s
        self._send_buffer = send_buffer

    async def __aenter__(self) -> Self:
        self._errors = _Errors()
        logging.getLogger().addHandler(self._errors)
        loop = self.loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _, context: self._errors.messages.append(f"{context['message']}: {context.get('exception')!r}")
        )
        self._usual_sweep_s, dataplane._SWEEP_S = dataplane._SWEEP_S, self._sweep_s
        self.log = RecordedLog()
        self.plane = DataPlane(self.settings, self.metrics, self.log, loop, rng=random.Random(7), clock=self._clock)
        with socket.socket() as listening:
            if self._send_buffer:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)  # accepted ones inherit it
            listening.bind(("127.0.0.1", 0))
            await self.plane.listen([listening])
        self.port = self.plane.addresses[0][1]
        with socket.socket() as listening:
            if self._send_buffer:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
            listening.bind(("127.0.0.1", 0))
            await self.plane.listen([listening], ListenerKind.HTTPS)
        self.tls_port = self.plane.addresses[1][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            for client in self.clients:
                client.close()
            if error is None:
                await self.settled()
                assert not self._errors.messages, self._errors.messages
                for backend in self.backends:
                    assert not backend.faults, backend.faults
                for form in (TextFormat(), JSONFormat()):
                    assert len(form(self.log.records)) == len(self.log.records)
        finally:
            dataplane._SWEEP_S = self._usual_sweep_s
            await self.plane.close()
            for backend in self.backends:
                await backend.stop()
            logging.getLogger().removeHandler(self._errors)
            self.loop.set_exception_handler(None)
        if error is None:
            await until(lambda: not self.plane._upstream.connections, "upstream connections closed")
            await until(lambda: not self.health_checks(), "health checks ended")
            assert not self._errors.messages, self._errors.messages

    async def settled(self) -> None:
        """Nothing is under way any more, and nothing was leaked."""
        await until(lambda: self.plane.forwarder.in_flight == 0, "no request in flight")
        await until(lambda: self.plane.connections == 0, "no client connected")
        await until(lambda: not self.plane.openings and not self.plane.relays, "no connection being opened or relayed")
        await until(lambda: self.metrics.tls_connections_open == 0, "no TLS connection counted")
        assert not self.plane.client_connections
        assert self.metrics.connections_open == 0
        assert self.metrics.tunnels_open == 0
        assert all(state.inflight == 0 for state in self.states), list(self.states)
        await until(lambda: not self.connects(), "no connect pending")
        await until(lambda: self.upstream_connections <= self.idle_connections, "upstream connections idle or closed")
        assert all(c.exchange is None and not c.closed for c in self.idle_connections)

    @staticmethod
    def connects() -> list[asyncio.Task[Any]]:
        return [t for t in asyncio.all_tasks() if "Forwarder" in getattr(t.get_coro(), "__qualname__", "")]

    @staticmethod
    def health_checks() -> list[asyncio.Task[Any]]:
        return [t for t in asyncio.all_tasks() if "HealthChecker" in getattr(t.get_coro(), "__qualname__", "")]

    @property
    def states(self) -> Iterable[EndpointState]:
        for upstream in self.plane.runtime.upstreams.values():
            yield from upstream.states

    def state_of(self, backend: Backend) -> EndpointState:
        (state,) = {id(s): s for s in self.states if s.endpoint == backend.endpoint}.values()
        return state

    @property
    def upstream_connections(self) -> set[UpstreamConnection]:
        return set(self.plane._upstream.connections)

    @property
    def idle_connections(self) -> set[UpstreamConnection]:
        pools: list[Pool] = [state.pool for state in self.states]
        return {connection for pool in pools for connection in pool.idle}

    def failures(self) -> dict[str, int]:
        """Of all upstreams, by reason."""
        found: dict[str, int] = {}
        for upstream in self.plane.runtime.upstreams.values():
            for reason, count in upstream.stats.failures.items():
                found[reason] = found.get(reason, 0) + count
        return found

    def retries(self) -> int:
        return sum(upstream.stats.retries for upstream in self.plane.runtime.upstreams.values())

    async def backend(self, script: Script | None = None, name: str = "", tls: ssl.SSLContext | None = None) -> Backend:
        name = name or f"b{len(self.backends)}"
        backend = Backend(script or answer(name.encode()), name)
        await backend.start(tls=tls)
        self.backends.append(backend)
        return backend

    def serve(
        self,
        *endpoints: Backend | Endpoint,
        policy: TrafficPolicy | None = None,
        balancing: Balancing | None = None,
        id: str = "t1",
    ) -> RoutingTable:
        made = table(endpoints, policy=policy, balancing=balancing, id=id)
        self.plane.swap(made)
        return made

    async def client(
        self,
        *,
        receive_buffer: int = 0,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> Client:
        """With `tls`, over the HTTPS listener."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.bind((host, 0))
        await self.loop.sock_connect(sock, ("127.0.0.1", self.tls_port if tls is not None else self.port))
        reader, writer = await asyncio.open_connection(sock=sock)
        if tls is not None:
            await writer.start_tls(tls, server_hostname=server_name)
        client = Client(reader, writer)
        self.clients.append(client)
        return client


class RecordedLog(AccessLog):
    """Keeps what would be logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[AccessRecord] = []

    def write(self, record: AccessRecord) -> None:
        self.records.append(record)


@asynccontextmanager
async def one_backend(script: Script | None = None, **changes: Any) -> AsyncIterator[tuple[Proxy, Backend]]:
    """The usual arrangement: everything goes to one upstream. `policy` and `balancing` are the route's, the rest `ProxySettings`."""
    policy, balancing = changes.pop("policy", None), changes.pop("balancing", None)
    async with Proxy(**changes) as proxy:
        backend = await proxy.backend(script)
        proxy.serve(backend, policy=policy, balancing=balancing)
        yield proxy, backend


def free_port() -> int:
    """A port on which nobody listens: connecting to it is refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
