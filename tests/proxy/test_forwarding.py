"""What an upstream sees of a request, and a client of its response: fields, framing, targets."""

import re

import pytest

from ingress.config import ProxySettings
from ingress.routing.table import TrafficPolicy
from tests.proxy.support import Proxy, Request, answer, one_backend, reply, response

OURS = {
    b"host",
    b"x-request-id",
    b"x-forwarded-host",
    b"x-real-ip",
    b"x-forwarded-for",
    b"x-forwarded-port",
    b"x-forwarded-proto",
    b"x-forwarded-scheme",
    b"x-scheme",
}


def theirs(request: Request) -> list[tuple[bytes, bytes]]:
    """The fields that came from the client."""
    return [field for field in request.fields if field[0].lower() not in OURS]


async def sent(head: bytes, body: bytes = b"", **changes: object) -> Request:
    """What the upstream gets when a client sends this."""
    async with one_backend(**changes) as (proxy, backend):
        client = await proxy.client()
        answered = await client.request(head + body, "HEAD" if head.startswith(b"HEAD") else "GET")
        assert answered.status == 200, answered
        (request,) = backend.requests
        return request


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "QUERY"])
async def test_methods(method: str) -> None:
    request = await sent(f"{method} /x HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert (request.method, request.target) == (method.encode(), b"/x")
    assert theirs(request) == []


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        (b"/", b"/"),
        (b"/a?", b"/a?"),
        (b"/a?b=%2f&c=%zz&d=//../x??", b"/a?b=%2f&c=%zz&d=//../x??"),
        (b"/?/../..", b"/?/../.."),
        (b"//a//b", b"/a/b"),
        (b"/a/./b/../c", b"/a/c"),
        (b"/%61/%7e", b"/a/~"),
        (b"/a%2fb", b"/a%2Fb"),
        (b"/a/%2e%2e/b", b"/b"),
        (b"/a%20b", b"/a%20b"),
        (b"http://other/x?y", b"/x?y"),
        (b"http://other", b"/"),
        (b"HTTP://other?q=1", b"/?q=1"),
    ],
)
async def test_targets(target: bytes, seen: bytes) -> None:
    request = await sent(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert request.target == seen


@pytest.mark.parametrize(
    ("target", "host", "seen"),
    [
        (b"/", b"A.example:8080", b"A.example:8080"),
        (b"/", b"[::1]:80", b"[::1]:80"),
        (b"/", b"a.example.", b"a.example."),
        (b"http://other:81/x", b"a", b"other:81"),
    ],
)
async def test_host_is_kept(target: bytes, host: bytes, seen: bytes) -> None:
    request = await sent(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert request.value("Host") == seen
    assert request.value("X-Forwarded-Host") == seen


async def test_the_fields_that_are_set() -> None:
    async with one_backend() as (proxy, backend):
        client = await proxy.client()
        await client.get("/", "a.example")
        (request,) = backend.requests
        assert re.fullmatch(rb"[0-9a-f]{32}", request.value("X-Request-ID") or b"")
        assert [(n, v) for n, v in request.fields if n != b"X-Request-ID"] == [
            (b"Host", b"a.example"),
            (b"X-Forwarded-Host", b"a.example"),
            (b"X-Real-IP", b"127.0.0.1"),
            (b"X-Forwarded-For", b"127.0.0.1"),
            (b"X-Forwarded-Port", str(proxy.port).encode()),
            (b"X-Forwarded-Proto", b"http"),
            (b"X-Forwarded-Scheme", b"http"),
            (b"X-Scheme", b"http"),
        ]
        await client.get("/")
        assert backend.requests[1].value("X-Request-ID") != request.value("X-Request-ID")


async def test_the_client_can_t_forge_what_we_set() -> None:
    names = ("X-Real-IP", "X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Forwarded-Scheme")
    names += ("X-Scheme", "X-Forwarded-Host", "X-Original-Forwarded-For", "X-Original-Forwarded-Host")
    lines = "".join(f"{name.lower()}: forged\r\n{name.upper()}: forged\r\n" for name in names)
    request = await sent(f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
    for name in names[:7]:
        value = request.value(name)
        assert value, name
        assert b"forged" not in value, name
    # What the client claimed stays visible under the name that ingress-nginx gives it.
    assert request.values("X-Original-Forwarded-For") == [b"forged"] * 2
    assert request.values("X-Original-Forwarded-Host") == [b"forged"] * 2


@pytest.mark.parametrize(
    ("given", "kept"),
    [(b"abc-123", True), (b"x" * 128, True), (b"x" * 129, False), (b"", False), (b"\xe9", False)],
)
async def test_the_request_id(given: bytes, kept: bool) -> None:
    request = await sent(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: " + given + b"\r\n\r\n")
    value = request.value("X-Request-ID") or b""
    assert (value == given) is kept
    assert kept or re.fullmatch(rb"[0-9a-f]{32}", value)


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        ([b"X-A: 1", b"x-b: 2", b"X-A: 3"], [(b"X-A", b"1"), (b"x-b", b"2"), (b"X-A", b"3")]),
        ([b"X-Empty:", b"X-B: 2"], [(b"X-Empty", b""), (b"X-B", b"2")]),
        ([b"X-Empty: \t ", b"X-B: 2"], [(b"X-Empty", b""), (b"X-B", b"2")]),
        ([b"X-L: caf\xe9", b"X-U: caf\xc3\xa9"], [(b"X-L", b"caf\xe9"), (b"X-U", b"caf\xc3\xa9")]),
        ([b"X-T: a\tb  c", b'X-Q: "a, b"'], [(b"X-T", b"a\tb  c"), (b"X-Q", b'"a, b"')]),
        ([b"Cookie: a=1", b"Cookie: b=2"], [(b"Cookie", b"a=1"), (b"Cookie", b"b=2")]),
        (
            [b"Accept-Encoding: gzip, br", b"Range: bytes=0-"],
            [(b"Accept-Encoding", b"gzip, br"), (b"Range", b"bytes=0-")],
        ),
        # hop by hop
        ([b"Connection: X-A, keep-alive ,X-B", b"X-A: 1", b"x-b: 2", b"X-C: 3"], [(b"X-C", b"3")]),
        ([b"Connection: x-a", b"Connection: close, x-c", b"X-A: 1", b"X-C: 2"], []),
        ([b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: trailers", b"HTTP2-Settings: AAA"], []),
        ([b"Upgrade: websocket"], []),
        # never passed on
        ([b"Proxy: http://evil", b"proxy: http://evil"], []),
        ([b"X_Forwarded_For: 1.2.3.4", b"a_b: c", b"X.Y: z", b"X!: z"], []),
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "bytewise"])
async def test_request_fields(lines: list[bytes], seen: list[tuple[bytes, bytes]], whole: bool) -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    async with one_backend() as (proxy, backend):
        client = await proxy.client()
        if whole:
            await client.send(data)
        else:
            await client.trickle(data)
        assert (await client.response()).status == 200
        assert theirs(backend.requests[0]) == seen


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        ([b"Set-Cookie: a=1", b"set-cookie: b=2"], [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")]),
        ([b"X-Empty:", b"X-B: 2"], [(b"X-Empty", b""), (b"X-B", b"2")]),
        ([b"X-L: caf\xe9", b"x_under: 1"], [(b"X-L", b"caf\xe9"), (b"x_under", b"1")]),
        ([b"Connection: X-A, keep-alive", b"X-A: 1", b"X-C: 2"], [(b"X-C", b"2")]),
        ([b"Keep-Alive: timeout=5", b"Proxy-Connection: x", b"TE: x", b"Upgrade: h2c"], []),
        ([b"Server: nginx/1.0", b"X-Powered-By: x"], [(b"X-Powered-By", b"x")]),
        ([b"Transfer-Encoding-X: a", b"Trailer: X-T"], [(b"Transfer-Encoding-X", b"a"), (b"Trailer", b"X-T")]),
        ([b"Strict-Transport-Security: max-age=1"], [(b"Strict-Transport-Security", b"max-age=1")]),
    ],
)
async def test_response_fields(lines: list[bytes], seen: list[tuple[bytes, bytes]]) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: 2\r\n\r\nok"
    async with one_backend(reply(lambda _: raw)) as (proxy, _):
        client = await proxy.client()
        got = await client.get()
        assert [f for f in got.fields if f[0] not in (b"Server", b"Date", b"Content-Length")] == seen
        assert got.value("Server") == b"aioingress"
        assert got.value("Date")
        assert got.value("Connection") is None
        assert got.body == b"ok"


async def test_the_upstream_s_date_is_kept() -> None:
    async with one_backend(answer(fields=[(b"date", b"Tue, 15 Nov 1994 08:12:31 GMT")])) as (proxy, _):
        got = await (await proxy.client()).get()
        assert got.values("Date") == [b"Tue, 15 Nov 1994 08:12:31 GMT"]


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK"),
        (b"HTTP/1.1 200 Sure thing", b"HTTP/1.1 200 Sure thing"),
        (b"HTTP/1.1 418 I'm a teapot", b"HTTP/1.1 418 I'm a teapot"),
        (b"HTTP/1.1 404", b"HTTP/1.1 404 Not Found"),
        (b"HTTP/1.1 599 ", b"HTTP/1.1 599 Unknown"),
        (b"HTTP/1.0 201 Made", b"HTTP/1.1 201 Made"),
        (b"HTTP/1.1 200 a\x00b\x1bc", b"HTTP/1.1 200 OK"),
    ],
)
async def test_status_lines(line: bytes, seen: bytes) -> None:
    async with one_backend(reply(lambda _: line + b"\r\nContent-Length: 0\r\n\r\n")) as (proxy, _):
        assert (await (await proxy.client()).get()).start == seen


async def test_a_body_limit_of_zero_is_none() -> None:
    async with one_backend(policy=TrafficPolicy(request_buffering=False, body_limit_bytes=0)) as (proxy, backend):
        assert (await (await proxy.client()).post(b"x" * (3 << 20))).status == 200
        assert len(backend.requests[0].body) == 3 << 20


async def test_the_address_of_an_ipv4_client_of_a_dual_stack_listener() -> None:
    from ingress.proxy.listener import client_address

    assert client_address(("::ffff:192.0.2.1", 5, 0, 0)) == "192.0.2.1"
    assert client_address(("2001:db8::1", 5, 0, 0)) == "2001:db8::1"
    assert client_address(("fe80::1%eth0", 5, 0, 0)) == "fe80::1"
    assert client_address(None) == "0.0.0.0"


async def test_without_a_table_everything_is_503() -> None:
    async with Proxy(ProxySettings()) as proxy:
        client = await proxy.client()
        assert (await client.get()).status == 503
        assert (await client.get()).status == 503
        proxy.serve(await proxy.backend())
        assert (await client.get()).body == b"b0"


async def test_several_requests_on_one_connection_use_one_upstream_connection() -> None:
    async with one_backend(reply(lambda r: response(body=r.target))) as (proxy, backend):
        client = await proxy.client()
        for number in range(5):
            assert (await client.get(f"/{number}")).body == f"/{number}".encode()
        assert backend.connections == 1
        assert proxy.metrics.upstream_connections_reused == 4
