"""What the proxy answers by itself: statuses by route, and that the connection goes on."""

import json

import pytest

from ingress.routing.table import TrafficPolicy
from tests.proxy.support import Proxy, one_backend, routes

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [
        ("known", "/", 404),
        ("known", "/open/x", 200),
        ("known", "/closed", 503),
        ("known", "/denied/x", 403),
        ("known", "/empty", 503),
        ("known", "/exact", 200),
        ("known", "/exact/", 404),
        ("KNOWN:8080", "/open", 200),
        ("known.", "/open", 200),
        ("unknown", "/open", 404),
        ("", "/open", 404),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_statuses(host: str, path: str, status: int, method: str) -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend()
        table = routes(
            {"/open": [backend], "/closed": 503, "/denied": 403, "/empty": [], "=/exact": [backend]}, host="known"
        )
        proxy.plane.swap(table)
        client = await proxy.client()
        for _ in range(2):  # the connection goes on
            got = await client.get(path, host, method=method)
            assert got.status == status
            assert got.values("Connection") == []
            if status != 200:
                assert got.value("Server") == b"aioingress"
                assert got.value("Date")
                assert int(got.value("Content-Length") or 0) > 0
        assert len(backend.requests) == (2 if status == 200 else 0)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", b"text/plain; charset=utf-8"),
        ("text/html,*/*;q=0.8", b"text/html; charset=utf-8"),
        ("application/json", b"application/json"),
    ],
)
async def test_pages_by_accept(accept: str, kind: bytes) -> None:
    async with Proxy() as proxy:
        proxy.plane.swap(routes({"/": 503}))
        client = await proxy.client()
        got = await client.get("/", "a", f"Accept: {accept}", "X-Request-ID: my-id")
        assert got.value("Content-Type") == kind
        assert got.value("Vary") == b"Accept"
        assert b"my-id" in got.body
        if kind == b"application/json":
            assert json.loads(got.body)["status"] == 503
        head = await client.get("/", "a", f"Accept: {accept}", "X-Request-ID: my-id", method="HEAD")
        assert head.value("Content-Length") == b"%d" % len(got.body)


@pytest.mark.parametrize("size", [1, 100_000, 900_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_unread_body_behind_an_error(size: int, framing: str) -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(routes({"/ok": [backend]}))
        client = await proxy.client()
        for _ in range(2):
            if framing == "length":
                head, tail = f"Content-Length: {size}", b"x" * size
            else:
                head, tail = "Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)
            await client.send(f"POST /nowhere HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n".encode())
            got = await client.response()  # before the body
            assert got.status == 404
            await client.send(tail)
            assert (await client.get("/ok")).status == 200
            await client.send(f"POST /nowhere HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n".encode() + tail + GET)
            assert (await client.response()).status == 404
            assert (await client.response()).status == 404
        assert len(backend.requests) == 2


async def test_an_error_for_http_1_0() -> None:
    async with Proxy() as proxy:
        proxy.plane.swap(routes({"/": 404}))
        client = await proxy.client()
        got = await client.request(b"GET / HTTP/1.0\r\n\r\n")
        assert (got.status, got.values("Connection")) == (404, [b"close"])
        assert await client.closed()
        client = await proxy.client()
        for _ in range(2):
            got = await client.request(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (got.status, got.values("Connection")) == (404, [b"keep-alive"])


async def test_what_is_counted_and_logged() -> None:
    async with one_backend(policy=TrafficPolicy(request_buffering=False, body_limit_bytes=10)) as (proxy, backend):
        client = await proxy.client()
        await client.post(b"12345", "/x?y=z", "a", "User-Agent: test", "Referer: r")
        await client.request(b"BAD / HTTP/1.1\r\n\r\n")
        good, bad = proxy.log.records
        assert (good.status, good.method, good.target, good.host) == (200, b"POST", b"/x?y=z", b"a")
        assert (good.user_agent, good.referer, good.body_bytes_sent) == (b"test", b"r", 2)
        assert (good.upstream_addr, good.upstream_status) == (f"127.0.0.1:{backend.port}", "200")
        assert (good.namespace, good.ingress, good.service, good.port) == ("default", "ingress", "service-0", "80")
        assert (bad.status, bad.upstream_addr) == (400, "")
        snapshot = proxy.metrics.snapshot()
        stats = snapshot.routes[("default", "ingress", "service-0", "80")]
        assert stats.statuses == {200: 1}
        assert snapshot.connections_accepted == 1


async def test_failed_tries_are_logged_too() -> None:
    async def closes(connection: object) -> None:
        await connection.request()  # type: ignore[attr-defined]

    async with Proxy() as proxy:
        bad, good = await proxy.backend(closes), await proxy.backend()
        proxy.serve(bad, good)
        client = await proxy.client()
        for _ in range(2):
            await client.get()
        record = max(proxy.log.records, key=lambda r: len(r.upstream_addr))
        assert record.upstream_addr == f"127.0.0.1:{bad.port}, 127.0.0.1:{good.port}"
        assert record.upstream_status == "502, 200"
