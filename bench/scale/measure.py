"""Waiting until a change is served, from the outside: by requests on connections that stay open."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from bench.support.client import Answer, ClientError, Connection
from bench.support.processes import BenchError, ProcessTree

CONNECTIONS = 16  # the kernel spreads them over the workers: with 2, all on one has a chance of 1 in 32,768
POLL_S = 0.008


@dataclass(slots=True)
class Series:
    """Times in seconds; `cut` counts connections that the proxy closed without announcing it."""

    seconds: list[float] = field(default_factory=list)
    cut: int = 0


class Probe:
    """Connections that are kept over all edits, reopened only when the proxy closes one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: list[Connection | None] = [None] * CONNECTIONS
        self.cut = 0

    async def close(self) -> None:
        for connection in self._connections:
            if connection is not None:
                await connection.close()

    async def until(
        self, host: str, path: str, served: Callable[[Answer], bool], since: float, limit_s: float
    ) -> float:
        """Seconds from `since` until every connection has seen an answer for which `served` holds.

        Raise BenchError after `limit_s`.
        """
        return (await self.span(host, path, served, since, limit_s))[1]

    async def span(
        self, host: str, path: str, served: Callable[[Answer], bool], since: float, limit_s: float
    ) -> tuple[float, float]:
        """As `until`, for the first connection and for the last."""
        try:
            async with asyncio.timeout(limit_s):
                moments = await asyncio.gather(*(self._poll(slot, host, path, served) for slot in range(CONNECTIONS)))
        except TimeoutError:
            raise BenchError(f"{host}{path} was not served within {limit_s:.0f} s") from None
        return min(moments) - since, max(moments) - since

    async def _poll(self, slot: int, host: str, path: str, served: Callable[[Answer], bool]) -> float:
        await asyncio.sleep(POLL_S * slot / CONNECTIONS)  # spread, so that some worker is asked every half millisecond
        while True:
            answer = await self._get(slot, host, path)
            if answer is not None and served(answer):
                return time.monotonic()
            await asyncio.sleep(POLL_S)

    async def _get(self, slot: int, host: str, path: str) -> Answer | None:
        connection = self._connections[slot]
        try:
            if connection is None or not connection.reusable:
                if connection is not None:
                    await connection.close()
                connection = self._connections[slot] = await Connection.open(self._port)
            return await connection.request("GET", host, path)
        except (OSError, ClientError):
            self.cut += 1
            self._connections[slot] = None
            if connection is not None:
                await connection.close()
            return None


@contextlib.asynccontextmanager
async def probe(port: int) -> AsyncIterator[Probe]:
    opened = Probe(port)
    try:
        yield opened
    finally:
        await opened.close()


async def first_answer(process: ProcessTree, port: int, host: str, path: str, since: float, limit_s: float) -> float:
    """Seconds from `since` until a GET gives 200; asked every 5 ms. Raise BenchError when it ends or time is up."""
    while time.monotonic() - since < limit_s:
        with contextlib.suppress(OSError, ClientError):
            connection = await Connection.open(port)
            try:
                answer = await connection.request("GET", host, path, close=True)
            finally:
                await connection.close()
            if answer.status == 200:
                return time.monotonic() - since
        process.require_alive()
        await asyncio.sleep(0.005)
    raise BenchError(f"{process.name}: no 200 for {host}{path} within {limit_s:.0f} s: {process.last_words()}")
