"""Compressed responses: when, by which coding, and that a stream stays one."""

import asyncio
import gzip
import random
import zlib
from typing import Any

import brotli
import pytest
import zstandard

from ingress.middleware.codecs import make_encoder
from ingress.middleware.encoding import Coding, is_old_explorer, negotiate, weakened
from ingress.translate.options import Options
from ingress.translate.options.model import BROTLI_TYPES, CodecOptions, CompressionOptions
from tests.middleware.rules import HOST, Rules, one, serving
from tests.proxy.support import BackendConnection, Client, Request, Response, Truncated, answer, reply, response, until

GZIP = CodecOptions(1, 256)
BROTLI = CodecOptions(4, 20, BROTLI_TYPES)
ZSTD = CodecOptions(3, 256)
TEXT = b"".join(b"line %d of a text that repeats itself\n" % n for n in range(400))
JSON = [(b"Content-Type", b"application/json; charset=utf-8")]


def with_gzip(**changes: Any) -> Options:
    return Options(
        compression=CompressionOptions(gzip=CodecOptions(**{"level": 1, "min_length_bytes": 256, **changes}))
    )


ALL = Options(compression=CompressionOptions(GZIP, BROTLI, ZSTD))


def decode(got: Response) -> bytes:
    match got.value("Content-Encoding"):
        case None:
            return got.body
        case b"gzip":
            return gzip.decompress(got.body)
        case b"br":
            return brotli.decompress(got.body)  # type: ignore[no-any-return]
        case b"zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress(got.body)
        case other:
            raise AssertionError(other)


# ---- negotiation ----


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (b"gzip", Coding.GZIP),
        (b"gzip, deflate, br, zstd", Coding.BROTLI),
        (b"gzip, zstd", Coding.ZSTD),
        (b"GZIP;q=1.0", Coding.GZIP),
        (b"x-gzip", Coding.GZIP),
        (b"br;q=0.5, gzip;q=0.9", Coding.GZIP),
        (b"br ; q=0.5 , gzip ; q=0.5", Coding.BROTLI),
        (b"gzip;q=0", None),
        (b"gzip;q=0.000, *", Coding.BROTLI),
        (b"*", Coding.BROTLI),
        (b"*;q=0", None),
        (b"identity", None),
        (b"identity, gzip;q=0.5", None),
        (b"identity;q=0.5, gzip", Coding.GZIP),
        (b"deflate", None),
        (b"gzipped", None),
        (b"gzip;q=2", None),
        (b"gzip;q=nan", None),
        (b"gzip;q=1;q=0", None),
        (b"", None),
        (b",,;;=,", None),
        (b"gzip" + b"," * 1000, None),
        (b"\xff, gzip", Coding.GZIP),
    ],
)
def test_negotiation(accept: bytes, expected: Coding | None) -> None:
    assert negotiate(accept, tuple(Coding)) is expected


def test_small_decisions() -> None:
    assert (weakened(b'"a"'), weakened(b'W/"a"'), weakened(b"a"), weakened(b""), weakened(b'"')) == (
        b'W/"a"',
        b'W/"a"',
        b"",
        b"",
        b"",
    )
    assert is_old_explorer(b"Mozilla/45.0 (compatible; MSIE 6.0; Windows NT 5.1)")
    assert not is_old_explorer(b"Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; SV1)")
    assert not is_old_explorer(b"Mozilla/4.0 (compatible; MSIE 7.0)")


@pytest.mark.parametrize("coding", list(Coding))
@pytest.mark.parametrize("length", [-1, 0, 1, 300, 5_000, 100_000, 1_000_000])
def test_encoders(coding: Coding, length: int) -> None:
    rng = random.Random(length)
    content = bytes(rng.choices(b"abcdef\n", k=max(length, 20_000 if length < 0 else 0)))
    encoder = make_encoder(coding, 1, length)
    out = b""
    half = len(content) // 2
    out += encoder.compress(content[:half]) + encoder.sync() + encoder.compress(content[half:]) + encoder.finish()
    got = Response(b"", [(b"Content-Encoding", coding.value.encode())], b"", out)
    assert decode(got) == content


# ---- the conditions ----


@pytest.mark.parametrize(
    ("accept", "coding"), [("gzip", b"gzip"), ("gzip, deflate, br", b"br"), ("zstd, gzip", b"zstd"), ("deflate", None)]
)
async def test_codings(accept: str, coding: bytes | None) -> None:
    fields = [*JSON, (b"ETag", b'"tag"'), (b"Accept-Ranges", b"bytes"), (b"Vary", b"Cookie")]
    async with one({}, answer(TEXT, fields=fields), ALL) as (proxy, _):
        client = await proxy.client()
        for _ in range(2):
            got = await client.get("/", HOST, f"Accept-Encoding: {accept}")
            assert got.value("Content-Encoding") == coding
            assert decode(got) == TEXT
            assert got.values("Vary") == [b"Cookie", b"Accept-Encoding"]
            assert got.value("ETag") == (b'"tag"' if coding is None else b'W/"tag"')
            assert got.value("Accept-Ranges") == (b"bytes" if coding is None else None)
            assert got.chunked is (coding is not None)
            assert got.value("Content-Length") == (None if coding else b"%d" % len(TEXT))
        await until(lambda: len(proxy.log.records) == 2)
        assert {r.body_bytes_sent for r in proxy.log.records} == {len(got.body)}


async def test_off_by_default() -> None:
    async with one({}, answer(TEXT, fields=JSON)) as (proxy, _):
        got = await (await proxy.client()).get("/", HOST, "Accept-Encoding: gzip")
        assert (got.values("Content-Encoding"), got.values("Vary"), got.body) == ([], [], TEXT)


@pytest.mark.parametrize(
    ("status", "fields", "changes", "vary"),
    [
        (200, [(b"Content-Type", b"image/png")], {}, False),
        (200, [], {}, False),
        (200, [*JSON, (b"Content-Encoding", b"br")], {}, False),
        (200, [*JSON, (b"Cache-Control", b"public, no-transform")], {}, False),
        (200, [*JSON, (b"Content-Digest", b"sha-256=:x:")], {}, False),
        (201, JSON, {}, False),
        (206, [*JSON, (b"Content-Range", b"bytes 0-9/100")], {}, False),
        (500, JSON, {}, False),
        (200, JSON, {"min_length_bytes": 10**9}, False),
        (200, JSON, {"types": ("text/html",)}, False),
    ],
)
async def test_what_is_left_alone(status: int, fields: Any, changes: dict[str, Any], vary: bool) -> None:
    async with one({}, answer(TEXT, status, fields), with_gzip(**changes)) as (proxy, _):
        got = await (await proxy.client()).get("/", HOST, "Accept-Encoding: gzip")
        assert got.status == status
        assert got.body == TEXT
        assert (got.values("Vary") != []) is vary


@pytest.mark.parametrize("status", [200, 403, 404])
@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("text/html", ("application/json",)),
        ("TEXT/HTML;charset=x", ("application/json",)),
        ("image/png", ("*",)),
        ("", ("*",)),
    ],
)
async def test_types(status: int, kind: str, types: tuple[str, ...]) -> None:
    fields = [(b"Content-Type", kind.encode())] if kind else []
    async with one({}, answer(TEXT, status, fields), with_gzip(types=types)) as (proxy, _):
        got = await (await proxy.client()).get("/", HOST, "Accept-Encoding: gzip")
        assert (got.status, got.value("Content-Encoding")) == (status, b"gzip")
        assert decode(got) == TEXT


@pytest.mark.parametrize(("size", "encoded"), [(99, False), (100, True)])
async def test_the_least_length(size: int, encoded: bool) -> None:
    upstream = answer(b"x" * size, fields=[(b"Content-Type", b"application/octet-stream")])
    options = with_gzip(min_length_bytes=100, types=("application/octet-stream",))
    async with one({}, upstream, options) as (proxy, _):
        got = await (await proxy.client()).get("/", HOST, "Accept-Encoding: gzip")
        assert (got.value("Content-Encoding") == b"gzip") is encoded
        assert decode(got) == b"x" * size


async def test_each_coding_has_its_own_conditions() -> None:
    compression = CompressionOptions(CodecOptions(1, 50), CodecOptions(4, 24, ("application/octet-stream",)))
    upstream = reply(
        lambda r: response(
            200,
            b"x" * int(r.target[1:]),
            [(b"Content-Type", b"application/octet-stream" if r.value("X-Octets") else b"text/css")],
        )
    )
    async with one({}, upstream, Options(compression=compression)) as (proxy, _):
        client = await proxy.client()
        both = "Accept-Encoding: br, gzip"
        assert (await client.get("/23", HOST, both, "X-Octets: 1")).value("Content-Encoding") is None
        assert (await client.get("/24", HOST, both, "X-Octets: 1")).value("Content-Encoding") == b"br"
        assert (await client.get("/24", HOST, both)).value("Content-Encoding") is None
        assert (await client.get("/50", HOST, both)).value("Content-Encoding") == b"gzip"


@pytest.mark.parametrize(
    ("disable", "agent", "encoded"),
    [
        ("msie6", "Mozilla/4.8 [en] (Windows NT 5.1; U)", True),
        ("msie6", "Mozilla/45.0 (compatible; MSIE 6.0; Windows NT 5.1)", False),
        ("curl/[0-7]\\.", "CURL/7.1", False),
        ("curl/[0-7]\\.", "curl/8.1", True),
        ("(bad", "curl/8.1", True),
    ],
)
async def test_gzip_disable(disable: str, agent: str, encoded: bool) -> None:
    options = Options(compression=CompressionOptions(GZIP, gzip_disable=disable))
    async with one({}, answer(TEXT, fields=JSON), options) as (proxy, _):
        client = await proxy.client()
        got = await client.get("/", HOST, "Accept-Encoding: gzip", f"User-Agent: {agent}")
        assert (got.value("Content-Encoding") == b"gzip") is encoded
        assert got.values("Vary") == [b"Accept-Encoding"]


async def test_head_and_old_clients_and_no_content() -> None:
    upstream = reply(
        lambda r: response(
            304 if r.target == b"/304" else 200, b"" if r.target == b"/304" else TEXT, JSON, length=r.target != b"/304"
        )
    )
    async with one({}, upstream, ALL) as (proxy, _):
        client = await proxy.client()
        head = await client.get("/", HOST, "Accept-Encoding: gzip", method="HEAD")
        assert (head.value("Content-Length"), head.values("Content-Encoding")) == (b"%d" % len(TEXT), [])
        not_modified = await client.get("/304", HOST, "Accept-Encoding: gzip")
        assert (not_modified.status, not_modified.values("Content-Encoding")) == (304, [])
        got = await client.request(f"GET / HTTP/1.0\r\nHost: {HOST}\r\nAccept-Encoding: gzip\r\n\r\n".encode())
        assert (got.body, got.values("Content-Encoding")) == (TEXT, [])


async def test_pages_of_our_own() -> None:
    rules = Rules({}, with_gzip(min_length_bytes=1), paths={"/app": "web"})
    async with serving(rules, {"web": answer()}) as (proxy, _):
        client = await proxy.client()
        for _ in range(2):
            got = await client.get("/app", HOST, "Accept-Encoding: gzip", method="GET")
            assert got.status == 200
    rules = Rules({"custom-http-errors": "404"}, with_gzip(min_length_bytes=1))
    async with serving(rules, {"web": answer(b"<html>" + TEXT, 404, [(b"Content-Type", b"text/html")])}) as (proxy, _):
        got = await (await proxy.client()).get("/", HOST, "Accept-Encoding: gzip")
        assert (got.status, decode(got)) == (404, b"<html>" + TEXT)


# ---- streams ----


async def test_what_comes_is_passed_on_at_once() -> None:
    """Server-sent events: each one can be decoded before the next is sent."""
    proceed = asyncio.Event()

    async def events(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for number in range(5):
            event = b"data: %d\n\n" % number
            await connection.send(b"%x\r\n%b\r\n" % (len(event), event))
            await proceed.wait()
            proceed.clear()
        await connection.send(b"0\r\nX-Trailer: end\r\n\r\n")
        await connection.closed()

    for accept, make in (
        ("gzip", lambda: zlib.decompressobj(31).decompress),
        ("br", lambda: brotli.Decompressor().process),
        ("zstd", lambda: zstandard.ZstdDecompressor().decompressobj().decompress),
    ):
        kinds = ("text/event-stream",)
        compression = CompressionOptions(
            CodecOptions(1, 256, kinds), CodecOptions(4, 20, kinds), CodecOptions(3, 256, kinds)
        )
        async with one({}, events, Options(compression=compression)) as (proxy, _):
            client: Client = await proxy.client()
            await client.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nAccept-Encoding: {accept}\r\n\r\n".encode())
            head = await client.response(body=False)
            assert head.value("Content-Encoding") == accept.encode()
            decompress = make()
            for number in range(5):
                text = b""
                while not text.endswith(b"\n\n"):
                    size = int(await client.reader.readuntil(b"\r\n"), 16)
                    text += decompress(await client.reader.readexactly(size))
                    await client.reader.readexactly(2)
                assert text == b"data: %d\n\n" % number
                proceed.set()
            assert b"0\r\nX-Trailer: end\r\n\r\n" in await client.reader.readuntil(b"X-Trailer: end\r\n\r\n")


def _content(size: int) -> bytes:
    rng = random.Random(1)
    words = [bytes(rng.choices(b"abcdefgh", k=6)) for _ in range(500)]
    return b" ".join(rng.choice(words) for _ in range(size // 7))[:size]


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_large_responses(coding: str, chunked: bool) -> None:
    content = _content(3_000_000)

    def make(request: Request) -> bytes:
        if not chunked:
            return response(200, content, JSON)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)

    async with one({}, reply(make), ALL) as (proxy, backend):
        client = await proxy.client()
        for _ in range(2):
            got = await client.get("/", HOST, f"Accept-Encoding: {coding}")
            assert decode(got) == content
            await until(lambda: proxy.plane.forwarder.in_flight == 0)
        assert backend.connections == 1


async def test_pipelined_requests_stay_in_order() -> None:
    content = _content(200_000)
    async with one({}, reply(lambda r: response(200, r.target + content, JSON)), ALL) as (proxy, _):
        client = await proxy.client()
        await client.send(
            b"".join(b"GET /%d HTTP/1.1\r\nHost: app.test\r\nAccept-Encoding: gzip\r\n\r\n" % n for n in range(5))
        )
        for n in range(5):
            assert decode(await client.response()) == b"/%d" % n + content


async def test_a_slow_reader_holds_the_endpoint_up() -> None:
    content = random.Random(2).randbytes(8_000_000)  # doesn't compress
    sent = 0

    async def script(connection: BackendConnection) -> None:
        nonlocal sent
        await connection.request()
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)
        )
        for at in range(0, len(content), 50_000):
            await connection.send(content[at : at + 50_000])
            sent = at
        await connection.closed()

    async with one({}, script, ALL, send_buffer=8192) as (proxy, _):
        client = await proxy.client(receive_buffer=8192)
        await client.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nAccept-Encoding: gzip\r\n\r\n".encode())
        await until(lambda: any(c._paused_reading for c in proxy.upstream_connections))
        assert sent < 7_000_000
        assert decode(await client.response()) == content


@pytest.mark.parametrize("moment", ["in the stream", "behind the end"])
async def test_a_client_that_leaves(moment: str) -> None:
    content = random.Random(2).randbytes(400_000)

    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)
        )
        await connection.send(content if moment == "behind the end" else content[:300_000])
        await connection.closed()

    async with one({}, script, ALL, send_buffer=8192) as (proxy, _):
        client = await proxy.client(receive_buffer=8192)
        await client.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nAccept-Encoding: gzip\r\n\r\n".encode())
        await client.reader.readexactly(1000)
        client.reset()
        await proxy.settled()


async def test_a_response_that_breaks_off() -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n" + TEXT
        )

    async with one({}, script, ALL) as (proxy, _):
        client = await proxy.client()
        with pytest.raises(Truncated) as caught:
            await client.get("/", HOST, "Accept-Encoding: gzip")
        message = caught.value.message
        assert message is not None
        assert zlib.decompressobj(31).decompress(message.body) == TEXT  # all that had come


def test_defaults_are_not_repeated_in_the_table() -> None:
    assert Rules({}, ALL).policy("compression") == {
        "codecs": (
            {"coding": "br", "level": 4, "min_length_bytes": 20},
            {"coding": "zstd", "level": 3, "min_length_bytes": 256},
            {"coding": "gzip", "level": 1, "min_length_bytes": 256},
        )
    }
