"""Upstreams that refuse, stall, vanish or talk nonsense, and clients that leave: what is retried, what is seen, nothing is leaked.

That nothing is leaked is asserted by leaving `Proxy` (tests/proxy/support.py), for every test here.
"""

import asyncio
import socket

import pytest

from ingress.balancing.ejection import FIRST_EJECTION_S
from ingress.proxy.upstream_runtime import UpstreamRuntime
from ingress.routing.table import Endpoint, RetryOn, TrafficPolicy
from tests.proxy.support import (
    BackendConnection,
    Client,
    Clock,
    Message,
    Proxy,
    Truncated,
    answer,
    free_port,
    one_backend,
    reply,
    response,
    until,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD_GET = b"GET / HTTP/1.0\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
OFF = TrafficPolicy(retry_on=())


async def closes(connection: BackendConnection) -> None:
    """Reads a request and hangs up."""
    await connection.request()


async def resets(connection: BackendConnection) -> None:
    await connection.request()
    connection.reset()


async def answers_and_closes(connection: BackendConnection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


async def stalls(connection: BackendConnection) -> None:
    await connection.request()
    await connection.closed()


def first_then(*scripts: object) -> object:
    """A script for the first connection, the next, …; the last one for all that follow."""

    async def script(connection: BackendConnection) -> None:
        number = min(connection.backend.connections, len(scripts)) - 1
        await scripts[number](connection)  # type: ignore[operator]

    return script


# ---- no answer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [GET, POST, OLD_GET, GET.replace(b"GET", b"HEAD")])
async def test_refused_by_the_only_endpoint(data: bytes) -> None:
    async with Proxy() as proxy:
        proxy.serve(Endpoint("127.0.0.1", free_port()))
        client = await proxy.client()
        got = await client.request(data, data.split()[0].decode())
        assert got.status == 502
        if data != OLD_GET:
            assert (await client.request(GET)).status == 502
        assert proxy.failures() == {"connect_failed": 1 if data == OLD_GET else 2}


@pytest.mark.parametrize("data", [GET, POST])
async def test_refused_by_one_of_two(data: bytes) -> None:
    """Nothing was sent, so that any method may go to the other one."""
    async with Proxy() as proxy:
        good = await proxy.backend()
        proxy.serve(Endpoint("127.0.0.1", free_port()), good)
        client = await proxy.client()
        for _ in range(6):
            assert (await client.request(data)).status == 200
        assert len(good.requests) == 6
        assert proxy.retries() == 3
        assert {request.body for request in good.requests} == ({b"body"} if data == POST else {b""})


@pytest.mark.parametrize("data", [GET, POST])
async def test_refused_by_all_but_one(data: bytes) -> None:
    """A Service that shrinks: connections refused aren't counted as tries, and an endpoint ejected before is better than none."""
    async with Proxy() as proxy:
        good = await proxy.backend()
        proxy.serve(*(Endpoint("127.0.0.1", free_port()) for _ in range(9)), good)
        client = await proxy.client()
        for _ in range(40):
            assert (await client.request(data)).status == 200
        assert len(good.requests) == 40
        (upstream,) = proxy.plane.runtime.upstreams.values()
        (state,) = (state for state in upstream.states if state.endpoint.port == good.port)
        for _ in range(3):
            proxy.plane.runtime.record_failure(upstream, state, proxy.plane.forwarder._clock())
        assert state.ejected_until
        assert (await client.request(data)).status == 200


async def test_refused_with_retries_off() -> None:
    async with Proxy() as proxy:
        good = await proxy.backend()
        proxy.serve(Endpoint("127.0.0.1", free_port()), good, policy=TrafficPolicy(retry_tries=1))
        client = await proxy.client()
        assert sorted([(await client.get()).status for _ in range(2)]) == [200, 502]


class Gone:
    """An upstream whose only endpoint has answered once, and doesn't listen any more."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy

    async def begin(self, policy: TrafficPolicy | None = None) -> None:
        backend = await self.proxy.backend(answers_and_closes)
        self.proxy.serve(backend, policy=policy)
        assert (await (await self.proxy.client()).get()).status == 200
        await backend.refuse()

    @property
    def upstream(self) -> UpstreamRuntime:
        (found,) = self.proxy.plane.runtime.upstreams.values()
        return found

    async def request(self, data: bytes) -> "asyncio.Task[Message]":
        """One that finds no endpoint: returns when it waits."""
        client = await self.proxy.client()
        task = asyncio.create_task(client.request(data))
        waiting = self.upstream.waiting
        await until(lambda: self.upstream.waiting > waiting or task.done())
        return task


@pytest.mark.parametrize("data", [GET, POST])
async def test_waits_for_successors(data: bytes) -> None:
    """All endpoints were gone before the next ones were announced: nothing was sent, so nothing is lost."""
    async with Proxy() as proxy:
        gone = Gone(proxy)
        await gone.begin()
        requests = [await gone.request(data) for _ in range(3)]
        assert not any(request.done() for request in requests)
        good = await proxy.backend()
        proxy.serve(good, id="t2")
        assert [(await request).status for request in requests] == [200] * 3
        assert len(good.requests) == 3
        assert gone.upstream.waiting == 0


async def test_waits_again_while_successors_refuse() -> None:
    async with Proxy() as proxy:
        gone = Gone(proxy)
        await gone.begin()
        request = await gone.request(GET)
        proxy.serve(gone.upstream.upstream.endpoints[0], Endpoint("127.0.0.1", free_port()), id="t2")
        await until(lambda: gone.upstream.waiting)
        assert not request.done()
        proxy.serve(await proxy.backend(), id="t3")
        assert (await request).status == 200


async def test_waits_for_successors_in_vain() -> None:
    """No longer than a connection may take, counted from the first request that found nobody."""
    async with Proxy() as proxy:
        gone = Gone(proxy)
        await gone.begin(TrafficPolicy(connect_timeout_s=0.05))
        assert (await (await gone.request(GET))).status == 502
        tries = proxy.retries()
        assert tries
        assert (await (await proxy.client()).get()).status == 502
        assert proxy.retries() == tries


async def test_waits_until_nobody_is_left() -> None:
    async with Proxy() as proxy:
        gone = Gone(proxy)
        await gone.begin()
        request = await gone.request(GET)
        proxy.serve(id="t2")
        assert (await request).status == 503


async def test_client_leaves_while_it_waits() -> None:
    async with Proxy() as proxy:
        gone = Gone(proxy)
        await gone.begin()
        request = await gone.request(POST)
        proxy.clients[-1].writer.transport.abort()
        await until(lambda: not gone.upstream.waiting)
        with pytest.raises((ConnectionError, Truncated)):
            await request


@pytest.mark.parametrize("fault", [closes, resets])
@pytest.mark.parametrize(("data", "retried"), [(GET, True), (GET.replace(b"GET", b"PUT"), True), (POST, False)])
async def test_closed_before_an_answer(fault: object, data: bytes, retried: bool) -> None:
    async with Proxy() as proxy:
        bad, good = await proxy.backend(fault), await proxy.backend()  # type: ignore[arg-type]
        proxy.serve(bad, good)
        statuses = []
        for _ in range(2):
            client = await proxy.client()
            statuses.append((await client.request(data)).status)
        if retried:
            assert statuses == [200, 200]
            assert len(good.requests) == 2
        else:
            assert sorted(statuses) == [200, 502]
            assert len(good.requests) == 1  # the one that it was given in its turn
        assert proxy.failures() == {"upstream_closed": len(bad.requests)}
        assert proxy.retries() == (len(bad.requests) if retried else 0)


@pytest.mark.parametrize("fault", [closes, resets])
async def test_non_idempotent_requests_are_repeated_on_demand(fault: object) -> None:
    policy = TrafficPolicy(retry_on=(RetryOn.ERROR, RetryOn.NON_IDEMPOTENT))
    async with Proxy() as proxy:
        bad, good = await proxy.backend(fault), await proxy.backend()  # type: ignore[arg-type]
        proxy.serve(bad, good, policy=policy)
        for _ in range(2):
            assert (await (await proxy.client()).request(POST)).status == 200
        assert [request.body for request in good.requests] == [b"body"] * 2


async def test_retries_can_be_turned_off() -> None:
    async with Proxy() as proxy:
        bad, good = await proxy.backend(closes), await proxy.backend()
        proxy.serve(bad, good, policy=OFF)
        client = await proxy.client()
        assert sorted([(await client.get()).status for _ in range(2)]) == [200, 502]
        assert (len(bad.requests), len(good.requests)) == (1, 1)


async def test_no_more_than_three_tries() -> None:
    async with Proxy() as proxy:
        backends = [await proxy.backend(closes) for _ in range(5)]
        proxy.serve(*backends)
        assert (await (await proxy.client()).get()).status == 502
        assert sorted(len(backend.requests) for backend in backends) == [0, 0, 1, 1, 1]
        proxy.serve(*backends, policy=TrafficPolicy(retry_tries=0), id="t2")
        assert (await (await proxy.client()).get()).status == 502
        assert all(backend.requests for backend in backends)


async def test_no_retry_after_the_time_for_retries() -> None:
    clock = Clock()

    async def slow_closes(connection: BackendConnection) -> None:
        await connection.request()
        clock.now += 3

    async with Proxy(clock=clock) as proxy:
        backends = [await proxy.backend(slow_closes) for _ in range(3)]
        proxy.serve(*backends, policy=TrafficPolicy(retry_timeout_s=5.0))
        assert (await (await proxy.client()).get()).status == 502
        assert sorted(len(backend.requests) for backend in backends) == [0, 1, 1]


@pytest.mark.parametrize(
    "junk",
    [
        b"junk\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/3.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
        b"HTTP/1.1 200 " + b"y" * 200_000,
        b"\x16\x03\x01\x02\0",
        b"\0",
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [0, 1], ids=["whole", "bytewise"])
async def test_nonsense_is_502(junk: bytes, step: int) -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        for at in range(0, len(junk), step if step and len(junk) < 1000 else 8192):
            await connection.send(junk[at : at + (step if step and len(junk) < 1000 else 8192)])
            await asyncio.sleep(0)
        await connection.closed()

    async with one_backend(script) as (proxy, backend):
        client = await proxy.client()
        for _ in range(2):
            assert (await client.get()).status == 502
        assert len(backend.requests) == 2
        assert proxy.failures() == {"upstream_protocol": 2}
        await until(lambda: not backend.open)


async def test_nonsense_is_retried_only_on_demand() -> None:
    async with Proxy() as proxy:
        bad, good = await proxy.backend(reply(lambda _: b"junk")), await proxy.backend()
        proxy.serve(bad, good, policy=TrafficPolicy(retry_on=(RetryOn.INVALID_HEADER,)))
        client = await proxy.client()
        assert [(await client.get()).status for _ in range(2)] == [200, 200]
        assert len(bad.requests) in (1, 2)


# ---- statuses -----------------------------------------------------------------------------------------------------

ON_503 = TrafficPolicy(retry_on=(RetryOn.ERROR, RetryOn.HTTP_503))


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("body", [b"", b"sorry", b"x" * 100_000])
async def test_a_status_that_is_retried(together: bool, body: bytes) -> None:
    async def sorry(connection: BackendConnection) -> None:
        while await connection.request() is not None:
            data = response(503, body)
            at = len(data) if together else data.index(b"\r\n\r\n") + 4
            await connection.send(data[:at])
            await asyncio.sleep(0.005)
            await connection.send(data[at:])

    async with Proxy() as proxy:
        bad, good = await proxy.backend(sorry), await proxy.backend(answer(b"good"))
        proxy.serve(bad, good, policy=ON_503)
        client = await proxy.client()
        for _ in range(6):
            got = await client.get()
            assert (got.status, got.body) == (200, b"good")
        assert len(good.requests) == 6
        assert len(bad.requests) == proxy.retries()
        assert bad.requests
        assert not proxy.failures()  # an answer is no sign of ill health
        # a POST isn't sent twice, so the answer is passed on
        assert sorted([(await client.request(POST)).status for _ in range(2)]) == [200, 503]


async def test_the_last_answer_is_passed_on() -> None:
    async with Proxy() as proxy:
        backends = [await proxy.backend(answer(b"sorry", 503)) for _ in range(2)]
        proxy.serve(*backends, policy=ON_503)
        client = await proxy.client()
        got = await client.get()
        assert (got.status, got.body) == (503, b"sorry")
        assert [len(backend.requests) for backend in backends] == [1, 1]
        assert (await client.get()).status == 503


# ---- cut short ----------------------------------------------------------------------------------------------------

HEADS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n",
    "between chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    "until close": b"HTTP/1.1 200 OK\r\n\r\n",
}


def began(proxy: Proxy) -> bool:
    """The head of the response has come through."""
    active = [connection._active for connection in proxy.plane.client_connections]
    return any(exchange is not None and exchange.response_started for exchange in active)


CUT_SHORT = [
    *((framing, how) for framing in ("length", "chunked", "until close") for how in ("reset", "close")),
    ("between chunks", "junk"),
]
CUT_SHORT.remove(("until close", "close"))  # that is no fault


@pytest.mark.parametrize(("framing", "how"), CUT_SHORT)
@pytest.mark.parametrize("size", [0, 10, 60_000])
@pytest.mark.parametrize("data", [GET, OLD_GET], ids=["1.1", "1.0"])
async def test_a_response_cut_short_never_looks_complete(framing: str, size: int, data: bytes, how: str) -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(HEADS[framing] + (b"x" * size if how != "junk" else b"junk\r\n"))
        await until(lambda: connection.backend.told)  # type: ignore[attr-defined]
        if how == "reset":
            connection.reset()

    async with one_backend(script) as (proxy, backend):
        backend.told = False  # type: ignore[attr-defined]
        client = await proxy.client()
        await client.send(data + (GET if data == GET else b""))
        task = asyncio.create_task(client.response())
        await until(lambda: how == "junk" or any(r.status for r in proxy.log.records) or began(proxy))
        backend.told = True  # type: ignore[attr-defined]
        with pytest.raises(Truncated):
            await task
        assert (await client.rest()) == b""  # nor is the next request of the pipeline answered
        assert len(backend.requests) == 1
        assert proxy.retries() == 0


async def test_a_complete_response_until_close_is_complete() -> None:
    async with one_backend(first_then(closes_after(b"HTTP/1.1 200 OK\r\n\r\nall"))) as (proxy, _):
        client = await proxy.client()
        for _ in range(2):
            assert (await client.get()).body == b"all"
        assert not proxy.failures()


def closes_after(data: bytes) -> object:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(data)

    return script


# ---- connections that were kept ------------------------------------------------------------------------------------


def dies_on_second(how: str) -> object:
    """Answers once; hangs up when the next request is on the way."""

    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(response(body=b"ok"))
        await connection.request()
        if how == "reset":
            connection.reset()

    return script


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_kept_connection_that_dies_under_a_get(how: str) -> None:
    async with one_backend(dies_on_second(how)) as (proxy, backend):
        client = await proxy.client()
        for _ in range(4):
            assert (await client.get()).status == 200
        assert not proxy.failures()
        assert proxy.state_of(backend).consecutive_failures == 0
        assert backend.connections == 4
        assert len(backend.requests) == 7


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_kept_connection_that_dies_under_a_post(how: str) -> None:
    """It may have been acted upon: it is never sent twice."""
    async with one_backend(dies_on_second(how)) as (proxy, backend):
        client = await proxy.client()
        assert (await client.get()).status == 200
        assert (await client.request(POST)).status == 502
        assert [request.method for request in backend.requests] == [b"GET", b"POST"]
        assert (await client.request(POST)).status == 200


@pytest.mark.parametrize("data", [GET, POST])
async def test_a_connection_that_was_closed_before_is_not_used(data: bytes) -> None:
    """The FIN is in the socket, though the loop hasn't seen it: the endpoint closes and the client sends at one moment."""
    connections: list[BackendConnection] = []

    async def script(connection: BackendConnection) -> None:
        connections.append(connection)
        while await connection.request() is not None:
            await connection.send(response(body=b"ok"))

    async with one_backend(script) as (proxy, backend):
        client = await proxy.client()
        assert (await client.get()).status == 200
        sock = connections[0].writer.get_extra_info("socket")
        client_sock = client.writer.get_extra_info("socket")
        # Both before the proxy's loop runs again. The kernel has the FIN before the request.
        with (
            socket.socket(fileno=socket.dup(sock.fileno())) as own,
            socket.socket(fileno=socket.dup(client_sock.fileno())) as mine,
        ):
            own.shutdown(socket.SHUT_WR)
            mine.send(data)
        assert (await client.response()).status == 200
        assert not proxy.failures()
        assert sum(request.method == data.split()[0] for request in backend.requests) <= 2


async def test_idle_connections_that_are_closed_are_forgotten() -> None:
    async with one_backend(first_then(closes_after(response(body=b"ok")))) as (proxy, backend):
        client = await proxy.client()
        for number in range(3):
            assert (await client.request(POST)).status == 200
            await until(lambda: not proxy.upstream_connections)
            assert backend.connections == number + 1


@pytest.mark.parametrize("data", [GET, POST])
async def test_bytes_on_an_idle_connection_cost_it(data: bytes) -> None:
    connections: list[BackendConnection] = []

    async def script(connection: BackendConnection) -> None:
        connections.append(connection)
        while await connection.request() is not None:
            await connection.send(response(body=b"ok"))

    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    async with one_backend(script) as (proxy, backend):
        client = await proxy.client()
        assert (await client.get()).status == 200
        sock, mine = connections[0].writer.get_extra_info("socket"), client.writer.get_extra_info("socket")
        with (
            socket.socket(fileno=socket.dup(sock.fileno())) as one,
            socket.socket(fileno=socket.dup(mine.fileno())) as two,
        ):
            one.send(evil)
            two.send(data)
        got = await client.response()
        # Where both are there at once, nobody can tell for a GET; a POST looks before.
        assert data == GET or got.body == b"ok"
        await until(lambda: all(c.exchange is None for c in proxy.upstream_connections))
        assert (await client.request(POST)).body == b"ok"
        assert sum(request.method == b"POST" for request in backend.requests) == (2 if data == POST else 1)


# ---- ill health ---------------------------------------------------------------------------------------------------


async def test_ejection_and_readmission() -> None:
    clock = Clock()
    async with Proxy(clock=clock) as proxy:
        bad = await proxy.backend(closes)
        good = await proxy.backend()
        proxy.serve(bad, good)
        client = await proxy.client()
        for _ in range(12):
            assert (await client.get()).status == 200
        assert len(bad.requests) == 3
        assert proxy.state_of(bad).ejected_until > clock.now
        bad.script = answer(b"well again")
        clock.now += FIRST_EJECTION_S + 0.1
        await until(lambda: not proxy.state_of(bad).ejected_until)
        bodies = [(await client.get()).body for _ in range(4)]
        assert bodies.count(b"well again") == 2
        assert proxy.state_of(bad).consecutive_failures == 0
        assert not proxy.plane.runtime.recovering


async def test_with_all_ejected_they_are_tried_all_the_same() -> None:
    clock = Clock()
    async with one_backend(closes, clock=clock) as (proxy, backend):
        client = await proxy.client()
        for number in range(5):
            assert (await client.get()).status == 502
            assert len(backend.requests) == number + 1
        assert proxy.state_of(backend).ejected_until
        backend.script = answer(b"well again")
        assert (await client.get()).body == b"well again"


# ---- clients that leave --------------------------------------------------------------------------------------------


async def leave(client: Client, how: str) -> None:
    if how == "reset":
        client.reset()
    else:
        client.close()


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("when", ["before the answer", "in the answer", "in the body", "in the queue"])
async def test_a_client_that_leaves(how: str, when: str) -> None:
    async def script(connection: BackendConnection) -> None:
        request = await connection.request(body=when != "in the body")
        assert request is not None
        if when == "in the answer":
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nbegin")
        await connection.closed()

    async with one_backend(script) as (proxy, backend):
        client = await proxy.client()
        await client.send({"in the body": POST[:-2], "in the queue": GET + POST + GET}.get(when, GET))
        await until(lambda: backend.requests)
        if when == "in the answer":
            await client.response(body=False)
            await client.reader.readexactly(5)
        await leave(client, how)
        await until(lambda: not backend.open, "the upstream's connection closed")
        await until(lambda: proxy.plane.forwarder.in_flight == 0)
        assert [record.status for record in proxy.log.records] == [200 if when == "in the answer" else 499]
        assert len(backend.requests) == 1
        assert not proxy.failures()


class Blackhole:
    """A port of the loopback interface where connecting neither succeeds nor fails: the accept queue is full."""

    def __init__(self) -> None:
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(0)
        self.endpoint = Endpoint("127.0.0.1", self.sock.getsockname()[1])
        self.fillers: list[socket.socket] = []

    async def __aenter__(self) -> "Blackhole":
        loop = asyncio.get_running_loop()
        for _ in range(64):
            filler = socket.socket()
            filler.setblocking(False)
            self.fillers.append(filler)
            try:
                async with asyncio.timeout(0.15):
                    await loop.sock_connect(filler, self.sock.getsockname())
            except TimeoutError:
                return self
        raise AssertionError("a listener with a backlog of 0 took 64 connections that nobody accepts")

    async def __aexit__(self, *_: object) -> None:
        for sock in (*self.fillers, self.sock):
            sock.close()


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_client_that_leaves_during_the_connect(how: str) -> None:
    async with Blackhole() as hole, Proxy() as proxy:
        proxy.serve(hole.endpoint)
        client = await proxy.client()
        await client.send(POST)
        await until(proxy.connects)
        await leave(client, how)
        await until(lambda: not proxy.connects())
        assert [record.status for record in proxy.log.records] == [499]


async def test_connect_timeout() -> None:
    async with Blackhole() as hole, Proxy() as proxy:
        proxy.serve(hole.endpoint, policy=TrafficPolicy(connect_timeout_s=0.1))
        client = await proxy.client()
        assert (await client.request(GET)).status == 504
        assert proxy.failures() == {"connect_timeout": 1}
        good = await proxy.backend()
        proxy.serve(hole.endpoint, good, policy=TrafficPolicy(connect_timeout_s=0.1), id="t2")
        for _ in range(2):
            assert (await client.request(POST)).status == 200
        assert len(good.requests) == 2


async def test_a_large_body_while_connecting_is_held_back() -> None:
    async with Blackhole() as hole, Proxy() as proxy:
        proxy.serve(
            hole.endpoint, policy=TrafficPolicy(request_buffering=False, connect_timeout_s=0.5, body_limit_bytes=0)
        )
        client = await proxy.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")
        task = asyncio.create_task(client.send(b"x" * 50_000_000))
        await until(lambda: any(c._read_pauses for c in proxy.plane.client_connections))
        (connection,) = proxy.plane.client_connections
        assert connection._active is not None
        assert connection._active.body_bytes < 1 << 20
        assert (await client.response()).status == 504
        task.cancel()
        await asyncio.wait([task])


# ---- half-closed upstreams -----------------------------------------------------------------------------------------


async def test_an_upstream_that_closes_its_side_and_reads_no_more() -> None:
    """What we still had to send must not keep the connection, or the client, for ever."""
    released, full = asyncio.Event(), asyncio.Event()

    async def script(connection: BackendConnection) -> None:
        await connection.request(body=False)
        connection.writer.transport.pause_reading()
        await full.wait()
        connection.writer.write_eof()
        await released.wait()

    async with one_backend(script, policy=TrafficPolicy(request_buffering=False, body_limit_bytes=0)) as (proxy, _):
        client = await proxy.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")
        task = asyncio.create_task(client.send(b"x" * 50_000_000))
        await until(lambda: any(c._writing_paused for c in proxy.upstream_connections))
        full.set()
        assert (await client.response()).status == 502
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: not proxy.upstream_connections)
        released.set()


async def test_an_upstream_that_answers_and_reads_no_more() -> None:
    released, full = asyncio.Event(), asyncio.Event()

    async def script(connection: BackendConnection) -> None:
        await connection.request(body=False)
        connection.writer.transport.pause_reading()
        await full.wait()
        await connection.send(response(401, b"no"))
        await released.wait()

    async with one_backend(script, policy=TrafficPolicy(request_buffering=False, body_limit_bytes=0)) as (proxy, _):
        client = await proxy.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n")
        task = asyncio.create_task(client.send(b"x" * 20_000_000))
        await until(lambda: any(c._writing_paused for c in proxy.upstream_connections))
        full.set()
        assert (await client.response()).status == 401
        await task
        await until(lambda: not proxy.upstream_connections)
        released.set()
