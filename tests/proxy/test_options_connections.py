"""Limits, time-outs and connections by options, changed while connections are open: new ones get the new values, nothing is cut."""

import asyncio

import pytest

from ingress.routing.table import TrafficPolicy
from tests.proxy.options import Options
from tests.proxy.support import BackendConnection, Clock, Proxy, Request, answer, one_backend, reply, response, until


async def test_header_timeout_of_new_connections() -> None:
    clock = Clock()
    async with one_backend(clock=clock) as (proxy, backend):
        options = Options(proxy, backend)
        old = await proxy.client()
        await old.send(b"GET / HTTP/1.1\r\nHo")
        await until(lambda: proxy.plane.connections == 1)
        options.set(client_header_timeout="5")
        new = await proxy.client()
        await new.send(b"GET / HTTP/1.1\r\nHo")
        await until(lambda: proxy.plane.connections == 2)
        await asyncio.sleep(0.1)  # the sweep takes note of when it began
        clock.now += 6
        assert (await new.response()).status == 408
        await old.send(b"st: a\r\n\r\n")
        assert (await old.response()).status == 200


async def test_body_timeout_of_new_connections() -> None:
    clock = Clock()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
    async with one_backend(clock=clock) as (proxy, backend):
        options = Options(proxy, backend)
        old = await proxy.client()
        await old.send(head)
        await until(lambda: proxy.plane.forwarder.in_flight == 1)
        options.set(client_body_timeout="5")
        new = await proxy.client()
        await new.send(head)
        await until(lambda: proxy.plane.forwarder.in_flight == 2)
        await asyncio.sleep(0.1)
        clock.now += 6
        assert (await new.response()).status == 408
        await old.send(b"ab")
        assert (await old.response()).status == 200


async def test_header_limits_of_new_connections() -> None:
    long = "X-Long: " + "x" * 10000
    async with one_backend() as (proxy, backend):
        options = Options(proxy, backend)
        old = await proxy.client()
        assert (await old.get()).status == 200
        options.set(large_client_header_buffers="4 16k")
        assert (await (await proxy.client()).get("/", "a", long)).status == 200
        assert (await old.get("/", "a", long)).status == 431
        options.set(client_header_buffer_size="32k")
        assert (await (await proxy.client()).get("/" + "x" * 20000)).status == 200
        options.set()
        assert (await (await proxy.client()).get("/" + "x" * 20000)).status == 414


async def test_body_buffer_is_what_can_be_sent_again() -> None:
    """A body of 100 kB is sent to another endpoint when the first one hangs up, with a buffer of 1 MiB but not with the default."""

    async def hang_up(connection: BackendConnection) -> None:
        request = await connection.request()
        assert request is not None
        connection.reset()

    for size, expected in (("8k", 502), ("1m", 200)):
        async with Proxy() as proxy:
            bad, good = await proxy.backend(hang_up), await proxy.backend(answer(b"good"))
            options = Options(proxy, bad, good)
            options.set(client_body_buffer_size=size, proxy_request_buffering="off")  # of a streamed body
            statuses = set()
            for _ in range(4):  # round robin: both orders
                client = await proxy.client()
                statuses.add((await client.post(b"x" * 100_000, method="PUT")).status)
            assert expected in statuses
            assert (502 in statuses) is (expected == 502)


async def test_keep_alive_of_new_connections() -> None:
    clock = Clock()
    async with one_backend(clock=clock) as (proxy, backend):
        options = Options(proxy, backend)
        old = await proxy.client()
        await old.get()
        options.set(keep_alive="10")
        new = await proxy.client()
        await new.get()
        await asyncio.sleep(0.1)
        clock.now += 20
        assert await new.closed()
        assert (await old.get()).status == 200
        options.set(keep_alive="0")
        client = await proxy.client()
        assert (await client.get()).value("connection") == b"close"
        assert await client.closed()


async def test_keep_alive_requests_of_new_connections() -> None:
    async with one_backend() as (proxy, backend):
        options = Options(proxy, backend)
        old = await proxy.client()
        await old.get()
        options.set(keep_alive_requests="2")
        new = await proxy.client()
        assert (await new.get()).value("connection") is None
        assert (await new.get()).value("connection") == b"close"
        assert await new.closed()
        for _ in range(3):
            assert (await old.get()).value("connection") is None


async def test_connections_of_a_worker_are_bounded() -> None:
    """At the limit idle connections make room; where none is idle, the newcomer is closed and everybody else is served."""

    async def slow(connection: BackendConnection) -> None:
        while await connection.request() is not None:
            await going_on.wait()
            await connection.send(response(200, b"late"))

    going_on = asyncio.Event()
    clock = Clock()
    async with one_backend(slow, clock=clock) as (proxy, backend):
        options = Options(proxy, backend)
        options.set(max_worker_connections="2")
        busy = [await proxy.client() for _ in range(2)]
        for client in busy:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: proxy.plane.forwarder.in_flight == 2)
        assert await (await proxy.client()).closed()
        going_on.set()
        for client in busy:
            assert (await client.response()).status == 200
        clock.now += 1
        newcomer = await proxy.client()  # both are idle now
        assert (await newcomer.get()).status == 200
        assert all([await client.closed() for client in busy])
        options.set(max_worker_connections="0")
        many = [await proxy.client() for _ in range(10)]
        assert [(await client.get()).status for client in many] == [200] * 10


async def test_idle_connections_to_endpoints_are_bounded() -> None:
    async with one_backend() as (proxy, backend):
        options = Options(proxy, backend)

        async def burst() -> int:
            clients = [await proxy.client() for _ in range(4)]
            await asyncio.gather(*(client.get() for client in clients))
            return len(proxy.idle_connections)

        options.set(upstream_keepalive_connections="2")
        assert 1 <= await burst() <= 2
        options.set(upstream_keepalive_connections="0")
        clients = [await proxy.client() for _ in range(3)]
        for client in clients:
            await client.get()
        await until(lambda: not proxy.idle_connections)


async def test_idle_connections_to_endpoints_time_out() -> None:
    clock = Clock()
    async with one_backend(clock=clock) as (proxy, backend):
        options = Options(proxy, backend)
        client = await proxy.client()
        await client.get()
        assert len(proxy.idle_connections) == 1
        options.set(upstream_keepalive_timeout="5")  # it counts for connections that are there
        await asyncio.sleep(0.1)
        clock.now += 6
        await until(lambda: not proxy.idle_connections)
        assert (await client.get()).status == 200


async def test_requests_of_a_connection_to_an_endpoint() -> None:
    async with one_backend() as (proxy, backend):
        Options(proxy, backend).set(upstream_keepalive_requests="2")
        client = await proxy.client()
        for _ in range(6):
            assert (await client.get()).status == 200
        assert backend.connections == 3


async def test_age_of_a_connection_to_an_endpoint() -> None:
    clock = Clock()
    async with one_backend(clock=clock) as (proxy, backend):
        Options(proxy, backend).set(upstream_keepalive_time="10s", upstream_keepalive_timeout="3600", keep_alive="3600")
        client = await proxy.client()
        await client.get()
        await asyncio.sleep(0.1)
        clock.now += 11
        await until(lambda: not proxy.idle_connections)
        await client.get()
        assert backend.connections == 2


def test_traffic_policy() -> None:
    """What these do to a request is proved where routes set them (tests/proxy/test_timeouts.py)."""
    proxy = Proxy()
    options = Options(proxy)
    proxy.plane = _NoPlane()  # type: ignore[assignment]
    options.set(
        proxy_connect_timeout="1",
        proxy_read_timeout="2",
        proxy_send_timeout="3",
        proxy_next_upstream_timeout="4",
        proxy_next_upstream_tries="5",
    )
    assert options.parsed.options.traffic == TrafficPolicy(
        connect_timeout_s=1, read_timeout_s=2, send_timeout_s=3, retry_timeout_s=4, retry_tries=5
    )


class _NoPlane:
    def swap(self, table: object) -> None:
        pass


async def test_a_read_timeout_changes_for_the_next_request() -> None:
    async def silent(connection: BackendConnection) -> None:
        while await connection.request() is not None:
            await asyncio.Event().wait()

    clock = Clock()
    async with one_backend(silent, clock=clock) as (proxy, backend):
        Options(proxy, backend).set(proxy_read_timeout="2", proxy_next_upstream="off")
        client = await proxy.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: backend.requests)
        await asyncio.sleep(0.1)
        clock.now += 3
        assert (await client.response()).status == 504


async def test_body_size() -> None:
    async with one_backend() as (proxy, backend):
        options = Options(proxy, backend)
        options.set(proxy_body_size="10")
        client = await proxy.client()
        assert (await client.post(b"x" * 10)).status == 200
        assert (await client.post(b"x" * 11)).status == 413
        options.set(proxy_body_size="0")
        assert (await (await proxy.client()).post(b"x" * (2 << 20))).status == 200


@pytest.mark.parametrize(
    ("options", "method", "retried"),
    [
        ({}, "GET", False),
        ({"proxy-next-upstream": "http_503"}, "GET", True),
        ({"proxy-next-upstream": "http_503"}, "POST", False),
        ({"proxy-next-upstream": "http_503", "retry-non-idempotent": "true"}, "POST", True),
        ({"proxy-next-upstream": "off", "retry-non-idempotent": "true"}, "GET", False),
    ],
)
async def test_retries_by_option(options: dict[str, str], method: str, retried: bool) -> None:
    async with Proxy() as proxy:
        bad, good = await proxy.backend(answer(b"bad", 503)), await proxy.backend(answer(b"good"))
        Options(proxy, bad, good).set(options)
        found = set()
        for _ in range(2):  # whichever is first in turn
            client = await proxy.client()
            found.add((await client.post(b"x", method=method)).body)
        assert found == ({b"good"} if retried else {b"bad", b"good"})


async def test_response_heads_are_passed_generously() -> None:
    """nginx answers 502 beyond proxy-buffer-size; here it is a minimum, and 128k pass anyway."""

    def large(request: Request) -> bytes:
        return response(200, b"ok", [(b"X-Large", b"x" * int(request.target[1:]))])

    async def get(proxy: Proxy, size: int) -> bytes:
        client = await proxy.client()
        await client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % size)
        return await client.rest()

    async with one_backend(reply(large)) as (proxy, backend):
        options = Options(proxy, backend)
        options.set(proxy_buffer_size="4k")
        assert b"x" * 100_000 in await get(proxy, 100_000)
        assert (await get(proxy, 200_000)).startswith(b"HTTP/1.1 502 ")
        options.set(proxy_buffer_size="256k")
        assert b"x" * 200_000 in await get(proxy, 200_000)
