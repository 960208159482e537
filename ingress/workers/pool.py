"""What the controller needs of its workers, whether they are processes (`Supervisor`) or this very process (`InProcess`)."""

import asyncio
import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ingress.accesslog import AccessLog
from ingress.config import ProxySettings
from ingress.metrics import MetricsSnapshot, WorkerMetrics
from ingress.proxy.dataplane import DataPlane
from ingress.routing.table import RoutingTable, diff_tables
from ingress.workers.sockets import Listener

_log = logging.getLogger(__name__)


class WorkerPool(Protocol):
    wanted: int
    restarts: int
    acknowledged: int
    """The newest generation (what `publish` returned) that every worker routes by; 0 before the first."""
    on_acknowledged: Callable[[int], None]
    """Called with `acknowledged` whenever it grew."""

    on_port_failures: Callable[[], None]
    """Called when `port_failures` may have changed."""

    @property
    def port_failures(self) -> dict[int, str]:
        """Ports of TCP services that some worker can't listen on, with the reason."""

    @property
    def live(self) -> int:
        """Workers that run and serve by some table."""

    @property
    def alive(self) -> bool:
        """A restart of the whole would not help: some worker runs, or is being started."""

    @property
    def ready(self) -> bool:
        """Every wanted worker serves by some table."""

    def publish(self, table: RoutingTable) -> int:
        """Make all workers serve by `table`; returns at once, with the number of this generation (1, 2 ...)."""

    async def run(self) -> None:
        """Keep the wanted number of workers alive; until cancelled or drained."""

    async def metrics(self) -> MetricsSnapshot:
        """Counters over all workers, those that have ended included."""

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting, finish what is under way. False when something was cut."""

    def kill(self) -> None:
        """Cut everything now."""


class InProcess:
    """`--workers 0`: the data plane on the controller's own loop. For tests and tiny Pods."""

    def __init__(
        self,
        settings: ProxySettings,
        listeners: Sequence[Listener],
        log_format: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.wanted = 0
        self.restarts = 0
        self.acknowledged = 0
        self.on_acknowledged: Callable[[int], None] = lambda _: None
        self.on_port_failures: Callable[[], None] = lambda: None
        self.port_failures: dict[int, str] = {}
        self._generation = 0
        self._listeners = listeners
        self._access_log = access_log = AccessLog(log_format)  # whether anything is logged may change at any time
        access_log.start()
        self._metrics = WorkerMetrics(
            requests_in_flight=lambda: self.plane.forwarder.in_flight,
            access_log_dropped=lambda: access_log.dropped,
        )
        self.plane = DataPlane(settings, self._metrics, access_log, loop)
        self.plane.ports.report = self._report_ports
        self._table: RoutingTable | None = None
        self._published = asyncio.Event()
        self._listening = False

    @property
    def live(self) -> int:
        return int(self._listening)

    @property
    def alive(self) -> bool:
        return True  # whoever asks gets the answer from the loop that serves

    @property
    def ready(self) -> bool:
        return self._listening and not self.plane.draining

    def publish(self, table: RoutingTable) -> int:
        if self._table is None:
            self.plane.swap(table)
        else:
            self.plane.apply(diff_tables(self._table, table))
        self._table = table
        self._generation += 1
        self._published.set()
        self._acknowledge()
        return self._generation

    def _report_ports(self, failures: Mapping[int, str]) -> None:
        self.port_failures = dict(failures)
        self.on_port_failures()

    def _acknowledge(self) -> None:
        if self._listening and self._generation > self.acknowledged:
            self.acknowledged = self._generation
            # Not from within publish: its caller doesn't know the number yet.
            asyncio.get_running_loop().call_soon(self.on_acknowledged, self._generation)

    async def run(self) -> None:
        await self._published.wait()
        gc.set_threshold(20000, 20, 100)
        self.plane.settle_memory()
        for kind, sock in self._listeners:
            await self.plane.listen((sock,), kind)
            sock.close()  # the data plane has its own copies, which it closes when it drains
        self._listening = True
        self._acknowledge()
        await asyncio.Event().wait()

    async def metrics(self) -> MetricsSnapshot:
        return self._metrics.snapshot()

    async def drain(self, timeout_s: float) -> bool:
        for _, sock in self._listeners:
            sock.close()  # told to end before it listened
        await self.plane.stop_accepting(last=True)
        finished = await self.plane.drain(timeout_s)
        await self.plane.close()
        self._access_log.close()
        return finished

    def kill(self) -> None:
        self.plane.cut()
