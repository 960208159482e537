"""What is refused, and how: 400 and close, without an upstream ever hearing of it; limits; the one view of a path."""

import asyncio

import pytest

from ingress.routing.table import TrafficPolicy
from tests.proxy.support import Client, Proxy, answer, one_backend, reply, response, routes

HOST = b"Host: a\r\n"


def get(*lines: bytes, start: bytes = b"GET / HTTP/1.1", host: bytes = HOST) -> bytes:
    return start + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return get(*lines, start=b"POST / HTTP/1.1") + body


CHUNKED = b"Transfer-Encoding: chunked"
BAD = {
    "CL and TE": post(CHUNKED, b"Content-Length: 3", body=b"0\r\n\r\n"),
    "CL, then TE": post(b"Content-Length: 3", CHUNKED, body=b"0\r\n\r\n"),
    "two CL": post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"),
    "two different CL": post(b"Content-Length: 3", b"Content-Length: 4", body=b"abc"),
    "CL +5": post(b"Content-Length: +5", body=b"hello"),
    "CL -5": post(b"Content-Length: -5", body=b"hello"),
    "CL 5, 5": post(b"Content-Length: 5, 5", body=b"hello"),
    "CL 0x5": post(b"Content-Length: 0x5", body=b"hello"),
    "CL 1_0": post(b"Content-Length: 1_0", body=b"hello12345"),
    "CL empty": post(b"Content-Length:", body=b""),
    "CL huge": post(b"Content-Length: 99999999999999999999999", body=b""),
    "TE identity": post(b"Transfer-Encoding: identity", body=b""),
    "TE gzip": post(b"Transfer-Encoding: gzip", body=b""),
    "TE gzip, chunked": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "TE chunked, gzip": post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
    "TE chunked, chunked": post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "TE twice": post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
    "TE chunked;a": post(b"Transfer-Encoding: chunked;a=b", body=b"0\r\n\r\n"),
    "TE xchunked": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "TE empty": post(b"Transfer-Encoding:", body=b"0\r\n\r\n"),
    "TE \\vchunked": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "TE quoted": post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "TE of HTTP/1.0": get(CHUNKED, start=b"POST / HTTP/1.0") + b"0\r\n\r\n",
    "space before colon": get(b"X : y"),
    "CL with a space before the colon": post(b"Content-Length : 5", body=b"hello"),
    "obs-fold": get(b"X: y", b" z"),
    "obs-fold at once": get(b" X: y"),
    "fold of TE": post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"),
    "bare LF behind a field": b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "bare LF everywhere": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare LF at the end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "bare CR": get(b"X: y\rZ: z"),
    "CR in a value": get(b"X: y\r"),
    "NUL in a value": get(b"X: y\0z"),
    "NUL in a name": get(b"X\0: y"),
    "control in a value": get(b"X: y\x01z"),
    "DEL in a value": get(b"X: y\x7f"),
    "no colon": get(b"X"),
    "empty name": get(b": y"),
    "name of another alphabet": get(b"X-\xc3\xa9: y"),
    "parenthesis in a name": get(b"X(y): z"),
    "no Host": get(host=b""),
    "two Hosts": get(b"Host: a"),
    "two different Hosts": get(b"Host: b"),
    "no Host, absolute": get(start=b"GET http://a/ HTTP/1.1", host=b""),
    "two Hosts, absolute": get(b"Host: b", start=b"GET http://a/ HTTP/1.1"),
    "Host with a space": get(host=b"Host: a b\r\n"),
    "Host with userinfo": get(host=b"Host: user@a\r\n"),
    "Host with a word for a port": get(host=b"Host: a:port\r\n"),
    "Host with a path": get(host=b"Host: a/b\r\n"),
    "Host list": get(host=b"Host: a, b\r\n"),
    "Host with an escape": get(host=b"Host: a%00\r\n"),
    "Host of another alphabet": get(host=b"Host: \xc3\xa9\r\n"),
    "Host with a bracket": get(host=b"Host: [::1\r\n"),
    "Host with two ports": get(host=b"Host: a:1:2\r\n"),
    "fragment": get(start=b"GET /#x HTTP/1.1"),
    "fragment in the query": get(start=b"GET /?a#x HTTP/1.1"),
    "empty fragment": get(start=b"GET /# HTTP/1.1"),
    "relative target": get(start=b"GET x HTTP/1.1"),
    "no target": get(start=b"GET HTTP/1.1"),
    "another scheme": get(start=b"GET ftp://a/ HTTP/1.1"),
    "absolute without authority": get(start=b"GET http:///x HTTP/1.1"),
    "absolute with userinfo": get(start=b"GET http://user@a/x HTTP/1.1"),
    "space in the target": get(start=b"GET /a b HTTP/1.1"),
    "NUL in the target": get(start=b"GET /\0 HTTP/1.1"),
    "control in the target": get(start=b"GET /\x01 HTTP/1.1"),
    "tab in the target": get(start=b"GET /a\tb HTTP/1.1"),
    "unknown method": get(start=b"FOO / HTTP/1.1"),
    "method in lower case": get(start=b"get / HTTP/1.1"),
    "asterisk": get(start=b"OPTIONS * HTTP/1.1"),
    "asterisk of GET": get(start=b"GET * HTTP/1.1"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 with a version": b"GET / HTTP/0.9\r\n\r\n",
    "HTTP/2.0": get(start=b"GET / HTTP/2.0"),
    "HTTP/1.2": get(start=b"GET / HTTP/1.2"),
    "HTTP/1.10": get(start=b"GET / HTTP/1.10"),
    "http/1.1": get(start=b"GET / http/1.1"),
    "HTTP 1.1": get(start=b"GET / HTTP 1.1"),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(200),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zeros": bytes(100),
    # paths
    "above the root": get(start=b"GET /.. HTTP/1.1"),
    "above the root, escaped": get(start=b"GET /%2e%2e/ HTTP/1.1"),
    "above the root, half escaped": get(start=b"GET /a/.%2E/..//x HTTP/1.1"),
    "a lone percent": get(start=b"GET /% HTTP/1.1"),
    "not hexadecimal": get(start=b"GET /%zz HTTP/1.1"),
    "escaped NUL": get(start=b"GET /%00 HTTP/1.1"),
}  # fmt: skip
# These have a good head: the upstream may have seen the request's beginning, but never all of it.
BAD_BODIES = {
    "size +5": b"+5\r\nhello\r\n0\r\n\r\n",
    "size 0x5": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size with a space": b"5 \r\nhello\r\n0\r\n\r\n",
    "size empty": b"\r\nhello\r\n0\r\n\r\n",
    "size huge": b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "size negative": b"-1\r\nhello\r\n0\r\n\r\n",
    "no CRLF behind the data": b"5\r\nhelloX\r\n0\r\n\r\n",
    "LF behind the size": b"5\nhello\r\n0\r\n\r\n",
    "LF behind the data": b"5\r\nhello\n0\r\n\r\n",
    "LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "fold in a trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "LF in a trailer": b"0\r\nX: y\n\r\n",
    "no colon in a trailer": b"0\r\nX\r\n\r\n",
}


async def refused(client: Client, status: int = 400) -> None:
    got = await client.response()
    assert got.status == status, got
    assert got.values("Connection") == [b"close"]
    assert await client.closed()


@pytest.mark.parametrize("name", BAD)
async def test_bad_requests(name: str) -> None:
    async with one_backend() as (proxy, backend):
        client = await proxy.client()
        await client.send(BAD[name])
        await refused(client)
        client = await proxy.client()
        await client.trickle(BAD[name])
        await refused(client)
        # the same behind a good one: that one is answered
        client = await proxy.client()
        await client.send(get(start=b"GET /good HTTP/1.1") + BAD[name] + get(start=b"GET /never HTTP/1.1"))
        assert (await client.response()).status == 200
        await refused(client)
        assert [request.target for request in backend.requests] == [b"/good"]
        assert backend.connections == 1


@pytest.mark.parametrize("name", BAD_BODIES)
@pytest.mark.parametrize("kept", [True, False])
async def test_bad_bodies(name: str, kept: bool) -> None:
    async with one_backend() as (proxy, backend):
        client = await proxy.client()
        if kept:
            assert (await client.request(get())).status == 200
        await client.send(post(CHUNKED) + BAD_BODIES[name] + get(start=b"GET /never HTTP/1.1"))
        await refused(client)
        assert [request.method for request in backend.requests] == [b"GET"] * kept


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
@pytest.mark.parametrize("target", ["/", "a:80"])
async def test_methods_that_are_refused(method: str, target: str) -> None:
    async with one_backend() as (proxy, backend):
        client = await proxy.client()
        got = await client.get(target, method=method)
        assert got.status == (405 if target == "/" or method == "CONNECT" else 400)
        if got.status == 405:
            assert got.value("Allow")
        assert await client.closed()
        assert not backend.requests


async def test_a_good_request_behind_empty_lines() -> None:
    async with one_backend() as (proxy, backend):
        client = await proxy.client()
        await client.send(b"\r\n\r\n" + get())
        assert (await client.response()).status == 200
        await client.send(b"\r\n")
        await client.send(get())
        assert (await client.response()).status == 200
        assert len(backend.requests) == 2


# ---- one view of the path -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "route", "seen"),
    [
        ("/admin", "admin", "/admin"),
        ("//admin//x", "admin", "/admin/x"),
        ("/public/../admin/x", "admin", "/admin/x"),
        ("/public/%2e%2e/admin", "admin", "/admin"),
        ("/public/%2E./admin", "admin", "/admin"),
        ("/%61dmin", "admin", "/admin"),
        ("/./admin/./", "admin", "/admin/"),
        ("/Admin", "root", "/Admin"),
        ("/admin%20", "root", "/admin%20"),
        ("/administration", "root", "/administration"),
        ("/public/a%2fb", "public", "/public/a%2Fb"),
        ("/public/a%2F..%2Fb", "public", "/public/a%2F..%2Fb"),
        ("/%252e%252e/admin", "root", "/%252e%252e/admin"),
        ("/admin;x", "root", "/admin;x"),
        ("/public/..;/admin", "public", "/public/..;/admin"),
        ("/admin?/../public", "admin", "/admin?/../public"),
        # two servers would see two things
        ("/public%2f..%2fadmin", 400, ""),
        ("/public/..%2fadmin", 400, ""),
        ("/admin%2fx", 400, ""),
        ("/public%5c..%5cadmin", 400, ""),
        ("/public/%2e%2e%2fadmin", 400, ""),
        ("/%2fadmin", 400, ""),
        ("/public/a%2f..%2f..%2fadmin", 400, ""),
        ("/x%2f..%2f..%2f", 400, ""),
    ],
)
async def test_the_upstream_sees_what_was_matched(target: str, route: str | int, seen: str) -> None:
    async with Proxy() as proxy:
        backends = {name: await proxy.backend(answer(name.encode())) for name in ("root", "admin", "public")}
        proxy.plane.swap(
            routes({"/": [backends["root"]], "/admin": [backends["admin"]], "/public": [backends["public"]]})
        )
        got = await (await proxy.client()).get(target)
        if route == 400:
            assert got.status == 400
            assert not any(backend.requests for backend in backends.values())
        else:
            assert got.body == str(route).encode()
            assert backends[str(route)].requests[0].target == seen.encode()


# ---- limits -------------------------------------------------------------------------------------------------------

SMALL = {
    "request_line_limit_bytes": 100,
    "header_line_limit_bytes": 200,
    "header_total_limit_bytes": 500,
    "header_count_limit": 10,
}


def line_of(size: int) -> bytes:
    """A request line of that many bytes without its CRLF."""
    start = b"GET /%b HTTP/1.1"
    return start % (b"x" * (size - len(start) + 2))


def field_of(size: int, name: bytes = b"X") -> bytes:
    """A field line of that many bytes with its CRLF."""
    return name + b": " + b"y" * (size - len(name) - 4)


LIMITS = {
    # "Host: a" is one field of 9 bytes
    "line at its limit": (get(start=line_of(98)), 200),
    "line beyond it": (get(start=line_of(99)), 414),
    "field at its limit": (get(field_of(200)), 200),
    "field beyond it": (get(field_of(201)), 431),
    "a name beyond it": (get(b"X" * 300 + b": y"), 431),
    "dropped field beyond it": (get(field_of(201, b"X_Y")), 431),
    "special field beyond it": (get(field_of(201, b"X-Forwarded-For")), 431),
    "all at their limit": (get(field_of(200), field_of(200), field_of(91)), 200),
    "all beyond it": (get(field_of(200), field_of(200), field_of(92)), 431),
    "count at its limit": (get(*[b"X: y"] * 9), 200),
    "count beyond it": (get(*[b"X: y"] * 10), 431),
    "count of special ones beyond it": (get(*[b"Connection: y"] * 10), 431),
    "count of dropped ones beyond it": (get(*[b"TE: y"] * 10), 431),
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("step", [0, 1, 50], ids=["whole", "bytewise", "by 50"])
async def test_limits_of_the_head(name: str, step: int) -> None:
    data, status = LIMITS[name]
    async with one_backend(**SMALL) as (proxy, backend):
        for before in (b"", get(), post(b"Content-Length: 3000", body=b"z" * 3000)):
            backend.requests.clear()
            client = await proxy.client()
            await client.trickle(before + data, step or len(before + data))
            if before:
                assert (await client.response()).status == 200
            got = await client.response()
            assert got.status == status
            assert len(backend.requests) == (1 if before else 0) + (status == 200)
            if status != 200:
                assert await client.closed()


DEFAULT_LIMITS = {
    "line at its limit": (get(start=line_of(8190)), 200),
    "line beyond it": (get(start=line_of(8191)), 414),
    "field at its limit": (get(field_of(8192)), 200),
    "field beyond it": (get(field_of(8193)), 431),
    "all at their limit": (get(*[field_of(8192)] * 3, field_of(32768 - 3 * 8192 - 9)), 200),
    "all beyond it": (get(*[field_of(8192)] * 3, field_of(32768 - 3 * 8192 - 8)), 431),
    "count at its limit": (get(*[b"X: y"] * 127), 200),
    "count beyond it": (get(*[b"X: y"] * 128), 431),
}


@pytest.mark.parametrize("name", DEFAULT_LIMITS)
async def test_the_default_limits_of_the_head(name: str) -> None:
    data, status = DEFAULT_LIMITS[name]
    async with one_backend() as (proxy, _):
        client = await proxy.client()
        await client.send(data)
        assert (await client.response()).status == status
        client = await proxy.client()
        await client.trickle(data, 1000)
        assert (await client.response()).status == status


ENDLESS = {
    "line": (b"GET /", b"x" * 1000, 414),
    "field": (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"x" * 1000, 431),
    "name": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"x" * 1000, 431),
    "fields": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n" * 100, 431),
    "trailers": (post(CHUNKED) + b"5\r\nhello\r\n0\r\n", b"X: y\r\n" * 100, 431),
    "trailer": (post(CHUNKED) + b"5\r\nhello\r\n0\r\nX: ", b"y" * 1000, 431),
    "chunk extension": (post(CHUNKED) + b"5;", b"y" * 1000, 431),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_never_ends_is_cut(name: str) -> None:
    start, more, status = ENDLESS[name]
    async with one_backend() as (proxy, backend):
        client = await proxy.client()

        async def flood() -> None:
            await client.send(start)
            for _ in range(1000):
                await client.send(more)
                await asyncio.sleep(0)

        task = asyncio.create_task(flood())
        got = await client.response()
        assert got.status == status
        task.cancel()
        await asyncio.wait([task])
        assert not backend.requests


# ---- the size of a body -------------------------------------------------------------------------------------------

TEN = TrafficPolicy(request_buffering=False, body_limit_bytes=10)


@pytest.mark.parametrize("size", [9, 10, 11, 100_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("kept", [True, False])
async def test_the_limit_of_a_body(size: int, framing: str, kept: bool) -> None:
    async with one_backend(policy=TEN) as (proxy, backend):
        client = await proxy.client()
        before = get() if kept else b""
        if framing == "length":
            await client.send(before + post(b"Content-Length: %d" % size, body=b"x" * size) + get())
        else:
            pieces = b"".join(b"1\r\nx\r\n" for _ in range(size))
            await client.send(before + post(CHUNKED, body=pieces + b"0\r\n\r\n") + get())
        if kept:
            assert (await client.response()).status == 200
        if size <= 10:
            assert (await client.response()).status == 200
            assert (await client.response()).status == 200
            assert backend.requests[-2].body == b"x" * size
        else:
            await refused(client, 413)
            assert len(backend.requests) == kept


async def test_the_limit_is_the_route_s() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend(reply(lambda request: response(body=b"%d" % len(request.body))))
        proxy.serve(backend)  # 1 MiB
        client = await proxy.client()
        assert (await client.post(b"x" * (1 << 20))).body == b"1048576"
        await client.send(post(b"Content-Length: 1048577"))
        await refused(client, 413)
