"""Races at the end that a black-box test can't hit at will; real processes all the same."""

import asyncio
from contextlib import suppress

import pytest

from ingress.config import Address, ProxySettings
from ingress.workers import sockets
from ingress.workers.supervisor import Supervisor


@pytest.mark.parametrize("turns", range(6))
async def test_drain_while_a_worker_is_being_started(turns):
    """A process that exists but can't be told anything yet ends too, and nobody waits for it."""
    bound = sockets.bind("--http-address", [Address("127.0.0.1", 0)], 2)
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
