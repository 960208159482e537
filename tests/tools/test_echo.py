"""The echo server in a Pod: its answers and its end."""

import asyncio
import itertools
import json

import pytest

from tools.envtest.echo import EchoServer

NAMES = {"namespace": "shop", "ingress": "i", "service": "s", "pod": "web-0", "node": "node-1"}
_ports = itertools.count(23000)


@pytest.fixture
async def echo():
    while True:
        port = next(_ports)
        server = EchoServer("127.0.0.3", [port], NAMES)
        try:
            await server.start()
        except OSError:
            continue
        break
    server.port = port
    yield server
    await server.stop(0)


def send(writer, target, *, headers=""):
    writer.write(f"GET {target} HTTP/1.1\r\nHost: a.example\r\n{headers}\r\n".encode())


async def receive(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length"))
    return head, await reader.readexactly(length)


async def test_answer(echo):
    reader, writer = await asyncio.open_connection("127.0.0.3", echo.port)
    send(writer, "/a//b%20?c=1", headers="x-two: 1\r\nX-Two: 2\r\nuser-agent: t\r\n")
    head, body = await receive(reader)
    answer = json.loads(body)
    assert head.startswith("HTTP/1.1 200")
    assert "X-Pod: web-0" in head
    assert answer | NAMES == answer
    assert (answer["path"], answer["host"], answer["method"]) == ("/a//b%20?c=1", "a.example", "GET")
    assert answer["headers"] == {"X-Two": ["1", "2"], "User-Agent": ["t"]}
    writer.close()


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/health", 200, b"OK"),
        ("/?bytes=5", 200, bytes(5)),
        ("/?status=503&bytes=0", 503, b""),
        ("/?delay_ms=x", 400, b"could not convert string to float: 'x'\n"),
    ],
)
async def test_query(echo, target, status, body):
    reader, writer = await asyncio.open_connection("127.0.0.3", echo.port)
    send(writer, target)
    head, received = await receive(reader)
    assert head.startswith(f"HTTP/1.1 {status}")
    assert received == body
    writer.close()


async def test_end(echo):
    """Refuses, closes what is idle, answers what it has begun."""
    async with asyncio.timeout(10):
        await check_end(echo)


async def check_end(echo):
    idle_reader, idle_writer = await asyncio.open_connection("127.0.0.3", echo.port)
    send(idle_writer, "/health")
    await receive(idle_reader)
    busy_reader, busy_writer = await asyncio.open_connection("127.0.0.3", echo.port)
    send(busy_writer, "/", headers="Content-Length: 2\r\nExpect: 100-continue\r\n")
    assert b" 100 " in await busy_reader.readuntil(b"\r\n\r\n")  # so its handler has begun
    ending = asyncio.create_task(echo.stop(5))
    assert await idle_reader.read() == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.3", echo.port)
    busy_writer.write(b"ab")
    head, body = await receive(busy_reader)
    assert json.loads(body)["body_bytes"] == 2
    assert head.startswith("HTTP/1.1 200")
    assert await busy_reader.read() == b""
    await ending
    for writer in (idle_writer, busy_writer):
        writer.close()
