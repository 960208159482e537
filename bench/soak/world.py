"""What changes around the proxy: backends that start and stop, and the manifests that say so."""

import asyncio
import random
import signal
import sys
from collections import deque
from collections.abc import Set
from pathlib import Path

from bench.support.client import Connection
from bench.support.manifests import ManifestFolder, endpoint_slice, ingress, service
from bench.support.processes import BenchError, ProcessTree

HOST = "soak.example.com"
SERVICES = ("web", "files")
REMOVAL_GRACE_S = 2.0  # between leaving the endpoints and SIGTERM: what a preStop sleep does in a cluster
BACKEND_END_LIMIT_S = 25.0  # its own grace time for open connections is 20 s
SWAPS_KEPT = 30  # paths of the last swaps that stay routed, so that each can be looked for a while
UNLIMITED_BODY = {"nginx.ingress.kubernetes.io/proxy-body-size": "0"}


class World:
    """One host with three paths that stay, one more with each `swap`, and backends on their own loopback addresses."""

    def __init__(self, folder: Path, port: int, rng: random.Random) -> None:
        self._folder = folder
        self._port = port
        self._rng = rng
        self._started = 0
        self._swaps: deque[int] = deque(maxlen=SWAPS_KEPT)
        self._live: dict[str, ProcessTree] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._all: list[ProcessTree] = []
        self.swapped = 0
        self.added = 0
        self.removed = 0
        self.failures: list[str] = []
        self.manifests = ManifestFolder(folder / "manifests")
        routes = [("/", "web"), ("/files", "files"), ("/ws", "web")]
        self.manifests.write("main.yaml", [ingress("main", [(HOST, routes)], annotations=UNLIMITED_BODY)])
        self.manifests.write("services.yaml", [service(name) for name in SERVICES])

    @property
    def size(self) -> int:
        return len(self._live)

    def stop(self) -> None:
        for process in self._all:
            process.stop(1.0)

    async def start_backends(self, count: int) -> None:
        for _ in range(count):
            await self._start_one()
        self._write_endpoints()

    def swap(self) -> str:
        """One more path, one less of the oldest; every other time another host too. Returns the new path."""
        self.swapped += 1
        self._swaps.append(self.swapped)
        rules = [(HOST, [(f"/swap-{number}", "web") for number in self._swaps])]
        if self.swapped % 2:
            rules.append((f"other-{self.swapped % 50}.example.com", [("/", "files")]))
        self.manifests.write("churn.yaml", [ingress("churn", rules)])
        return f"/swap-{self.swapped}"

    async def change_endpoints(self, fewest: int = 2, most: int = 6) -> None:
        """Add a backend, or take one out: it leaves the endpoints first, and is ended after a grace time."""
        if self.size <= fewest or (self.size < most and self._rng.random() < 0.5):
            await self._start_one()
            self._write_endpoints()
            self.added += 1
            return
        address = self._rng.choice(sorted(self._live))
        process = self._live.pop(address)
        self._write_endpoints()
        self.removed += 1
        task = asyncio.create_task(self._end(process))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def leave_out(self, count: int) -> None:
        """Take `count` backends out of the endpoints, at random, without ending them (0: all are back)."""
        self._write_endpoints(left_out=set(self._rng.sample(sorted(self._live), count)))

    async def settle(self) -> None:
        """Wait for the backends that are on their way out."""
        await asyncio.gather(*self._leaving)

    async def _start_one(self) -> None:
        address = f"127.20.{self._started // 250 % 250}.{1 + self._started % 250}"
        self._started += 1
        name = f"backend-{self._started}"
        argv = [sys.executable, "-m", "bench.support.backend", "--listen", f"{address}:{self._port}", "--name", name]
        process = ProcessTree(name, argv, log=self._folder / f"{name}.log")
        self._all.append(process)
        for _ in range(1000):
            try:
                await (await Connection.open(self._port, address)).close()
            except OSError:
                process.require_alive()
                await asyncio.sleep(0.01)
            else:
                self._live[address] = process
                return
        raise BenchError(f"{name} does not listen after 10 s")

    def _write_endpoints(self, left_out: Set[str] = frozenset()) -> None:
        addresses = sorted(self._live.keys() - left_out)
        self.manifests.write("endpoints.yaml", [endpoint_slice(name, addresses, self._port) for name in SERVICES])

    async def _end(self, process: ProcessTree) -> None:
        await asyncio.sleep(REMOVAL_GRACE_S)
        process.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(BACKEND_END_LIMIT_S):
                while not process.ended():  # noqa: ASYNC110 - a process has no event to wait for
                    await asyncio.sleep(0.05)
        except TimeoutError:
            self.failures.append(f"{process.name} still has connections {BACKEND_END_LIMIT_S:.0f} s after SIGTERM")
            process.stop()
        else:
            if process.returncode:
                self.failures.append(f"{process.name} ended with {process.returncode}: {process.last_words()}")
        self._all.remove(process)
