"""Looks up the hosts of ExternalName Services, again and again, and reports what is different.

DNS is I/O, so its results are part of the state instead of being fetched by whoever needs them. A failed look-up never
takes addresses away.
"""

import asyncio
import ipaddress
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from random import Random
from typing import Any

Lookup = Callable[[str], Awaitable[Iterable[str]]]
"""From a host name to textual addresses; raises OSError or ValueError when there are none."""

OnChange = Callable[[str, tuple[str, ...] | None], None]
"""Called in the event loop with sorted addresses; empty: the first look-up failed; None: the host isn't looked up any
more.
"""

_log = logging.getLogger(__name__)


class ExternalNameResolver:
    """Every host is looked up at once and then every `interval_s`; after a failure sooner, with doubling delays from
    `retry_s`.
    """

    def __init__(
        self,
        on_change: OnChange,
        *,
        interval_s: float = 30.0,
        retry_s: float = 1.0,
        concurrency: int = 8,
        lookup: Lookup | None = None,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        rng: Random | None = None,
    ) -> None:
        self._on_change = on_change
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._lookup = lookup if lookup is not None else system_lookup
        self._sleep = sleep
        self._rng = rng if rng is not None else Random()
        self._slots = asyncio.Semaphore(concurrency)
        self._hosts: frozenset[str] = frozenset()
        self._changed = asyncio.Event()

    def set_hosts(self, hosts: Iterable[str]) -> None:
        """The hosts to look up from now on; at any time, also before `run`. Those that stay keep their rhythm."""
        wanted = frozenset(hosts)
        if wanted != self._hosts:
            self._hosts = wanted
            self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        tasks: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for host in sorted(tasks.keys() - self._hosts):
                    tasks.pop(host).cancel()
                    self._on_change(host, None)
                for host in sorted(self._hosts - tasks.keys()):
                    tasks[host] = group.create_task(self._follow(host), name=f"resolve:{host}")
                await self._changed.wait()

    async def _follow(self, host: str) -> None:
        literal = parse_address(host)
        if literal is not None:
            self._on_change(host, (literal,))
            return
        known: tuple[str, ...] | None = None
        failures = 0
        while True:
            try:
                async with self._slots:
                    found = sort_addresses(await self._lookup(host))
            except (
                OSError,
                ValueError,
            ) as error:  # ValueError: not a host name (UnicodeError for a label that is too long)
                found, problem = (), str(error)
            else:
                problem = "no addresses"
            if found:
                if failures:
                    _log.info("host %r of an ExternalName Service is found again", host)
                failures = 0
            else:
                failures += 1
                if failures == 1:
                    kept = "the last addresses stay in use" if known else "it has no addresses yet"
                    _log.warning("can't find host %r of an ExternalName Service, %s: %s", host, kept, problem)
                found = known or ()
            if found != known:
                known = found
                self._on_change(host, found)
            await self._sleep(delay_s(failures, self._interval_s, self._retry_s, self._rng.random()))


def delay_s(failures: int, interval_s: float, retry_s: float, chance: float) -> float:
    """Seconds to the next look-up after `failures` in a row. `chance` in [0, 1) spreads hosts over a fifth of the
    time.
    """
    base = interval_s if failures == 0 else min(interval_s, retry_s * 2.0 ** min(failures - 1, 30))
    return base * (0.9 + 0.2 * chance)


def parse_address(text: str) -> str | None:
    """Canonical text of an IP address, None for anything else (an address with a zone too: it means nothing on another
    machine).
    """
    try:
        return str(ipaddress.ip_address(text)) if "%" not in text else None
    except ValueError:
        return None


def sort_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """Canonical, each once, IPv4 before IPv6 and by value. What is not an address is left out."""
    parsed = {ipaddress.ip_address(text) for address in addresses if (text := parse_address(address)) is not None}
    return tuple(str(address) for address in sorted(parsed, key=lambda address: (address.version, int(address))))


async def system_lookup(host: str) -> Sequence[str]:
    """As the system resolves names (hosts file, search domains). Raise OSError or ValueError.

    Each look-up has a daemon thread: the event loop's own executor has few threads, which a dead name server would
    hold, and at exit the interpreter would wait for them.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[list[str]] = loop.create_future()

    def settle(addresses: list[str], error: Exception | None) -> None:
        if result.done():  # cancelled
            return
        if error is None:
            result.set_result(addresses)
        else:
            result.set_exception(error)

    def work() -> None:
        addresses: list[str] = []
        problem: Exception | None = None
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            addresses = [str(info[4][0]) for info in found]
        except Exception as error:
            problem = error
        try:
            loop.call_soon_threadsafe(settle, addresses, problem)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    threading.Thread(target=work, name=f"resolve:{host}", daemon=True).start()
    return await result
