"""What proxy/listener.py relies on in aiohttp. A new minor version of aiohttp has to pass this before it is allowed in pyproject.toml."""

import asyncio
import inspect

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from tests.proxy.support import one_backend, reply, response

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def handler(request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("never called")


@pytest.fixture
async def server() -> web.Server:
    return web.Server(handler, handler_cancellation=True)


async def test_the_constructor_of_the_request_handler(server: web.Server) -> None:
    made: RequestHandler = RequestHandler(
        server,
        loop=asyncio.get_running_loop(),
        access_log=None,
        auto_decompress=False,
        tcp_keepalive=True,
    )
    assert made._manager is server
    assert made.transport is None
    assert hasattr(made, "_parser")


def test_it_is_an_asyncio_protocol_with_slots() -> None:
    assert issubclass(RequestHandler, asyncio.Protocol)
    assert hasattr(RequestHandler, "__slots__")  # ours name only what is new


@pytest.mark.parametrize(
    "name",
    ["connection_made", "connection_lost", "eof_received", "data_received", "pause_writing", "resume_writing", "close", "force_close"],
)  # fmt: skip
def test_the_methods_that_are_overridden(name: str) -> None:
    assert callable(getattr(RequestHandler, name))


def test_shutdown_takes_a_timeout() -> None:
    signature = inspect.signature(RequestHandler.shutdown)
    assert list(signature.parameters) == ["self", "timeout"]
    assert inspect.iscoroutinefunction(RequestHandler.shutdown)


class Spy(RequestHandler):
    __slots__ = ("calls",)

    def __init__(self, manager: web.Server) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), access_log=None)
        self.calls: list[str] = []

    def close(self) -> None:
        self.calls.append("close")

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - its signature
        self.calls.append("shutdown")


@pytest.fixture
async def spy(server: web.Server) -> Spy:
    return Spy(server)


async def test_the_register_of_connections(server: web.Server, spy: Spy) -> None:
    transport = asyncio.Transport()
    server.connection_made(spy, transport)
    assert server.connections == [spy]
    server.connection_lost(spy, None)
    assert server.connections == []
    server.connection_lost(spy, None)  # a second time is no error


async def test_the_server_closes_and_shuts_down_what_is_registered(server: web.Server, spy: Spy) -> None:
    server.connection_made(spy, asyncio.Transport())
    server.pre_shutdown()
    assert spy.calls == ["close"]
    await server.shutdown(1.0)
    assert spy.calls[-1] == "shutdown"
    assert server.connections == []


# ---- what its parser is not used for (docs/adr/0001) ----------------------------------------------------------------


@pytest.mark.parametrize("cut", range(0, 140, 7))
async def test_trailers_stay_with_their_message(cut: int) -> None:
    """A trailer field must never turn up among the fields of the next request, or as its framing."""
    data = (
        b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Trailer: 1\r\nX-User: admin\r\n\r\n"
        b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nyo"
    )
    async with one_backend(reply(lambda request: response(body=request.target))) as (proxy, backend):
        client = await proxy.client()
        await client.send(data[:cut])
        await asyncio.sleep(0)
        await client.send(data[cut:])
        assert (await client.response()).body == b"/1"
        assert (await client.response()).body == b"/2"
        first, second = backend.requests
        assert first.trailers == [(b"X-Trailer", b"1"), (b"X-User", b"admin")]
        assert not first.values("X-User")
        assert not second.values("X-User")
        assert not second.values("X-Trailer")
        assert second.body == b"yo"


async def test_connections_appear_in_the_register() -> None:
    async with one_backend() as (proxy, _):
        client = await proxy.client()
        await client.request(GET)
        (connection,) = proxy.plane.client_connections
        assert connection.idle
        assert "requests=1" in repr(connection)
        connection.close()
        assert await client.closed()
        assert not proxy.plane.client_connections


async def test_closing_waits_for_the_request_under_way() -> None:
    go_on = asyncio.Event()

    async def slow(connection: object) -> None:
        await connection.request()  # type: ignore[attr-defined]
        await go_on.wait()
        await connection.send(response(body=b"done"))  # type: ignore[attr-defined]

    async with one_backend(slow) as (proxy, backend):
        client = await proxy.client()
        await client.send(GET)
        while not backend.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        (connection,) = proxy.plane.client_connections
        assert not connection.idle
        connection.close()
        go_on.set()
        got = await client.response()
        assert (got.body, got.values("Connection")) == (b"done", [b"close"])
        assert await client.closed()


async def test_shutdown_cuts() -> None:
    async with one_backend() as (proxy, _):
        client = await proxy.client()
        await client.request(GET)
        (connection,) = proxy.plane.client_connections
        await connection.shutdown(0.0)
        assert await client.closed()
