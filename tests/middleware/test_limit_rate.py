"""Slower responses: the schedule as arithmetic, and that nothing is lost, leaked or reordered on the way."""

import asyncio
import random

import pytest

from ingress.middleware.limit_rate import LimitRate, allowance, delay_s
from ingress.translate.options import Options
from ingress.translate.options.model import CodecOptions, CompressionOptions
from tests.middleware.rules import HOST, Rules, one, problems
from tests.middleware.test_compression import decode
from tests.proxy.support import BackendConnection, answer, reply, response, until


def test_the_schedule() -> None:
    policy = LimitRate(1000, 500)
    assert [allowance(policy, t) for t in (0.0, 0.5, 1.0, 10.0)] == [1500, 2000, 2500, 11500]
    assert [delay_s(policy, missing) for missing in (0, 100, 500, 10**9)] == [0.01, 0.1, 0.5, 1.0]


@pytest.mark.parametrize(
    ("annotations", "options", "policy"),
    [
        ({}, Options(), None),
        ({"limit-rate": "10"}, Options(), {"rate_bytes": 10240}),
        ({"limit-rate": "10", "limit-rate-after": "2"}, Options(), {"rate_bytes": 10240, "after_bytes": 2048}),
        ({"limit-rate": "0"}, Options(limit_rate_kb=5), None),
        ({"limit-rate-after": "2"}, Options(limit_rate_kb=5), {"rate_bytes": 5120, "after_bytes": 2048}),
        ({}, Options(limit_rate_kb=5, limit_rate_after_kb=1), {"rate_bytes": 5120, "after_bytes": 1024}),
    ],
)
def test_annotations(annotations: dict[str, str], options: Options, policy: dict[str, int] | None) -> None:
    rules = Rules(annotations, options)
    assert rules.policy("limit-rate") == policy
    assert not rules.verdicts()


@pytest.mark.parametrize("name", ["limit-rate", "limit-rate-after"])
@pytest.mark.parametrize("value", ["fast", "10k", "-1", "1.5"])
def test_bad_values(name: str, value: str) -> None:
    assert list(problems(Rules({name: value}))) == [name]


@pytest.mark.parametrize("chunked", [False, True])
async def test_all_bytes_arrive(chunked: bool) -> None:
    content = random.Random(1).randbytes(200_000)

    def make(request: object) -> bytes:
        if not chunked:
            return response(200, content)
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)

    async with one({"limit-rate": "100", "limit-rate-after": "10"}, reply(make)) as (proxy, backend):
        client = await proxy.client()
        got = await client.get("/", HOST)
        assert got.body == content
        assert got.chunked is chunked
        await until(lambda: proxy.log.records)
        assert proxy.log.records[0].body_bytes_sent == len(content)
        assert (await client.get("/", HOST)).body == content
        assert backend.connections == 1


async def test_what_is_held_back_comes_in_time() -> None:
    """Only so much of a response is under way at first."""
    content = b"x" * 400_000
    async with one({"limit-rate": "100"}, answer(content)) as (proxy, _):
        client = await proxy.client()
        await client.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await client.reader.readuntil(b"\r\n\r\n")
        await client.reader.readexactly(102_400)
        exchange = proxy.plane.client_connections[0]._active
        assert exchange is not None
        assert exchange.body_filter is not None
        assert exchange.body_filter._held > 0
        client.reset()


async def test_it_counts_what_is_compressed() -> None:
    content = random.Random(1).randbytes(150_000)
    options = Options(compression=CompressionOptions(CodecOptions(1, 20, ("*",))))
    async with one({"limit-rate": "100"}, answer(content), options) as (proxy, _):
        got = await (await proxy.client()).get("/", HOST, "Accept-Encoding: gzip")
        assert got.value("Content-Encoding") == b"gzip"
        assert decode(got) == content


async def test_short_responses_are_not_touched() -> None:
    async with one({"limit-rate": "1"}, answer(b"x" * 1024)) as (proxy, _):
        client = await proxy.client()
        for method in ("GET", "HEAD"):
            got = await client.get("/", HOST, method=method)
            assert got.value("Content-Length") == b"1024"


@pytest.mark.parametrize("complete", [True, False])
async def test_a_client_that_leaves_while_bytes_are_held_back(complete: bool) -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n")
        await connection.send(b"x" * (200_000 if complete else 100_000))
        await connection.closed()

    async with one({"limit-rate": "1"}, script) as (proxy, _):
        client = await proxy.client()
        await client.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await client.reader.readuntil(b"\r\n\r\n")
        client.reset()
        await proxy.settled()
        assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task() and "Throttle" in repr(t)]


async def test_a_fast_stream_is_held_up() -> None:
    """Memory stays bounded: the endpoint waits while the client gets its share."""
    sent = 0

    async def script(connection: BackendConnection) -> None:
        nonlocal sent
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(400):
            await connection.send(b"c350\r\n" + b"x" * 50_000 + b"\r\n")
            sent += 50_000

    async with one({"limit-rate": "10"}, script) as (proxy, _):
        client = await proxy.client()
        await client.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await client.reader.readuntil(b"\r\n\r\n")
        await until(lambda: any(c._paused_reading for c in proxy.upstream_connections))
        exchange = proxy.plane.client_connections[0]._active
        assert exchange is not None
        assert exchange.body_filter._held < 1_000_000
        assert sent < 20_000_000
        client.reset()


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"zz\r\n"])
async def test_a_request_body_that_ends_while_the_response_is_held_back(end: bytes) -> None:
    content = b"y" * 150_000

    async def impatient(connection: BackendConnection) -> None:
        await connection.request(body=False)
        await connection.send(response(200, content))
        await connection.closed()

    async with one({"limit-rate": "100"}, impatient) as (proxy, _):
        client = await proxy.client()
        await client.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".encode())
        await client.reader.readuntil(b"\r\n\r\n")
        await until(lambda: proxy.plane.forwarder.in_flight == 0)
        await client.send(end)
        assert await client.reader.readexactly(len(content)) == content
        if end == b"0\r\n\r\n":
            assert (await client.get("/", HOST)).body == content  # the connection goes on
        else:
            assert await client.closed()
