"""A worker process: one loop, one data plane, told by its controller what to serve. Never talks to the Kubernetes API.

Started as `python -m ingress.workers.worker CHANNEL_FD SHARED_FD LISTEN_FD…`.
"""

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ingress.accesslog import AccessLog
from ingress.logs import setup_logging
from ingress.loops import run
from ingress.metrics import WorkerMetrics
from ingress.middleware import loader
from ingress.middleware.shared import SharedCounts
from ingress.proxy.accept import ListenerKind
from ingress.proxy.dataplane import DataPlane
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
    ToWorker,
    worker_end,
)

_log = logging.getLogger(__name__)
_AFFINITY_IDLE_S = 0.5  # how soon it's noticed that a table has such an upstream at all
_AFFINITY_S = 0.05  # how long a client's new endpoint may be known to one worker only


class Worker:
    """Serves until it is told to drain, by its controller or by SIGTERM, or until the controller is gone."""

    def __init__(self, shared_fd: int, sockets: Sequence[socket.socket]) -> None:
        self._shared_fd = shared_fd
        self._sockets = sockets
        self._kinds: Sequence[ListenerKind] = ()  # of the sockets
        self._channel: Channel | None = None
        self._plane: DataPlane | None = None
        self._metrics: WorkerMetrics | None = None
        self._access_log: AccessLog | None = None
        self._drain: asyncio.Future[Drain] | None = None
        self._listening: asyncio.Future[None] | None = None

    async def run(self, channel_socket: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._drain = loop.create_future()
        channel = self._channel = worker_end(self._on_message, self._on_lost)
        loop.add_signal_handler(signal.SIGTERM, self._on_signal)
        loop.add_signal_handler(signal.SIGINT, _leave_it_to_the_controller)
        await loop.create_unix_connection(lambda: channel, sock=channel_socket)
        affinity = loop.create_task(self._share_affinity(), name="share-affinity")
        drain = await self._drain
        channel.send(Draining())
        if self._listening is not None:
            await self._listening
        for sock in self._sockets:
            sock.close()  # the data plane has its own copies; while any is open, the kernel goes on queueing connections
        plane = self._plane
        if plane is not None:
            await plane.stop_accepting(drain.last)
            await plane.drain(drain.timeout_s)
            await plane.close()
        affinity.cancel()
        if self._metrics is not None:
            channel.send(Metrics(self._metrics.encode()))
        if self._access_log is not None:
            await asyncio.to_thread(self._access_log.close)
        channel.close()
        await channel.lost.wait()

    def _start(self, hello: Hello) -> None:
        setup_logging(hello.log_format, hello.log_level, role=f"worker {hello.index}")
        settings = hello.proxy
        loader.install(map(Path, settings.middleware_paths))
        self._kinds = hello.listeners
        access_log = self._access_log = AccessLog(hello.log_format)  # whether anything is logged may change at any time
        access_log.start()
        metrics = self._metrics = WorkerMetrics(
            requests_in_flight=lambda: plane.forwarder.in_flight,
            access_log_dropped=lambda: access_log.dropped,
        )
        shared = SharedCounts(self._shared_fd, hello.column)
        plane = self._plane = DataPlane(settings, metrics, access_log, asyncio.get_running_loop(), shared=shared)
        plane.ports.report = self._report_ports

    def _on_message(self, message: ToWorker) -> None:
        assert self._channel is not None
        plane = self._plane
        match message:
            case Hello():
                self._start(message)
            case FullTable(table, generation):
                assert plane is not None
                plane.swap(table)
                self._channel.send(Applied(table.id, generation))
                if self._listening is None:
                    # Not before there is a table: the kernel queues connections meanwhile, so nobody sees a premature 404.
                    gc.set_threshold(20000, 20, 100)
                    plane.settle_memory()
                    self._listening = asyncio.ensure_future(self._listen(plane))
                    self._listening.add_done_callback(_raise)
            case Delta(delta, generation):
                assert plane is not None
                try:
                    plane.apply(delta)
                except ValueError as problem:
                    _log.warning("asking for the full table: %s", problem)
                    self._channel.send(NeedTable())
                else:
                    self._channel.send(Applied(delta.id, generation))
            case Affinity(updates):
                assert plane is not None
                plane.runtime.merge_affinity(updates)
            case MetricsRequest():
                assert self._metrics is not None
                self._channel.send(Metrics(self._metrics.encode()))
            case Drain():
                self._begin_drain(message)

    def _report_ports(self, failures: Mapping[int, str]) -> None:
        if self._channel is not None:
            self._channel.send(Ports(dict(failures)))

    async def _listen(self, plane: DataPlane) -> None:
        for kind, sock in zip(self._kinds, self._sockets, strict=True):
            await plane.listen((sock,), kind)

    def _begin_drain(self, drain: Drain) -> None:
        assert self._drain is not None
        if not self._drain.done():
            self._drain.set_result(drain)

    @property
    def _drain_timeout_s(self) -> float:
        return self._plane.settings.drain_timeout_s if self._plane is not None else 0.0

    def _on_signal(self) -> None:
        """SIGTERM to this process alone: the controller will start another on the same sockets."""
        self._begin_drain(Drain(last=False, timeout_s=self._drain_timeout_s))

    def _on_lost(self) -> None:
        """The controller is gone: serve what is under way, take nothing new."""
        self._begin_drain(Drain(last=True, timeout_s=self._drain_timeout_s))

    async def _share_affinity(self) -> None:
        while True:
            shared = self._plane is not None and self._plane.runtime.client_ip
            await asyncio.sleep(_AFFINITY_S if shared else _AFFINITY_IDLE_S)
            if self._plane is not None and self._plane.runtime.client_ip and self._channel is not None:
                updates = self._plane.runtime.drain_affinity()
                if updates:
                    self._channel.send(Affinity(updates))


def _leave_it_to_the_controller() -> None:
    """A terminal sends SIGINT to the whole group."""


def _raise(task: "asyncio.Future[None]") -> None:
    if not task.cancelled():
        task.result()


def main(argv: Sequence[str]) -> int:
    channel_fd, shared_fd, *listen_fds = (int(text) for text in argv)
    channel = socket.socket(fileno=channel_fd)
    channel.setblocking(False)
    run(Worker(shared_fd, [socket.socket(fileno=fd) for fd in listen_fds]).run(channel))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
