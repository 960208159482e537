"""Active health checks through real sockets: what a check is, what its result does to requests, and that nothing of it is left behind."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ingress import __version__
from ingress.balancing.base import EndpointState
from ingress.proxy import health
from ingress.proxy.health import Junk, status_of
from ingress.routing.table import (
    AffinityMode,
    Balancing,
    CookieAffinity,
    CookieMode,
    Endpoint,
    HealthCheck,
    RoutingTable,
    TrafficPolicy,
    UpstreamProtocol,
    diff_tables,
)
from ingress.routing.tls import UpstreamTLS
from tests.proxy import pki
from tests.proxy.support import Backend, BackendConnection, Client, Proxy, Request, Response, response, table, until

CHECK = HealthCheck("/healthz", interval_s=0.01, timeout_s=5.0)
LABELS = ("default", "service-0")


def checked(made: RoutingTable, check: HealthCheck | None = CHECK, **changes: Any) -> RoutingTable:
    upstreams = {
        key: msgspec.structs.replace(upstream, health_check=check, **changes)
        for key, upstream in made.upstreams.items()
    }
    return msgspec.structs.replace(made, upstreams=upstreams)


def serve(
    proxy: Proxy,
    *endpoints: Backend | Endpoint,
    check: HealthCheck | None = CHECK,
    balancing: Balancing | None = None,
    policy: TrafficPolicy | None = None,
    id: str = "t1",
    **changes: Any,
) -> RoutingTable:
    made = checked(table(endpoints, balancing=balancing, policy=policy, id=id), check, **changes)
    proxy.plane.swap(made)
    return made


class App:
    """Answers requests with its name, and checks with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.checks = 0
        self.last: Request | None = None

    async def __call__(self, connection: BackendConnection) -> None:
        while (request := await connection.request()) is not None:
            if request.target != b"/healthz":
                await connection.send(response(body=connection.backend.name.encode()))
                continue
            self.checks += 1
            self.last = request
            await connection.send(response(self.status, b"" if request.method == b"HEAD" else b"x" * 100))

    async def more(self, count: int = 3) -> None:
        """That many checks more have been answered."""
        wanted = self.checks + count
        await until(lambda: self.checks >= wanted)


class PlainApp(App):
    """Tells who speaks TLS to it off at once."""

    async def __call__(self, connection: BackendConnection) -> None:
        data = await connection.reader.read(65536)
        if data.startswith(b"GET /healthz"):
            self.checks += 1
            await connection.send(response(self.status))
        elif data:
            await connection.send(response(400))


async def apps(proxy: Proxy, count: int) -> tuple[list[App], list[Backend]]:
    made = [App() for _ in range(count)]
    return made, [await proxy.backend(app) for app in made]


async def spread(client: Client, count: int = 12, *fields: str) -> Counter[str]:
    answers = [await client.get("/", "a", *fields) for _ in range(count)]
    assert {answer.status for answer in answers} == {200}
    return Counter(answer.body.decode() for answer in answers)


def results(proxy: Proxy) -> dict[str, float]:
    return {
        labels[3]: value
        for labels, value in proxy.metrics.snapshot().tallies.items()
        if labels[0] == "aioingress_health_checks"
    }


def unhealthy(proxy: Proxy) -> int | None:
    return proxy.metrics.snapshot().unhealthy_endpoints.get(LABELS)


# ---- the request of a check ---------------------------------------------------------------------------------------


async def test_what_a_check_looks_like() -> None:
    async with Proxy() as proxy:
        (app,), (backend,) = await apps(proxy, 1)
        serve(proxy, backend)
        await app.more(2)
        assert app.last is not None
        assert app.last.start == b"GET /healthz HTTP/1.1"
        assert dict(app.last.fields) == {
            b"Host": b"127.0.0.1:%d" % backend.port,
            b"User-Agent": b"aioingress-health-check/" + __version__.encode(),
            b"Accept": b"*/*",
            b"Connection": b"close",
        }
        assert backend.connections >= 2  # one a check
        assert not proxy.upstream_connections  # none of them is in the pool
        assert unhealthy(proxy) == 0
        assert results(proxy)["passed"] >= 1
        assert (await (await proxy.client()).get()).body == b"b0"


async def test_method_host_and_port() -> None:
    async with Proxy() as proxy:
        (app, other), (backend, management) = await apps(proxy, 2)
        check = msgspec.structs.replace(CHECK, method="HEAD", host="web.test", port=management.port)
        serve(proxy, backend, check=check)
        await other.more()
        assert other.last is not None
        assert other.last.start == b"HEAD /healthz HTTP/1.1"
        assert other.last.value("host") == b"web.test"
        assert app.checks == 0
        other.status = 503
        await until(lambda: unhealthy(proxy) == 1)
        assert not proxy.state_of(backend).healthy


async def test_an_ipv6_address_is_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def over_ipv4(
        state: EndpointState, check: HealthCheck, loop: asyncio.AbstractEventLoop
    ) -> health._Connection:
        """So that it runs where the kernel has no IPv6."""
        asked.append(state.endpoint.address)
        _, connection = await loop.create_connection(lambda: health._Connection(loop), "127.0.0.1", state.endpoint.port)
        return connection

    monkeypatch.setattr(health, "_connect", over_ipv4)
    async with Proxy() as proxy:
        backend = await proxy.backend(App())
        serve(proxy, Endpoint("::1", backend.port))
        await until(lambda: backend.requests)
        assert backend.requests[0].value("host") == b"[::1]:%d" % backend.port
    assert set(asked) == {"::1"}


async def test_no_checks_where_none_are_asked_for() -> None:
    async with Proxy() as proxy:
        serve(proxy, await proxy.backend(App()), check=None)
        assert unhealthy(proxy) is None
        assert not proxy.plane.runtime.health_checks._checkers
        assert "aioingress_health_checks" not in {labels[0] for labels in proxy.metrics.snapshot().tallies}


# ---- out and back -------------------------------------------------------------------------------------------------


async def test_out_after_failures_in_a_row_and_back_after_successes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ingress.proxy.health")
    async with Proxy() as proxy:
        (first, _), (backend, other) = await apps(proxy, 2)
        serve(proxy, backend, other, check=msgspec.structs.replace(CHECK, healthy_threshold=2))
        client = await proxy.client()
        await first.more()
        assert await spread(client) == {"b0": 6, "b1": 6}
        before = first.checks
        first.status = 503
        await until(lambda: unhealthy(proxy) == 1)
        assert first.checks - before >= 3
        assert await spread(client) == {"b1": 12}
        first.status = 204
        await until(lambda: unhealthy(proxy) == 0)
        assert await spread(client) == {"b0": 6, "b1": 6}
        assert results(proxy)["status"] >= 3
        key = f"127.0.0.1:{backend.port}"
        assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
            ("WARNING", f"endpoint {key} of default-service-0-80 is unhealthy: status 503"),
            ("INFO", f"endpoint {key} of default-service-0-80 is healthy again: status 204"),
        ]


async def test_fewer_failures_than_the_threshold_change_nothing() -> None:
    failing = 0

    async def script(connection: BackendConnection) -> None:
        nonlocal failing
        while await connection.request() is not None:
            failing += 1
            await connection.send(response(200 if failing % 3 == 0 else 500))

    async with Proxy() as proxy:
        backend = await proxy.backend(script)
        serve(proxy, backend)
        await until(lambda: results(proxy).get("status", 0) >= 10)
        assert proxy.state_of(backend).healthy


async def test_all_down_is_all_used(caplog: pytest.LogCaptureFixture) -> None:
    async with Proxy() as proxy:
        found, backends = await apps(proxy, 2)
        serve(proxy, *backends)
        for app in found:
            app.status = 500
        await until(lambda: unhealthy(proxy) == 2)
        assert await spread(await proxy.client()) == {"b0": 6, "b1": 6}
        assert "all endpoints of default-service-0-80 are unhealthy: requests go to all of them" in caplog.messages
        found[0].status = 200
        await until(lambda: unhealthy(proxy) == 1)
        assert await spread(await proxy.client()) == {"b0": 12}


async def test_redirects_count_by_their_status() -> None:
    async with Proxy() as proxy:
        (app,), (backend,) = await apps(proxy, 1)
        app.status = 302
        serve(proxy, backend)
        await app.more(4)
        assert proxy.state_of(backend).healthy
        serve(proxy, backend, check=msgspec.structs.replace(CHECK, statuses=((200, 299),)), id="t2")
        await until(lambda: unhealthy(proxy) == 1)


# ---- whatever an endpoint does ------------------------------------------------------------------------------------


def silent(kind: str) -> Callable[[BackendConnection], Any]:
    async def script(connection: BackendConnection) -> None:
        if await connection.request() is None:
            return
        if kind == "half":
            await connection.send(b"HTTP/1.1 200")
        elif kind == "informational":
            await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.closed()

    return script


@pytest.mark.parametrize("kind", ["nothing", "half", "informational"])
async def test_slow_is_failed(kind: str) -> None:
    async with Proxy() as proxy:
        slow, good = await proxy.backend(silent(kind)), await proxy.backend(App())
        serve(proxy, slow, good, check=msgspec.structs.replace(CHECK, timeout_s=0.03))
        await until(lambda: not proxy.state_of(slow).healthy)
        assert results(proxy)["timeout"] >= 3
        await until(lambda: len(slow.open) <= 1)  # those of checks that are over were closed


@pytest.mark.parametrize(
    "junk",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000\r\n\r\n",
        b"HTTP/1.1 200 \0\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 " + b"a" * 20000,
        b"HTTP/1.1 103 Early\r\nLink: " + b"a" * 20000,
        b"",
    ],
)
async def test_junk_is_failed(junk: bytes) -> None:
    async def script(connection: BackendConnection) -> None:
        if await connection.request() is not None:
            await connection.send(junk)

    async with Proxy() as proxy:
        bad, good = await proxy.backend(script), await proxy.backend(App())
        serve(proxy, bad, good)
        await until(lambda: not proxy.state_of(bad).healthy)
        assert results(proxy)["junk"] >= 3


async def test_a_greeting_before_the_request_is_junk() -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.send(b"220 mail.test ESMTP\r\n")
        await connection.closed()

    async with Proxy() as proxy:
        bad = await proxy.backend(script)
        serve(proxy, bad)
        await until(lambda: results(proxy).get("junk", 0) >= 3)
        assert set(results(proxy)) == {"junk"}


async def test_an_endless_answer_is_not_read() -> None:
    sent = 0

    async def script(connection: BackendConnection) -> None:
        nonlocal sent
        if await connection.request() is None:
            return
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await connection.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            sent += 1

    async with Proxy() as proxy:
        backend = await proxy.backend(script)
        serve(proxy, backend)
        await until(lambda: results(proxy).get("passed", 0) >= 5)
        assert proxy.state_of(backend).healthy
        await until(lambda: len(backend.open) <= 2)


async def test_a_reset_is_failed() -> None:
    async def script(connection: BackendConnection) -> None:
        if await connection.request() is not None:
            connection.reset()

    async with Proxy() as proxy:
        bad = await proxy.backend(script)
        serve(proxy, bad)
        await until(lambda: not proxy.state_of(bad).healthy)


async def test_refused_is_failed() -> None:
    async with Proxy() as proxy:
        (app, _), (backend, other) = await apps(proxy, 2)
        serve(proxy, backend, other)
        await app.more()
        await backend.refuse()
        await until(lambda: unhealthy(proxy) == 1)
        assert results(proxy)["refused"] >= 3
        assert await spread(await proxy.client()) == {"b1": 12}
        await backend.start(port=backend.port)
        await until(lambda: unhealthy(proxy) == 0)


# ---- retries and sessions -----------------------------------------------------------------------------------------


async def test_a_retry_goes_to_an_unhealthy_one_only_when_nothing_else_is_left() -> None:
    async def failing(connection: BackendConnection) -> None:
        while (request := await connection.request()) is not None:
            if request.target != b"/healthz":
                connection.reset()
                return
            await connection.send(response())

    async with Proxy() as proxy:
        (app,), (backend,) = await apps(proxy, 1)
        app.status = 500
        others = [await proxy.backend(failing) for _ in range(2)]
        serve(proxy, backend, *others, policy=TrafficPolicy(retry_tries=3))
        await until(lambda: unhealthy(proxy) == 1)
        assert (await (await proxy.client()).get()).body == b"b0"
        for other in others:
            assert b"/" in {request.target for request in other.requests}
        serve(proxy, backend, *others, policy=TrafficPolicy(retry_tries=2), id="t2")
        assert (await (await proxy.client()).get()).status == 502


@pytest.mark.parametrize(
    "balancing",
    [
        Balancing(affinity=AffinityMode.CLIENT_IP, client_ip_timeout_s=1000),
        Balancing(affinity=AffinityMode.COOKIE, cookie=CookieAffinity("c", CookieMode.PERSISTENT)),
        Balancing(affinity=AffinityMode.COOKIE, cookie=CookieAffinity("c", CookieMode.BALANCED)),
    ],
    ids=["client-ip", "persistent", "balanced"],
)
async def test_sessions_go_elsewhere_and_come_back(balancing: Balancing) -> None:
    async with Proxy() as proxy:
        found, backends = await apps(proxy, 3)
        serve(proxy, *backends, balancing=balancing)
        client = await proxy.client()
        first: Response = await client.get()
        cookie = first.value("set-cookie")
        fields = [] if cookie is None else ["Cookie: " + cookie.decode().partition(";")[0]]
        home = first.body.decode()
        assert await spread(client, 4, *fields) == {home: 4}
        index = int(home[1:])
        found[index].status = 500
        await until(lambda: unhealthy(proxy) == 1)
        (elsewhere,) = await spread(client, 4, *fields)
        assert elsewhere != home
        for app in found:  # with all of them unhealthy there is no reason to be elsewhere
            app.status = 500
        await until(lambda: unhealthy(proxy) == 3)
        assert await spread(client, 4, *fields) == {home: 4}
        for app in found:
            app.status = 200
        await until(lambda: unhealthy(proxy) == 0)
        assert await spread(client, 4, *fields) == {home: 4}


# ---- tables that come and go --------------------------------------------------------------------------------------


async def test_a_table_swap_keeps_what_is_known() -> None:
    async with Proxy() as proxy:
        (app, second, _), (backend, other, third) = await apps(proxy, 3)
        app.status = 500
        old = serve(proxy, backend, other)
        await until(lambda: unhealthy(proxy) == 1)
        state = proxy.state_of(backend)
        serve(proxy, backend, other, third, id="t2")
        assert proxy.state_of(backend) is state
        assert not state.healthy
        assert unhealthy(proxy) == 1
        assert await spread(await proxy.client()) == {"b1": 6, "b2": 6}
        await second.more()
        # by a delta too
        now = checked(table([backend, other, third], id="t2"))
        new = checked(table([backend, third], id="t3"))
        proxy.plane.apply(diff_tables(now, new))
        assert not proxy.state_of(backend).healthy
        assert await spread(await proxy.client()) == {"b2": 12}
        assert old.id == "t1"
        app.status = 200
        await until(lambda: unhealthy(proxy) == 0)


async def test_a_new_endpoint_is_trusted_until_it_fails() -> None:
    async with Proxy() as proxy:
        (app, other), (backend, new) = await apps(proxy, 2)
        serve(proxy, backend)
        await app.more()
        other.status = 500
        serve(proxy, backend, new, id="t2")
        assert await spread(await proxy.client(), 2) == {"b0": 1, "b1": 1}
        await until(lambda: unhealthy(proxy) == 1)


async def test_an_endpoint_that_leaves_while_it_is_checked() -> None:
    async with Proxy() as proxy:
        waiting, other = await proxy.backend(silent("nothing")), await proxy.backend(App())
        serve(proxy, waiting, other, check=msgspec.structs.replace(CHECK, timeout_s=20.0))
        await until(lambda: waiting.requests)
        serve(proxy, other, check=msgspec.structs.replace(CHECK, timeout_s=20.0), id="t2")
        await until(lambda: not waiting.open)  # the check was given up, not waited for
        assert "timeout" not in results(proxy)
        # and it is a new one when it returns
        serve(proxy, waiting, other, check=msgspec.structs.replace(CHECK, timeout_s=20.0), id="t3")
        assert proxy.state_of(waiting).healthy
        await until(lambda: len(waiting.requests) == 2)


async def test_another_check_begins_anew() -> None:
    async with Proxy() as proxy:
        waiting = await proxy.backend(silent("nothing"))
        serve(proxy, waiting, check=HealthCheck("/old", interval_s=0.01, timeout_s=20.0))
        await until(lambda: waiting.requests)
        serve(proxy, waiting, check=HealthCheck("/new", interval_s=0.01, timeout_s=20.0), id="t2")
        await until(lambda: len(waiting.requests) == 2)
        assert [request.target for request in waiting.requests] == [b"/old", b"/new"]


async def test_switched_off_everybody_is_trusted_again() -> None:
    async with Proxy() as proxy:
        (app, _), (backend, other) = await apps(proxy, 2)
        app.status = 500
        serve(proxy, backend, other)
        await until(lambda: unhealthy(proxy) == 1)
        serve(proxy, backend, other, check=None, id="t2")
        assert await spread(await proxy.client()) == {"b0": 6, "b1": 6}
        assert unhealthy(proxy) is None
        await until(lambda: not proxy.health_checks())
        assert not proxy.plane.runtime.health_checks._checkers


async def test_a_retired_upstream_is_checked_no_more() -> None:
    async with Proxy() as proxy:
        (app,), (backend,) = await apps(proxy, 1)
        serve(proxy, backend)
        await app.more()
        proxy.plane.swap(RoutingTable("t2"))
        await until(lambda: not proxy.health_checks() and not backend.open)
        assert not proxy.plane.runtime.health_checks._checkers
        assert not proxy.plane.runtime.health_checks._by_service
        assert unhealthy(proxy) is None


async def test_a_drain_ends_checks_and_keeps_their_results() -> None:
    async with Proxy() as proxy:
        (app, _, _), (backend, other, third) = await apps(proxy, 3)
        app.status = 500
        serve(proxy, backend, other)
        await until(lambda: unhealthy(proxy) == 1)
        assert await proxy.plane.drain(5)
        await until(lambda: not proxy.health_checks())
        assert all(not checker._watches for checker in proxy.plane.runtime.health_checks._checkers.values())
        assert not proxy.state_of(backend).healthy
        serve(proxy, backend, other, third, id="t2")  # a table that still comes starts none
        assert all(not checker._watches for checker in proxy.plane.runtime.health_checks._checkers.values())
        assert not proxy.state_of(backend).healthy


async def test_two_upstreams_of_one_service_count_an_endpoint_once() -> None:
    async with Proxy() as proxy:
        (app,), (backend,) = await apps(proxy, 1)
        app.status = 500
        made = checked(table([backend]))
        ((key, upstream),) = made.upstreams.items()
        twin = msgspec.structs.replace(upstream, key=f"{key}#twin")
        proxy.plane.swap(msgspec.structs.replace(made, upstreams={key: upstream, twin.key: twin}))
        await until(lambda: all(not state.healthy for state in proxy.states))
        assert unhealthy(proxy) == 1


async def test_so_many_at_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "UPSTREAM_LIMIT", 2)
    async with Proxy() as proxy:
        backends = [await proxy.backend(silent("nothing")) for _ in range(5)]
        serve(proxy, *backends, check=msgspec.structs.replace(CHECK, timeout_s=0.05))
        busiest = 0

        def seen() -> bool:
            nonlocal busiest
            busiest = max(busiest, sum(len(b.open) for b in backends))
            return all(b.requests for b in backends)

        await until(seen)
        assert busiest <= 4  # two, and two that are being closed
        await until(lambda: unhealthy(proxy) == 5)


async def test_a_bug_of_ours_is_not_held_against_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def broken(*_: Any) -> bytes:
        nonlocal calls
        calls += 1
        raise RuntimeError("a bug")

    async with Proxy() as proxy:
        (_,), (backend,) = await apps(proxy, 1)
        monkeypatch.setattr(health, "request_of", broken)
        serve(proxy, backend)
        await until(lambda: calls >= 5)
        assert proxy.state_of(backend).healthy
        proxy._errors.messages = [m for m in proxy._errors.messages if "failed by itself" not in m]
        monkeypatch.undo()
        await until(lambda: results(proxy).get("passed", 0))
        proxy._errors.messages = [m for m in proxy._errors.messages if "failed by itself" not in m]


# ---- TLS ----------------------------------------------------------------------------------------------------------

ROOT = pki.authority()
VERIFIED = UpstreamTLS(verify=True, ca=ROOT.pem, name="web.test", server_name=True)


async def test_https_endpoints() -> None:
    async with Proxy() as proxy:
        app = App()
        good = await proxy.backend(app, tls=ROOT.issue(names=["web.test"]).server())
        bad = await proxy.backend(App(), tls=ROOT.issue(names=["other.test"]).server())
        plain = await proxy.backend(PlainApp())
        serve(proxy, good, bad, plain, protocol=UpstreamProtocol.HTTPS, tls=VERIFIED)
        await until(lambda: unhealthy(proxy) == 2)
        await app.more()
        assert proxy.state_of(good).healthy
        assert results(proxy)["tls"] >= 6
        assert not bad.requests  # nothing was sent to whom nobody trusts
        assert await spread(await proxy.client(), 6) == {"b0": 6}


async def test_from_http_to_https() -> None:
    async with Proxy() as proxy:
        app = App()
        backend = await proxy.backend(app, tls=ROOT.issue(names=["web.test"]).server())
        serve(proxy, backend)
        await until(lambda: unhealthy(proxy) == 1)
        serve(proxy, backend, id="t2", protocol=UpstreamProtocol.HTTPS, tls=VERIFIED)
        await until(lambda: unhealthy(proxy) == 0)


async def test_by_the_scheme_of_the_request_both_are_checked() -> None:
    async with Proxy() as proxy:
        app = PlainApp()
        backend = await proxy.backend(app)
        serve(proxy, backend, protocol=UpstreamProtocol.AUTO_HTTP, tls=UpstreamTLS())
        await app.more()
        await until(lambda: sorted(state.healthy for state in proxy.states) == [False, True])
        assert unhealthy(proxy) == 1
        serve(proxy, backend, id="t2")  # one of the two is given up
        await app.more()
        await until(lambda: unhealthy(proxy) == 0)


async def test_a_handshake_that_hangs() -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.closed()

    async with Proxy() as proxy:
        backend = await proxy.backend(script)
        check = msgspec.structs.replace(CHECK, timeout_s=0.03)
        serve(proxy, backend, check=check, protocol=UpstreamProtocol.HTTPS, tls=UpstreamTLS())
        await until(lambda: unhealthy(proxy) == 1)
        assert results(proxy)["timeout"] >= 3
        await until(lambda: len(backend.open) <= 1)


# ---- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("received", "status"),
    [
        (b"", None),
        (b"H", None),
        (b"HTTP/1.1 200 OK", None),
        (b"HTTP/1.1 200 OK\r\n", 200),
        (b"HTTP/1.0 404 Not Found\r\nx", 404),
        (b"HTTP/1.1 204\r\n", 204),
        (b"HTTP/1.1 204 \r\n", 204),
        (b"HTTP/1.1 200 OK\n", 200),
        (b"HTTP/1.1 999 x\r\n", 999),
        (b"HTTP/1.1 101 Switching Protocols\r\n", 101),
        (b"HTTP/1.1 100 Continue\r\n", None),
        (b"HTTP/1.1 100 Continue\r\n\r\n", None),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n", 503),
    ],
)
def test_status_of(received: bytes, status: int | None) -> None:
    assert status_of(received) == status
    for end in range(len(received)):
        assert status_of(received[:end]) in (None, status)


@pytest.mark.parametrize(
    "received", [b"x", b"HTTP/2", b"HTTP/1.1\r\n", b"HTTP/1.1 200OK\r\n", b"HTTP/1.1 100 C\r\n\r\nx"]
)
def test_status_of_junk(received: bytes) -> None:
    with pytest.raises(Junk):
        status_of(received)


async def test_cancelled_at_any_moment() -> None:
    """Tables that come and go while checks are under way: neither a task nor a connection is left (asserted when the block ends)."""
    async with Proxy() as proxy:
        found, backends = await apps(proxy, 3)
        for turn in range(60):
            serve(proxy, *backends[turn % 3 :], check=CHECK if turn % 4 else None, id=f"t{turn}")
            for _ in range(turn % 7):
                await asyncio.sleep(0)
        serve(proxy, *backends, id="last")
        for app in found:
            await app.more()
