"""The end of a worker: nothing that a client sent is lost."""

import asyncio
import socket
import time

from tests.proxy.support import BackendConnection, Client, Proxy, answer, one_backend, response, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_what_the_kernel_had_queued_is_served() -> None:
    async with one_backend() as (proxy, backend):
        socks = []
        for _ in range(20):
            sock = socket.socket()
            sock.setblocking(False)
            socks.append(sock)
            # Connected in the kernel before the loop could accept: nothing is awaited in between.
            try:
                sock.connect(("127.0.0.1", proxy.port))
            except BlockingIOError:
                pass
        clients = []
        await proxy.plane.stop_accepting(last=True)
        for sock in socks:
            client = Client(*await asyncio.open_connection(sock=sock))
            proxy.clients.append(client)
            clients.append(client)
        for client in clients:
            got = await client.request(GET)
            assert (got.status, got.values("Connection")) == (200, [b"close"])
            assert await client.closed()
        assert len(backend.requests) == 20
        assert await proxy.plane.drain(5)


async def test_nobody_is_accepted_any_more() -> None:
    async with one_backend() as (proxy, _):
        await proxy.plane.stop_accepting(last=True)
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await proxy.loop.sock_connect(sock, ("127.0.0.1", proxy.port))
            raise AssertionError("still listening")
        except ConnectionRefusedError:
            pass
        finally:
            sock.close()


async def test_keep_alive_clients_are_told() -> None:
    async with one_backend() as (proxy, _):
        clients = [await proxy.client() for _ in range(5)]
        for client in clients:
            assert (await client.request(GET)).values("Connection") == []
        await proxy.plane.stop_accepting(last=True)
        for client in clients:
            assert (await client.request(GET)).values("Connection") == [b"close"]
            assert await client.closed()
        assert await proxy.plane.drain(5)


async def test_idle_ones_are_closed_after_a_moment() -> None:
    """Used ones and fresh ones: a moment, so that a request on its way finds the connection open."""
    async with one_backend() as (proxy, _):
        used, fresh = await proxy.client(), await proxy.client()
        await used.request(GET)
        await until(lambda: proxy.plane.connections == 2)
        started = time.monotonic()
        await proxy.plane.stop_accepting(last=True)
        assert await proxy.plane.drain(8)
        assert 0.5 < time.monotonic() - started < 4
        assert await used.closed()
        assert await fresh.closed()


async def test_requests_under_way_finish() -> None:
    go_on = asyncio.Event()

    async def slow(connection: BackendConnection) -> None:
        await connection.request()
        await go_on.wait()
        await connection.send(response(body=b"done"))
        await connection.closed()

    async with one_backend(slow) as (proxy, backend):
        clients = [await proxy.client() for _ in range(5)]
        for client in clients:
            await client.send(GET + GET)  # the second one may get nothing: it was never begun
        await until(lambda: len(backend.requests) == 5)
        await proxy.plane.stop_accepting(last=True)
        drain = asyncio.create_task(proxy.plane.drain(10))
        await asyncio.sleep(0.05)
        assert not drain.done()
        go_on.set()
        for client in clients:
            got = await client.response()
            assert (got.body, got.values("Connection")) == (b"done", [b"close"])
            assert await client.closed()
        assert await drain


async def test_time_is_up() -> None:
    async def stalls(connection: BackendConnection) -> None:
        await connection.request()
        await connection.closed()

    async with one_backend(stalls) as (proxy, backend):
        client = await proxy.client()
        await client.send(GET)
        await until(lambda: backend.requests)
        await proxy.plane.stop_accepting(last=True)
        assert not await proxy.plane.drain(0.1)
        await proxy.plane.close()
        assert await client.closed()
        await until(lambda: not backend.open)


async def test_a_drain_without_connections() -> None:
    async with Proxy() as proxy:
        proxy.serve(await proxy.backend(answer()))
        await proxy.plane.stop_accepting(last=False)
        assert await proxy.plane.drain(0.1)
