"""The three checks. Each returns findings: what was checked, whether it held, and the figures."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.scale.measure import probe
from bench.soak.memory import MIB, HighWater, growth, traced
from bench.soak.traffic import KINDS, Tally, drive
from bench.soak.world import HOST, World
from bench.support.client import Answer, ClientError, Connection, expect_body, expect_received
from bench.support.content import blocks
from bench.support.controller import Controller
from bench.support.figures import percentile
from bench.support.processes import BenchError

SWAP_EVERY_S = 0.1
CHANGE_EVERY_S = 2.0
SWAP_LIMIT_S = 2.0
GROWTH_LIMIT_MIB = 8.0
TRANSFER_LIMIT_MIB = 16.0
DOWNLOAD_BYTES, UPLOAD_BYTES = 50_000_000, 20_000_000
IDLE_LIMIT_S = 45.0  # upgraded connections are cut after 60 s without a byte, as ingress-nginx does


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    ok: bool
    figures: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{'ok  ' if self.ok else 'FAIL'} {self.check}: {self.figures}",
            *(f"       {line}" for line in self.details),
        ]
        return "\n".join(lines)


def _served(answer: Answer) -> bool:
    return answer.status == 200


class Changes:
    """Table swaps every 100 ms and endpoint changes every 2 s, until cancelled; now and then a swap is looked for."""

    def __init__(self, world: World, controller: Controller) -> None:
        self._world = world
        self._controller = controller
        self.lags_s: list[float] = []
        self.failures: list[str] = []

    async def swap_tables(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with probe(self._controller.http_port) as prober, asyncio.TaskGroup() as group:
            while True:
                path = self._world.swap()
                if self._world.swapped % 50 == 1:

                    async def look(path: str = path, since: float = loop.time()) -> None:
                        try:
                            self.lags_s.append(await prober.until(HOST, path, _served, since, SWAP_LIMIT_S))
                        except BenchError as error:
                            self.failures.append(str(error))

                    group.create_task(look())
                due += SWAP_EVERY_S
                await asyncio.sleep(max(0.0, due - loop.time()))

    async def change_endpoints(self) -> None:
        while True:
            await asyncio.sleep(CHANGE_EVERY_S)
            await self._world.change_endpoints()


async def mixed_load(world: World, controller: Controller, seconds: float, seed: int) -> list[Finding]:
    tally, stop, changes = Tally(), asyncio.Event(), Changes(world, controller)
    swaps_before, changes_before = world.swapped, world.added + world.removed
    async with traced(controller.process, every_s=1.0) as trace:
        turmoil = [asyncio.create_task(changes.swap_tables()), asyncio.create_task(changes.change_endpoints())]
        clients = [
            asyncio.create_task(drive(kind, controller.http_port, f"{seed}/{kind.name}/{number}", tally, stop))
            for kind in KINDS
            for number in range(kind.clients)
        ]
        try:
            done, _ = await asyncio.wait([*turmoil, *clients], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # nothing ends by itself but by an exception
        finally:
            stop.set()
            for task in turmoil:
                task.cancel()
            await asyncio.gather(*turmoil, *clients, return_exceptions=True)
        for task in clients:
            task.result()
    await world.settle()
    controller.process.require_alive()

    total, failed = sum(tally.done.values()), sum(tally.failed.values())
    by_kind = ", ".join(f"{kind.name} {tally.done[kind.name]:,}" for kind in KINDS)
    unseen = [kind.name for kind in KINDS if not tally.done[kind.name]]
    swaps, changed = world.swapped - swaps_before, world.added + world.removed - changes_before
    lag = f"{max(changes.lags_s) * 1e3:.0f} ms" if changes.lags_s else "-"
    memory = growth(trace.points)
    allowed = max(GROWTH_LIMIT_MIB * MIB, 0.05 * memory.median_bytes)
    return [
        Finding(
            "mixed load",
            failed == 0 and not unseen,
            f"{total:,} exchanges in {seconds:.0f} s, {failed} failed ({by_kind})",
            (*tally.examples, *(f"none succeeded: {name}" for name in unseen)),
        ),
        Finding(
            "table swaps and endpoint changes under load",
            not changes.failures and not world.failures and bool(changes.lags_s),
            f"{swaps} swaps, {changed} endpoint changes, slowest of {len(changes.lags_s)} swaps looked for: {lag}",
            (*changes.failures, *world.failures),
        ),
        Finding(
            "memory under load",
            memory.grown_bytes <= allowed,
            f"PSS {memory.median_bytes / MIB:.1f} MiB, slope {memory.slope_bytes_per_s * 60 / MIB:+.2f} MiB/min, "
            f"{memory.grown_bytes / MIB:+.1f} MiB over the measured part (allowed {allowed / MIB:.0f})",
        ),
    ]


async def _everyone(
    connections: list[Connection], action: Callable[[Connection], Awaitable[object]], at_once: int = 50
) -> list[str]:
    """Do it with every connection, some at a time; returns what went wrong."""
    limit, failures = asyncio.Semaphore(at_once), []

    async def one(connection: Connection) -> None:
        async with limit:
            try:
                async with asyncio.timeout(30):
                    await action(connection)
            except (OSError, ClientError, TimeoutError) as error:
                failures.append(f"{type(error).__name__}: {error}")

    await asyncio.gather(*(one(connection) for connection in connections))
    return failures


async def websockets(world: World, controller: Controller, count: int, swaps: int, seed: int) -> list[Finding]:
    """`count` upgraded connections, idle through `swaps` table swaps that every worker has taken over."""
    rng, loop = random.Random(seed), asyncio.get_running_loop()
    before = controller.process.pss_bytes()
    connections = [await Connection.open(controller.http_port) for _ in range(count)]
    try:
        refused = await _everyone(connections, lambda one: one.upgrade(HOST, "/ws", rng.randbytes(16)))
        failures = await _everyone(connections, lambda one: one.echo(b"hello")) if not refused else []
        each = (controller.process.pss_bytes() - before) / count / 1024
        lags, spoke, extra = [], loop.time(), 0
        async with probe(controller.http_port) as prober:
            for number in range(swaps):
                if loop.time() - spoke > IDLE_LIMIT_S:
                    failures += await _everyone(connections, lambda one: one.echo(b"still here"))
                    spoke, extra = loop.time(), extra + 1
                world.leave_out(number % 3)  # its tunnels belong to the endpoints that left, too
                since = loop.time()
                lags.append(await prober.until(HOST, world.swap(), _served, since, SWAP_LIMIT_S * 5))
        cut = sum(connection.cut() for connection in connections)
        failures += await _everyone(connections, lambda one: one.echo(rng.randbytes(1000)))
        also = f", {extra} rounds of echo in between (60 s idle limit)" if extra else ""
        return [
            Finding(
                "idle WebSockets through table swaps",
                not refused and not cut and not failures,
                f"{count} opened, {len(refused)} refused, {swaps} swaps (p50 {percentile(lags, 50) * 1e3:.0f} ms), "
                f"{cut} cut, {len(failures)} failed to echo, {each:.0f} KiB of memory each{also}",
                tuple([*refused, *failures][:10]),
            )
        ]
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))
        world.leave_out(0)


async def transfers(controller: Controller, seed: int, download_bytes: int, upload_bytes: int) -> list[Finding]:
    """Big bodies, with Content-Length and chunked, digests checked; the proxy must not hold them."""

    async def download(connection: Connection, chunked: str, pause_s: float = 0.0) -> None:
        target = f"/files/big?bytes={download_bytes}&seed={seed}{chunked}"
        expect_body(await connection.request("GET", HOST, target, read_pause_s=pause_s), seed, download_bytes)

    async def upload(connection: Connection, size: int | None, slow: str = "") -> None:
        body = blocks(seed, upload_bytes)
        answer = await connection.request("POST", HOST, f"/files/big?digest=1{slow}", body=body, size=size)
        expect_received(answer, seed, upload_bytes)

    cases: list[tuple[str, Callable[[Connection], Awaitable[None]]]] = [
        (f"download of {download_bytes / 1e6:.0f} MB, Content-Length", lambda one: download(one, "")),
        (f"download of {download_bytes / 1e6:.0f} MB, chunked", lambda one: download(one, "&chunked=1")),
        (f"download of {download_bytes / 1e6:.0f} MB, slow reader", lambda one: download(one, "", pause_s=0.002)),
        (f"upload of {upload_bytes / 1e6:.0f} MB, Content-Length", lambda one: upload(one, upload_bytes)),
        (f"upload of {upload_bytes / 1e6:.0f} MB, chunked", lambda one: upload(one, None)),
        (f"upload of {upload_bytes / 1e6:.0f} MB, slow backend", lambda one: upload(one, upload_bytes, "&slow=1")),
    ]
    findings = []
    for name, action in cases:
        loop = asyncio.get_running_loop()
        began = loop.time()
        high_water = HighWater(controller.process)
        connection = await Connection.open(controller.http_port, receive_buffer_bytes=256 * 1024)
        try:
            failures = await _everyone([connection], action)
        finally:
            await connection.close()
        grown = high_water.grown_bytes() / MIB
        findings.append(
            Finding(
                name,
                not failures and grown <= TRANSFER_LIMIT_MIB,
                f"{'digest intact' if not failures else 'failed'} after {loop.time() - began:.2f} s, "
                f"memory {grown:+.1f} MiB at its highest (allowed {TRANSFER_LIMIT_MIB:.0f})",
                tuple(failures),
            )
        )
    return findings
