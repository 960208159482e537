"""TCP services: ports that open and close with the table, and connections that are relayed as they are."""

import asyncio
import dataclasses
import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from ingress.config import LogSettings, ProxySettings, StreamSettings
from ingress.proxy import stream_ports
from ingress.routing.table import (
    AffinityMode,
    Balancing,
    Endpoint,
    RoutingTable,
    TCPService,
    Upstream,
    UpstreamKey,
)
from tests.proxy.support import DEADLINE_S, Backend, BackendConnection, Client, Clock, Proxy, Script, free_port, until

KEY = UpstreamKey("db/pg:5432")


async def echo(connection: BackendConnection) -> None:
    while data := await connection.reader.read(65536):
        await connection.send(data)


def greet(text: bytes) -> Script:
    """Speaks first, like most databases, and then echoes."""

    async def script(connection: BackendConnection) -> None:
        await connection.send(text)
        await echo(connection)

    return script


async def gather(connection: BackendConnection) -> None:
    """Reads until the client has finished, and answers then: needs a half-closed connection."""
    digest = hashlib.sha256()
    while data := await connection.reader.read(65536):
        digest.update(data)
    await connection.send(digest.hexdigest().encode())


def table_of(
    ports: dict[int, TCPService] | int,
    *endpoints: Backend | Endpoint,
    id: str = "t1",
    balancing: Balancing | None = None,
    settings: ProxySettings | None = None,
) -> RoutingTable:
    """`ports`: one that leads to the endpoints, or all."""
    services = {ports: TCPService(ports, KEY)} if isinstance(ports, int) else ports
    found = tuple(sorted(e.endpoint if isinstance(e, Backend) else e for e in endpoints))
    upstream = Upstream(KEY, "db", "pg", "5432", found, balancing or Balancing())
    return RoutingTable(id, upstreams={KEY: upstream}, tcp_services=services, settings=settings)


async def connect(proxy: Proxy, port: int, *, receive_buffer: int = 0) -> Client:
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await proxy.loop.sock_connect(sock, ("127.0.0.1", port))
    client = Client(*await asyncio.open_connection(sock=sock))
    proxy.clients.append(client)
    return client


async def read(client: Client, size: int) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        return await client.reader.readexactly(size)


async def refused(port: int) -> bool:
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except ConnectionRefusedError:
        return True
    finally:
        sock.close()
    return False


@asynccontextmanager
async def service(script: Script = echo, **changes: object) -> AsyncIterator[tuple[Proxy, Backend, int]]:
    async with Proxy(**changes) as proxy:  # type: ignore[arg-type]
        backend = await proxy.backend(script)
        port = free_port()
        proxy.plane.swap(table_of(port, backend))
        yield proxy, backend, port


async def test_bytes_go_both_ways() -> None:
    async with service() as (proxy, backend, port):
        client = await connect(proxy, port)
        for data in (b"hello", b"\0\xff" * 50_000, b"GET / HTTP/1.1\r\n\r\n"):
            await client.send(data)
            assert await read(client, len(data)) == data
        assert proxy.plane.connections == 1
        assert proxy.metrics.snapshot().streams["db", "pg", str(port)].open == 1
        client.close()
        await until(lambda: not proxy.plane.streams.connections, "ended")
        stats = proxy.metrics.snapshot().streams["db", "pg", str(port)]
        sent = 5 + 100_000 + 18
        assert (stats.opened, stats.open, stats.refused) == (1, 0, 0)
        assert (stats.received_bytes, stats.sent_bytes) == (sent, sent)
        (record,) = proxy.log.records
        assert (record.remote_addr, record.status, record.version) == ("127.0.0.1", 200, b"TCP")
        assert (record.request_length, record.body_bytes_sent) == (sent, sent)
        assert (record.namespace, record.service, record.port) == ("db", "pg", "5432")
        assert record.upstream_addr == f"127.0.0.1:{backend.port}"


async def test_who_speaks_first() -> None:
    async with service(greet(b"220 ready\r\n")) as (proxy, _, port):
        client = await connect(proxy, port)
        assert await read(client, 11) == b"220 ready\r\n"
        await client.send(b"EHLO")
        assert await read(client, 4) == b"EHLO"


async def test_much_from_who_speaks_first() -> None:
    text = b"x" * 5_000_000
    async with service(greet(text)) as (proxy, _, port):
        client = await connect(proxy, port, receive_buffer=4096)
        assert await read(client, len(text)) == text


async def test_client_finishes_first() -> None:
    async with service(gather) as (proxy, _, port):
        client = await connect(proxy, port)
        data = b"abc" * 700_000
        await client.send(data)
        client.writer.write_eof()
        assert await client.rest() == hashlib.sha256(data).hexdigest().encode()


async def test_client_finishes_before_the_endpoint_is_connected() -> None:
    async with service(gather) as (proxy, _, port):
        client = await connect(proxy, port)
        client.writer.write(b"abc")
        client.writer.write_eof()
        assert await client.rest() == hashlib.sha256(b"abc").hexdigest().encode()


async def test_endpoint_finishes_first() -> None:
    received = bytearray()

    async def script(connection: BackendConnection) -> None:
        await connection.send(b"all I have")
        connection.writer.write_eof()
        while data := await connection.reader.read(65536):
            received.extend(data)

    async with service(script) as (proxy, _, port):
        client = await connect(proxy, port)
        assert await client.rest() == b"all I have"
        await client.send(b"still " * 100_000)
        client.close()
        await until(lambda: len(received) == 600_000, "received")


async def test_back_pressure_towards_the_endpoint() -> None:
    gate = asyncio.Event()

    async def script(connection: BackendConnection) -> None:
        await gate.wait()
        await gather(connection)

    async with service(script) as (proxy, _, port):
        client = await connect(proxy, port)
        data = b"0123456789abcdef" * 4096
        written = 0
        try:
            async with asyncio.timeout(0.3):
                while True:
                    client.writer.write(data)
                    written += len(data)
                    await client.writer.drain()
        except TimeoutError:
            pass
        assert written < 50_000_000  # buffers of the system, and little of ours
        (stream,) = proxy.plane.streams.connections
        assert stream._peer is not None
        assert stream._peer.unsent() < 1_000_000
        gate.set()
        await client.writer.drain()
        client.writer.write_eof()
        assert await client.rest() == hashlib.sha256(data * (written // len(data))).hexdigest().encode()


async def test_back_pressure_towards_the_client() -> None:
    sent = 0

    async def script(connection: BackendConnection) -> None:
        nonlocal sent
        while True:
            await connection.send(b"x" * 65536)
            sent += 65536

    async with service(script) as (proxy, _, port):
        client = await connect(proxy, port, receive_buffer=4096)
        await until(lambda: sent > 100_000, "flowing")
        last = -1
        while last != sent:
            last = sent
            await asyncio.sleep(0.05)
        assert sent < 50_000_000
        (stream,) = proxy.plane.streams.connections
        assert stream.transport is not None
        assert stream.transport.get_write_buffer_size() < 1_000_000
        assert len(await read(client, 1_000_000)) == 1_000_000
        client.close()
        await until(lambda: not proxy.plane.streams.connections, "ended")


@pytest.mark.parametrize("who", ["client", "endpoint"])
async def test_resets_are_passed_on(who: str) -> None:
    ended: list[BaseException | None] = []

    async def script(connection: BackendConnection) -> None:
        await connection.send(b"hi")
        try:
            if who == "endpoint":
                await connection.reader.readexactly(2)
                connection.reset()
            else:
                await connection.reader.read(65536)
                await connection.reader.read(65536)
        except ConnectionError as error:
            ended.append(error)
            raise
        ended.append(None)

    async with service(script) as (proxy, _, port):
        client = await connect(proxy, port)
        await read(client, 2)
        await client.send(b"yo")
        if who == "client":
            client.reset()
        else:
            assert await client.closed()
        await until(lambda: ended and not proxy.plane.streams.connections, "ended")


async def test_another_endpoint_where_one_refuses() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend(greet(b"hello"))
        port = free_port()
        gone = Endpoint("127.0.0.1", free_port())
        proxy.plane.swap(table_of(port, backend, gone))
        for _ in range(6):
            client = await connect(proxy, port)
            assert await read(client, 5) == b"hello"
            client.close()
        assert proxy.failures()["connect_failed"] == proxy.retries() >= 3
        assert backend.connections == 6


@pytest.mark.parametrize(
    ("next_upstream", "tries", "attempts"), [(True, 3, 3), (True, 0, 4), (False, 3, 1), (True, 1, 1)]
)
async def test_how_many_are_tried(next_upstream: bool, tries: int, attempts: int) -> None:
    stream = StreamSettings(next_upstream=next_upstream, next_upstream_tries=tries)
    async with Proxy(stream=stream) as proxy:
        port = free_port()
        proxy.plane.swap(table_of(port, *(Endpoint("127.0.0.1", free_port()) for _ in range(4))))
        client = await connect(proxy, port)
        assert await client.closed()
        assert proxy.failures() == {"connect_failed": attempts}
        await until(lambda: proxy.log.records, "logged")
        (record,) = proxy.log.records
        assert record.status == 502
        assert record.upstream_status == ", ".join(["502"] * attempts)
        assert proxy.metrics.snapshot().streams["db", "pg", str(port)].refused == 1


async def test_how_long_is_tried() -> None:
    clock = Clock()

    def later(endpoint: object) -> None:
        clock.now += 3

    async with Proxy(clock=clock, stream=StreamSettings(next_upstream_timeout_s=5, next_upstream_tries=0)) as proxy:
        port = free_port()
        proxy.plane.swap(table_of(port, *(Endpoint("127.0.0.1", free_port()) for _ in range(4))))
        runtime = proxy.plane.runtime
        failed = runtime.record_failure
        runtime.record_failure = lambda *args: (later(args), failed(*args))[1]  # type: ignore[method-assign]
        assert await (await connect(proxy, port)).closed()
        assert proxy.failures() == {"connect_failed": 3}  # after 0, 3 and 6 s; the fourth is not asked


@pytest.mark.parametrize("logged", [True, False])
async def test_what_is_logged(logged: bool) -> None:
    """A template for requests is no hindrance: what a connection doesn't have is `-`."""
    settings = ProxySettings(
        stream=StreamSettings(access_log=logged), log=LogSettings(format="$remote_addr $http_x $status $bytes_sent")
    )
    async with service(settings=settings) as (proxy, _, port):
        client = await connect(proxy, port)
        await client.send(b"x")
        await read(client, 1)
        client.close()
        await until(lambda: not proxy.plane.streams.connections, "ended")
        assert len(proxy.log.records) == logged
        if logged:
            template = proxy.plane.common.log.template
            assert template is not None
            assert template(proxy.log.records)[0].startswith(b"127.0.0.1 - 200 ")


async def test_no_endpoint() -> None:
    async with Proxy() as proxy:
        port = free_port()
        proxy.plane.swap(table_of(port))
        assert await (await connect(proxy, port)).closed()
        await until(lambda: proxy.log.records, "logged")
        assert proxy.log.records[0].status == 503


async def test_client_that_leaves_while_connecting() -> None:
    """Its connect is given up, and the endpoint not counted as in use any more."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        async with Proxy() as proxy:
            for _ in range(8):  # its queue: the next handshake stays unanswered
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
                fillers.append(filler)
            port = free_port()
            proxy.plane.swap(table_of(port, Endpoint(*full.getsockname())))
            client = await connect(proxy, port)
            await until(lambda: proxy.plane.streams.connections, "accepted")
            client.reset()
            await until(lambda: not proxy.plane.streams.connections, "forgotten")
            assert proxy.log.records[0].status == 499
        for filler in fillers:
            filler.close()


async def test_connect_timeout() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        async with Proxy(stream=StreamSettings(connect_timeout_s=0.1)) as proxy:
            for _ in range(8):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
                fillers.append(filler)
            port = free_port()
            proxy.plane.swap(table_of(port, Endpoint(*full.getsockname())))
            assert await (await connect(proxy, port)).closed()
            assert proxy.failures() == {"connect_timeout": 1}
        for filler in fillers:
            filler.close()


async def test_silence() -> None:
    clock = Clock()
    async with service(clock=clock, stream=StreamSettings(idle_timeout_s=600)) as (proxy, _, port):
        idle, busy = await connect(proxy, port), await connect(proxy, port)
        for client in (idle, busy):
            await client.send(b"x")
            await read(client, 1)
        await swept(proxy)
        clock.now += 590
        await busy.send(b"y")
        await read(busy, 1)
        await swept(proxy)
        clock.now += 20
        assert await idle.closed()
        await busy.send(b"z")
        assert await read(busy, 1) == b"z"


async def swept(proxy: Proxy) -> None:
    await until(lambda: not any(stream._touched for stream in proxy.plane.streams.connections), "swept")


async def test_affinity_by_client() -> None:
    async with Proxy() as proxy:
        backends = [await proxy.backend(greet(name)) for name in (b"0", b"1", b"2")]
        port = free_port()
        proxy.plane.swap(table_of(port, *backends, balancing=Balancing(affinity=AffinityMode.CLIENT_IP)))
        answers = set()
        for _ in range(6):
            client = await connect(proxy, port)
            answers.add(await read(client, 1))
            client.close()
        assert len(answers) == 1


# ---- ports --------------------------------------------------------------------------------------------------------


async def test_ports_follow_the_table() -> None:
    async with service(greet(b"a")) as (proxy, backend, port):
        stays = await connect(proxy, port)
        assert await read(stays, 1) == b"a"
        other, third = free_port(), free_port()
        service_of = {port: TCPService(port, KEY), other: TCPService(other, KEY), third: TCPService(third, KEY)}
        proxy.plane.swap(table_of(service_of, backend, id="t2"))
        assert proxy.plane.ports.ports == {port, other, third}
        assert await read(await connect(proxy, other), 1) == b"a"
        proxy.plane.swap(table_of({p: s for p, s in service_of.items() if p != port}, backend, id="t3"))
        assert proxy.plane.ports.ports == {other, third}
        await until_refused(port)
        await stays.send(b"still there")
        assert await read(stays, 11) == b"still there"
        assert await read(await connect(proxy, other), 1) == b"a"


async def until_refused(port: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await refused(port):  # noqa: ASYNC110 - it is the kernel that is asked
            await asyncio.sleep(0.005)


async def test_another_service_on_an_open_port() -> None:
    """The port isn't closed for it: nobody is refused in between."""
    async with service(greet(b"a")) as (proxy, _, port):
        assert await read(await connect(proxy, port), 1) == b"a"
        before = proxy.plane.ports._open[port]
        new = await proxy.backend(greet(b"b"))
        key = UpstreamKey("db/other:1")
        upstream = Upstream(key, "db", "other", "1", (new.endpoint,))
        proxy.plane.swap(RoutingTable("t2", upstreams={key: upstream}, tcp_services={port: TCPService(port, key)}))
        assert await read(await connect(proxy, port), 1) == b"b"
        assert proxy.plane.ports._open[port] is before


async def test_a_port_that_somebody_else_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_ports, "_RETRY_S", 0.02)
    reports: list[dict[int, str]] = []
    async with Proxy() as proxy:
        proxy.plane.ports.report = lambda failures: reports.append(dict(failures))
        backend = await proxy.backend(greet(b"a"))
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port, free = taken.getsockname()[1], free_port()
            proxy.plane.swap(table_of({p: TCPService(p, KEY) for p in (port, free)}, backend))
            assert reports == [{port: "Address already in use"}]
            assert await read(await connect(proxy, free), 1) == b"a"  # the others don't suffer
            await asyncio.sleep(0.1)
            assert len(reports) == 1  # once, however often it is tried
        await until(lambda: port in proxy.plane.ports.ports, "tried again")
        assert reports == [{port: "Address already in use"}, {}]
        assert await read(await connect(proxy, port), 1) == b"a"


async def test_a_port_that_needs_a_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(addresses: object, port: int) -> list[socket.socket]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(stream_ports, "_bind", forbidden)
    reports: list[dict[int, str]] = []
    async with Proxy() as proxy:
        proxy.plane.ports.report = lambda failures: reports.append(dict(failures))
        proxy.plane.swap(table_of(80, Endpoint("127.0.0.1", 1)))
        assert "Permission denied" in reports[0][80]
        assert "NET_BIND_SERVICE" in reports[0][80]


@pytest.mark.parametrize(
    ("addresses", "widest"),
    [
        (("127.0.0.1", "127.0.0.1"), ("127.0.0.1",)),
        (("0.0.0.0", "127.0.0.1", "::1"), ("0.0.0.0", "::1")),
        (("::", "0.0.0.0", "::1"), ("0.0.0.0", "::")),
    ],
)
def test_where_ports_are_opened(addresses: tuple[str, ...], widest: tuple[str, ...]) -> None:
    assert stream_ports._widest(addresses) == widest


# ---- PROXY headers ------------------------------------------------------------------------------------------------


async def told(accept: bool, send: bool, first: bytes, expected: Callable[[int, int], bytes]) -> None:
    """What the endpoint reads first, and which client is logged."""
    async with Proxy() as proxy:
        backend = await proxy.backend(echo)
        port = free_port()
        proxy.plane.swap(table_of({port: TCPService(port, KEY, accept, send)}, backend))
        client = await connect(proxy, port)
        await client.trickle(first + b"hello")
        want = expected(client.port, port) + b"hello"
        assert await read(client, len(want)) == want
        client.close()
        await until(lambda: proxy.log.records, "logged")
        assert proxy.log.records[0].remote_addr == ("192.168.0.1" if accept else "127.0.0.1")


HEADER = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 8080\r\n"


async def test_proxy_protocol_in() -> None:
    """ingress-nginx: "should enable PROXY Protocol for TCP"."""
    await told(True, False, HEADER, lambda *_: b"")


async def test_proxy_protocol_out() -> None:
    await told(False, True, b"", lambda client, port: f"PROXY TCP4 127.0.0.1 127.0.0.1 {client} {port}\r\n".encode())


async def test_proxy_protocol_in_and_out() -> None:
    """The endpoint is told what the balancer said. nginx would name the balancer, unless enable-real-ip is set."""
    await told(True, True, HEADER, lambda *_: HEADER)


async def test_proxy_protocol_of_somebody_who_may_not() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend(echo)
        port = free_port()
        client_settings = dataclasses.replace(proxy.settings.client, trusted_networks=("10.0.0.0/8",))
        settings = dataclasses.replace(proxy.settings, client=client_settings)
        proxy.plane.swap(table_of({port: TCPService(port, KEY, True, True)}, backend, settings=settings))
        client = await connect(proxy, port)
        await client.send(HEADER + b"hello")
        expected = f"PROXY TCP4 127.0.0.1 127.0.0.1 {client.port} {port}\r\nhello".encode()
        assert await read(client, len(expected)) == expected


async def test_proxy_protocol_missing() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend(echo)
        port = free_port()
        proxy.plane.swap(table_of({port: TCPService(port, KEY, True)}, backend))
        client = await connect(proxy, port)
        await client.send(b"hello, it's me\r\n")
        assert await client.closed()
        assert not backend.connections


# ---- the end ------------------------------------------------------------------------------------------------------


async def test_drain_waits_for_streams() -> None:
    async with service() as (proxy, _, port):
        client = await connect(proxy, port)
        await client.send(b"x")
        await read(client, 1)
        await proxy.plane.stop_accepting(last=True)
        assert await refused(port)
        draining = asyncio.ensure_future(proxy.plane.drain(DEADLINE_S))
        await client.send(b"still working")
        assert await read(client, 13) == b"still working"
        assert not draining.done()
        client.close()
        assert await draining


async def test_drain_out_of_time() -> None:
    async with service() as (proxy, _, port):
        client = await connect(proxy, port)
        await client.send(b"x")
        await read(client, 1)
        await proxy.plane.stop_accepting(last=True)
        assert not await proxy.plane.drain(0.05)
        await proxy.plane.close()
        assert await client.closed()


async def test_what_the_kernel_had_queued_is_relayed() -> None:
    async with service(greet(b"a")) as (proxy, _, port):
        await until(lambda: proxy.plane.ports._open[port].servers, "open")
        socks = []
        for _ in range(10):
            sock = socket.socket()
            sock.setblocking(False)
            socks.append(sock)
            try:
                sock.connect(("127.0.0.1", port))
            except BlockingIOError:
                pass
        await proxy.plane.stop_accepting(last=True)
        for sock in socks:
            client = Client(*await asyncio.open_connection(sock=sock))
            proxy.clients.append(client)
            assert await read(client, 1) == b"a"
            client.close()
        assert await proxy.plane.drain(DEADLINE_S)


async def test_endpoint_that_leaves_keeps_its_connections() -> None:
    async with service() as (proxy, _, port):
        client = await connect(proxy, port)
        await client.send(b"x")
        await read(client, 1)
        proxy.plane.swap(table_of(port, await proxy.backend(greet(b"new")), id="t2"))
        await client.send(b"y")
        assert await read(client, 1) == b"y"
        assert await read(await connect(proxy, port), 3) == b"new"
