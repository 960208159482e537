"""Any bytes from either side, cut anywhere: no error of ours, nothing that can be understood in two ways, nobody else's answer."""

import asyncio
import itertools
import re
from dataclasses import dataclass

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.proxy.support import (
    BackendConnection,
    Client,
    Proxy,
    Response,
    Truncated,
    one_backend,
    reply,
    response,
    until,
)

FEWER = settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])

# ---- a strict reader of requests, as small as can be ----------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    method: bytes
    query: bytes
    hosts: tuple[bytes, ...]
    body: bytes
    trailers: int


START = re.compile(rb"([A-Z-]+) +([!-~]+) +HTTP/1\.([01])")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)[ \t]*")
SIZE = re.compile(rb"([0-9A-Fa-f]+)(;[\t -~\x80-\xff]*)?")


def read_strictly(data: bytes) -> list[Read]:
    """The complete requests at the beginning of `data`, up to the first thing that is wrong or unfinished."""
    found: list[Read] = []
    while True:
        data = data.lstrip(b"\r\n")  # empty lines before a request are passed over, even bare ones
        head, end, data = data.partition(b"\r\n\r\n")
        if not end:
            return found
        start, *lines = head.split(b"\r\n")
        match = START.fullmatch(start)
        fields = [FIELD.fullmatch(line) for line in lines]
        if match is None or not all(fields):
            return found
        pairs = [(field[1].lower(), field[2]) for field in fields if field]
        lengths = [value for name, value in pairs if name == b"content-length"]
        codings = [value.lower() for name, value in pairs if name == b"transfer-encoding"]
        hosts = tuple(value for name, value in pairs if name == b"host")
        if len(lengths) + len(codings) > 1 or len(hosts) > 1 or (not hosts and match[3] == b"1"):
            return found
        body, trailers = b"", 0
        if lengths:
            if not re.fullmatch(rb"[0-9]+", lengths[0]) or len(data) < int(lengths[0]):
                return found
            body, data = data[: int(lengths[0])], data[int(lengths[0]) :]
        elif codings:
            if codings != [b"chunked"] or match[3] == b"0":
                return found
            while True:
                line, end, data = data.partition(b"\r\n")
                size = SIZE.fullmatch(line)
                if not end or size is None:
                    return found
                length = int(size[1], 16)
                if length == 0:
                    break
                if data[length : length + 2] != b"\r\n":
                    return found
                body, data = body + data[:length], data[length + 2 :]
            while True:
                line, end, data = data.partition(b"\r\n")
                if not end or (line and FIELD.fullmatch(line) is None):
                    return found
                if not line:
                    break
                trailers += 1
        found.append(Read(match[1], b"?".join(match[2].split(b"?")[1:]), hosts, body, trailers))


# ---- requests -----------------------------------------------------------------------------------------------------

pieces = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n", b"POST /x?y HTTP/1.1\r\n", b"HEAD / HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"OPTIONS * HTTP/1.1\r\n",
        b"GET http://b/ HTTP/1.1\r\n", b"CONNECT a:80 HTTP/1.1\r\n", b"GET / HTTP/0.9\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"0\r\n", b"3;x=y\r\nabc\r\n",
        b"Host: a\r\n", b"Host: b\r\n", b"host:\r\n", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Content-Length: 33\r\n",
        b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding: chunked, chunked\r\n",
        b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: upgrade\r\n", b"Upgrade: x\r\n", b"Connection: Host, Content-Length\r\n",
        b"Expect: 100-continue\r\n", b"X: y\r\n", b" folded\r\n", b"X-Empty:\r\n", b"X: \xff\xc3\xa9\r\n", b"Cookie: a=b; \"\r\n", b"X-Request-ID: z\r\n",
        b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"abc", b"\x16\x03\x01",
    ]
)  # fmt: skip
streams = st.lists(pieces | st.binary(max_size=8), max_size=14).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=6)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place for place in places if place < len(data))})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


async def quiet(proxy: Proxy) -> None:
    """Until nothing happens any more: what is under way waits for its client, or for nothing."""
    calm = 0
    while calm < 4:
        await asyncio.sleep(0.0005)
        active = [c._active for c in proxy.plane.client_connections if c._active is not None]
        waiting = all(exchange.finished or not exchange.body_complete for exchange in active)
        calm = calm + 1 if waiting and not proxy.connects() else 0


@FEWER
@given(streams, cuts)
@example(b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 3\r\n\r\nabc", [])
@example(
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nHost: a",
    [],
)
async def test_any_bytes_of_a_client(data: bytes, places: list[int]) -> None:
    async with one_backend(reply(lambda request: response(body=b"" if request.method == b"HEAD" else b"ok"))) as (
        proxy,
        backend,
    ):
        client = await proxy.client()
        try:
            for piece in cut(data, places):
                await client.send(piece)
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        await quiet(proxy)
        client.close()
        await until(lambda: not proxy.plane.connections)
        await until(lambda: all(not c.exchange for c in proxy.upstream_connections))
        seen = [Read(r.method, b"?".join(r.target.split(b"?")[1:]), (), r.body, 0) for r in backend.requests]
        wanted = [Read(r.method, r.query, (), r.body, 0) for r in read_strictly(data)]
        assert seen == wanted[: len(seen)]


# ---- however it is cut ----------------------------------------------------------------------------------------------

names = st.sampled_from([b"X-A", b"x-b", b"Cookie", b"X-Empty"])
values = st.sampled_from([b"", b"1", b"a, b", b"\xe9\xff", b"x" * 300])
bodies = st.binary(max_size=40) | st.sampled_from([b"x" * 9000, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n"])


@dataclass(frozen=True)
class Sent:
    data: bytes
    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...]


@st.composite
def valid_requests(draw: st.DrawFn) -> Sent:
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE"]))
    target = draw(st.sampled_from([b"/", b"/a/b?c=%2f", b"/?", b"/%7E"]))
    fields = tuple(draw(st.lists(st.tuples(names, values), max_size=3)))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    body = b"" if framing == "none" else draw(bodies)
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    lines = [b"Host: a", *(name + b": " + value for name, value in fields)]
    tail = body
    if draw(st.integers(0, 5)) == 0:
        lines += [b"Connection: Upgrade", b"Upgrade: h2c"]
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        size = draw(st.sampled_from([1, 7, 5000])) if len(body) < 100 else 5000
        parts = [body[i : i + size] for i in range(0, len(body), size)]
        trailers = tuple(draw(st.lists(st.tuples(st.just(b"X-T"), values), max_size=2)))
        tail = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        tail += b"0\r\n" + b"".join(b"%b: %b\r\n" % field for field in trailers) + b"\r\n"
    data = method + b" " + target + b" HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + tail
    return Sent(data, method, target.replace(b"%7E", b"~"), fields, body, trailers)


@FEWER
@given(st.lists(valid_requests(), min_size=1, max_size=6), st.lists(st.integers(0, 20_000), max_size=12))
async def test_cutting_a_pipeline_changes_nothing(sent: list[Sent], places: list[int]) -> None:
    async with one_backend(reply(lambda request: response(body=request.target))) as (proxy, backend):
        client = await proxy.client()
        for piece in cut(b"".join(request.data for request in sent), places):
            await client.send(piece)
            await asyncio.sleep(0)
        for request in sent:
            got = await client.response()
            assert (got.status, got.body) == (200, request.target)
        seen = [
            (r.method, r.target, tuple(f for f in r.fields if f[0] in (b"X-A", b"x-b", b"Cookie", b"X-Empty")), r.body, tuple(r.trailers))
            for r in backend.requests
        ]  # fmt: skip
        assert seen == [(s.method, s.target, s.fields, s.body, s.trailers) for s in sent]


# ---- responses ----------------------------------------------------------------------------------------------------

answers = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 204 No\r\n", b"HTTP/1.1 304 No\r\n", b"HTTP/1.1 100 C\r\n\r\n",
        b"HTTP/1.1 103 H\r\nLink: x\r\n\r\n", b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", b"HTTP/1.1 200\r\n", b"HTTP/1.1 000 X\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\nevil\r\n", b"0\r\n\r\n", b"0\r\nX-T: y\r\n\r\n", b"0\r\nConnection: close\r\n\r\n",
        b"Content-Length: 4\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n",
        b"Connection: keep-alive\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n", b"X: y\r\n", b"X_Y: \xff\r\n", b" fold\r\n", b"X-Empty:\r\n",
        b"\r\n", b"\n", b"\0", b"evil", b"H", b"HTTP/1.1 ",
    ]
)  # fmt: skip


async def attempt(client: Client, method: str) -> Response | None:
    await client.send(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    try:
        return await client.response(method)
    except Truncated:
        return None


@FEWER
@given(
    st.lists(answers | st.binary(max_size=6), max_size=8).map(b"".join),
    cuts,
    st.sampled_from(["GET", "HEAD"]),
    st.booleans(),
)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevilHTTP/1.1 2", [], "GET", False)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", [], "HEAD", False)
async def test_any_bytes_of_an_upstream(data: bytes, places: list[int], method: str, closes: bool) -> None:
    """Whatever the first client gets, it is well-formed or cut; the second one gets what was meant for it."""
    sent = asyncio.Event()

    async def script(connection: BackendConnection) -> None:
        evil = connection.backend.connections == 1
        while await connection.request() is not None:
            if not evil:
                await connection.send(response(body=b"good"))
                continue
            evil = False
            try:
                for piece in cut(data, places):
                    await connection.send(piece)
                    await asyncio.sleep(0)
            finally:
                sent.set()
            if closes:
                return

    async with one_backend(script) as (proxy, backend):
        first, second = await proxy.client(), await proxy.client()
        task = asyncio.create_task(attempt(first, method))
        await sent.wait()
        for _ in range(6):
            await asyncio.sleep(0.0005)
        if not task.done():
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            assert task.exception() is None, task.exception()
        first.reset()
        await until(lambda: proxy.plane.connections == 1)
        await until(lambda: all(not c.exchange for c in proxy.upstream_connections))
        got = await second.get()
        assert (got.status, got.body) == (200, b"good")
        assert got.trailers == []
        assert len(backend.requests) >= 2
