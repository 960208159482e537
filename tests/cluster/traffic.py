"""A mixed load that remembers every request, for tests of what must not lose any."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from tests.cluster.support import Closed, Connection, Failure, Incomplete

BODY = b"x" * 3000
PAUSE_S = 0.02


@dataclass(slots=True)
class Stream:
    """One client: request after request, each checked in full. `fresh`: a connection for each.

    A kept connection may end between two requests, as HTTP allows (RFC 9112 section 9.3.1): a GET that meets that is sent again once, as every client
    does, and counted in `stale`. Anything else that isn't the expected answer is a failure, a POST that meets it too: nobody may repeat that.
    """

    name: str
    address: str
    host: str
    method: str = "GET"
    path: str = "/"
    fresh: bool = False
    done: int = 0
    stale: int = 0
    failures: list[Failure] = field(default_factory=list)
    pods: Counter[str] = field(default_factory=Counter)

    async def run(self, began: float, stop: asyncio.Event) -> None:
        async with Connection(self.address) as connection:
            while not stop.is_set():
                await self._once(connection, time.monotonic() - began)
                if self.fresh:
                    connection.close()
                await asyncio.sleep(PAUSE_S)

    async def _once(self, connection: Connection, at_s: float) -> None:
        self.done += 1
        problem = await self._ask(connection)
        if isinstance(problem, Closed) and connection.requests > 1 and self.method == "GET":
            self.stale += 1
            problem = await self._ask(connection)
        if problem is not None:
            self.failures.append(Failure(round(at_s, 3), 0, connection.requests, f"{self.name}: {problem!r}"))

    async def _ask(self, connection: Connection) -> Exception | None:
        """What is wrong with the answer, or with its absence."""
        body = BODY if self.method == "POST" else b""
        headers = {"Connection": "close"} if self.fresh else {}
        try:
            response = await connection.request(self.method, self.host, self.path, headers, body, timeout_s=30.0)
            if response.status != 200:
                return ValueError(f"{response.status} {response.body[:100]!r}")
            said = response.json()
            found = (said["method"], said["body_bytes"], said["host"], said["path"])
            if found != (self.method, len(body), self.host, self.path) or said["pod"] != response.headers.get("x-pod"):
                return ValueError(f"not this request: {said}")
        except (OSError, TimeoutError, Closed, Incomplete, ValueError, KeyError) as error:
            return error
        self.pods[str(said["pod"])] += 1
        return None


class Traffic:
    """All streams together."""

    def __init__(self, streams: list[Stream]) -> None:
        self.streams = streams

    @property
    def done(self) -> int:
        return sum(stream.done for stream in self.streams)

    @property
    def stale(self) -> int:
        return sum(stream.stale for stream in self.streams)

    @property
    def failures(self) -> list[Failure]:
        return [failure for stream in self.streams for failure in stream.failures]

    @property
    def pods(self) -> Counter[str]:
        return sum((stream.pods for stream in self.streams), Counter())

    async def more(self, requests: int = 100, within_s: float = 30.0) -> None:
        """Wait until every stream goes on, and so many more requests were made."""
        before, target, deadline = (
            {s.name: s.done for s in self.streams},
            self.done + requests,
            time.monotonic() + within_s,
        )
        while self.done < target or any(s.done == before[s.name] for s in self.streams):
            assert time.monotonic() < deadline, f"{self.done} of {target} requests within {within_s:g} s"
            await asyncio.sleep(0.02)

    async def answered_by(self, pods: set[str], within_s: float = 30.0) -> None:
        """Wait until each of these has answered."""
        deadline = time.monotonic() + within_s
        while missing := pods - self.pods.keys():
            assert time.monotonic() < deadline, f"no answer from {sorted(missing)} within {within_s:g} s"
            await asyncio.sleep(0.02)

    def check(self) -> None:
        assert not self.failures, f"{len(self.failures)} of {self.done} failed: {self.failures[:10]}"
        assert self.done > 100, self.done
        # A drain announces itself by `Connection: close`, so that hardly a request meets a closed connection.
        assert self.stale <= self.done * 0.005, f"{self.stale} of {self.done} met a closed connection"


@asynccontextmanager
async def traffic(address: str, host: str, *, delayed: bool = True) -> AsyncIterator[Traffic]:
    """GETs and POSTs, on kept and on new connections, some of them slow. Checked at the end."""
    streams = [
        *(Stream(f"kept GET {n}", address, host, path=f"/kept/{n}") for n in range(3)),
        *(Stream(f"kept POST {n}", address, host, "POST", f"/kept/{n}") for n in range(2)),
        Stream("new GET", address, host, path="/new", fresh=True),
        Stream("new POST", address, host, "POST", "/new", fresh=True),
    ]
    if delayed:  # under way when a Pod is told to end, theirs or ours
        streams += (
            Stream("slow kept POST", address, host, "POST", "/slow/kept?delay_ms=400"),
            Stream("slow new POST", address, host, "POST", "/slow/new?delay_ms=400", fresh=True),
        )
    stop, began = asyncio.Event(), time.monotonic()
    found = Traffic(streams)
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for stream in streams:
            group.create_task(stream.run(began, stop), name=stream.name)
        try:
            async with asyncio.timeout(240):
                yield found
        finally:
            stop.set()
    found.check()
