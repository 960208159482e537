"""Worker processes: start, feed, replace, drain.

Each slot has listening sockets of its own, which the controller keeps open: what the kernel queued on them waits for the slot's next process when one
crashes or is replaced. A worker that is told to end from outside (SIGTERM) says so first and is replaced at once, while it finishes.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

from ingress.affinity.client_ip import ClientIPAffinity, Update
from ingress.config import ProxySettings
from ingress.metrics import MetricsAggregate, MetricsSnapshot, decode_snapshot
from ingress.middleware.shared import WORKERS_LIMIT, SharedCounts
from ingress.routing.table import AffinityMode, RoutingTable, UpstreamKey, diff_tables
from ingress.workers import sockets
from ingress.workers.channel import (
    Affinity,
    Applied,
    Channel,
    Delta,
    Drain,
    Draining,
    FullTable,
    Hello,
    Metrics,
    MetricsRequest,
    NeedTable,
    Ports,
    ToController,
    controller_end,
    encode,
)
from ingress.workers.sockets import Listener

_log = logging.getLogger(__name__)
_HEALTHY_AFTER_S = 10.0  # a worker that lived this long is restarted at once
_FIRST_BACK_OFF_S = 0.1
_LONGEST_BACK_OFF_S = 5.0
_METRICS_TIMEOUT_S = 1.0
# glibc gives the top of the heap back to the kernel at each large buffer that is freed, and faults it in again for the next: a third of
# the cost of a 1 MiB response. These bounds (bytes) let it keep some; other C libraries ignore them.
_ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(1 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
}


class _Process:
    """One worker process, from its start to its end."""

    def __init__(self, slot: int, owner: "Supervisor") -> None:
        self.slot = slot
        self.applied = ""
        self.generation = 0
        self.draining = False
        self.column = 0
        self.process: asyncio.subprocess.Process | None = None
        self.channel: Channel | None = None
        self.metrics: asyncio.Future[None] | None = None
        self.port_failures: dict[int, str] = {}
        self._owner = owner

    async def start(self, hello: Hello, shared: SharedCounts, listeners: Sequence[Listener]) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            fds = [theirs.fileno(), shared.fd, *(listener.socket.fileno() for listener in listeners)]
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ingress.workers.worker",
                *map(str, fds),
                pass_fds=fds,
                stdin=asyncio.subprocess.DEVNULL,
                env=_ALLOCATOR | os.environ,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        channel = controller_end(lambda message: self._owner.on_message(self, message), lambda: None)
        await loop.create_unix_connection(lambda: channel, sock=ours)
        self.channel = channel
        channel.send(hello)

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)


class Supervisor:
    """Keeps one process a slot serving by the published table."""

    def __init__(
        self, settings: ProxySettings, listeners: Sequence[Sequence[Listener]], log_format: str, log_level: str
    ) -> None:
        """`listeners`: those of each slot."""
        self.wanted = len(listeners)
        self.restarts = 0
        self.acknowledged = 0
        self.on_acknowledged: Callable[[int], None] = _ignore
        self.on_port_failures: Callable[[], None] = _nobody
        self._generation = 0
        self._settings = settings
        self._listeners = listeners
        self._log_format = log_format
        self._log_level = log_level
        self._table: RoutingTable | None = None
        self._full: bytes | None = None  # the frame for workers that start later; made when one does
        self._current: list[_Process | None] = [None] * self.wanted
        self._processes: set[_Process] = set()
        self._aggregate = MetricsAggregate()
        self._affinity = AffinityHub()
        self._columns = Columns()
        self._stopping = False
        self._started = False
        self._ended = asyncio.Event()

    # ---- state ---------------------------------------------------------------------------------------------------

    @property
    def live(self) -> int:
        return sum(1 for p in self._current if p is not None and p.applied)

    @property
    def alive(self) -> bool:
        return bool(self._processes) or not self._started

    @property
    def ready(self) -> bool:
        return not self._stopping and self.live == self.wanted

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    @property
    def port_failures(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for process in self._current:
            if process is not None:
                found |= process.port_failures
        return found

    # ---- tables --------------------------------------------------------------------------------------------------

    def publish(self, table: RoutingTable) -> int:
        old, self._table, self._full = self._table, table, None
        self._generation += 1
        self._affinity.follow(table)
        if old is None:
            for process in self._processes:
                self._send_table(process)
            return self._generation
        frame = encode(Delta(diff_tables(old, table), self._generation))
        for process in self._processes:
            if process.channel is not None:
                process.channel.send_encoded(frame)
        return self._generation

    def _send_table(self, process: _Process) -> None:
        if self._table is None or process.channel is None:
            return
        if self._full is None:
            self._full = encode(FullTable(self._table, self._generation))
        process.channel.send_encoded(self._full)
        assigned = self._affinity.snapshot()
        if assigned:
            process.channel.send(Affinity(assigned))

    def on_message(self, process: _Process, message: ToController) -> None:
        match message:
            case Applied(table_id, generation):
                if not process.applied:
                    _log.info("worker %d serves (pid %d)", process.slot, process.pid)
                process.applied = table_id
                process.generation = generation
                self._acknowledge()
            case NeedTable():
                self._send_table(process)
            case Metrics(snapshot):
                if snapshot:
                    self._aggregate.update(process, decode_snapshot(snapshot))
                if process.metrics is not None and not process.metrics.done():
                    process.metrics.set_result(None)
            case Affinity(updates):
                frame = encode(Affinity(self._affinity.merge(updates)))
                for other in self._processes:
                    if other is not process and other.channel is not None:
                        other.channel.send_encoded(frame)
            case Ports(failures):
                process.port_failures = failures
                self.on_port_failures()
            case Draining():
                process.draining = True
                self._ended.set()

    def _acknowledge(self) -> None:
        """A slot without a process holds nothing back: its next one starts with the newest table."""
        slowest = min((p.generation for p in self._current if p is not None), default=0)
        if slowest > self.acknowledged:
            self.acknowledged = slowest
            self.on_acknowledged(slowest)

    # ---- processes -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for slot in range(self.wanted):
                group.create_task(self._keep(slot, group), name=f"worker-{slot}")

    async def _keep(self, slot: int, group: asyncio.TaskGroup) -> None:
        """Keep one process in `slot`; one that drains is left to finish while the next one serves."""
        loop = asyncio.get_running_loop()
        back_off_s = 0.0
        while not self._stopping:
            started = loop.time()
            process = _Process(slot, self)
            self._current[slot] = process
            self._processes.add(process)
            process.column = self._columns.take()
            listeners = self._listeners[slot]
            kinds = tuple(listener.kind for listener in listeners)
            hello = Hello(slot, process.column, self._settings, self._log_format, self._log_level, kinds)
            await process.start(hello, self._columns.counts, listeners)
            self._started = True
            if self._stopping_now():
                # Told to end while this one was being started: nobody could reach it, and it has accepted nothing yet.
                process.signal(signal.SIGKILL)
            self._send_table(process)
            ended = group.create_task(self._wait(process), name=f"worker-{slot}-end")
            while not ended.done() and not process.draining:
                self._ended.clear()
                await self._ended.wait()
            if self._stopping_now():
                return
            self.restarts += 1
            if process.draining:
                _log.info("worker %d (pid %d) drains; starting another", slot, process.pid)
                continue
            lived_s = loop.time() - started
            back_off_s = (
                0.0 if lived_s > _HEALTHY_AFTER_S else min(max(back_off_s * 2, _FIRST_BACK_OFF_S), _LONGEST_BACK_OFF_S)
            )
            code = process.process.returncode if process.process is not None else None
            _log.error(
                "worker %d (pid %d) ended with %s; starting another in %g s",
                slot,
                process.pid,
                _ending(code),
                back_off_s,
            )
            await asyncio.sleep(back_off_s)

    def _stopping_now(self) -> bool:
        return self._stopping

    async def _wait(self, process: _Process) -> None:
        assert process.process is not None
        await process.process.wait()
        self._processes.discard(process)
        self._columns.give_back(process.column)
        if self._current[process.slot] is process:
            self._current[process.slot] = None
            self._acknowledge()
            if process.port_failures:
                self.on_port_failures()
        self._aggregate.remove(process)
        if process.metrics is not None and not process.metrics.done():
            process.metrics.set_result(None)
        if process.channel is not None:
            process.channel.close()
        self._ended.set()

    async def drain(self, timeout_s: float) -> bool:
        """Tell all workers to finish and wait for their end; what is left after the time (and some grace) is killed."""
        self._stopping = True
        self._ended.set()
        sockets.close(
            self._listeners
        )  # the workers hold the last copies now and empty the queues before they close them
        for process in self._processes:
            if process.channel is not None:
                process.channel.send(Drain(last=True, timeout_s=timeout_s))
        try:
            async with asyncio.timeout(timeout_s + 5):
                while self._processes:
                    self._ended.clear()
                    await self._ended.wait()
            return True
        except TimeoutError:
            self.kill()
            return False

    def kill(self) -> None:
        self._stopping = True
        for process in tuple(self._processes):
            process.signal(signal.SIGKILL)

    # ---- metrics -------------------------------------------------------------------------------------------------

    async def metrics(self) -> MetricsSnapshot:
        loop = asyncio.get_running_loop()
        waiting = []
        for process in tuple(self._processes):
            if process.channel is not None and process.applied:
                if process.metrics is None or process.metrics.done():
                    process.metrics = loop.create_future()
                    process.channel.send(MetricsRequest())
                waiting.append(process.metrics)
        if waiting:
            await asyncio.wait(waiting, timeout=_METRICS_TIMEOUT_S)  # a stuck worker is shown as it was last seen
        return self._aggregate.merged()


def _ignore(_: int) -> None:
    """Nobody waits for acknowledgements."""


def _nobody() -> None:
    """Nobody asks for ports."""


def _ending(code: int | None) -> str:
    if code is None:
        return "no exit code"
    return f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"


class Columns:
    """Who counts where in what all workers count together: a column a process, from its start to its end."""

    def __init__(self) -> None:
        self.counts = SharedCounts.create()
        self._used: set[int] = set()

    def take(self) -> int:
        """A free column; the last one, shared, when more processes drain than there are."""
        column = next((c for c in range(WORKERS_LIMIT) if c not in self._used), WORKERS_LIMIT - 1)
        self._used.add(column)
        return column

    def give_back(self, column: int) -> None:
        """The process has ended: what it had under way is over."""
        self.counts.forget_column(column)
        self._used.discard(column)


class AffinityHub:
    """The controller's copy of all client-IP assignments, for workers that start later."""

    def __init__(self) -> None:
        self._clients: dict[UpstreamKey, ClientIPAffinity] = {}

    def follow(self, table: RoutingTable) -> None:
        followed: dict[UpstreamKey, ClientIPAffinity] = {}
        for key, upstream in table.upstreams.items():
            balancing = upstream.balancing
            if balancing.affinity is not AffinityMode.CLIENT_IP:
                continue
            known = self._clients.get(key)
            if known is None or known.timeout_s != balancing.client_ip_timeout_s:
                before, known = known, ClientIPAffinity(balancing.client_ip_timeout_s)
                if before is not None:
                    now = asyncio.get_running_loop().time()
                    known.merge(before.snapshot(now), now)
            followed[key] = known
        self._clients = followed

    def merge(self, updates: dict[UpstreamKey, list[Update]]) -> dict[UpstreamKey, list[Update]]:
        """Returns what is to be told to the other workers."""
        now = asyncio.get_running_loop().time()
        for key, changes in updates.items():
            clients = self._clients.get(key)
            if clients is not None:
                clients.merge(changes, now)
        return updates

    def snapshot(self) -> dict[UpstreamKey, list[Update]]:
        now = asyncio.get_running_loop().time()
        return {key: found for key, clients in self._clients.items() if (found := clients.snapshot(now))}
