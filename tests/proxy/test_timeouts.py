"""Time-outs on both sides, with values of tenths of a second; the sweep looks more often than it does in service."""

import asyncio
import time

import pytest

from ingress.routing.table import RetryOn, TrafficPolicy
from tests.proxy.support import BackendConnection, Client, Proxy, Truncated, answer, one_backend, response, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
S = 0.15


async def ends_after(client: Client, seconds: float) -> bytes:
    """What comes until the connection ends, which must not be before that."""
    started = time.monotonic()
    data = await client.rest()
    assert time.monotonic() - started > seconds * 0.9
    return data


@pytest.mark.parametrize("start", [b"", b"\r\n", b"G", b"GET /", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_a_head_that_does_not_come(start: bytes) -> None:
    async with one_backend(client_header_timeout_s=S) as (proxy, backend):
        client = await proxy.client()
        await client.send(start)
        data = await ends_after(client, S)
        assert data.startswith(b"HTTP/1.1 408 ") if start.strip() else data == b""
        assert not backend.requests


async def test_a_head_that_trickles_in() -> None:
    """Signs of life don't prolong it."""
    async with one_backend(client_header_timeout_s=S) as (proxy, _):
        client = await proxy.client()

        async def trickle() -> None:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
            while True:
                await client.send(b"x")
                await asyncio.sleep(0.01)

        task = asyncio.create_task(trickle())
        assert (await ends_after(client, S)).startswith(b"HTTP/1.1 408 ")
        task.cancel()
        await asyncio.wait([task])


async def test_the_head_of_a_later_request() -> None:
    async with one_backend(client_header_timeout_s=S) as (proxy, _):
        client = await proxy.client()
        await client.request(GET)
        await client.send(b"GET / HTTP")
        assert (await ends_after(client, S)).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("kept", [True, False])
async def test_a_body_that_does_not_come(framing: str, kept: bool) -> None:
    async with one_backend(client_body_timeout_s=S) as (proxy, backend):
        client = await proxy.client()
        if kept:
            await client.request(GET)
        head = POST if framing == "length" else POST.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked")
        await client.send(head + (b"b" if framing == "length" else b"1\r\nb\r\n"))
        assert (await ends_after(client, S)).startswith(b"HTTP/1.1 408 ")
        await until(lambda: not backend.open, "the upstream doesn't wait for the rest")
        assert [request.method for request in backend.requests] == [b"GET"] * kept
        assert not proxy.failures()


async def test_a_body_that_comes_slowly_is_fine() -> None:
    async with one_backend(
        client_body_timeout_s=S, policy=TrafficPolicy(request_buffering=False, read_timeout_s=S)
    ) as (proxy, backend):
        client = await proxy.client()
        await client.send(POST)
        for byte in b"body":
            await asyncio.sleep(S * 0.6)
            await client.send(bytes((byte,)))
        assert (await client.response()).status == 200
        assert backend.requests[0].body == b"body"


async def test_a_discarded_body_that_does_not_come() -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request(body=False)
        await connection.send(response(403))
        await connection.closed()

    async with one_backend(script, client_body_timeout_s=S) as (proxy, _):
        client = await proxy.client()
        await client.send(POST)
        assert (await client.response()).status == 403
        assert await ends_after(client, S * 0.8) == b""


async def test_keepalive_timeout() -> None:
    async with one_backend(keepalive_timeout_s=S) as (proxy, _):
        client = await proxy.client()
        for _ in range(3):
            assert (await client.request(GET)).status == 200
            await asyncio.sleep(S * 0.5)
        assert await ends_after(client, S * 0.4) == b""


async def test_upstream_keepalive_timeout() -> None:
    async with one_backend(upstream_keepalive_timeout_s=S) as (proxy, backend):
        client = await proxy.client()
        await client.request(GET)
        started = time.monotonic()
        await until(lambda: not backend.open)
        assert time.monotonic() - started > S * 0.9
        await until(lambda: not proxy.idle_connections)
        assert (await client.request(GET)).status == 200


async def test_upstream_keepalive_time() -> None:
    async with one_backend(upstream_keepalive_time_s=S) as (proxy, backend):
        client = await proxy.client()
        end = time.monotonic() + S * 4
        while time.monotonic() < end:
            assert (await client.request(GET)).status == 200
            await asyncio.sleep(0.01)
        assert backend.connections > 1


@pytest.mark.parametrize("size", [100_000, 20_000_000])
@pytest.mark.parametrize("keep", ["keep-alive", "close"])
async def test_a_client_that_does_not_read(size: int, keep: str) -> None:
    """Also where all that is left fits into the buffer, so that writing was never paused."""
    async with one_backend(answer(b"x" * size), client_send_timeout_s=S, send_buffer=4096) as (proxy, backend):
        client = await proxy.client(receive_buffer=4096)
        client.writer.transport.pause_reading()
        await client.send(f"GET / HTTP/1.1\r\nHost: a\r\nConnection: {keep}\r\n\r\n".encode())
        await until(lambda: backend.requests)
        await until(lambda: not proxy.plane.connections, "the connection is cut")
        client.writer.transport.resume_reading()
        with pytest.raises((Truncated, ConnectionError)):
            await client.response()


async def test_a_client_that_reads_slowly_is_fine() -> None:
    async with one_backend(answer(b"x" * 200_000), client_send_timeout_s=S * 2, send_buffer=4096) as (proxy, _):
        client = await proxy.client(receive_buffer=4096)
        client.writer.transport.pause_reading()
        await client.send(GET)
        started, got = time.monotonic(), 0
        sock = client.writer.get_extra_info("socket")
        while time.monotonic() - started < S * 5:
            await asyncio.sleep(0.02)
            client.writer.transport.resume_reading()
            await asyncio.sleep(0.005)
            client.writer.transport.pause_reading()
        assert sock.fileno() >= 0
        client.writer.transport.resume_reading()
        got = len((await client.response()).body)
        assert got == 200_000


# ---- upstreams ----------------------------------------------------------------------------------------------------


async def stalls(connection: BackendConnection) -> None:
    await connection.request()
    await connection.closed()


async def stalls_in_the_body(connection: BackendConnection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin")
    await connection.closed()


async def stalls_in_the_head(connection: BackendConnection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    await connection.closed()


READ = TrafficPolicy(read_timeout_s=S)


@pytest.mark.parametrize("script", [stalls, stalls_in_the_head])
async def test_read_timeout(script: object) -> None:
    async with one_backend(script, policy=READ) as (proxy, backend):  # type: ignore[arg-type]
        client = await proxy.client()
        started = time.monotonic()
        assert (await client.request(GET)).status == 504
        assert time.monotonic() - started > S * 0.9
        await until(lambda: not backend.open)
        assert proxy.failures() == {"read_timeout": 1}
        backend.script = answer(b"again")
        assert (await client.request(GET)).body == b"again"


async def test_read_timeout_in_the_body() -> None:
    async with one_backend(stalls_in_the_body, policy=READ) as (proxy, backend):
        client = await proxy.client()
        with pytest.raises(Truncated):
            await client.request(GET)
        await until(lambda: not backend.open)


async def test_read_timeout_is_between_two_reads() -> None:
    async def slow(connection: BackendConnection) -> None:
        await connection.request()
        for byte in response(body=b"x"):
            await connection.send(bytes((byte,)))
            await asyncio.sleep(S / 20)
        await connection.closed()

    async with one_backend(slow, policy=READ) as (proxy, _):
        client = await proxy.client()
        started = time.monotonic()
        assert (await client.request(GET)).body == b"x"
        assert time.monotonic() - started > S * 1.5


@pytest.mark.parametrize(
    ("data", "retry_on", "retried"),
    [
        (GET, (RetryOn.TIMEOUT,), True),
        (GET, (RetryOn.ERROR,), False),
        (POST + b"body", (RetryOn.TIMEOUT,), False),
        (POST + b"body", (RetryOn.TIMEOUT, RetryOn.NON_IDEMPOTENT), True),
    ],
)
async def test_retries_after_a_read_timeout(data: bytes, retry_on: tuple[RetryOn, ...], retried: bool) -> None:
    async with Proxy() as proxy:
        bad, good = await proxy.backend(stalls), await proxy.backend()
        proxy.serve(bad, good, policy=TrafficPolicy(read_timeout_s=S, retry_on=retry_on))
        client = await proxy.client()
        statuses = {(await client.request(data)).status for _ in range(2)}
        assert statuses == ({200} if retried else {200, 504})
        assert bad.requests


async def test_send_timeout() -> None:
    released = asyncio.Event()

    async def never_reads(connection: BackendConnection) -> None:
        connection.writer.transport.pause_reading()
        await released.wait()

    policy = TrafficPolicy(request_buffering=False, send_timeout_s=S, read_timeout_s=60, body_limit_bytes=0)
    async with one_backend(never_reads, policy=policy) as (proxy, _):
        client = await proxy.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")
        task = asyncio.create_task(client.send(b"x" * 50_000_000))
        assert (await client.response()).status == 504
        assert proxy.failures() == {"send_timeout": 1}
        task.cancel()
        await asyncio.wait([task])
        released.set()


async def test_the_sweep_survives_a_fault() -> None:
    """One object's fault must not end the time-outs of all."""
    async with one_backend(keepalive_timeout_s=S) as (proxy, _):
        client = await proxy.client()
        await client.request(GET)
        readmit = proxy.plane.runtime.readmit

        def fails(now: float) -> None:
            proxy.plane.runtime.readmit = readmit  # type: ignore[method-assign]
            raise RuntimeError("on purpose")

        proxy.plane.runtime.readmit = fails  # type: ignore[method-assign]
        assert await client.closed()
        assert any("on purpose" in message for message in proxy._errors.messages)
        proxy._errors.messages.clear()
