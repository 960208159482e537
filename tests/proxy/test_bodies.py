"""Bodies and trailers in both directions: framing, limits of memory, early answers."""

import asyncio

import pytest

from ingress.routing.table import TrafficPolicy
from tests.proxy.support import (
    BackendConnection,
    Request,
    Response,
    Truncated,
    answer,
    one_backend,
    reply,
    response,
    until,
)

POST_CHUNKED = b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
MIB = 1 << 20
UNLIMITED = TrafficPolicy(request_buffering=False, body_limit_bytes=0)


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


def pattern(size: int) -> bytes:
    """Bytes in which a displacement shows."""
    return b"".join(b"%07d\n" % number for number in range(size // 8 + 1))[:size]


# ---- responses ----------------------------------------------------------------------------------------------------

CL = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nhello"
OLD_UNTIL_CLOSE = b"HTTP/1.0 200 OK\r\nX-A: b\r\n\r\nhello"
OLD_CL = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"
EMPTY_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("raw", [CL, CHUNKED, UNTIL_CLOSE, OLD_UNTIL_CLOSE, OLD_CL, EMPTY_CHUNKED])
@pytest.mark.parametrize(
    "request_line", [b"GET / HTTP/1.1\r\nHost: a", b"GET / HTTP/1.0", b"GET / HTTP/1.0\r\nConnection: keep-alive"]
)
@pytest.mark.parametrize("step", [0, 1], ids=["whole", "bytewise"])
async def test_framing_of_responses(raw: bytes, request_line: bytes, step: int) -> None:
    closing = raw in (UNTIL_CLOSE, OLD_UNTIL_CLOSE, OLD_CL)

    async def script(connection: BackendConnection) -> None:
        while await connection.request() is not None:
            for piece in [raw[i : i + step] for i in range(0, len(raw), step)] if step else [raw]:
                await connection.send(piece)
                await asyncio.sleep(0)
            if closing:
                return

    async with one_backend(script) as (proxy, backend):
        client = await proxy.client()
        got = await client.request(request_line + b"\r\n\r\n")
        assert got.body == (b"" if raw == EMPTY_CHUNKED else b"hello")
        known = raw in (CL, OLD_CL)
        new = b"1.1" in request_line
        assert got.chunked is (new and not known)
        stays = new or (known and b"keep-alive" in request_line)
        assert got.values("Connection") == ([] if new else [b"keep-alive"] if stays else [b"close"])
        if stays:
            assert (await client.request(request_line + b"\r\n\r\n")).status == 200
            assert backend.connections == (2 if closing else 1)
        else:
            assert await client.closed()


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize(
    "extra", [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 0\r\n"]
)
async def test_statuses_without_a_body(status: int, extra: bytes) -> None:
    def make(request: Request) -> bytes:
        if request.target == b"/next":
            return response(body=b"next")
        return b"HTTP/1.1 %d X\r\nETag: x\r\n%b\r\n" % (status, extra)

    async with one_backend(reply(make)) as (proxy, backend):
        client = await proxy.client()
        got = await client.get()
        assert (got.status, got.value("ETag"), got.value("Transfer-Encoding")) == (status, b"x", None)
        if status == 204:
            assert got.value("Content-Length") is None  # RFC 9110 section 8.6
        elif extra == b"Content-Length: 5\r\n":
            assert got.value("Content-Length") == b"5"
        assert (await client.get("/next")).body == b"next"
        assert backend.connections == 1


@pytest.mark.parametrize(
    ("raw", "length", "reused"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"5", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n", b"500000", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"0", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None, True),
        (b"HTTP/1.1 200 OK\r\n\r\n", None, True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", None, False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", b"5", False),
        (b"HTTP/1.0 200 OK\r\n\r\n", None, False),
        (b"HTTP/1.1 204 OK\r\n\r\n", None, True),
        # bodies where none may be: they must not be taken for the next response
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"5", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", b"5", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", None, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0", None, False),
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_head(raw: bytes, length: bytes | None, reused: bool, version: bytes) -> None:
    def make(request: Request) -> bytes:
        return raw if request.method == b"HEAD" else response(body=b"next")

    async with one_backend(reply(make)) as (proxy, backend):
        client = await proxy.client()
        head = b"HEAD / HTTP/" + version + b"\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
        for _ in range(2):
            got = await client.request(head, "HEAD")
            assert got.status in (200, 204)
            if length is not None:
                assert got.value("Content-Length") == length
            if got.values("Connection") == [b"close"]:
                assert await client.closed()
                client = await proxy.client()
            after = await client.get()
            assert after.body == b"next"
        assert len(backend.requests) == 4
        assert backend.connections == (1 if reused else 3)


@pytest.mark.parametrize("size", [0, 1, 32768, 32769, 65536, 65537, 3 * MIB + 7])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_large_responses_and_what_follows_them(size: int, framing: str) -> None:
    body = pattern(size)

    def make(request: Request) -> bytes:
        if request.target != b"/big":
            return response(body=b"small")
        if framing == "length":
            return response(body=body)
        pieces = [chunk(body[i : i + 50_000]) for i in range(0, size, 50_000)]
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(pieces) + b"0\r\n\r\n"

    async with one_backend(reply(make)) as (proxy, backend):
        client = await proxy.client()
        await client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.response()).body == body
        assert (await client.response()).body == b"small"
        assert (await client.get("/big")).body == body
        assert backend.connections == 1


@pytest.mark.parametrize("size", [5, 40_000])
@pytest.mark.parametrize("together", [True, False])
async def test_more_bytes_than_announced_reach_nobody(size: int, together: bool) -> None:
    """Neither this client nor the next one on the same upstream connection."""
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

    async def script(connection: BackendConnection) -> None:
        first = connection.backend.connections == 1
        while await connection.request() is not None:
            good = response(body=b"g" * size)
            if not first:
                await connection.send(good)
            elif together:
                await connection.send(good + evil)
            else:
                await connection.send(good)
                await asyncio.sleep(0.02)
                await connection.send(evil)

    async with one_backend(script) as (proxy, backend):
        client = await proxy.client()
        assert (await client.get()).body == b"g" * size
        await until(lambda: not backend.open)
        assert (await client.get()).body == b"g" * size
        assert backend.connections == 2


@pytest.mark.parametrize(
    "second",
    [
        b"H",
        b"HTTP/1.1 2",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nX: y\r\n",
        b"junk",
        b"\0",
    ],
)
@pytest.mark.parametrize("first", [CL, EMPTY_CHUNKED, b"HTTP/1.1 204 No\r\n\r\n"])
async def test_the_beginning_of_a_second_response_costs_the_connection(first: bytes, second: bytes) -> None:
    """Its end would come when the next request is on the connection."""

    async with one_backend(reply(lambda request: first + second)) as (proxy, backend):
        client = await proxy.client()
        for number in range(3):
            got = await client.get()
            assert got.status in (200, 204)
            assert backend.connections == number + 1
        assert len(backend.requests) == 3


async def test_a_second_response_with_too_many_fields() -> None:
    second = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n"
    async with one_backend(reply(lambda request: CL + second)) as (proxy, _):
        client = await proxy.client()
        assert (await client.get()).body == b"hello"
        assert (await client.get()).body == b"hello"


# ---- requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "body", "framing", "seen"),
    [
        (b"Content-Length: 5", b"hello", (b"Content-Length", b"5"), b"hello"),
        (b"Content-Length: 0", b"", (b"Content-Length", b"0"), b""),
        (b"content-length: 0005 ", b"hello", (b"Content-Length", b"5"), b"hello"),
        (b"Transfer-Encoding: chunked", b"0\r\n\r\n", (b"Transfer-Encoding", b"chunked"), b""),
        (b"Transfer-Encoding: CHUNKED", chunk(b"hel") + chunk(b"lo") + b"0\r\n\r\n", (b"Transfer-Encoding", b"chunked"), b"hello"),
        (b"Transfer-Encoding: chunked", b"00005\r\nhello\r\n000\r\n\r\n", (b"Transfer-Encoding", b"chunked"), b"hello"),
        (b"Transfer-Encoding: chunked", chunk(b"hello", b";a=b;c=\"d\"") + b"0;last\r\n\r\n", (b"Transfer-Encoding", b"chunked"), b"hello"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [0, 1, 3])
async def test_framing_of_requests(
    head: bytes, body: bytes, framing: tuple[bytes, bytes], seen: bytes, step: int
) -> None:
    data = b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n" + body
    async with one_backend() as (proxy, backend):
        client = await proxy.client()
        for _ in range(2):  # the second one on connections in use
            await client.trickle(data, step or len(data))
            assert (await client.response()).status == 200
        for request in backend.requests:
            assert request.body == seen
            assert [f for f in request.fields if f[0] in (b"Content-Length", b"Transfer-Encoding")] == [framing]
        assert backend.connections == 1


async def test_requests_of_http_1_0() -> None:
    async with one_backend() as (proxy, backend):
        client = await proxy.client()
        assert (await client.request(b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")).status == 200
        assert await client.closed()
        assert backend.requests[0].body == b"hi"
        assert backend.requests[0].start == b"POST / HTTP/1.1"


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [8191, 8192, 40_961, 65_536, 65_537, 3 * MIB + 7])
async def test_large_uploads(framing: str, size: int) -> None:
    body = pattern(size)
    async with one_backend(policy=UNLIMITED) as (proxy, backend):
        client = await proxy.client()
        for _ in range(2):
            if framing == "length":
                got = await client.post(body)
            else:
                got = await client.request(POST_CHUNKED + chunk(body) + b"0\r\n\r\n")
            assert got.status == 200, got
        assert [request.body == body for request in backend.requests] == [True, True]


async def test_uploads_without_a_large_replay_buffer() -> None:
    async with one_backend(replay_limit_bytes=0, policy=UNLIMITED) as (proxy, backend):
        client = await proxy.client()
        for body in (b"x", pattern(8192), pattern(100_000)):
            assert (await client.post(body)).status == 200
            assert backend.requests[-1].body == body
        # a segment at a time
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n" + b"1")
        await until(lambda: len(proxy.upstream_connections) and not proxy.idle_connections)
        for piece in b"23456":
            await client.send(bytes((piece,)))
            await asyncio.sleep(0.005)
        assert (await client.response()).status == 200
        assert backend.requests[-1].body == b"123456"
        # behind another request
        await client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        )
        assert (await client.response()).status == 200
        assert (await client.response()).status == 200
        assert backend.requests[-1].body == b"abc"


# ---- trailers -----------------------------------------------------------------------------------------------------

TRAILERS = [
    (b"X-Checksum", b"abc"),
    (b"grpc-status", b"0"),
    (b"Content-Length", b"5"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Host", b"evil"),
    (b"Connection", b"close"),
    (b"Authorization", b"evil"),
    (b"Cookie", b"evil"),
    (b"Set-Cookie", b"evil"),
    (b"X-Forwarded-For", b"evil"),
    (b"X-Real-IP", b"evil"),
    (b"X-Request-ID", b"evil"),
    (b"Content-Type", b"evil"),
    (b"X-Last", b""),
]
ALLOWED = [(b"X-Checksum", b"abc"), (b"grpc-status", b"0"), (b"X-Last", b"")]


def trailer_section(trailers: list[tuple[bytes, bytes]]) -> bytes:
    return b"0\r\n" + b"".join(b"%b: %b\r\n" % field for field in trailers) + b"\r\n"


@pytest.mark.parametrize("step", [0, 7])
async def test_trailers_of_requests(step: int) -> None:
    # llhttp refuses framing fields in trailers by itself; what it lets through is filtered here
    trailers = [f for f in TRAILERS if f[0] not in (b"Content-Length", b"Transfer-Encoding", b"Connection")]
    data = POST_CHUNKED + chunk(b"hello") + trailer_section(trailers)
    async with one_backend() as (proxy, backend):
        client = await proxy.client()
        await client.trickle(data, step or len(data))
        assert (await client.response()).status == 200
        assert backend.requests[0].trailers == ALLOWED
        assert not {b"X-Checksum", b"X-Last"} & {name for name, _ in backend.requests[0].fields}
        # and none of them gets into the next request
        await client.get("/", "a", "X-Mine: 1")
        names = {name for name, _ in backend.requests[1].fields}
        assert backend.requests[1].value("Host") == b"a"
        assert not names & {b"X-Checksum", b"X-Last", b"Cookie", b"Authorization"}
        assert backend.requests[1].value("X-Mine") == b"1"


@pytest.mark.parametrize("name", [b"Content-Length", b"Transfer-Encoding", b"Host", b"Connection"])
async def test_framing_fields_in_a_trailer_section_never_count(name: bytes) -> None:
    value = {b"Content-Length": b"7", b"Transfer-Encoding": b"chunked", b"Host": b"evil", b"Connection": b"close"}[name]
    data = POST_CHUNKED + chunk(b"hello") + trailer_section([(name, value)]) + b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
    async with one_backend() as (proxy, backend):
        client = await proxy.client()
        first = await client.request(data)
        if name == b"Host":
            assert first.status == 200
            assert (await client.response()).status == 200
            assert [r.target for r in backend.requests] == [b"/up", b"/2"]
            assert backend.requests[0].trailers == []
            return
        refused = await client.response() if name == b"Connection" else first
        assert refused.status == 400
        assert await client.closed()
        assert all(r.target != b"/2" for r in backend.requests)


async def test_a_second_response_does_not_become_trailers() -> None:
    second = b"HTTP/1.1 200 OK\r\nX-Secret: y\r\nContent-Length: 0\r\n\r\n"
    async with one_backend(reply(lambda request: CHUNKED + second)) as (proxy, _):
        got = await (await proxy.client()).get()
        assert (got.body, got.trailers) == (b"hello", [])


async def test_trailers_of_responses() -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n" + chunk(b"hello")
    raw += trailer_section([f for f in TRAILERS if f[0] not in (b"Content-Length", b"Transfer-Encoding")])
    async with one_backend(reply(lambda _: raw)) as (proxy, backend):
        client = await proxy.client()
        for _ in range(2):
            got = await client.get()
            assert (got.body, got.trailers, got.value("Trailer")) == (b"hello", ALLOWED, b"X-Checksum")
        assert backend.connections == 2  # because of the Connection among them
        old = await proxy.client()
        got = await old.request(b"GET / HTTP/1.0\r\n\r\n")
        assert (got.body, got.trailers) == (b"hello", [])


# ---- back-pressure ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_slow_upstream_holds_the_client_back(framing: str) -> None:
    total = 24 * MIB
    go_on = asyncio.Event()

    async def script(connection: BackendConnection) -> None:
        request = await connection.request(body=False)
        assert request is not None
        connection.writer.transport.pause_reading()
        await go_on.wait()
        connection.writer.transport.resume_reading()
        await connection.body_of(request)
        await connection.send(response(body=b"%d" % len(request.body)))

    async with one_backend(script, policy=UNLIMITED) as (proxy, _):
        client = await proxy.client()
        length = b"Content-Length: %d" % total if framing == "length" else b"Transfer-Encoding: chunked"
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + length + b"\r\n\r\n")
        block = b"x" * 65536
        written = 0

        async def upload() -> None:
            nonlocal written
            while written < total:
                await client.send(block if framing == "length" else chunk(block))
                written += len(block)
            if framing == "chunked":
                await client.send(b"0\r\n\r\n")

        task = asyncio.create_task(upload())
        await until(lambda: any(c._writing_paused for c in proxy.upstream_connections), "the upstream is full")
        await until(lambda: any(c._read_pauses for c in proxy.plane.client_connections), "the client paused")
        (upstream,) = proxy.upstream_connections
        assert upstream.transport is not None
        assert upstream.transport.get_write_buffer_size() < MIB
        await asyncio.sleep(0.05)
        assert upstream.transport.get_write_buffer_size() < MIB
        assert not task.done()
        go_on.set()
        await task
        assert (await client.response()).body == b"%d" % total


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_slow_client_holds_the_upstream_back(framing: str) -> None:
    total = 24 * MIB
    sent = 0

    async def script(connection: BackendConnection) -> None:
        nonlocal sent
        await connection.request()
        head = {"length": b"Content-Length: %d\r\n" % total, "chunked": b"Transfer-Encoding: chunked\r\n", "close": b""}
        await connection.send(b"HTTP/1.1 200 OK\r\n" + head[framing] + b"\r\n")
        block = b"y" * 65536
        while sent < total:
            await connection.send(chunk(block) if framing == "chunked" else block)
            sent += len(block)
        if framing == "chunked":
            await connection.send(b"0\r\n\r\n")

    async with one_backend(script) as (proxy, _):
        client = await proxy.client(receive_buffer=65536)
        client.writer.transport.pause_reading()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: any(c._paused_reading for c in proxy.upstream_connections), "the upstream paused")
        (connection,) = proxy.plane.client_connections
        assert connection.transport is not None
        assert connection.transport.get_write_buffer_size() < 2 * MIB
        await asyncio.sleep(0.05)
        assert connection.transport.get_write_buffer_size() < 2 * MIB
        assert sent < total
        client.writer.transport.resume_reading()
        assert len((await client.response()).body) == total


# ---- early answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100_000, 6 * MIB])
async def test_an_answer_before_the_body_is_complete(size: int) -> None:
    """The rest is read and dropped; both sides go on properly: a new upstream connection, the same client connection."""

    async def script(connection: BackendConnection) -> None:
        while (request := await connection.request(body=False)) is not None:
            if request.method == b"GET":
                await connection.send(response(body=b"next"))
                continue
            await connection.send(response(401, b"no"))
            await connection.closed()
            return

    async with one_backend(script, policy=UNLIMITED) as (proxy, backend):
        client = await proxy.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + b"x" * 10)
        got = await client.response()
        assert (got.status, got.body) == (401, b"no")
        await until(lambda: not proxy.upstream_connections)
        await client.send(b"x" * (size - 10))
        assert (await client.get()).body == b"next"
        assert backend.connections == 2


async def test_events_arrive_one_by_one() -> None:
    said = asyncio.Event()

    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for number in range(5):
            await connection.send(chunk(b"data: %d\n\n" % number))
            await said.wait()
            said.clear()
        await connection.send(b"0\r\n\r\n")
        await connection.closed()

    async with one_backend(script) as (proxy, _):
        client = await proxy.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
        assert (await client.response(body=False)).value("Content-Type") == b"text/event-stream"
        for number in range(5):
            async with asyncio.timeout(5):
                event = await client.reader.readexactly(len(chunk(b"data: 0\n\n")))
            assert event == chunk(b"data: %d\n\n" % number)  # before the next one is written
            said.set()
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"


@pytest.mark.parametrize("first", [b"0", b"X"])
async def test_what_was_cut_short_is_never_complete(first: bytes) -> None:
    """The helper of these tests itself notices."""
    async with one_backend(answer(first)) as (proxy, backend):

        async def script(connection: BackendConnection) -> None:
            await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + first)

        backend.script = script
        client = await proxy.client()
        with pytest.raises(Truncated) as caught:
            await client.get()
        assert isinstance(caught.value.message, Response)
        assert caught.value.message.body == first
