"""Upgraded connections: WebSocket and any other protocol that begins as an HTTP/1.1 request."""

import asyncio
import time

import aiohttp
import pytest
from aiohttp import web

from ingress.routing.table import AffinityMode, Balancing, CookieAffinity, Endpoint, TrafficPolicy
from tests.proxy.support import BackendConnection, Client, Proxy, answer, one_backend, response, routes, until

ASK = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %b\r\nSec-WebSocket-Key: x\r\n\r\n"
CUSTOM = ASK % b"custom/1"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: custom/1\r\nX-Extra: y\r\n\r\n"
GET = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


async def echo(connection: BackendConnection) -> None:
    """Switches, greets, and sends everything back until the other side ends."""
    request = await connection.request()
    assert request is not None
    if not request.values("Upgrade"):
        await connection.send(response(body=b"plain"))
        return
    await connection.send(SWITCH + b"hello")
    while data := await connection.reader.read(65536):
        await connection.send(data)
    await connection.send(b"bye")


async def opened(proxy: Proxy, data: bytes = CUSTOM) -> Client:
    client = await proxy.client()
    await client.send(data)
    got = await client.response()
    assert got.status == 101, got
    return client


async def test_websocket_messages() -> None:
    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("chat",))
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data[::-1])
            else:
                await socket.send_bytes(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/ws", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with Proxy() as proxy:
            proxy.serve(Endpoint("127.0.0.1", runner.addresses[0][1]))
            url = f"http://127.0.0.1:{proxy.port}/ws"
            async with aiohttp.ClientSession() as session, session.ws_connect(url, protocols=("chat",)) as socket:
                assert socket.protocol == "chat"
                for text in ("hello", "x" * 100_000, ""):
                    await socket.send_str(text)
                    assert (await socket.receive_str()) == text[::-1]
                await socket.send_bytes(b"y" * 1_000_000)
                assert await socket.receive_bytes() == b"y" * 1_000_000
                await socket.ping()
                await socket.close()
                assert socket.close_code == 1000
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("protocol", [b"websocket", b"custom/1", b"h2c", b"TLS/1.0, custom"])
async def test_what_both_sides_see_of_the_handshake(protocol: bytes) -> None:
    async with one_backend(echo) as (proxy, backend):
        client = await proxy.client()
        await client.send(ASK % protocol)
        got = await client.response()
        assert got.status == 101
        assert got.value("Upgrade") == b"custom/1"
        assert (got.value("Connection") or b"").lower() == b"upgrade"
        assert got.value("X-Extra") == b"y"
        assert got.value("Content-Length") is None
        request = backend.requests[0]
        assert request.value("Upgrade") == protocol
        assert (request.value("Connection") or b"").lower() == b"upgrade"
        assert request.value("Sec-WebSocket-Key") == b"x"
        assert proxy.metrics.tunnels_open == 1
        assert proxy.plane.forwarder.in_flight == 1
        assert proxy.state_of(backend).inflight == 1
        client.close()
        await until(lambda: not backend.open)
        await until(lambda: proxy.log.records)
        assert proxy.log.records[0].status == 101


async def test_a_session_begins_with_the_handshake() -> None:
    """The client of a WebSocket may never ask for anything else."""
    sticky = Balancing(affinity=AffinityMode.COOKIE, cookie=CookieAffinity("sid"))
    async with Proxy() as proxy:
        proxy.serve(*[(await proxy.backend(echo)).endpoint for _ in range(2)], balancing=sticky)
        client = await proxy.client()
        await client.send(CUSTOM)
        got = await client.response()
        assert got.status == 101
        cookie = got.value("Set-Cookie")
        assert cookie is not None
        assert cookie.startswith(b"sid=")
        again = await proxy.client()
        await again.send(CUSTOM[:-2] + b"Cookie: " + cookie.partition(b";")[0] + b"\r\n\r\n")
        got = await again.response()
        assert (got.status, got.value("Set-Cookie")) == (101, None)


async def test_early_data_both_ways() -> None:
    async with one_backend(echo) as (proxy, _):
        client = await opened(proxy, CUSTOM + b"early")
        await client.send(b" and late")
        assert await client.reader.readexactly(19) == b"helloearly and late"


async def test_early_data_that_looks_like_a_request() -> None:
    async with one_backend(echo) as (proxy, backend):
        client = await opened(proxy, CUSTOM + GET)
        assert await client.reader.readexactly(5 + len(GET)) == b"hello" + GET
        assert len(backend.requests) == 1


@pytest.mark.parametrize("step", [1, 7])
async def test_the_handshake_in_pieces(step: int) -> None:
    async with one_backend(echo) as (proxy, _):
        client = await proxy.client()
        await client.trickle(GET[:0] + CUSTOM + b"early", step)
        assert (await client.response()).status == 101
        assert await client.reader.readexactly(10) == b"helloearly"


@pytest.mark.parametrize("status", [426, 200, 404])
async def test_a_refused_upgrade(status: int) -> None:
    """The connection goes on with HTTP; what was sent behind the request is the next request."""

    async def refuses(connection: BackendConnection) -> None:
        while (request := await connection.request()) is not None:
            await connection.send(response(status if request.values("Upgrade") else 200, request.target))

    async with one_backend(refuses) as (proxy, backend):
        client = await proxy.client()
        for _ in range(2):
            await client.send(CUSTOM + GET + CUSTOM + GET)
            for expected in (status, 200, status, 200):
                assert (await client.response()).status == expected
        assert [request.target for request in backend.requests] == [b"/ws", b"/next"] * 4
        assert backend.connections == 1
        assert proxy.metrics.tunnels_open == 0


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: custom/1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nUpgrade: custom/1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade, keep-alive\r\nUpgrade: custom/1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade:\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: upgrade\r\nUpgrade: custom/1\r\n\r\n",
    ],
)
async def test_what_is_no_wish_to_upgrade(data: bytes) -> None:
    async with one_backend(echo) as (proxy, backend):
        client = await proxy.client()
        await client.send(data + GET)
        assert (await client.response()).body == b"plain"
        assert (await client.response()).body == b"plain"
        assert [request.values("Upgrade") for request in backend.requests] == [[], []]


@pytest.mark.parametrize(
    ("start", "framing"),
    [
        (b"POST / HTTP/1.1", "length"),
        (b"POST / HTTP/1.1", "chunked"),
        (b"GET / HTTP/1.1", "length"),
        (b"POST / HTTP/1.0", "length"),
    ],
)
@pytest.mark.parametrize("step", [0, 1])
async def test_the_body_of_a_request_that_asks_for_a_switch(framing: str, step: int, start: bytes) -> None:
    """It is a body, not the other protocol's bytes (curl sends such requests with --http2), and so the wish is dropped."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    head = (
        start
        + b"\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, keep-alive\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    )
    if framing == "length":
        data = head + b"Content-Length: %d\r\n\r\n" % len(smuggled) + smuggled
    else:
        data = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nX-T: 1\r\n\r\n" % (len(smuggled), smuggled)
    async with one_backend(answer(b"plain")) as (proxy, backend):
        client = await proxy.client()
        await client.trickle(data + GET + data + GET, step or 100_000)
        for _ in range(4):
            assert (await client.response()).body == b"plain"
        assert [(r.target, r.body) for r in backend.requests] == [(b"/", smuggled), (b"/next", b"")] * 2
        assert not any(r.values("Upgrade") or r.values("Connection") for r in backend.requests)
        assert backend.connections == 1


async def test_a_body_of_no_bytes_does_not_hinder_a_switch() -> None:
    async with one_backend(echo) as (proxy, _):
        client = await opened(proxy, CUSTOM.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n") + b"early")
        assert await client.reader.readexactly(10) == b"helloearly"


async def test_a_bad_body_of_a_request_that_asks_for_a_switch() -> None:
    async with one_backend(answer(b"plain")) as (proxy, backend):
        client = await proxy.client()
        await client.send(CUSTOM.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"))
        assert (await client.response()).status == 400
        assert await client.closed()
        assert not backend.requests


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: custom/1\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\n\r\n",
    ],
)
async def test_a_switch_without_its_fields_is_502(raw: bytes) -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(raw)
        await connection.closed()

    async with one_backend(script) as (proxy, _):
        client = await proxy.client()
        assert (await client.request(CUSTOM)).status == 502


async def test_behind_other_requests() -> None:
    async def script(connection: BackendConnection) -> None:
        while (request := await connection.request()) is not None:
            if request.values("Upgrade"):
                await connection.send(SWITCH)
                while data := await connection.reader.read(65536):
                    await connection.send(data)
                return
            await asyncio.sleep(0.01)
            await connection.send(response(body=b"plain"))

    async with one_backend(script) as (proxy, _):
        client = await proxy.client()
        await client.send(GET + GET + CUSTOM + b"early")
        assert (await client.response()).body == b"plain"
        assert (await client.response()).body == b"plain"
        assert (await client.response()).status == 101
        assert await client.reader.readexactly(5) == b"early"


@pytest.mark.parametrize("size", [4000, 8192, 20_000, 300_000])
@pytest.mark.parametrize("refused", [True, False])
async def test_much_behind_a_handshake(size: int, refused: bool) -> None:
    """More than the parser gets at once."""
    async with Proxy(keepalive_requests=100_000) as proxy:
        backend = await proxy.backend(echo)
        proxy.plane.swap(routes({"/next": [backend]} if refused else {"/": [backend]}))
        client = await proxy.client()
        following = GET * (size // len(GET))
        await client.send(CUSTOM + following)
        if refused:
            assert (await client.response()).status == 404
            for _ in range(size // len(GET)):
                assert (await client.response()).body == b"plain"
        else:
            assert (await client.response()).status == 101
            assert await client.reader.readexactly(5 + len(following)) == b"hello" + following


async def test_a_slice_that_ends_with_the_handshake() -> None:
    pad = b"X: " + b"x" * (8192 - len(CUSTOM) - 5) + b"\r\n"
    data = CUSTOM.replace(b"Host: a\r\n", b"Host: a\r\n" + pad)
    assert len(data) == 8192
    async with one_backend(echo) as (proxy, _):
        client = await opened(proxy, data + b"early")
        assert await client.reader.readexactly(10) == b"helloearly"


@pytest.mark.parametrize("body", [b"", b"x"])
async def test_a_flood_of_handshakes(body: bytes) -> None:
    """A chain of answers must not become a chain of stack frames."""
    short = b"GET / HTTP/1.1\r\nHost:\r\nConnection:upgrade\r\nUpgrade:x\r\n"
    one = short + (b"Content-Length:1\r\n\r\nx" if body else b"\r\n")
    start = b"POST / HTTP/1.1\r\nHost:\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20000  # larger slices
    count = 2000
    async with Proxy(keepalive_requests=count + 1) as proxy:
        proxy.plane.swap(routes({"/": 404}))
        client = await proxy.client()
        task = asyncio.create_task(client.send(start + one * count))
        for _ in range(count + 1):
            assert (await client.response()).status == 404
        await task


# ---- the end ------------------------------------------------------------------------------------------------------


async def test_the_client_ends_first() -> None:
    async with one_backend(echo) as (proxy, backend):
        client = await opened(proxy)
        await client.send(b"last")
        client.writer.write_eof()
        assert await client.rest() == b"hellolastbye"
        await until(lambda: not backend.open)


async def test_the_upstream_ends_first() -> None:
    heard = b""

    async def script(connection: BackendConnection) -> None:
        nonlocal heard
        await connection.request()
        await connection.send(SWITCH + b"all I have")
        connection.writer.write_eof()
        heard = await connection.reader.read(-1)

    async with one_backend(script) as (proxy, backend):
        client = await opened(proxy)
        assert await client.reader.read(-1) == b"all I have"
        await client.send(b"still here")
        client.writer.write_eof()
        await until(lambda: not backend.open)
        assert heard == b"still here"
        await until(lambda: not proxy.plane.connections)


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_a_close_goes_through(how: str, side: str) -> None:
    leave = asyncio.Event()

    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(SWITCH)
        if side == "client":
            await connection.closed()
            return
        await leave.wait()
        if how == "reset":
            connection.reset()

    async with one_backend(script) as (proxy, backend):
        client = await opened(proxy)
        if side == "client":
            client.reset() if how == "reset" else client.close()
            await until(lambda: not backend.open)
        else:
            leave.set()
            if how == "close":
                assert await client.closed()
                client.close()  # until then it might have something to say
            else:
                await client.rest()
        await until(lambda: not proxy.plane.connections and not proxy.upstream_connections)


# ---- time, tables and pressure ------------------------------------------------------------------------------------


async def test_an_idle_tunnel_ends_with_the_read_timeout() -> None:
    async with one_backend(echo, policy=TrafficPolicy(read_timeout_s=0.2)) as (proxy, _):
        client = await opened(proxy)
        await client.reader.readexactly(5)
        for _ in range(4):
            await asyncio.sleep(0.1)  # signs of life from either side
            await client.send(b"x")
            assert await client.reader.readexactly(1) == b"x"
        started = time.monotonic()
        assert await client.rest() in (b"", b"bye")
        assert time.monotonic() - started > 0.15


async def test_the_client_s_timeouts_don_t_apply() -> None:
    settings = {"keepalive_timeout_s": 0.05, "client_header_timeout_s": 0.05, "client_body_timeout_s": 0.05}
    async with one_backend(echo, **settings, upstream_keepalive_timeout_s=0.05) as (proxy, _):
        client = await opened(proxy)
        await asyncio.sleep(0.3)
        await client.send(b"x")
        assert await client.reader.readexactly(6) == b"hellox"


async def test_new_tables_don_t_cut_it() -> None:
    async with one_backend(echo) as (proxy, backend):
        client = await opened(proxy)
        other = await proxy.backend()
        for number in range(3):
            proxy.serve(other, id=f"t{number + 2}")  # the endpoint is gone
            await asyncio.sleep(0.05)
            await client.send(b"x")
        assert await client.reader.readexactly(8) == b"helloxxx"
        assert (await (await proxy.client()).get()).body == b"b1"
        assert backend.open
        client.close()
        await until(lambda: not backend.open)


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_back_pressure(direction: str) -> None:
    total = 24 << 20
    go_on = asyncio.Event()
    received = 0

    async def script(connection: BackendConnection) -> None:
        nonlocal received
        await connection.request()
        await connection.send(SWITCH)
        if direction == "down":
            for _ in range(total >> 16):
                await connection.send(bytes(65536))
            return
        connection.writer.transport.pause_reading()
        await go_on.wait()
        connection.writer.transport.resume_reading()
        while data := await connection.reader.read(1 << 20):
            received += len(data)

    async with one_backend(script) as (proxy, backend):
        client = await opened(proxy)
        (connection,) = proxy.plane.client_connections
        (upstream,) = proxy.upstream_connections
        assert connection.transport is not None
        assert upstream.transport is not None
        if direction == "up":
            task = asyncio.create_task(client.send(bytes(total)))
            await until(lambda: connection._read_pauses)
            await asyncio.sleep(0.05)
            assert upstream.transport.get_write_buffer_size() < 1 << 20
            go_on.set()
            await task
            client.writer.write_eof()
            await until(lambda: received == total)
            await until(lambda: not backend.open)
        else:
            client.writer.transport.pause_reading()
            await until(lambda: upstream._paused_reading)
            await asyncio.sleep(0.05)
            assert connection.transport.get_write_buffer_size() < 2 << 20
            client.writer.transport.resume_reading()
            assert len(await client.rest()) == total


async def test_a_drain_waits_for_it_and_cuts_it_in_the_end() -> None:
    async with one_backend(echo) as (proxy, _):
        client = await opened(proxy)
        await proxy.plane.stop_accepting(last=True)
        assert not await proxy.plane.drain(0.2)
        await client.send(b"x")
        assert await client.reader.readexactly(6) == b"hellox"
        client.close()
        assert await proxy.plane.drain(5)
