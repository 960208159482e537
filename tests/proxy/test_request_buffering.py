"""proxy-request-buffering: who waits for a body, what the endpoint gets of it, and how much is held."""

import asyncio

import msgspec
import pytest

from ingress.middleware import registry
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase
from ingress.routing.table import Feature, RetryOn, RoutingTable, TrafficPolicy
from tests.proxy.support import Backend, BackendConnection, Client, Proxy, answer, one_backend, response, table, until

KIB = 1024
MIB = 1 << 20
BUFFERED = TrafficPolicy(body_limit_bytes=0)
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def seen(proxy: Proxy, size: int) -> None:
    await until(lambda: proxy.plane.forwarder.buffers.held_bytes == size, f"{size} bytes held")


async def test_a_slow_client_occupies_no_endpoint() -> None:
    async with one_backend(policy=BUFFERED) as (proxy, backend):
        client = await proxy.client()
        await client.send(HEAD % 10 + b"12345")
        await seen(proxy, 5)
        assert backend.connections == 0
        assert all(state.inflight == 0 for state in proxy.states)
        await client.send(b"67890")
        assert (await client.response()).status == 200
        assert backend.requests[0].body == b"1234567890"
        assert backend.requests[0].value("content-length") == b"10"
        assert proxy.plane.forwarder.buffers.held_bytes == 0


@pytest.mark.parametrize("body", [b"", b"abc", b"x" * 200 * KIB])
async def test_a_chunked_body_gets_a_length(body: bytes) -> None:
    async with one_backend(policy=BUFFERED) as (proxy, backend):
        client = await proxy.client()
        for _ in range(2):
            await client.send(CHUNKED)
            for at in range(0, len(body), 50 * KIB):
                await client.send(chunk(body[at : at + 50 * KIB]))
            await client.send(b"0\r\n\r\n")
            assert (await client.response()).status == 200
            request = backend.requests.pop()
            assert request.body == body
            assert request.value("content-length") == b"%d" % len(body)
            assert not request.chunked
        assert backend.connections == 1


async def test_trailers_are_kept() -> None:
    async with one_backend(policy=BUFFERED) as (proxy, backend):
        client = await proxy.client()
        assert (await client.request(CHUNKED + chunk(b"abc") + b"0\r\nX-Sum: 1\r\n\r\n")).status == 200
        assert backend.requests[0].trailers == [(b"X-Sum", b"1")]


async def test_off_streams() -> None:
    policy = msgspec.structs.replace(BUFFERED, request_buffering=False)
    async with one_backend(policy=policy) as (proxy, backend):
        client = await proxy.client()
        await client.send(HEAD % 10 + b"12345")
        await until(lambda: backend.connections, "connected")
        await client.send(b"67890")
        assert (await client.response()).status == 200


@pytest.mark.parametrize("head", [HEAD % (3 * MIB), CHUNKED], ids=["length", "chunked"])
async def test_what_is_longer_than_the_bound_is_streamed(head: bytes) -> None:
    async with one_backend(policy=BUFFERED) as (proxy, backend):
        client = await proxy.client()
        await client.send(head)
        half = b"x" * (3 * MIB // 2)
        chunked = head is CHUNKED
        await client.send(chunk(half) if chunked else half)
        await until(lambda: backend.connections, "connected before the body is complete")
        await client.send(chunk(half) + b"0\r\n\r\n" if chunked else half)
        assert (await client.response()).status == 200
        assert backend.requests[0].body == half * 2
        assert proxy.plane.forwarder.buffers.held_bytes == 0


async def test_the_bound_of_a_route() -> None:
    policy = msgspec.structs.replace(BUFFERED, request_buffer_bytes=100)
    async with one_backend(policy=policy) as (proxy, backend):
        client = await proxy.client()
        await client.send(CHUNKED + chunk(b"x" * 100))
        await seen(proxy, 100)
        assert not backend.connections
        await client.send(chunk(b"y"))
        await until(lambda: backend.connections, "connected")
        await client.send(b"0\r\n\r\n")
        assert (await client.response()).status == 200


async def test_the_bound_of_all() -> None:
    async with one_backend(policy=BUFFERED, request_buffers_limit_bytes=100) as (proxy, backend):
        holding, streaming = await proxy.client(), await proxy.client()
        await holding.send(HEAD % 100 + b"x" * 99)
        await seen(proxy, 99)
        await streaming.send(HEAD % 100 + b"x" * 99)
        await until(lambda: backend.connections == 1, "one of them is over the limit")
        for client in (holding, streaming):
            await client.send(b"x")
            assert (await client.response()).status == 200
        assert proxy.plane.forwarder.buffers.held_bytes == 0


async def test_the_whole_body_is_sent_again() -> None:
    async def broken(connection: BackendConnection) -> None:
        await connection.request()
        connection.reset()

    body = bytes(range(256)) * 2000  # far above what is kept of a streamed one
    policy = msgspec.structs.replace(BUFFERED, retry_on=(RetryOn.ERROR, RetryOn.HTTP_503))
    async with Proxy() as proxy:
        backends = [
            await proxy.backend(broken),
            await proxy.backend(answer(b"busy", 503)),
            await proxy.backend(answer(b"good")),
        ]
        proxy.serve(*backends, policy=policy)
        client = await proxy.client()
        for _ in range(3):
            got = await client.post(body, method="PUT")
            assert got.body == b"good"
        assert all(request.body == body for request in backends[2].requests)
        assert backends[1].requests


async def test_a_body_is_let_go_when_its_answer_begins() -> None:
    go = asyncio.Event()

    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await go.wait()
        await connection.send(b"ok")

    async with one_backend(script, policy=BUFFERED) as (proxy, _):
        client = await proxy.client()
        await client.send(HEAD % 100 + b"x" * 99)
        await seen(proxy, 99)
        await client.send(b"x")
        assert (await client.response(body=False)).status == 200
        assert proxy.plane.forwarder.buffers.held_bytes == 0
        go.set()
        assert await client.reader.readexactly(2) == b"ok"


async def test_expectation_is_answered_by_the_proxy() -> None:
    async with one_backend(policy=BUFFERED) as (proxy, backend):
        client = await proxy.client()
        await client.send(HEAD[:-2] % 3 + b"Expect: 100-continue\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert not backend.connections
        await client.send(b"abc")
        got = await client.response()
        assert (got.status, got.informational) == (200, [])
        assert not backend.requests[0].values("expect")


@pytest.mark.parametrize("head", [HEAD % 11, CHUNKED], ids=["length", "chunked"])
async def test_a_limit_is_kept_while_waiting(head: bytes) -> None:
    policy = TrafficPolicy(body_limit_bytes=10)
    async with one_backend(policy=policy) as (proxy, backend):
        client = await proxy.client()
        await client.send(head + chunk(b"x" * 10)[: -2 if head is not CHUNKED else None])
        if head is CHUNKED:
            await seen(proxy, 10)
            await client.send(chunk(b"x"))
        assert (await client.response()).status == 413
        assert not backend.connections
        assert proxy.plane.forwarder.buffers.held_bytes == 0


async def test_clients_that_leave_or_stall() -> None:
    async with one_backend(policy=BUFFERED, client_body_timeout_s=0.1) as (proxy, backend):
        leaving, stalling = await proxy.client(), await proxy.client()
        await leaving.send(HEAD % 10 + b"x")
        await seen(proxy, 1)
        leaving.close()
        await seen(proxy, 0)
        await stalling.send(HEAD % 10 + b"x")
        assert (await stalling.response()).status == 408
        assert not backend.connections
        assert proxy.plane.forwarder.buffers.held_bytes == 0


async def test_malformed_bodies() -> None:
    async with one_backend(policy=BUFFERED) as (proxy, backend):
        client = await proxy.client()
        await client.send(CHUNKED + chunk(b"abc"))
        await seen(proxy, 3)
        await client.send(b"zz\r\n")
        assert (await client.response()).status == 400
        assert not backend.connections


async def test_a_request_behind_another() -> None:
    async with one_backend(policy=BUFFERED) as (proxy, backend):
        client = await proxy.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + HEAD % 3 + b"a")
        assert (await client.response()).status == 200
        await client.send(b"bc" + HEAD % 3 + b"def")
        assert (await client.response()).status == 200
        assert (await client.response()).status == 200
        assert [request.body for request in backend.requests] == [b"", b"abc", b"def"]


async def test_no_endpoint_when_the_body_is_complete() -> None:
    async with Proxy() as proxy:
        proxy.serve(policy=BUFFERED)
        client = await proxy.client()
        await client.send(HEAD % 3 + b"a")
        await seen(proxy, 1)
        await client.send(b"bc")
        assert (await client.response()).status == 503


async def test_endpoints_that_came_while_waiting() -> None:
    async with Proxy() as proxy:
        proxy.serve(policy=BUFFERED)
        client = await proxy.client()
        await client.send(HEAD % 3 + b"a")
        await seen(proxy, 1)
        proxy.serve(await proxy.backend(), policy=BUFFERED, id="t2")
        await client.send(b"bc")
        assert (await client.response()).status == 200


class Nothing(msgspec.Struct, frozen=True):
    pass


async def test_hooks_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that arrives while a hook is waited for is paused early, and taken in when the hook is through."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        asked.set()
        await go.wait()

    spec = MiddlewareSpec("wait", Phase.ACCESS, (), Nothing, lambda _: None, lambda *_: Hooks(lambda _: wait()))
    monkeypatch.setattr(registry, "SPECS", (spec,))
    monkeypatch.setattr(registry, "BY_NAME", {"wait": spec})
    async with Proxy() as proxy:
        backend = await proxy.backend()
        made = table([backend], policy=BUFFERED)
        (hosts,) = made.hosts.values()
        hooked = msgspec.structs.replace(hosts.routes[0], features=(Feature("wait", {}),))
        proxy.plane.swap(
            msgspec.structs.replace(made, hosts={hosts.host: msgspec.structs.replace(hosts, routes=(hooked,))})
        )
        client = await proxy.client()
        body = b"x" * 900 * KIB
        await client.send(HEAD % len(body) + b"x")
        await asked.wait()
        client.writer.write(body[1:])
        await until(lambda: proxy.plane.client_connections[0]._read_pauses, "paused")
        assert proxy.plane.forwarder.buffers.held_bytes == 0
        go.set()
        assert (await client.response()).status == 200
        assert backend.requests[0].body == body


# ---- HTTP/1.0 and Connection towards endpoints ----


def old(backend: Backend, version: str = "1.0", connection: str = "", policy: TrafficPolicy = BUFFERED) -> RoutingTable:
    made = table([backend], policy=policy)
    changes = {"http_version": version, "connection_header": connection}
    upstreams = {key: msgspec.structs.replace(u, **changes) for key, u in made.upstreams.items()}
    return msgspec.structs.replace(made, upstreams=upstreams)


async def raw_request(connection: BackendConnection) -> bytes:
    head = await connection.reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            head += await connection.reader.readexactly(int(line.partition(b":")[2]))
    return head


class Recorder:
    def __init__(self, close: bool) -> None:
        self.requests: list[bytes] = []
        self.close = close

    async def __call__(self, connection: BackendConnection) -> None:
        while True:
            try:
                self.requests.append(await raw_request(connection))
            except asyncio.IncompleteReadError:
                return
            await connection.send(response(body=b"ok"))
            if self.close:
                return


async def upgrade(client: Client) -> int:
    request = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    return (await client.request(request)).status


async def test_http_1_0() -> None:
    recorder = Recorder(close=True)
    async with Proxy() as proxy:
        backend = await proxy.backend(recorder)
        proxy.plane.swap(old(backend))
        client = await proxy.client()
        assert (await client.get("/x")).body == b"ok"
        assert (await client.request(CHUNKED + chunk(b"abc") + b"0\r\nX-Sum: 1\r\n\r\n")).status == 200
        await client.send(CHUNKED + chunk(b"abc"))
        await seen(proxy, 3)
        await client.send(chunk(b"def") + b"0\r\n\r\n")
        assert (await client.response()).status == 200
        assert await upgrade(client) == 200
        assert backend.connections == 4
        first, *bodies, last = recorder.requests
        assert first.startswith(b"GET /x HTTP/1.0\r\n")
        assert b"\r\nConnection: close\r\n" in first
        assert [body.partition(b"\r\n\r\n")[2] for body in bodies] == [b"abc", b"abcdef"]
        assert b"Upgrade" not in last


async def test_http_1_0_has_no_chunks_to_stream() -> None:
    policy = msgspec.structs.replace(BUFFERED, request_buffer_bytes=10)
    recorder = Recorder(close=True)
    async with Proxy() as proxy:
        backend = await proxy.backend(recorder)
        proxy.plane.swap(old(backend, policy=policy))
        client = await proxy.client()
        assert (await client.request(CHUNKED + chunk(b"x" * 11))).status == 413
        other = await proxy.client()
        assert (await other.post(b"x" * 100)).status == 200
        assert recorder.requests[-1].endswith(b"x" * 100)


@pytest.mark.parametrize("value", ["close", "keep-alive"])
async def test_connection_header(value: str) -> None:
    recorder = Recorder(close=value == "close")
    async with Proxy() as proxy:
        backend = await proxy.backend(recorder)
        proxy.plane.swap(old(backend, "1.1", value))
        client = await proxy.client()
        for _ in range(2):
            assert (await client.get()).status == 200
        assert backend.connections == (2 if value == "close" else 1)
        for request in recorder.requests:
            assert request.startswith(b"GET / HTTP/1.1\r\n")
            assert request.lower().count(b"\r\nconnection: %b\r\n" % value.encode()) == 1
            assert request.lower().count(b"\r\nconnection:") == 1
