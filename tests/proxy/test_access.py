"""Access rules end to end in a data plane: annotations, real sockets, an authentication service that is a real server."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import bcrypt
import msgspec
import pytest

from ingress.middleware import external_auth
from ingress.model import KubernetesObject
from ingress.routing.table import RoutingTable
from tests.middleware.support import parsed, secret
from tests.proxy.support import (
    Backend,
    BackendConnection,
    Proxy,
    Request,
    Script,
    answer,
    free_port,
    reply,
    response,
    routes,
    until,
)

SLOW = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
USERS = secret(auth=f"foo:{SLOW}\n")
BASIC = {"auth-type": "basic", "auth-secret": "users", "auth-realm": "test auth"}


def credentials(user: str, password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def protected(
    backend: Backend,
    annotations: Mapping[str, str],
    *objects: KubernetesObject,
    id: str = "t1",
    paths: tuple[str, ...] = ("/",),
) -> RoutingTable:
    """Everything to the backend; `paths` with these annotations, `/open` without."""
    result = parsed(annotations, *objects)
    assert not result.closed, result.closed
    made = routes({path: [backend] for path in (*paths, "/open")}, id=id)
    hosts = {
        host: msgspec.structs.replace(
            one,
            routes=tuple(
                r if r.path == "/open" else msgspec.structs.replace(r, features=result.features) for r in one.routes
            ),
        )
        for host, one in made.hosts.items()
    }
    return msgspec.structs.replace(made, hosts=hosts)


@asynccontextmanager
async def behind(
    annotations: Mapping[str, str],
    *objects: KubernetesObject,
    auth: Script | None = None,
    app: Script | None = None,
    **more: Any,
) -> AsyncIterator[tuple[Proxy, Backend, Backend]]:
    """Proxy, application and authentication service."""
    async with Proxy() as proxy:
        backend = await proxy.backend(app, "app")
        service = await proxy.backend(auth or answer(b"", 200), "auth")
        annotations = {k: v.replace("AUTH", f"127.0.0.1:{service.port}") for k, v in annotations.items()}
        proxy.plane.swap(protected(backend, annotations, *objects, **more))
        yield proxy, backend, service


AUTH = {"auth-url": "http://AUTH/check"}


# ---- lists ----


async def test_address_lists() -> None:
    async with behind({"whitelist-source-range": "127.0.0.2"}) as (proxy, backend, _):
        assert (await (await proxy.client()).get()).status == 403
        assert (await (await proxy.client(host="127.0.0.2")).get()).status == 200
        assert (await (await proxy.client()).get("/open")).status == 200
        assert len(backend.requests) == 2


# ---- basic ----


async def test_basic() -> None:
    async with behind(BASIC, USERS) as (proxy, backend, _):
        client = await proxy.client()
        refused = await client.get()
        assert (refused.status, refused.value("www-authenticate")) == (401, b'Basic realm="test auth"')
        assert (await client.get("/", "a", credentials("foo", "wrong"))).status == 401
        assert (await client.get("/", "a", credentials("user", "secret"))).status == 401
        assert not backend.requests
        for _ in range(2):
            assert (await client.get("/", "a", credentials("foo", "secret"))).status == 200
        assert all(not request.values("authorization") for request in backend.requests)
        assert [r.remote_user for r in proxy.log.records] == [b"", b"", b"", b"foo", b"foo"]


@pytest.mark.parametrize(
    "target",
    [
        "/admin",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/%61dmin",
        "/admin/",
        "/admin/x",
        "/admin%2fx",
        "/ADMIN/../admin",
        "/open/../admin",
        "/open/%2e%2e/admin",
        "/open/..;/admin",
    ],
)
async def test_no_spelling_of_a_path_gets_around_it(target: str) -> None:
    """What is not refused must not reach the application under a protected path."""
    async with Proxy() as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(protected(backend, BASIC, USERS, paths=("/admin",)))
        got = await (await proxy.client()).get(target)
        for request in backend.requests:
            assert got.status == 200
            assert request.target.startswith(b"/open")
            assert b".." not in request.target.replace(b"..;", b"")
        if not backend.requests:
            assert got.status in (400, 401, 404)


async def test_credentials_in_two_fields_open_nothing() -> None:
    async with behind(BASIC, USERS) as (proxy, backend, _):
        client = await proxy.client()
        assert (await client.get("/", "a", credentials("foo", "x"), credentials("foo", "secret"))).status == 401
        assert (await client.get("/", "a", credentials("foo", "secret"), credentials("foo", "x"))).status == 200
        assert not backend.requests[0].values("authorization")


async def test_a_slow_verification_lets_the_others_go_on_and_may_be_abandoned() -> None:
    slow = secret(auth="foo:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(10)).decode())
    async with behind(BASIC, slow) as (proxy, _, _service):
        waiting, leaving = await proxy.client(), await proxy.client()
        line = f"GET / HTTP/1.1\r\nHost: a\r\n{credentials('foo', 'secret')}\r\n\r\n".encode()
        await waiting.send(line)
        await leaving.send(line)
        await until(lambda: proxy.plane.forwarder.in_flight == 2)
        leaving.close()
        assert (await (await proxy.client()).get("/open")).status == 200
        assert (await waiting.response()).status == 200


async def test_a_secret_that_changes() -> None:
    async with behind(BASIC, USERS) as (proxy, backend, _):
        client = await proxy.client()
        assert (await client.get("/", "a", credentials("foo", "secret"))).status == 200
        changed = secret(auth="foo:" + bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode())
        proxy.plane.swap(protected(backend, BASIC, changed, id="t2"))
        assert (await client.get("/", "a", credentials("foo", "secret"))).status == 401
        assert (await client.get("/", "a", credentials("foo", "other"))).status == 200


# ---- external ----


async def test_let_in_and_refused() -> None:
    def decide(request: Request) -> bytes:
        user = request.value("x-token")
        if user is None:
            return response(401, b"go away", [(b"WWW-Authenticate", b"Bearer")])
        return response(200, b"", [(b"X-User", user), (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")])

    async with behind({**AUTH, "auth-response-headers": "X-User"}, auth=reply(decide)) as (proxy, backend, service):
        client = await proxy.client()
        refused = await client.get("/x?y=1", "a", "X-User: admin")
        assert (refused.status, refused.value("www-authenticate")) == (401, b"Bearer")
        assert b"go away" not in refused.body
        assert not backend.requests
        let_in = await client.get("/x?y=1", "a", "X-Token: jane", "X-User: admin", "x-user: root")
        assert (let_in.status, let_in.values("set-cookie")) == (200, [b"a=1", b"b=2"])
        assert backend.requests[0].values("x-user") == [b"jane"]
        assert service.requests[1].target == b"/check"
        assert service.requests[1].value("x-original-url") == b"http://a/x?y=1"
        assert service.connections == 1
        assert (await client.get("/open", "a", "X-User: admin")).status == 200
        assert backend.requests[1].values("x-user") == [b"admin"]  # of a rule that asks for nothing


@pytest.mark.parametrize("status", [302, 404, 429, 500, 503])
async def test_other_answers_are_500(status: int) -> None:
    async with behind(AUTH, auth=answer(b"x", status)) as (proxy, backend, _):
        assert (await (await proxy.client()).get()).status == 500
        assert not backend.requests


async def test_down() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(protected(backend, {"auth-url": f"http://127.0.0.1:{free_port()}/"}))
        assert (await (await proxy.client()).get()).status == 500
        assert not backend.requests


async def test_silent_and_then_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_auth, "TIMEOUT_S", 0.05)

    async def silent(connection: BackendConnection) -> None:
        await connection.request()
        await connection.closed()

    async with behind(AUTH, auth=silent) as (proxy, backend, _):
        assert (await (await proxy.client()).get()).status == 500
        assert not backend.requests


@pytest.mark.parametrize(
    "raw", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", b"HTTP/1.1 200"]
)
async def test_half_an_answer_is_none(raw: bytes) -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(raw)

    async with behind(AUTH, auth=script) as (proxy, backend, _):
        assert (await (await proxy.client()).get()).status == 500
        assert not backend.requests


async def test_a_client_that_leaves_ends_the_call() -> None:
    async def silent(connection: BackendConnection) -> None:
        await connection.request()
        await connection.closed()

    async with behind(AUTH, auth=silent) as (proxy, backend, service):
        client = await proxy.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: service.requests)
        client.close()
        await until(lambda: not service.open, "the connection to the service was given up")
        await until(lambda: not proxy.plane.side_calls.connections)
        assert not backend.requests
    assert [r.status for r in proxy.log.records] == [499]


async def test_clients_that_leave_at_any_moment_reach_nothing() -> None:
    async with behind(AUTH, auth=answer(b"", 401)) as (proxy, backend, _):
        for steps in range(25):
            client = await proxy.client()
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            for _ in range(steps):
                await asyncio.sleep(0)
            client.close()
        await until(lambda: proxy.plane.forwarder.in_flight == 0)
        assert not backend.requests


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_body_reaches_the_application_and_nobody_else(chunked: bool) -> None:
    gate = asyncio.Event()

    async def slow(connection: BackendConnection) -> None:
        while await connection.request() is not None:
            await gate.wait()
            await connection.send(response(200))

    body = bytes(range(256)) * 2000
    async with behind(AUTH, auth=slow) as (proxy, backend, service):
        client = await proxy.client()
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
        await client.send(b"POST /up HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
        data = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n" if chunked else body
        sending = asyncio.create_task(client.send(data))
        await until(lambda: service.requests)
        assert not backend.requests
        gate.set()
        await sending
        assert (await client.response()).status == 200
    assert backend.requests[0].body == body
    (asked,) = service.requests
    assert (asked.method, asked.body, asked.values("transfer-encoding"), asked.values("content-length")) == (
        b"GET",
        b"",
        [],
        [],
    )


async def test_expect_continue() -> None:
    async with behind(AUTH) as (proxy, backend, service):
        client = await proxy.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        await until(lambda: backend.open)
        await client.send(b"hello")
        assert (await client.response("POST")).status == 200
        assert backend.requests[0].body == b"hello"
        assert not service.requests[0].values("expect")


async def test_a_refusal_needs_no_body() -> None:
    async with behind(AUTH, auth=answer(b"", 403)) as (proxy, backend, _):
        client = await proxy.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.response("POST")).status == 403
        assert not backend.requests


async def test_upgrades() -> None:
    async def app(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n")
        await connection.send(await connection.reader.readexactly(5))

    async with behind(AUTH, app=app) as (proxy, _, service):
        client = await proxy.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        assert (await client.response()).status == 101
        await client.send(b"hello")
        assert await client.rest() == b"hello"
        assert not service.requests[0].values("upgrade")


async def test_pipelined_requests_are_judged_one_by_one() -> None:
    auth = reply(lambda request: response(200 if request.value("x-ok") else 401))
    async with behind(AUTH, auth=auth) as (proxy, backend, _):
        client = await proxy.client()
        await client.send(
            b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n%b\r\n" % (n, b"X-Ok: 1\r\n" * (n % 2)) for n in range(6))
        )
        assert [(await client.response()).status for _ in range(6)] == [401, 200, 401, 200, 401, 200]
        assert [r.target for r in backend.requests] == [b"/1", b"/3", b"/5"]


async def test_signing_in() -> None:
    auth = answer(b"", 401, [(b"Set-Cookie", b"csrf=1")])
    async with behind({**AUTH, "auth-signin": "http://$host/auth/start"}, auth=auth) as (proxy, _, _service):
        got = await (await proxy.client()).get("/?a=b&c=d", "auth")
        assert (got.status, got.value("location")) == (302, b"http://auth/auth/start?rd=http://auth%2F%3Fa%3Db%26c%3Dd")
        assert got.values("set-cookie") == [b"csrf=1"]


@pytest.mark.parametrize("always", [False, True])
async def test_cookies_on_errors_of_the_application(always: bool) -> None:
    annotations = {**AUTH, **({"auth-always-set-cookie": "true"} if always else {})}
    auth = answer(b"", 200, [(b"Set-Cookie", b"alma=armud")])
    app = reply(lambda request: response(503 if request.target == b"/error" else 200))
    async with behind(annotations, auth=auth, app=app) as (proxy, _, _service):
        client = await proxy.client()
        assert (await client.get("/?a=b")).values("set-cookie") == [b"alma=armud"]
        assert (await client.get("/error")).values("set-cookie") == ([b"alma=armud"] if always else [])


async def test_the_cache_goes_on_when_the_service_is_gone() -> None:
    async with behind({**AUTH, "auth-cache-key": "$http_authorization"}) as (proxy, backend, service):
        client = await proxy.client()
        assert (await client.get("/foo", "a", credentials("user", "password"))).status == 200
        await service.stop()
        await until(lambda: not proxy.plane.side_calls.connections)
        assert (await client.get("/foo", "a", credentials("user", "password"))).status == 200
        assert (await client.get("/foo", "a", credentials("user", "other"))).status == 500
        proxy.plane.swap(
            protected(
                backend,
                {"auth-url": f"http://127.0.0.1:{service.port}/check", "auth-cache-key": "$http_authorization"},
                id="t2",
            )
        )
        assert (await client.get("/foo", "a", credentials("user", "password"))).status == 200  # it outlives a table


async def test_satisfy_any() -> None:
    annotations = {**AUTH, **BASIC, "auth-signin": "http://$host/auth/start", "satisfy": "any"}
    async with behind(annotations, USERS, auth=answer(b"", 401)) as (proxy, backend, service):
        client = await proxy.client()
        assert (await client.get("/", "a", credentials("foo", "secret"))).status == 200
        assert not service.requests
        got = await client.get("/?a=b", "a", credentials("foo", "wrong"))
        assert (got.status, got.value("location")) == (302, b"http://a/auth/start?rd=http://a%2F%3Fa%3Db")
        assert len(backend.requests) == 1


async def test_what_cannot_be_bound_answers_500() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend()
        made = protected(backend, BASIC, USERS)
        for one in made.hosts.values():
            for made_route in one.routes:
                for feature in made_route.features:
                    feature.policy.clear()
        proxy.plane.swap(made)
        assert (await (await proxy.client()).get()).status == 500
        assert (await (await proxy.client()).get("/open")).status == 200
        proxy._errors.messages.clear()
