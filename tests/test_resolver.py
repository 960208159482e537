import asyncio
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from ingress.resolver import ExternalNameResolver, delay_s, parse_address, sort_addresses, system_lookup

DEADLINE_S = 5.0


class World:
    """A name server and a clock: look-ups answer from `names`, sleepers wait until `tick`."""

    def __init__(self) -> None:
        self.names: dict[str, list[str] | Exception] = {}
        self.asked: list[str] = []
        self.seen: list[tuple[str, tuple[str, ...] | None]] = []
        self.sleeping: list[tuple[float, asyncio.Future[None]]] = []
        self.active = 0
        self.most_active = 0
        self.gate: asyncio.Event | None = None

    async def lookup(self, host: str) -> list[str]:
        self.asked.append(host)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            if self.gate is not None:
                await self.gate.wait()
            answer = self.names.get(host, OSError("Name or service not known"))
        finally:
            self.active -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleeping.append((seconds, future))
        await future

    def on_change(self, host: str, addresses: tuple[str, ...] | None) -> None:
        self.seen.append((host, addresses))

    async def tick(self) -> list[float]:
        """Let everybody who sleeps go on until all sleep again; the delays they had asked for."""
        sleeping, self.sleeping = self.sleeping, []
        for _, future in sleeping:
            if not future.done():
                future.set_result(None)
        await settle()
        return [seconds for seconds, _ in sleeping]


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


class Middle(Random):
    def random(self) -> float:
        return 0.5  # no jitter


@asynccontextmanager
async def running(world: World, *hosts: str, **options: Any) -> Any:
    resolver = ExternalNameResolver(world.on_change, lookup=world.lookup, sleep=world.sleep, rng=Middle(), **options)
    resolver.set_hosts(hosts)
    task = asyncio.create_task(resolver.run())
    await settle()
    yield resolver
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.active == 0


async def test_hosts_are_looked_up_and_looked_up_again() -> None:
    world = World()
    world.names = {"a.example": ["10.0.0.2", "10.0.0.1", "10.0.0.2"]}
    async with running(world, "a.example"):
        assert world.seen == [("a.example", ("10.0.0.1", "10.0.0.2"))]
        assert await world.tick() == [30.0]
        assert len(world.asked) == 2
        assert len(world.seen) == 1  # the same addresses: no news
        world.names["a.example"] = ["10.0.0.3"]
        await world.tick()
        assert world.seen[1:] == [("a.example", ("10.0.0.3",))]


async def test_a_failure_keeps_the_last_addresses_and_retries_sooner(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world = World()
    world.names = {"a.example": ["10.0.0.1"]}
    async with running(world, "a.example", interval_s=10.0):
        world.names["a.example"] = OSError("no answer")
        delays = [(await world.tick())[0] for _ in range(7)]
        assert delays == [10.0, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
        world.names["a.example"] = []
        await world.tick()
        assert world.seen == [("a.example", ("10.0.0.1",))]
        world.names["a.example"] = ["10.0.0.2"]
        await world.tick()
        assert world.seen[1:] == [("a.example", ("10.0.0.2",))]
        assert (await world.tick())[0] == 10.0
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "the last addresses stay in use" in caplog.text


@pytest.mark.parametrize("error", [OSError("x"), UnicodeError("label too long"), ValueError("embedded null character")])
async def test_a_first_look_up_that_fails_is_told_once(error: Exception) -> None:
    world = World()
    world.names = {"a.example": error}
    async with running(world, "a.example"):
        await world.tick()
        await world.tick()
        assert world.seen == [("a.example", ())]


@pytest.mark.parametrize(
    ("host", "address"), [("10.0.0.1", "10.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("FD00::0:1", "fd00::1")]
)
async def test_an_address_is_itself_and_needs_no_look_up(host: str, address: str) -> None:
    world = World()
    async with running(world, host):
        assert world.seen == [(host, (address,))]
        assert world.asked == []


async def test_hosts_come_and_go() -> None:
    world = World()
    world.names = {name: ["10.0.0.1"] for name in "abc"}
    async with running(world, "a", "b") as resolver:
        world.seen.clear()
        resolver.set_hosts(["b", "c"])
        await settle()
        assert world.seen == [("a", None), ("c", ("10.0.0.1",))]
        assert world.asked == ["a", "b", "c"]  # b keeps its rhythm
        await world.tick()
        assert sorted(world.asked[3:]) == ["b", "c"]
        resolver.set_hosts([])
        await settle()
        resolver.set_hosts(["a"])
        await settle()
        assert world.seen[2:] == [("b", None), ("c", None), ("a", ("10.0.0.1",))]


async def test_a_host_that_goes_during_its_look_up() -> None:
    world = World()
    world.gate = asyncio.Event()
    async with running(world, "a") as resolver:
        resolver.set_hosts([])
        await settle()
        world.gate.set()
        await settle()
        assert world.seen == [("a", None)]


async def test_look_ups_at_a_time_are_bounded() -> None:
    world = World()
    world.gate = asyncio.Event()
    hosts = [f"h{number}.example" for number in range(50)]
    world.names = {host: ["10.0.0.1"] for host in hosts}
    async with running(world, *hosts, concurrency=3):
        assert world.active == 3
        world.gate.set()
        for _ in range(20):
            await settle()
        assert len(world.seen) == 50
        assert world.most_active == 3


async def test_localhost_by_the_system() -> None:
    seen: list[tuple[str, tuple[str, ...] | None]] = []
    resolver = ExternalNameResolver(lambda host, addresses: seen.append((host, addresses)))
    resolver.set_hosts(["localhost"])
    task = asyncio.create_task(resolver.run())
    async with asyncio.timeout(DEADLINE_S):
        while not seen:  # noqa: ASYNC110 (a thread of its own answers)
            await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ((host, addresses),) = seen
    assert host == "localhost"
    assert addresses is not None
    assert addresses[0] in ("127.0.0.1", "::1")


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "..", "ü" * 70])
async def test_what_is_no_host_name_fails_as_declared(host: str) -> None:
    with pytest.raises((OSError, ValueError)):
        async with asyncio.timeout(DEADLINE_S):
            await system_lookup(host)


@pytest.mark.parametrize(
    ("failures", "chance", "expected"),
    [(0, 0.5, 30.0), (0, 0.0, 27.0), (1, 0.5, 1.0), (2, 0.5, 2.0), (5, 0.5, 16.0), (6, 0.5, 30.0), (5000, 0.5, 30.0)],
)
def test_delays(failures: int, chance: float, expected: float) -> None:
    assert delay_s(failures, 30.0, 1.0, chance) == pytest.approx(expected)


def test_addresses() -> None:
    assert sort_addresses(["10.0.0.10", "::1", "10.0.0.9", "fe80::1%eth0", "0:0::1", "x"]) == (
        "10.0.0.9",
        "10.0.0.10",
        "::1",
    )
    assert parse_address("127.1") is None
    assert parse_address("") is None
