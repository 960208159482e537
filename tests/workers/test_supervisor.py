"""Races at the end that a black-box test can't hit at will; real processes all the same."""

import asyncio
import signal
from contextlib import suppress

import pytest

from ingress.config import Address, ProxySettings
from ingress.proxy.accept import ListenerKind
from ingress.routing.table import RoutingTable
from ingress.workers import sockets
from ingress.workers.supervisor import Supervisor


@pytest.mark.parametrize("turns", range(6))
async def test_drain_while_a_worker_is_being_started(turns):
    """A process that exists but can't be told anything yet ends too, and nobody waits for it."""
    bound = sockets.bind_all([("--http-address", ListenerKind.HTTP, [Address("127.0.0.1", 0)])], 2)
    supervisor = Supervisor(ProxySettings(access_log=False), bound, "text", "info")
    work = asyncio.create_task(supervisor.run())
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert await supervisor.drain(60)
    assert supervisor.pids == []
    work.cancel()
    with suppress(asyncio.CancelledError):
        await work


async def test_a_generation_is_acknowledged_once_every_worker_routes_by_it():
    bound = sockets.bind_all([("--http-address", ListenerKind.HTTP, [Address("127.0.0.1", 0)])], 2)
    supervisor = Supervisor(ProxySettings(access_log=False), bound, "text", "error")
    seen: list[tuple[int, list[str]]] = []
    changed = asyncio.Event()

    def on_acknowledged(generation: int) -> None:
        seen.append((generation, [p.applied for p in supervisor._current if p is not None]))
        changed.set()

    supervisor.on_acknowledged = on_acknowledged
    work = asyncio.create_task(supervisor.run())

    async def acknowledged(generation: int) -> None:
        while supervisor.acknowledged < generation:
            changed.clear()
            await changed.wait()

    async with asyncio.timeout(30):
        assert supervisor.publish(RoutingTable(id="a")) == 1
        await acknowledged(1)
        assert supervisor.publish(RoutingTable(id="b")) == 2
        assert supervisor.publish(RoutingTable(id="a")) == 3  # the same table again: still a generation of its own
        assert supervisor.acknowledged == 1
        await acknowledged(3)
        assert seen[0] == (1, ["a", "a"])
        assert seen[-1] == (3, ["a", "a"])
        # one that ends holds nothing back, and its successor starts with the newest table
        ended = supervisor._current[0]
        ended.signal(signal.SIGKILL)
        while supervisor._current[0] is ended:  # noqa: ASYNC110 - the supervisor tells nobody
            await asyncio.sleep(0.01)
        generation = supervisor.publish(RoutingTable(id="c"))
        await acknowledged(generation)
        assert await supervisor.drain(5)
    work.cancel()
    with suppress(asyncio.CancelledError):
        await work
