"""Keep-alive, pipelining, HTTP/1.0 and informational responses on the client's connection."""

import asyncio

import pytest

from ingress.routing.table import TrafficPolicy
from tests.proxy.support import BackendConnection, one_backend, reply, response, routes, until

echo_target = reply(lambda request: response(body=request.target + b" " + request.body))


def get(target: str, *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {target} HTTP/{version}", "Host: a", *lines, "", ""]).encode()


# ---- keep-alive ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "lines", "stays"),
    [
        ("1.1", [], True),
        ("1.1", ["Connection: keep-alive"], True),
        ("1.1", ["Connection: close"], False),
        ("1.1", ["Connection: CLOSE"], False),
        ("1.1", ["Connection: foo, close"], False),
        ("1.1", ["Connection: foo", "Connection: close"], False),
        ("1.0", [], False),
        ("1.0", ["Connection: keep-alive"], True),
        ("1.0", ["Connection: Keep-Alive"], True),
    ],
)
async def test_persistence(version: str, lines: list[str], stays: bool) -> None:
    async with one_backend(echo_target) as (proxy, backend):
        client = await proxy.client()
        got = await client.request(get("/1", *lines, version=version))
        assert got.body == b"/1 "
        if stays:
            assert got.values("Connection") == ([b"keep-alive"] if version == "1.0" else [])
            assert (await client.request(get("/2", *lines, version=version))).body == b"/2 "
        else:
            assert got.values("Connection") == [b"close"]
            assert await client.closed()
        assert not any(request.values("Connection") for request in backend.requests)
        assert len(proxy.idle_connections) == 1  # the upstream's connection is kept in any case


async def test_http_1_0_without_a_host() -> None:
    async with one_backend(echo_target) as (proxy, backend):
        client = await proxy.client()
        assert (await client.request(b"GET /x HTTP/1.0\r\n\r\n")).body == b"/x "
        assert len(backend.requests[0].values("Host")) == 1


async def test_keepalive_requests() -> None:
    async with one_backend(echo_target, keepalive_requests=3) as (proxy, _):
        client = await proxy.client()
        for number in range(3):
            got = await client.request(get(f"/{number}"))
            assert got.values("Connection") == ([b"close"] if number == 2 else [])
        assert await client.closed()
        # the fourth of a pipeline isn't answered, and doesn't reach an upstream
        client = await proxy.client()
        await client.send(b"".join(get(f"/p{number}") for number in range(5)))
        for number in range(3):
            assert (await client.response()).body == b"/p%d " % number
        assert await client.closed()


async def test_a_pipeline_that_is_cut_short_loses_no_answer() -> None:
    """Closing with input unread would reset the connection, and take answers away that the client has not read yet."""
    async with one_backend(echo_target, keepalive_requests=50) as (proxy, _):
        client = await proxy.client()
        client.writer.transport.pause_reading()
        task = asyncio.create_task(client.send(get("/") * 100_000))
        await until(lambda: len(proxy.log.records) == 50)
        await asyncio.sleep(0.02)
        client.writer.transport.resume_reading()
        for number in range(50):
            got = await client.response()
            assert got.values("Connection") == ([b"close"] if number == 49 else [])
        client.reset()
        await asyncio.wait([task])
        task.exception()


async def test_upstream_keepalive_requests() -> None:
    async with one_backend(echo_target, upstream_keepalive_requests=2) as (proxy, backend):
        client = await proxy.client()
        for number in range(5):
            await client.request(get(f"/{number}"))
        assert backend.connections == 3


async def test_upstream_keepalive_connections() -> None:
    async with one_backend(echo_target, upstream_keepalive_connections=2) as (proxy, backend):
        clients = [await proxy.client() for _ in range(5)]
        await asyncio.gather(*(client.request(get("/")) for client in clients))
        assert backend.connections == 5
        await until(lambda: len(backend.open) == 2)
        assert len(proxy.idle_connections) == 2


async def test_an_upstream_that_asks_to_close() -> None:
    async with one_backend(reply(lambda _: response(body=b"x", fields=[(b"Connection", b"close")]))) as (
        proxy,
        backend,
    ):
        client = await proxy.client()
        for number in range(3):
            got = await client.get()
            assert got.values("Connection") == []
            assert backend.connections == number + 1


# ---- pipelining ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 31, 32, 33, 500])
async def test_many_in_one_segment_are_answered_in_order(count: int) -> None:
    async with one_backend(echo_target) as (proxy, backend):
        client = await proxy.client()
        await client.send(b"".join(get(f"/{number}") for number in range(count)))
        for number in range(count):
            assert (await client.response()).body == b"/%d " % number
        assert backend.connections == 1


async def test_other_things_in_a_pipeline() -> None:
    async with one_backend(echo_target) as (proxy, backend):
        proxy.plane.swap(routes({"/": [backend], "/closed": 503, "/gone": 404}))
        client = await proxy.client()
        parts = [
            get("/0"),
            b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
            get("/gone"),
            b"POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"POST /closed HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET ",
            get("/3"),
            b"\r\n" + get("/4"),  # an empty line before a request is passed over (RFC 9112 section 2.2)
        ]
        bodies = [b"/0 ", b"/1 body", 404, b"/2 abc", 503, b"/3 ", b"/4 "]
        for data in (b"".join(parts), *parts):
            await client.send(data)
            for expected in bodies if data is not parts[0] and len(data) > 200 else [bodies[parts.index(data)]]:
                got = await client.response()
                assert expected in (got.body, got.status)


async def test_the_queue_is_bounded_and_reading_stops() -> None:
    """With the first one slow, a client can't make the proxy parse and hold any number of requests."""
    go_on = asyncio.Event()

    async def script(connection: BackendConnection) -> None:
        while (request := await connection.request()) is not None:
            await go_on.wait()
            await connection.send(response(body=request.target))

    count = 40_000
    async with one_backend(script) as (proxy, backend):
        client = await proxy.client()
        data = b"".join(get(f"/{number}", "X-Pad: " + "x" * 100) for number in range(count))

        async def send() -> None:
            await client.send(data)

        task = asyncio.create_task(send())
        await until(lambda: any(c._read_pauses for c in proxy.plane.client_connections))
        await asyncio.sleep(0.05)
        (connection,) = proxy.plane.client_connections
        assert len(connection._pending) < 200
        assert len(connection._backlog) < 1 << 20
        assert len(backend.requests) == 1
        go_on.set()
        # reads a part, and leaves: the rest vanishes with it
        for number in range(300):
            assert (await client.response()).body == b"/%d" % number
        client.reset()
        await asyncio.wait([task])
        task.exception()


async def test_a_slow_one_first() -> None:
    go_on = asyncio.Event()

    async def script(connection: BackendConnection) -> None:
        while (request := await connection.request()) is not None:
            if request.target == b"/slow":
                await go_on.wait()
            await connection.send(response(body=request.target))

    async with one_backend(script) as (proxy, backend):
        client = await proxy.client()
        await client.send(get("/slow") + get("/2") + get("/nowhere"))
        await until(lambda: backend.requests)
        await client.send(get("/4"))
        go_on.set()
        for target in (b"/slow", b"/2", b"/nowhere", b"/4"):
            assert (await client.response()).body == target


async def test_a_large_body_behind_a_slow_request() -> None:
    """It is not read ahead beyond the replay limit."""
    go_on = asyncio.Event()
    size = 8 << 20

    async def script(connection: BackendConnection) -> None:
        while (request := await connection.request()) is not None:
            if request.method == b"GET":
                await go_on.wait()
            await connection.send(response(body=b"%d" % len(request.body)))

    async with one_backend(script, policy=TrafficPolicy(request_buffering=False, body_limit_bytes=0)) as (
        proxy,
        backend,
    ):
        client = await proxy.client()
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
        task = asyncio.create_task(client.send(get("/") + head + b"x" * size))
        await until(lambda: any(c._read_pauses for c in proxy.plane.client_connections))
        await asyncio.sleep(0.05)
        (connection,) = proxy.plane.client_connections
        assert connection._pending[0].body_bytes < 1 << 20
        go_on.set()
        await task
        assert (await client.response()).body == b"0"
        assert (await client.response()).body == b"%d" % size
        assert len(backend.requests) == 2


async def test_a_client_that_closes_its_side_has_gone() -> None:
    async with one_backend(lambda connection: connection.closed()) as (proxy, backend):
        client = await proxy.client()
        await client.send(get("/"))
        await until(lambda: backend.open)
        client.writer.write_eof()
        assert await client.closed()
        await until(lambda: not backend.open)
        await until(lambda: proxy.log.records)
        assert proxy.log.records[0].status == 499


# ---- informational responses --------------------------------------------------------------------------------------

EXPECTING = b"POST /up HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"


def informational(status: int, *fields: bytes) -> bytes:
    return b"HTTP/1.1 %d Info\r\n" % status + b"".join(f + b"\r\n" for f in fields) + b"\r\n"


async def continuing(connection: BackendConnection) -> None:
    """Asks for the body, as a server should."""
    while (request := await connection.request(body=False)) is not None:
        if request.value("Expect") == b"100-continue":
            await connection.send(informational(100))
        await connection.body_of(request)
        await connection.send(response(body=request.body))


async def test_expect_is_passed_on_and_100_comes_back() -> None:
    async with one_backend(continuing) as (proxy, backend):
        client = await proxy.client()
        for _ in range(2):
            await client.send(EXPECTING)
            async with asyncio.timeout(5):
                assert await client.reader.readuntil(b"\r\n\r\n") == informational(100)
            await client.send(b"hello")
            got = await client.response()
            assert (got.status, got.body, got.informational) == (200, b"hello", [])
        assert backend.connections == 1


async def test_a_body_that_came_at_once_needs_no_100() -> None:
    async with one_backend(continuing) as (proxy, _):
        client = await proxy.client()
        await client.send(EXPECTING + b"hello")
        got = await client.response()
        assert (got.status, got.body, got.informational) == (200, b"hello", [])


async def test_an_upstream_that_ignores_expect() -> None:
    """It waits for the body, the client waits for 100: somebody has to give in."""
    async with one_backend(reply(lambda request: response(body=request.body))) as (proxy, _):
        client = await proxy.client()
        started = asyncio.get_running_loop().time()
        await client.send(EXPECTING)
        async with asyncio.timeout(5):
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        assert asyncio.get_running_loop().time() - started > 0.9
        await client.send(b"hello")
        assert (await client.response()).body == b"hello"


async def test_expect_of_http_1_0_is_ignored() -> None:
    async with one_backend(continuing) as (proxy, backend):
        client = await proxy.client()
        await client.send(EXPECTING.replace(b"1.1", b"1.0") + b"hello")
        got = await client.response()
        assert (got.body, got.informational) == (b"hello", [])
        assert backend.requests[0].values("Expect") == []


@pytest.mark.parametrize("status", [401, 413, 200])
async def test_a_final_answer_instead_of_100(status: int) -> None:
    """Whether the client sends the body now is anyone's guess: the connection can't go on."""

    async def script(connection: BackendConnection) -> None:
        await connection.request(body=False)
        await connection.send(response(status, b"no"))
        await connection.closed()

    async with one_backend(script) as (proxy, _):
        client = await proxy.client()
        await client.send(EXPECTING)
        got = await client.response()
        assert (got.status, got.body, got.values("Connection")) == (status, b"no", [b"close"])
        await client.send(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")  # may well be a body
        assert await client.closed()
        await until(lambda: not proxy.upstream_connections)


async def test_too_large_by_its_own_word() -> None:
    async with one_backend(continuing) as (proxy, backend):
        client = await proxy.client()
        await client.send(EXPECTING.replace(b"5\r\n", b"5000000\r\n"))
        assert (await client.response()).status == 413
        assert await client.closed()
        assert not backend.requests


HINTS = informational(103, b"Link: </style.css>; rel=preload", b"Connection: X-Hop", b"X-Hop: 1", b"Server: x")


@pytest.mark.parametrize("together", [True, False])
async def test_early_hints(together: bool) -> None:
    async def script(connection: BackendConnection) -> None:
        while await connection.request() is not None:
            data = HINTS + informational(102) + HINTS + response(body=b"done")
            if together:
                await connection.send(data)
            else:
                for byte in data:
                    await connection.send(bytes((byte,)))

    async with one_backend(script) as (proxy, backend):
        client = await proxy.client()
        for _ in range(2):
            got = await client.get()
            assert got.body == b"done"
            assert [r.status for r in got.informational] == [103, 102, 103]
            assert got.informational[0].fields == [(b"Link", b"</style.css>; rel=preload")]
        old = await proxy.client()
        got = await old.request(get("/", version="1.0"))
        assert (got.body, got.informational) == (b"done", [])
        assert backend.connections == 1


async def test_100_without_expect_is_not_passed_on() -> None:
    async with one_backend(reply(lambda _: informational(100) + response(body=b"done"))) as (proxy, _):
        got = await (await proxy.client()).get()
        assert (got.body, got.informational) == (b"done", [])


@pytest.mark.parametrize("status", [b"000", b"099"])
async def test_a_status_that_is_none(status: bytes) -> None:
    async with one_backend(reply(lambda _: b"HTTP/1.1 " + status + b" X\r\nContent-Length: 0\r\n\r\n")) as (proxy, _):
        assert (await (await proxy.client()).get()).status == 502
