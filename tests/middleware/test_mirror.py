"""Copies of requests for a mirror: what they are, and that they never cost the request anything."""

import asyncio
from typing import Any

import pytest

from ingress.middleware import mirror
from tests.middleware.rules import HOST, Rules, one, problems
from tests.proxy.support import Backend, BackendConnection, Proxy, answer, free_port, until

# ---- annotations ----


@pytest.mark.parametrize(
    ("target", "authority", "path", "host"),
    [
        ("http://localhost/mirror", "localhost", "/mirror", "localhost"),
        ("https://test.env.com/$request_uri", "test.env.com", "/$request_uri", "test.env.com"),
        ("https://test.env.com$request_uri", "test.env.com", "$request_uri", "test.env.com"),
        ("http://a.test:8080${uri}", "a.test:8080", "${uri}", "a.test"),
        ("http://a.test:8080", "a.test:8080", "", "a.test"),
        ("http://[::1]:81/x", "[::1]:81", "/x", "[::1]"),
        ("http://$http_x_shadow:80/", "$http_x_shadow:80", "/", "$http_x_shadow"),
        ("http://a.test?x=y", "a.test", "/?x=y", "a.test"),
    ],
)
def test_targets(target: str, authority: str, path: str, host: str) -> None:
    tls, *rest = mirror._target(target)
    assert (tls, rest) == (target.startswith("https"), [authority, path, host])
    assert Rules({"mirror-target": target}).policy("mirror") is not None


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({"mirror-target": "localhost/mirror"}, "mirror-target"),
        ({"mirror-target": "ftp://localhost/"}, "mirror-target"),
        ({"mirror-target": "http:///x"}, "mirror-target"),
        ({"mirror-target": "http://a:99999/"}, "mirror-target"),
        ({"mirror-target": "http://,/"}, "mirror-target"),
        ({"mirror-target": "http://."}, "mirror-target"),
        ({"mirror-target": "http://user@a/"}, "mirror-target"),
        ({"mirror-target": "http://a/$nonsense"}, "mirror-target"),
        ({"mirror-target": "http://a/ b"}, "mirror-target"),
        ({"mirror-target": "http://a/", "mirror-host": "a b"}, "mirror-host"),
        ({"mirror-target": "http://a/", "mirror-host": "$what"}, "mirror-host"),
        ({"mirror-target": "http://a/", "mirror-request-body": "true"}, "mirror-request-body"),
        ({"mirror-host": "a"}, "mirror-host"),
    ],
)
def test_bad_values(annotations: dict[str, str], name: str) -> None:
    rules = Rules(annotations)
    assert list(problems(rules)) == [name]
    assert rules.route().upstream is not None
    assert (rules.policy("mirror") is None) is (name == "mirror-target" or "mirror-target" not in annotations)


# ---- end to end ----


def count(proxy: Proxy, outcome: str) -> float:
    return proxy.metrics.snapshot().tallies.get(("aioingress_mirrored", "default", "ing", outcome), 0)


class Setting:
    """A proxy whose requests to `app.test` are mirrored to a second backend."""

    def __init__(self, path: str = "", shadow: Any = None, app: Any = None, **annotations: str) -> None:
        self.path, self.script, self.app_script = path, shadow, app
        self.annotations = {name.replace("_", "-"): value for name, value in annotations.items()}

    async def __aenter__(self) -> tuple[Proxy, Backend, Backend]:
        self.proxy = await Proxy().__aenter__()
        app, shadow = await self.proxy.backend(self.app_script, "app"), await self.proxy.backend(self.script, "shadow")
        rules = Rules({"mirror-target": f"http://127.0.0.1:{shadow.port}{self.path}", **self.annotations})
        assert not rules.compile({"web": [app]})[1]
        self.proxy.plane.swap(rules.compile({"web": [app]})[0])
        return self.proxy, app, shadow

    async def __aexit__(self, *error: Any) -> None:
        await self.proxy.__aexit__(*error)


async def test_a_copy_of_a_request() -> None:
    async with Setting("$request_uri") as (proxy, app, shadow):
        client = await proxy.client()
        got = await client.get("/a/b?c=d", HOST, "X-Request-ID: same", "Cookie: e=f")
        assert got.body == b"app"
        await until(lambda: count(proxy, "answered") == 1)
        (copy,), (request,) = shadow.requests, app.requests
        assert (copy.method, copy.target) == (b"GET", b"/a/b?c=d")
        assert copy.value("Host") == b"127.0.0.1"
        for name in ("X-Request-ID", "Cookie", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "X-Forwarded-Proto"):
            assert copy.value(name) == request.value(name) is not None


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/mirror", b"/mirror?c=d"),
        ("/mirror?x=y", b"/mirror?x=y&c=d"),
        ("", b"/a/b?c=d"),
        ("/$request_uri", b"//a/b?c=d"),
        ("/fix$arg_c", b"/fixd"),
    ],
)
async def test_paths(path: str, target: bytes) -> None:
    async with Setting(path, mirror_host="shadow.test") as (proxy, _, shadow):
        await (await proxy.client()).get("/a/b?c=d", HOST)
        await until(lambda: count(proxy, "answered") == 1)
        assert shadow.requests[0].target == target
        assert shadow.requests[0].value("Host") == b"shadow.test"


@pytest.mark.parametrize("body", ["on", "off"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("pieces", [1, 3])
async def test_bodies(body: str, chunked: bool, pieces: int) -> None:
    async with Setting("/", mirror_request_body=body) as (proxy, app, shadow):
        client = await proxy.client()
        content = bytes(range(256)) * 300
        step = -(-len(content) // pieces)
        parts = [content[at : at + step] for at in range(0, len(content), step)]
        if chunked:
            head, data = "Transfer-Encoding: chunked", [b"%x\r\n%b\r\n" % (len(p), p) for p in parts]
            data[-1] += b"0\r\n\r\n"
        else:
            head, data = f"Content-Length: {len(content)}", parts
        await client.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: text/x\r\n{head}\r\n\r\n".encode())
        for at, part in enumerate(data):
            await client.send(part)
            if at + 1 < len(data):
                await until(lambda: app.open)
        assert (await client.response()).body == b"app"
        await until(lambda: count(proxy, "answered") == 1)
        assert app.requests[0].body == content
        assert shadow.requests[0].body == (content if body == "on" else b"")
        assert shadow.requests[0].values("Content-Type") == ([b"text/x"] if body == "on" else [])


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_the_answer_is_dropped(status: int) -> None:
    async with Setting("/", answer(b"x" * 100_000, status)) as (proxy, _, shadow):
        client = await proxy.client()
        for _ in range(3):
            assert (await client.get("/", HOST)).body == b"app"
        await until(lambda: count(proxy, "answered") == 3)
        assert len(shadow.requests) == 3


async def test_a_mirror_that_never_answers_slows_nothing_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "UNDER_WAY_LIMIT", 5)

    async def hangs(connection: BackendConnection) -> None:
        await connection.request()
        await connection.closed()

    async with Setting("/", hangs) as (proxy, app, _):
        client = await proxy.client()
        for _ in range(20):
            assert (await client.get("/", HOST)).body == b"app"
        assert len(app.requests) == 20
        assert count(proxy, "dropped") == 15
        proxy.plane.side_calls.close()
        await until(lambda: count(proxy, "failed") == 5)
        assert (await client.get("/", HOST)).body == b"app"
        proxy.plane.side_calls.close()
        await until(lambda: count(proxy, "failed") == 6)


async def test_a_mirror_that_is_gone() -> None:
    async with one({"mirror-target": f"http://127.0.0.1:{free_port()}/"}) as (proxy, _):
        client = await proxy.client()
        for _ in range(3):
            assert (await client.get("/", HOST)).status == 200
        await until(lambda: count(proxy, "failed") == 3)


@pytest.mark.parametrize("length", [True, False])
async def test_a_body_that_is_too_long_is_not_copied(monkeypatch: pytest.MonkeyPatch, length: bool) -> None:
    monkeypatch.setattr(mirror, "BODY_LIMIT_BYTES", 1000)
    async with Setting("/") as (proxy, app, shadow):
        client = await proxy.client()
        if length:
            got = await client.post(b"x" * 5000, "/", HOST)
        else:
            await client.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            for _ in range(5):
                await client.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            await client.send(b"0\r\n\r\n")
            got = await client.response()
        assert got.body == b"app"
        assert len(app.requests[0].body) == 5000
        assert count(proxy, "dropped") == 1
        assert shadow.requests == []
        assert (await client.post(b"x" * 100, "/", HOST)).status == 200
        await until(lambda: count(proxy, "answered") == 1)


async def test_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "KEPT_LIMIT_BYTES", 1500)

    async def hangs(connection: BackendConnection) -> None:
        await connection.request()
        await connection.closed()

    async with Setting("/", hangs) as (proxy, _, shadow):
        client = await proxy.client()
        for _ in range(3):
            assert (await client.post(b"x" * 1000, "/", HOST)).body == b"app"
        assert count(proxy, "dropped") == 2
        await until(lambda: len(shadow.requests) == 1)
        proxy.plane.side_calls.close()
        await until(lambda: count(proxy, "failed") == 1)


@pytest.mark.parametrize("fate", ["client leaves", "early answer"])
async def test_a_body_that_never_comes(fate: str) -> None:
    begun = asyncio.Event()

    async def app(connection: BackendConnection) -> None:
        await connection.request(body=False)
        begun.set()
        if fate == "early answer":
            await connection.send(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        await connection.closed()

    async with Setting("/", app=app) as (proxy, _, shadow):
        client = await proxy.client()
        await client.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100\r\n\r\npart".encode())
        await asyncio.wait_for(begun.wait(), 10)
        if fate == "early answer":
            assert (await client.response()).status == 403
        else:
            client.reset()
        await until(lambda: count(proxy, "dropped") == 1)
        assert shadow.requests == []


async def test_what_is_refused_is_not_copied() -> None:
    async with Setting("/", whitelist_source_range="10.0.0.0/8") as (proxy, _, shadow):
        assert (await (await proxy.client()).get("/", HOST)).status == 403
        assert shadow.connections == 0


async def test_a_host_from_a_variable() -> None:
    async with one({"mirror-target": "http://$http_x_shadow/"}) as (proxy, _):
        shadow = await proxy.backend(None, "shadow")
        client = await proxy.client()
        assert (await client.get("/", HOST, f"X-Shadow: 127.0.0.1:{shadow.port}")).status == 200
        await until(lambda: count(proxy, "answered") == 1)
        assert (await client.get("/", HOST)).status == 200
        assert (await client.get("/", HOST, "X-Shadow: a b")).status == 200
        await until(lambda: count(proxy, "failed") == 2)
