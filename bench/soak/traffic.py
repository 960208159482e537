"""The clients of the mixed load. Each loops until told to stop; all but complete, correct answers are failures."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from bench.soak.world import HOST
from bench.support.client import (
    ClientError,
    Connection,
    expect_body,
    expect_ok,
    expect_received,
)
from bench.support.content import blocks

EXCHANGE_LIMIT_S = 30.0
FAILURES_KEPT = 20


@dataclass(slots=True)
class Tally:
    done: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def fail(self, kind: str, when_s: float, error: BaseException) -> None:
        self.failed[kind] += 1
        if len(self.examples) < FAILURES_KEPT:
            self.examples.append(f"{kind} at {when_s:.1f} s: {type(error).__name__}: {error}")


class Client:
    """One simulated client: its random source, and the connection it keeps between exchanges."""

    def __init__(self, port: int, rng: random.Random) -> None:
        self.port = port
        self.rng = rng
        self._kept: Connection | None = None

    async def kept(self) -> Connection:
        """The connection of the exchange before, or a new one when the proxy announced that it closes it."""
        if self._kept is None or not self._kept.reusable:
            await self.drop()
            self._kept = await Connection.open(self.port)
        return self._kept

    async def drop(self) -> None:
        if self._kept is not None:
            connection, self._kept = self._kept, None
            await connection.close()


Exchange = Callable[[Client], Awaitable[None]]


async def keep_alive_get(client: Client) -> None:
    connection, draw = await client.kept(), client.rng.random()
    if draw < 0.05:
        expect_ok(await connection.request("GET", HOST, f"/slow?delay_ms={client.rng.randrange(1, 200)}"))
    elif draw < 0.10:
        answer = await connection.request("HEAD", HOST, "/page")
        expect_ok(answer)
        if answer.size:
            raise ClientError("a HEAD with a body")
    else:
        expect_ok(await connection.request("GET", HOST, f"/page-{client.rng.randrange(1000)}"))


async def new_connection_get(client: Client) -> None:
    connection = await Connection.open(client.port)
    try:
        expect_ok(await connection.request("GET", HOST, "/new", close=True))
    finally:
        await connection.close()


async def upload(client: Client) -> None:
    """POST with Content-Length."""
    seed, size = client.rng.randrange(1 << 30), client.rng.randrange(256 * 1024)
    connection = await client.kept()
    answer = await connection.request("POST", HOST, "/files/up?digest=1", body=blocks(seed, size), size=size)
    expect_received(answer, seed, size)


async def chunked_upload(client: Client) -> None:
    seed, size = client.rng.randrange(1 << 30), client.rng.randrange(1, 256 * 1024)
    connection = await client.kept()
    answer = await connection.request("POST", HOST, "/files/up?digest=1", body=blocks(seed, size))
    expect_received(answer, seed, size)


async def download(client: Client) -> None:
    seed, size = client.rng.randrange(1 << 30), client.rng.randrange(1 << 20, 8 << 20)
    chunked = "&chunked=1" if client.rng.random() < 0.5 else ""
    connection = await client.kept()
    answer = await connection.request("GET", HOST, f"/files/down?bytes={size}&seed={seed}{chunked}")
    expect_body(answer, seed, size)


async def slow_reader(client: Client) -> None:
    seed, size = client.rng.randrange(1 << 30), 2 << 20
    connection = await Connection.open(client.port, receive_buffer_bytes=32 * 1024)
    try:
        target = f"/files/down?bytes={size}&seed={seed}"
        expect_body(await connection.request("GET", HOST, target, close=True, read_pause_s=0.02), seed, size)
    finally:
        await connection.close()


async def tunnel(client: Client) -> None:
    """A WebSocket handshake, some messages both ways, and an end."""
    connection = await Connection.open(client.port)
    try:
        await connection.upgrade(HOST, "/ws", client.rng.randbytes(16))
        for _ in range(client.rng.randrange(1, 20)):
            await connection.echo(client.rng.randbytes(client.rng.randrange(1, 4096)))
            await asyncio.sleep(client.rng.uniform(0, 0.1))
    finally:
        await connection.close()


async def quitter(client: Client) -> None:
    """Leaves in the middle of a download: nothing to check here but that nobody else suffers and nothing leaks."""
    connection = await Connection.open(client.port)
    reading = asyncio.create_task(connection.request("GET", HOST, "/files/down?bytes=20000000", read_pause_s=0.005))
    try:
        await asyncio.wait([reading], timeout=client.rng.uniform(0.01, 0.2))
        if reading.done():
            raise ClientError(f"20 MB were over too soon: {reading.exception() or reading.result().status}")
    finally:
        reading.cancel()
        await connection.close()


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    exchange: Exchange
    clients: int
    pause_s: float  # at most this long between two exchanges


KINDS = (
    Kind("keep-alive GET", keep_alive_get, clients=16, pause_s=0.04),
    Kind("GET on a new connection", new_connection_get, clients=4, pause_s=0.04),
    Kind("POST with Content-Length", upload, clients=4, pause_s=0.05),
    Kind("POST chunked", chunked_upload, clients=4, pause_s=0.05),
    Kind("download", download, clients=2, pause_s=0.2),
    Kind("slow reader", slow_reader, clients=2, pause_s=0.1),
    Kind("WebSocket session", tunnel, clients=8, pause_s=0.1),
    Kind("client that leaves", quitter, clients=1, pause_s=0.5),
)


async def drive(kind: Kind, port: int, seed: str, tally: Tally, stop: asyncio.Event) -> None:
    """One client of a kind, until `stop`. The exchange that is under way then still finishes."""
    loop, client = asyncio.get_running_loop(), Client(port, random.Random(seed))
    began = loop.time()
    while not stop.is_set():
        try:
            async with asyncio.timeout(EXCHANGE_LIMIT_S):
                await kind.exchange(client)
        except (OSError, ClientError, TimeoutError, ValueError) as error:
            tally.fail(kind.name, loop.time() - began, error)
            await client.drop()
            await asyncio.sleep(0.05)
        else:
            tally.done[kind.name] += 1
        await asyncio.sleep(client.rng.uniform(0, kind.pause_s))
    await client.drop()
